"""The ingesters' cursors and counters, as `redis-cli GET state:…` shows them."""

import msgspec

from common.redis_queue import RedisQueue
from common.state import read_state
from monitoring.reading import Reading, Server, absent, known, known_or, unknown

WATERMARKS = {
    "goldsky_last_timestamp": "fills of the subgraph read up to",
    "goldsky_last_id": "id of the last of them",
    "polygon_last_timestamp": "fills of the chain read up to",
    "polygon_last_block": "block of the chain read up to",
    "polymarket_offset": "markets read in this sweep",
    "polymarket_cursor": "place of the sweep",
}
_TIMES = frozenset({"goldsky_last_timestamp", "polygon_last_timestamp"})  # in Unix seconds


class Watermark(msgspec.Struct, frozen=True):
    """One of them."""

    name: str
    meaning: str
    value: Reading[str]
    at: Reading[float] | None  # the same as Unix seconds, where it is a time


def read_watermark(queue: RedisQueue, redis: Server, name: str) -> Watermark:
    value = redis.read(lambda: read_state(queue, name)).then(_written)
    return Watermark(name, WATERMARKS[name], value, value.then(_time) if name in _TIMES else None)


def _written(value: str | None) -> Reading[str]:
    return known_or(value, absent("not written yet"))


def _time(value: str) -> Reading[float]:
    return known(float(value)) if value.isdecimal() else unknown(f"not a time: {value[:40]!r}")
