"""What several processes bring, and whether a fill costs the same after millions as at the beginning.

First: the same fills through 1, 2 and 4 processors with as many writers. Then one pair at full load with fills handed
over as fast as they are done, in ten stretches: CPU time a fill of all processes together, and memory. The figure is
the dearest of the last stretches in relation to the second one; the floor is 1, a cost that does not grow.
"""

import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from bench.fills import fill_rows, markets_of, world_of
from bench.load import load
from bench.pipeline import STAGES
from bench.result import Result, options, table
from bench.servers import Bench, running, servers
from bench.throughput import cpu_s, loaded, ours
from common.records import encode
from common.tables import MARKETS

FILLS = 2_000_000
SHORT_FILLS = 200_000
STRETCHES = 10
AHEAD = 100_000  # fills that wait in Redis at most
PART = 10_000
SAMPLE = 200_000
COPIES = (1, 2, 4)
GOAL = 1.2
PAUSE_S = 0.2  # between two looks while enough fills wait
PAGE_BYTES = resource.getpagesize()


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("scale", arguments, fills=FILLS).fills
    compare_numbers()
    costs = stretches(count)
    table(
        ("fills so far", "fills/s", "CPU µs a fill", "memory of processor and writer, MB"),
        [(done, rate, cost, memory) for done, rate, cost, memory in costs],
    )
    later = [cost for _, _, cost, _ in costs[2:]]
    first = costs[1][2]
    return Result("scale", statistics.median(later) / first, "times", 1.0, GOAL, lower_is_better=True)


def compare_numbers() -> None:
    """Fills a second with several processors and writers; more than cores only bring rivals."""
    rows = []
    for copies in COPIES:
        with loaded(SHORT_FILLS) as bench:
            took = ours(bench, STAGES * copies, lambda bench=bench: both(bench) >= SHORT_FILLS)  # type: ignore[misc]
        rows.append((f"{copies} of each", SHORT_FILLS / took.seconds))
    table(("processors and writers", "fills/s"), rows)


def both(bench: Bench) -> int:
    """Fills that are in both tables."""
    return min(bench.count("order_filled"), bench.count("trades"))


def stretches(count: int) -> list[tuple[int, float, float, float]]:
    """Fills so far, fills a second, CPU microseconds a fill and memory, for each tenth of the fills."""
    world = world_of(SAMPLE)
    told = []
    with servers("--maxmemory", "8gb") as bench:
        bench.clickhouse.batch_insert(MARKETS, b"\n".join(map(encode, markets_of(world))), "markets")
        rows = endless(list(fill_rows(world, SAMPLE)))
        with running(bench.settings, STAGES) as stages:
            pids = {**stages, **bench.pids()}
            pushed = 0
            for number in range(1, STRETCHES + 1):
                until = count * number // STRETCHES
                began, before, spent = time.perf_counter(), both(bench), sum(map(cpu_s, pids.values()))
                while (done := both(bench)) < until:
                    if pushed < count and pushed - done < AHEAD:
                        pushed += load(
                            bench.queue, bench.settings.stream_order_events, islice(rows, min(PART, count - pushed))
                        )
                    else:
                        time.sleep(PAUSE_S)
                fills, seconds = done - before, time.perf_counter() - began
                cost = (sum(map(cpu_s, pids.values())) - spent) / fills * 1e6
                told.append((done, fills / seconds, cost, sum(map(resident_mb, stages.values()))))
    return told


def endless(rows: Sequence[bytes]) -> Iterator[bytes]:
    """The rows again and again, each time under other ids."""
    copy = 0
    while True:
        mark = f"{copy:08x}".encode()
        for row in rows:
            yield row.replace(row[10:18], mark) if copy else row  # digits of the transaction's hash, wherever it stands
        copy += 1


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6
