"""What Redis reports about itself: whether it may evict keys, and whether it can write to its disk."""

from collections.abc import Mapping

import msgspec

from common.redis_queue import RedisQueue
from monitoring.reading import Reading, Server, absent, known_or, unknown

NOT_REPORTED = unknown("Redis does not report it")
OK = "ok"


class RedisState(msgspec.Struct, frozen=True):
    """The server behind the streams. The status of each kind of write is `ok`, or what Redis reports instead."""

    eviction_policy: Reading[str]
    append_only_file: Reading[str]  # absent without one
    rewrite: Reading[str]  # the last one of the append-only file
    snapshot: Reading[str]  # the last one
    cli: str  # the command with which a person reaches it


def read_redis(queue: RedisQueue, redis: Server) -> RedisState:
    return as_redis_state(redis.read(queue.server_info), queue.cli)


def as_redis_state(info: Reading[dict[str, str]], cli: str) -> RedisState:
    return RedisState(
        eviction_policy=_reported(info, "maxmemory_policy"),
        append_only_file=info.then(lambda fields: _of_file(fields, "aof_last_write_status")),
        rewrite=info.then(lambda fields: _of_file(fields, "aof_last_bgrewrite_status")),
        snapshot=_reported(info, "rdb_last_bgsave_status"),
        cli=cli,
    )


def _reported(info: Reading[dict[str, str]], name: str) -> Reading[str]:
    return info.then(lambda fields: known_or(fields.get(name), NOT_REPORTED))


def _of_file(fields: Mapping[str, str], name: str) -> Reading[str]:
    if fields.get("aof_enabled") == "0":
        return absent("it keeps no append-only file")
    return known_or(fields.get(name), NOT_REPORTED)
