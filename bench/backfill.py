"""A backfill of the subgraph at the limit of 50 requests in 10 s, with answers that take 300 ms: fills a second.

The command runs as a process of its own with the default settings, against the simulator with its limits on and a
connection that delays every answer. Measured from the first fill in Redis, less one answer's delay, to the last one:
what slices cost at their ends is part of it. The floor is what the source allows: 50 full pages in 10 s.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.result import Result
from bench.servers import Bench, environment, servers
from tests.faults.tcp_proxy import TcpProxy
from tests.servers import ROOT
from tests.simulator import SimulatorServer

DELAY_S = 0.3
RUN_S = 50
RATE = 38  # fills a second in the source's past, as in the busiest months
ALLOWED = 5000.0  # fills a second: 50 requests in 10 s, 1,000 each
GOAL = 0.9 * ALLOWED
POLL_S = 0.02
LIMIT_S = 180.0


def run(_arguments: Sequence[str] = ()) -> Result:
    """Start the servers, measure, print what was read."""
    history_hours = RUN_S * ALLOWED / RATE / 3600
    # Nobody reads the stream here, so it must not count as behind.
    with servers(stream_backlog_limit=10_000_000) as bench:
        folder = bench.folder
        with (
            SimulatorServer(folder, history_hours=history_hours, history_rate=RATE, live_rate=1) as simulator,
            TcpProxy(int(simulator.url.rpartition(":")[2]), delay_s=DELAY_S) as proxy,
        ):
            health = simulator.get_json("/health")
            seconds = measure(bench, f"http://127.0.0.1:{proxy.port}/goldsky", health, simulator.cutover_settings())
        fills = published(bench)
    print(f"{fills:,} fills in {seconds:.1f} s")
    return Result("backfill", fills / seconds, "fills/s", ALLOWED, GOAL, lower_is_better=False)


def measure(bench: Bench, url: str, health: dict[str, Any], cutover: dict[str, int]) -> float:
    """Seconds from the first to the last fill of a backfill of the whole history."""
    begin, end = str(health["history_start"]), str(health["birth"])
    own = {"goldsky_url": url, "order_events_start": end, **cutover}
    told = {**environment(bench.settings), **{name.upper(): str(value) for name, value in own.items()}}
    command = [sys.executable, "-m", "ingesters.backfill", "--from", begin, "--to", end]
    process = subprocess.Popen(command, env=told, cwd=ROOT)
    try:
        while not published(bench) and process.poll() is None:
            time.sleep(POLL_S)
        began = last_at = time.monotonic()
        count = published(bench)
        while process.poll() is None and time.monotonic() - began < LIMIT_S:
            if count != (count := published(bench)):
                last_at = time.monotonic()
            time.sleep(POLL_S)
        if process.poll() != 0:
            raise SystemExit(f"the backfill ended with {process.returncode}")
        return last_at - began + DELAY_S
    finally:
        process.kill()
        process.wait()


def published(bench: Bench) -> int:
    return int(bench.queue.call("XLEN", bench.settings.stream_order_events))
