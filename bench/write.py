"""Streams to tables: one writer with fills and trades waiting, alone on the machine with its servers.

The floor: the same entries read, joined, inserted and acknowledged in turn.
"""

from collections.abc import Sequence

from bench.pipeline import show
from bench.result import Result, options
from bench.throughput import barest, loaded, ours

ROWS = 600_000  # half of them fills, half trades
GOAL = 60_000


def run(arguments: Sequence[str] = ()) -> Result:
    rows = options("write", arguments, rows=ROWS).rows
    half = rows // 2
    with loaded(half, trades=half) as bench:
        mine = ours(
            bench,
            ["processors.clickhouse_writer"],
            lambda: bench.count("order_filled") + bench.count("trades") >= 2 * half,
        )
    with loaded(half, trades=half) as bench:
        floor = barest(bench, [["writer", str(half), str(half)]])
    show(mine, floor, 2 * half)
    return Result("write", 2 * half / mine.seconds, "rows/s", 2 * half / floor.seconds, GOAL, lower_is_better=False)
