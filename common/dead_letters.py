"""Dead letters: what nobody could process, with its original bytes, beside the stream that it was meant for."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple, cast

from common.redis_queue import Offer, RedisQueue

Replayed = Literal["published", "known", "gone", "older"]


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


class Window(NamedTuple):
    """What a live ingester of fills still publishes, in the units of its cursor: see publish_new.lua."""

    source: str
    cursor_key: str
    width: int


class InClickHouse(NamedTuple):
    """Whether ClickHouse has a fill, and what makes its answer count."""

    has_fill: bool
    holder: str = ""  # of the lease of the source's backfills: none of them publishes
    floor: int = -1  # of the source's live ingester, before everything published by then was waited for


def replay_fill(
    queue: RedisQueue,
    stream: str,
    letter_id: str,
    offer: Offer,
    *,
    window: Window,
    older: InClickHouse | None = None,
    dry_run: bool = False,
) -> Replayed:
    """Publish what a source's dead letter has turned out to be; "known": it has been published, and the letter is gone.

    "older": it lies below the floor, where `older` has to tell whether it has been published; ask ClickHouse (again).
    The offer's `timestamp` is in the units of the source's cursor.
    """
    source = window.source
    keys = [queue.keys.dead_letters(stream), stream, queue.keys.seen(source), window.cursor_key]
    keys += [queue.keys.state(f"{source}_floor"), queue.keys.lease(f"backfill_{source}")]
    told = ("", -1, "") if older is None else (older.holder, older.floor, int(older.has_fill))
    digest = sha256(offer.identity.encode()).digest()
    arguments = [letter_id, offer.data, digest, offer.timestamp, window.width, int(dry_run), *told]
    return _replayed(queue.script("replay_fill", keys, arguments))


def replay_market(
    queue: RedisQueue, stream: str, letter_id: str, offer: Offer, *, source: str, fault: str, dry_run: bool = False
) -> Replayed:
    """The same for a market. `fault`: the version that is remembered while nothing but the letter was published."""
    keys = [queue.keys.dead_letters(stream), stream, queue.versions_key(source, offer.identity)]
    arguments = [letter_id, offer.data, offer.identity, offer.version, fault, int(dry_run)]
    return _replayed(queue.script("replay_market", keys, arguments))


def _replayed(outcome: bytes) -> Replayed:
    return cast("Replayed", outcome.decode())


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
