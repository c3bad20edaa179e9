"""The streams between the stages: what is in them, how far each consumer group is, and what nobody could process."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from common.config import Settings
from common.dead_letters import DeadLetter, newest_dead_letters
from common.keys import Keys
from common.redis_queue import GroupInfo, RedisQueue, StreamInfo
from monitoring.formatting import printable
from monitoring.reading import Reading, Server, absent, known, known_or, unknown

NEWEST_DEAD_LETTERS = 5
NO_LAG = unknown("Redis can't tell how many entries are left, as after a deletion")


class Group(msgspec.Struct, frozen=True):
    """A consumer group of a stream."""

    name: str
    expected: bool  # one of the pipeline's own
    state: Literal["present", "missing", "unknown"]
    consumers: Reading[int]
    lag: Reading[int]  # entries not yet delivered
    pending: Reading[int]  # delivered, not yet acknowledged
    behind: Reading[int]  # both: what the group still has to do
    oldest_pending_age_s: Reading[float]
    entries_read: Reading[int]  # ever


class Stream(msgspec.Struct, frozen=True):
    """A stream and its groups."""

    name: str
    length: Reading[int]
    entries_added: Reading[int]  # ever
    newest_age_s: Reading[float]
    groups: list[Group]


class Letter(msgspec.Struct, frozen=True):
    """A dead letter, shortened for the eye."""

    id: str
    buried_at: Reading[float]  # Unix seconds
    reason: str
    source_stream: str
    entry_id: str
    attempts: int
    data: str


class DeadLetters(msgspec.Struct, frozen=True):
    """The dead letters of one stream."""

    stream: str
    count: Reading[int]
    newest: list[Letter]


def expected_groups(keys: Keys, settings: Settings) -> dict[str, tuple[str, ...]]:
    """Stream, as its key, to the groups that read it."""
    return {
        keys(settings.stream_markets): (settings.group_markets_writers,),
        keys(settings.stream_order_events): (settings.group_events_processors, settings.group_order_events_writers),
        keys(settings.stream_trades): (settings.group_trades_writers,),
    }


def read_stream(queue: RedisQueue, redis: Server, name: str, expected: Sequence[str], now: float) -> Stream:
    return as_stream(name, redis.read(lambda: queue.stream_info(name)), expected, now)


def as_stream(name: str, info: Reading[StreamInfo], expected: Sequence[str], now: float) -> Stream:
    """A stream with its expected groups first; a missing one shows as such, and others that somebody made follow."""
    found = {group.name: group for group in info.value.groups} if info.value else {}
    names = [*expected, *sorted(found.keys() - set(expected))]
    return Stream(
        name=name,
        length=info.map(lambda known_info: known_info.length),
        entries_added=info.map(lambda known_info: known_info.entries_added),
        newest_age_s=info.then(lambda known_info: _age(known_info.last_id, now, absent("no entry"))),
        groups=[_group(group, found.get(group), info, now, expected=group in expected) for group in names],
    )


def _group(name: str, group: GroupInfo | None, info: Reading[StreamInfo], now: float, *, expected: bool) -> Group:
    if group is None:
        state: Literal["missing", "unknown"] = "missing" if info.state == "known" else "unknown"
        nothing: Reading[Any] = absent("the group is missing") if state == "missing" else unknown(info.reason)
        return Group(name, expected, state, nothing, nothing, nothing, nothing, nothing, nothing)
    lag = known_or(group.lag, NO_LAG)
    return Group(
        name=name,
        expected=expected,
        state="present",
        consumers=known(group.consumers),
        lag=lag,
        pending=known(group.pending),
        behind=lag.map(lambda entries: entries + group.pending),
        oldest_pending_age_s=_age(group.oldest_pending_id, now, absent("nothing is pending")),
        entries_read=known_or(group.entries_read, NO_LAG),
    )


def _age(entry_id: str | None, now: float, otherwise: Reading[Any]) -> Reading[float]:
    return otherwise if entry_id is None else _arrival(entry_id).map(lambda at: max(0.0, now - at))


def _arrival(entry_id: str) -> Reading[float]:
    """When an entry was written, in Unix seconds: its id begins with the milliseconds of that."""
    return known(int(entry_id.split("-", 1)[0]) / 1000)


def read_dead_letters(queue: RedisQueue, redis: Server, stream: str) -> DeadLetters:
    return as_dead_letters(stream, redis.read(lambda: newest_dead_letters(queue, stream, NEWEST_DEAD_LETTERS)))


def as_dead_letters(stream: str, found: Reading[tuple[int, list[DeadLetter]]]) -> DeadLetters:
    """How many there are, and the newest of them in a form that can be shown."""
    newest = found.value[1] if found.value else []
    return DeadLetters(
        stream=stream, count=found.map(lambda letters: letters[0]), newest=[_letter(letter) for letter in newest]
    )


def _letter(letter: DeadLetter) -> Letter:
    return Letter(
        id=letter.id,
        buried_at=_arrival(letter.id),
        reason=printable(letter.reason),
        source_stream=letter.source_stream,
        entry_id=letter.entry_id,
        attempts=letter.attempts,
        data=printable(letter.data),
    )
