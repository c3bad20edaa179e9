"""Dead letters: what nobody could process, with its original bytes, beside the stream that it was meant for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from common.redis_queue import RedisQueue


class DeadLetter(NamedTuple):
    """An entry that nobody could process, with its original bytes."""

    id: str
    data: bytes
    reason: str
    source_stream: str
    entry_id: str
    attempts: int
    at: str  # ISO time, UTC
    group: str = ""  # the consumer group that refused it; empty when an ingester did


def newest_dead_letters(queue: RedisQueue, stream: str, count: int) -> tuple[int, list[DeadLetter]]:
    """How many dead letters a stream has, and the newest of them."""
    return count_dead_letters(queue, stream), page_of_dead_letters(queue, stream, "-", "+", count, newest_first=True)


def count_dead_letters(queue: RedisQueue, stream: str) -> int:
    return int(queue.call("XLEN", queue.keys.dead_letters(stream)))


def page_of_dead_letters(
    queue: RedisQueue, stream: str, first: str, last: str, count: int, *, newest_first: bool = False
) -> list[DeadLetter]:
    """Up to `count` of a stream's dead letters from id `first` to id `last`; "(" before an id leaves it out."""
    command, bounds = ("XREVRANGE", (last, first)) if newest_first else ("XRANGE", (first, last))
    reply = queue.call(command, queue.keys.dead_letters(stream), *bounds, "COUNT", count)
    return [_dead_letter(entry_id, fields) for entry_id, fields in reply]


def replay_dead_letters(queue: RedisQueue, stream: str, letters: Sequence[DeadLetter]) -> list[str]:
    """Put letters back on their stream, for the group that refused them alone; returns the ids of those it moved.

    The others were gone already. In one step: twice at once moves each letter once.
    """
    arguments = [argument for letter in letters for argument in (letter.id, letter.group)]
    moved = queue.script("replay", [queue.keys.dead_letters(stream), stream], arguments) if letters else []
    return [entry_id.decode() for entry_id in moved]


def discard_dead_letters(queue: RedisQueue, stream: str, ids: Sequence[str]) -> list[str]:
    """Remove letters; returns the ids of those it removed. The others were gone already."""
    removed = queue.script("discard", [queue.keys.dead_letters(stream)], ids) if ids else []
    return [entry_id.decode() for entry_id in removed]


def _dead_letter(entry_id: bytes, pairs: Sequence[Any]) -> DeadLetter:
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))

    def text(name: bytes) -> str:
        return str(fields.get(name, b"").decode(errors="replace"))

    attempts = fields.get(b"attempts", b"")
    return DeadLetter(
        id=entry_id.decode(),
        data=fields.get(b"data", b""),
        reason=text(b"reason"),
        source_stream=text(b"source_stream"),
        entry_id=text(b"entry_id"),
        attempts=int(attempts) if attempts.isdigit() else 0,  # not so in one that somebody wrote by hand
        at=text(b"at"),
        group=text(b"group"),
    )
