"""Where a record's time goes: `python3 -m bench profile publish|process|write`.

The stage runs in this process under the standard profiler, with real servers beside it. What the profiler itself costs
makes small functions look dearer than they are: compare functions with one another, not with the benchmarks. Redis
tells the time inside each command, ClickHouse that of its events.
"""

import cProfile
import logging
import pstats
import sys
import time
from collections.abc import Callable, Sequence

from bench.fills import fills_of, world_of
from bench.publish import PAGE, WINDOW_S
from bench.result import table
from bench.servers import Bench, servers
from bench.throughput import cpu_s, loaded
from common.records import encode
from common.redis_queue import Offer, Position, RedisQueue
from common.runtime import Context, Stage
from processors import clickhouse_writer, trade_processor

COUNT = 100_000
SHOWN = 15
EVENTS = """SELECT event, value FROM system.events WHERE event IN ('InsertQueryTimeMicroseconds', 'InsertedRows',
    'MergeTreeDataWriterSortingBlocksMicroseconds', 'MergeTreeDataWriterProjectionsCalculationMicroseconds',
    'MergeTotalMilliseconds', 'OSCPUVirtualTimeMicroseconds', 'UserTimeMicroseconds', 'SystemTimeMicroseconds')"""


def main(arguments: Sequence[str]) -> int:
    names = {"publish": publish, "process": process, "write": write}
    if list(arguments) not in [[name] for name in names]:
        print(f"{__doc__}", file=sys.stderr)
        return 2
    names[arguments[0]]()
    return 0


def publish() -> None:
    offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in fills_of(world_of(COUNT), COUNT)]
    pages = [offers[start : start + PAGE] for start in range(0, COUNT, PAGE)]
    with servers("--maxmemory", "8gb") as bench:
        rest = iter(pages)

        def step() -> bool:
            page = next(rest, None)
            if page is None:
                return False
            position = Position(page[-1].timestamp, page[-1].identity)
            bench.queue.push_batch("stream", page, source="bench", position=position, window_s=WINDOW_S)
            return True

        show(bench, step, COUNT)


def process() -> None:
    with loaded(COUNT) as bench:
        stage = trade_processor.build(context(bench))
        show(bench, stepping(stage, COUNT), COUNT)
        stage.close()


def write() -> None:
    with loaded(COUNT, trades=COUNT) as bench:
        stage = clickhouse_writer.build(context(bench))
        show(bench, stepping(stage, 2 * COUNT), 2 * COUNT)
        stage.close()


def context(bench: Bench) -> Context:
    return Context(bench.settings, RedisQueue(bench.settings), logging.getLogger("bench"), lambda: False)


def stepping(stage: Stage, records: int) -> Callable[[], bool]:
    """One step; False once all records are through."""

    def step() -> bool:
        time.sleep(min(stage.step(), 0.01))
        return int(stage.report()["records_out"]) < records

    return step


def show(bench: Bench, step: Callable[[], bool], records: int) -> None:
    """Run all steps and print microseconds a record: of our functions, of Redis' commands, of ClickHouse."""
    bench.queue.call("CONFIG", "RESETSTAT")
    before = {name: cpu_s(pid) for name, pid in bench.pids().items()}
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    while step():
        pass
    profiler.disable()
    spent = [(name, (cpu_s(pid) - before[name]) / records * 1e6) for name, pid in bench.pids().items()]
    stats = pstats.Stats(profiler)
    own = sorted(stats.stats.items(), key=lambda item: -item[1][2])  # type: ignore[attr-defined] # untyped, documented
    rows = [(_place(where), calls / records, total / records * 1e6) for where, (_, calls, total, _, _) in own[:SHOWN]]
    table(("function", "calls a record", "own µs a record"), rows)
    print()
    table(("server", "CPU µs a record"), spent)
    print()
    table(("Redis command", "calls a record", "µs a record"), commands(bench, records))
    print()
    events = [(event, int(value) / records) for event, value in bench.clickhouse.query(EVENTS)]
    table(("ClickHouse event", "a record"), events)


def commands(bench: Bench, records: int) -> list[tuple[str, float, float]]:
    """The dearest commands; what a script calls counts for itself and for the script."""
    told = bench.queue.call("INFO", "commandstats")
    rows = [
        (name.removeprefix("cmdstat_"), float(stat["calls"]) / records, float(stat["usec"]) / records)
        for name, stat in told.items()
    ]
    return sorted(rows, key=lambda row: -row[2])[:8]


def _place(where: tuple[str, int, str]) -> str:
    file, line, name = where
    return f"{'/'.join(file.split('/')[-2:])}:{line} {name}" if line else name
