"""Fills preloaded in Redis until both tables hold them: processor and writer as they run in production.

The floor: two barest loops that move the same fills, and trades made beforehand, through the same servers.
"""

from collections.abc import Callable, Sequence

from bench.result import Result, options, table
from bench.servers import Bench
from bench.throughput import Run, barest, loaded, ours, sample_of_trades

FILLS = 1_000_000
GOAL = 30_000
STAGES = ("processors.trade_processor", "processors.clickhouse_writer")


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("pipeline", arguments, fills=FILLS).fills
    with loaded(count) as bench:
        mine = ours(bench, STAGES, _has_everything(bench, count))
        check(bench, count)
    with loaded(count) as bench:
        sample = str(sample_of_trades(bench.folder, count))
        floor = barest(bench, [["processor", sample, str(count)], ["writer", str(count), str(count)]])
    show(mine, floor, count)
    return Result("pipeline", count / mine.seconds, "fills/s", count / floor.seconds, GOAL, lower_is_better=False)


def check(bench: Bench, count: int) -> None:
    """Both tables are complete and without duplicates, or the figure counts for nothing."""
    for name in ("order_filled", "trades"):
        stored, different = bench.count(name), bench.count(name, "uniqExact(id)")
        if not stored == different == count:
            raise SystemExit(f"{name}: {stored} rows with {different} ids, expected {count}")
    written = bench.queue.stream_info(bench.settings.stream_trades).entries_added
    if written != count:
        raise SystemExit(f"{written} trades were written to the stream, expected {count}")


def show(mine: Run, floor: Run, count: int) -> None:
    """CPU microseconds a fill, by process."""
    for title, timed in (("ours", mine), ("barest", floor)):
        print(f"{title}: {count:,} fills in {timed.seconds:.1f} s")
        table(("process", "CPU µs a fill"), [(name, cpu_s / count * 1e6) for name, cpu_s in timed.cpu_s.items()])


def _has_everything(bench: Bench, count: int) -> Callable[[], bool]:
    return lambda: bench.count("trades") >= count and bench.count("order_filled") >= count
