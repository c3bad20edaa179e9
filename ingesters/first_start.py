"""Where reading a source of fills began, kept in Redis, and what to say when ORDER_EVENTS_START asks for more.

That setting is for a first start: afterwards the cursor tells where to go on, and a setting that names an earlier time
moves nothing. What lies before the beginning is for the backfill to fetch.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from common.redis_queue import RedisQueue
from common.state import read_state

_NAME = "{}_began"  # of the state


class Beginning(NamedTuple):
    """The first second that was read and, on the chain, its block."""

    timestamp: int  # Unix seconds
    block: int = 0


def note_beginning(queue: RedisQueue, source: str, beginning: Beginning) -> None:
    """Keep it, while nothing has been read yet."""
    queue.call("SET", queue.keys.state(_NAME.format(source)), f"{beginning.timestamp} {beginning.block}")


def read_beginning(queue: RedisQueue, source: str, cursor: Beginning) -> Beginning:
    """Where reading began. Where that was not kept, the cursor is all that is known, and is kept as it from now on."""
    parts = (read_state(queue, _NAME.format(source)) or "").split(" ")
    if all(part.isascii() and part.isdigit() for part in parts) and len(parts) == len(Beginning._fields):
        return Beginning(*map(int, parts))
    note_beginning(queue, source, cursor)
    return cursor


def about_earlier_start(setting: str, source: str, *, wanted: int, began: int) -> str:
    """What to tell a person whose setting names an earlier time than the one that reading began with."""
    command = f".venv/bin/python3 -m ingesters.backfill --from {iso(wanted)} --to {iso(began)} --source {source}"
    return (
        f"ORDER_EVENTS_START={setting} is for a first start and moves nothing: reading began with {iso(began)} and "
        f"goes on from there. To fetch what lies before it: {command}"
    )


def iso(timestamp: int) -> str:
    """`2025-11-13T12:15:00Z`."""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%dT%H:%M:%SZ}"
