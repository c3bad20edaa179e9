"""Fills in memory to stream:order_events through the exactly-once hand-over, a page of 1,000 at a time.

The floor: the same bytes added by a script that does nothing else, sent as redis-py sends them.
"""

import statistics
import time
from collections.abc import Sequence

from bench.fills import fills_of, world_of
from bench.load import ADD_ALL
from bench.result import Result, options, table
from bench.servers import Bench, servers
from common.records import encode
from common.redis_queue import Offer, Position

FILLS = 100_000
PAGE = 1000
ROUNDS = 7  # of a second each, since the machine differs from one to the next
WINDOW_S = 120
GOAL = 60_000


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("publish", arguments, fills=FILLS).fills
    offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in fills_of(world_of(count), count)]
    pages = [offers[start : start + PAGE] for start in range(0, count, PAGE)]
    mine, floor = [], []
    with servers("--maxmemory", "8gb") as bench:
        for number in range(ROUNDS):
            floor.append(count / _bare(bench, f"floor{number}", pages))
            mine.append(count / _published(bench, f"ours{number}", pages))
    table(("", *(f"round {number + 1}" for number in range(ROUNDS))), [("ours", *mine), ("barest", *floor)])
    rate, least = statistics.median(mine), statistics.median(floor)
    return Result("publish", rate, "fills/s", least, GOAL, lower_is_better=False)


def _published(bench: Bench, name: str, pages: Sequence[Sequence[Offer]]) -> float:
    started = time.perf_counter()
    for page in pages:
        position = Position(page[-1].timestamp, page[-1].identity)
        bench.queue.push_batch(name, page, source=name, position=position, window_s=WINDOW_S)
    return time.perf_counter() - started


def _bare(bench: Bench, name: str, pages: Sequence[Sequence[Offer]]) -> float:
    started = time.perf_counter()
    for page in pages:
        bench.queue.call("EVAL", ADD_ALL, 1, name, *(offer.data for offer in page))
    return time.perf_counter() - started
