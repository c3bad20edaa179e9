"""What Redis says of itself: whether it may drop keys, and whether it can write to its disk."""

from collections.abc import Mapping

import msgspec

from common.redis_queue import RedisQueue
from monitoring.reading import Reading, Server, absent, known_or, unknown

NOT_TOLD = unknown("Redis does not tell")
OK = "ok"


class RedisState(msgspec.Struct, frozen=True):
    """The server behind the streams. What it writes is `ok`, or what it says instead."""

    eviction_policy: Reading[str]
    append_only_file: Reading[str]  # absent without one
    rewrite: Reading[str]  # of the append-only file, the last one
    snapshot: Reading[str]  # the last one


def read_redis(queue: RedisQueue, redis: Server) -> RedisState:
    return as_redis_state(redis.read(queue.server_info))


def as_redis_state(info: Reading[dict[str, str]]) -> RedisState:
    return RedisState(
        eviction_policy=_told(info, "maxmemory_policy"),
        append_only_file=info.then(lambda told: _of_file(told, "aof_last_write_status")),
        rewrite=info.then(lambda told: _of_file(told, "aof_last_bgrewrite_status")),
        snapshot=_told(info, "rdb_last_bgsave_status"),
    )


def _told(info: Reading[dict[str, str]], name: str) -> Reading[str]:
    return info.then(lambda told: known_or(told.get(name), NOT_TOLD))


def _of_file(told: Mapping[str, str], name: str) -> Reading[str]:
    if told.get("aof_enabled") == "0":
        return absent("it keeps no append-only file")
    return known_or(told.get(name), NOT_TOLD)
