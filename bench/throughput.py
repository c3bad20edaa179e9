"""Entries through the stages at full speed: ours against the barest loops, on the same servers in the same run."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from bench.fills import fill_rows, markets_of, trade_rows, world_of
from bench.load import load
from bench.servers import Bench, environment, running, servers
from common.records import encode
from common.tables import MARKETS

LIMIT_S = 600.0
LOOK_S = 0.05  # between two looks whether it is done, at least
LOOK_SHARE = 0.01  # and this share of the time so far: two counts every 50 ms would take a twentieth of the machine
SAMPLE = 20_000  # different trades that the barest loop goes through in turn
ROOT = Path(__file__).resolve().parent.parent


class Run(NamedTuple):
    """How long something took, and what it cost."""

    seconds: float
    cpu_s: dict[str, float]  # of each process, both servers among them


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, and of its children that have ended: Redis rewrites its file in one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / 100


def wait_for(done: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not done():
        took = time.monotonic() - started
        if took > LIMIT_S:
            raise SystemExit(f"not done within {LIMIT_S:.0f} s")
        time.sleep(max(LOOK_S, took * LOOK_SHARE))


@contextmanager
def loaded(fills: int, *, trades: int = 0) -> Iterator[Bench]:
    """Servers whose tables know the markets and whose streams hold these many fills, and trades."""
    world = world_of(max(fills, trades))
    with servers("--maxmemory", "8gb") as bench:
        bench.clickhouse.batch_insert(MARKETS, b"\n".join(map(encode, markets_of(world))), "markets")
        load(bench.queue, bench.settings.stream_order_events, fill_rows(world, fills))
        load(bench.queue, bench.settings.stream_trades, trade_rows(world, trades))
        yield bench


def ours(bench: Bench, modules: Sequence[str], done: Callable[[], bool]) -> Run:
    """The stages as they run in production, until it is done."""
    started = time.perf_counter()
    with running(bench.settings, modules) as stages:
        return _timed(started, {**stages, **bench.pids()}, done)


def barest(bench: Bench, loops: Sequence[Sequence[str]]) -> Run:
    """`bench.floor` with these arguments, each a process, until they have ended by themselves."""
    from bench.floor import connect, make_groups  # noqa: PLC0415 - only the parent makes the groups

    make_groups(connect(bench.settings))
    started = time.perf_counter()
    processes = {
        f"barest {loop[0]}": subprocess.Popen(
            [sys.executable, "-m", "bench.floor", *loop], env=environment(bench.settings), cwd=ROOT
        )
        for loop in loops
    }
    try:
        pids = {name: process.pid for name, process in processes.items()}
        # A process that has ended keeps its times until it is waited for.
        took = _timed(started, {**pids, **bench.pids()}, lambda: all(map(_has_ended, pids.values())))
    finally:
        for process in processes.values():
            process.kill()
        codes = [process.wait() for process in processes.values()]
    if any(codes):
        raise SystemExit(f"a barest loop ended with {codes}")
    return took


def _has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _timed(started: float, pids: dict[str, int], done: Callable[[], bool]) -> Run:
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    wait_for(done)
    seconds = time.perf_counter() - started
    return Run(seconds, {name: cpu_s(pid) - before[name] for name, pid in pids.items()})


def sample_of_trades(folder: Path, count: int) -> Path:
    """A file of `count` trades, for the barest processor; the first ones again and again."""
    path = folder / "trades.jsonl"
    with path.open("wb") as file:
        rows = list(trade_rows(world_of(SAMPLE), SAMPLE))
        file.writelines(row + b"\n" for row in islice(cycle(rows), count))
    return path
