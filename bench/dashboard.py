"""Answers a second of /api/status by the dashboard, and what an answer costs it and the servers. The floor: /livez."""

import time
import urllib.request
from collections.abc import Sequence

from bench.result import Result, options, table
from bench.servers import running, servers
from bench.throughput import cpu_s, wait_for
from tests.servers import free_port

REQUESTS = 300
GOAL = 20  # a second: a page asks every two seconds, so that is forty people watching


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("dashboard", arguments, requests=REQUESTS).requests
    port = free_port()
    with servers(dashboard_port=port) as bench, running(bench.settings, ["monitoring.dashboard"]) as stages:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(f"{url}/livez"))
        pids = {**stages, **bench.pids()}
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        rate = _rate(f"{url}/api/status", count)
        table(
            ("process", "CPU ms an answer"),
            [(name, (cpu_s(pid) - before[name]) / count * 1e3) for name, pid in pids.items()],
        )
        floor = _rate(f"{url}/livez", count)
    return Result("dashboard", rate, "answers/s", floor, GOAL, lower_is_better=False)


def _rate(url: str, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own address
            answer.read()
    return count / (time.perf_counter() - started)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):  # noqa: S310
            return True
    except OSError:
        return False
