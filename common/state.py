"""Cursors and watermarks. They are written by the scripts that write the data (`RedisQueue.push_*`), only read here."""

from common.errors import ConfigError
from common.redis_queue import Height, Position, RedisQueue


def read_state(queue: RedisQueue, name: str) -> str | None:
    """`state:<name>`; None when it was never written."""
    value = queue.call("GET", queue.keys.state(name))
    return None if value is None else value.decode()


def read_position(queue: RedisQueue, source: str) -> Position | None:
    """How far a source of fills has been published; None before its first page.

    One without an id stands for a start that a backfill has claimed for the ingester: see `claim_start`.
    """
    timestamp, identity = queue.call("MGET", *queue.cursor_keys(source))
    return None if timestamp is None else Position(int(timestamp), (identity or b"").decode())


def read_height(queue: RedisQueue, source: str) -> Height | None:
    """How far a source of blocks has been published; None before its first page.

    One without a time (0) stands for a start that a backfill has claimed for the ingester: see `claim_start`.
    """
    block, timestamp = queue.call("MGET", *queue.height_keys(source))
    return None if block is None else Height(int(block), int(timestamp or 0))


def claim_start(queue: RedisQueue, key: str, cursor: int) -> bool:
    """Write the first part of a source's cursor, where there is none; whether there was none.

    From then on it is settled what the source's live ingester publishes: nothing from before `cursor` less its window.
    Everything older is left to backfills, whatever ORDER_EVENTS_START says later.
    """
    return queue.call("SET", key, cursor, "NX") is not None


def check_mode(queue: RedisQueue, mode: str) -> None:
    """Raises ConfigError when Redis holds the other mode's data."""
    held = read_state(queue, "mode")
    if held not in {None, mode}:
        raise ConfigError(mixed_modes("Redis", str(held), mode))


def mixed_modes(where: str, held: str, wanted: str) -> str:
    """What to tell a person who is about to mix demo and live data."""
    return (
        f"PIPELINE_MODE: {where} holds {held} data, and {wanted} data must not mix with it. "
        f"Use another server, CLICKHOUSE_DATABASE, REDIS_DB or KEY_PREFIX for one of them."
    )
