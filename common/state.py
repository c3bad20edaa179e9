"""Cursors and watermarks. They are written by the scripts that write the data (`RedisQueue.push_*`), only read here."""

from common.redis_queue import Height, Position, RedisQueue


def read_state(queue: RedisQueue, name: str) -> str | None:
    """`state:<name>`; None when it was never written."""
    value = queue.call("GET", queue.keys.state(name))
    return None if value is None else value.decode()


def read_position(queue: RedisQueue, source: str) -> Position | None:
    """How far a source of fills has been published; None before its first page."""
    timestamp, identity = queue.call("MGET", *queue.cursor_keys(source))
    return None if timestamp is None else Position(int(timestamp), identity.decode())


def read_height(queue: RedisQueue, source: str) -> Height | None:
    """How far a source of blocks has been published; None before its first page."""
    block, timestamp = queue.call("MGET", *queue.height_keys(source))
    return None if block is None else Height(int(block), int(timestamp or 0))
