"""Bulk loads for the benchmarks: entries into a stream by the barest script there is."""

from collections.abc import Iterable
from itertools import islice

from common.redis_queue import RedisQueue

ADD_ALL = "for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'data', ARGV[i]) end"
ENTRIES_A_CALL = 1000


def load(queue: RedisQueue, stream: str, rows: Iterable[bytes]) -> int:
    """Put rows on a stream; returns how many."""
    rest, count = iter(rows), 0
    while some := list(islice(rest, ENTRIES_A_CALL)):
        queue.call("EVAL", ADD_ALL, 1, stream, *some)
        count += len(some)
    return count
