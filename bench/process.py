"""stream:order_events to stream:trades: one trade processor alone on the machine with its servers.

The floor: the same entries read and acknowledged, and trades made beforehand added, by one script a batch.
"""

from collections.abc import Sequence

from bench.pipeline import show
from bench.result import Result, options
from bench.servers import Bench
from bench.throughput import barest, loaded, ours, sample_of_trades

FILLS = 300_000
GOAL = 40_000


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("process", arguments, fills=FILLS).fills
    with loaded(count) as bench:
        mine = ours(bench, ["processors.trade_processor"], lambda: written(bench) >= count)
    with loaded(count) as bench:
        sample = str(sample_of_trades(bench.folder, count))
        floor = barest(bench, [["processor", sample, str(count)]])
    show(mine, floor, count)
    return Result("process", count / mine.seconds, "fills/s", count / floor.seconds, GOAL, lower_is_better=False)


def written(bench: Bench) -> int:
    return bench.queue.stream_info(bench.settings.stream_trades).entries_added
