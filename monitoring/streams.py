"""The streams between the stages: what is in them, how far each consumer group is, and what nobody could process."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from common.config import Settings
from common.dead_letters import DeadLetter, newest_dead_letters
from common.keys import Keys, Route
from common.redis_queue import ConsumerInfo, GroupInfo, RedisQueue, StreamInfo
from monitoring.formatting import printable
from monitoring.reading import Reading, Server, absent, known, known_or, unknown

NEWEST_DEAD_LETTERS = 5
HOLD_MARGIN_S = 60.0  # a look-up, a take-over, a step
NO_LAG = unknown("Redis can't tell how many entries are left, as after a deletion")


class Reader(NamedTuple):
    """The component that reads one of the pipeline's own groups."""

    component: str
    may_hold_s: float  # how long an entry may be pending, or unread, while it works as it should


class Consumer(msgspec.Struct, frozen=True):
    """A member of a group; named like the process that reads under that name."""

    name: str
    pending: int
    idle_s: float  # since it last asked for entries
    held_s: Reading[float]  # since its oldest pending entry was delivered


class Group(msgspec.Struct, frozen=True):
    """A consumer group of a stream."""

    name: str
    expected: bool  # one of the pipeline's own
    reader: str  # the component that reads it; empty for a group of somebody else's
    may_hold_s: float  # see Reader
    state: Literal["present", "missing", "unknown"]
    consumers: Reading[int]
    lag: Reading[int]  # entries not yet delivered
    pending: Reading[int]  # delivered, not yet acknowledged
    behind: Reading[int]  # both: what the group still has to do
    oldest_pending_age_s: Reading[float]
    oldest_undelivered_age_s: Reading[float]
    entries_read: Reading[int]  # ever
    members: Reading[list[Consumer]]


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


def expected_groups(keys: Keys, settings: Settings) -> dict[str, dict[str, Reader]]:
    """Stream, as its key, to the groups that read it."""
    # A batch waits to be due, then for the one before it, then for its own answer.
    writer_s = settings.clickhouse_writer_max_wait + 2 * settings.clickhouse_timeout_s + HOLD_MARGIN_S
    writer = Reader("clickhouse_writer", writer_s)
    processor = Reader("trade_processor", settings.unknown_token_ttl + HOLD_MARGIN_S)
    return {
        keys(settings.stream_markets): {settings.group_markets_writers: writer},
        keys(settings.stream_order_events): {
            settings.group_events_processors: processor,
            settings.group_order_events_writers: writer,
        },
        keys(settings.stream_trades): {settings.group_trades_writers: writer},
    }


class Work(NamedTuple):
    """What the members of a group hold, and since when the rest has waited."""

    oldest_undelivered_id: str | None
    members: Sequence[ConsumerInfo]


def read_stream(queue: RedisQueue, redis: Server, name: str, expected: Mapping[str, Reader], now: float) -> Stream:
    info = redis.read(lambda: queue.stream_info(name))
    work = info.then(lambda found: redis.read(lambda: _read_work(queue, name, found)))
    return as_stream(name, info, expected, now, work)


def _read_work(queue: RedisQueue, stream: str, info: StreamInfo) -> dict[str, Work]:
    return {
        group.name: Work(queue.undelivered_since(stream, group), queue.consumers_of(Route(stream, group.name)))
        for group in info.groups
    }


def as_stream(
    name: str,
    info: Reading[StreamInfo],
    expected: Mapping[str, Reader],
    now: float,
    work: Reading[dict[str, Work]],
) -> Stream:
    """A stream with its expected groups first; a missing one shows as such, and others that somebody made follow."""
    found = {group.name: group for group in info.value.groups} if info.value else {}
    names = [*expected, *sorted(found.keys() - set(expected))]
    return Stream(
        name=name,
        length=info.map(lambda known_info: known_info.length),
        entries_added=info.map(lambda known_info: known_info.entries_added),
        newest_age_s=info.then(lambda known_info: _age(known_info.last_id, now, absent("no entry"))),
        groups=[
            _group(group, found[group], expected.get(group), work, now)
            if group in found
            else _missing_group(group, expected[group], info)
            for group in names
        ],
    )


def _missing_group(name: str, reader: Reader, info: Reading[StreamInfo]) -> Group:
    state: Literal["missing", "unknown"] = "missing" if info.state == "known" else "unknown"
    nothing: Reading[Any] = absent("the group is missing") if state == "missing" else unknown(info.reason)
    return Group(
        name=name,
        expected=True,
        reader=reader.component,
        may_hold_s=reader.may_hold_s,
        state=state,
        consumers=nothing,
        lag=nothing,
        pending=nothing,
        behind=nothing,
        oldest_pending_age_s=nothing,
        oldest_undelivered_age_s=nothing,
        entries_read=nothing,
        members=nothing,
    )


def _group(name: str, group: GroupInfo, reader: Reader | None, work: Reading[dict[str, Work]], now: float) -> Group:
    lag = known_or(group.lag, NO_LAG)
    own = work.then(lambda groups: known_or(groups.get(name), absent("the group was made just now")))
    nothing_waits = absent("everything is delivered")
    return Group(
        name=name,
        expected=reader is not None,
        reader=reader.component if reader else "",
        may_hold_s=reader.may_hold_s if reader else math.inf,
        state="present",
        consumers=known(group.consumers),
        lag=lag,
        pending=known(group.pending),
        behind=lag.map(lambda entries: entries + group.pending),
        oldest_pending_age_s=_age(group.oldest_pending_id, now, absent("nothing is pending")),
        oldest_undelivered_age_s=own.then(lambda each: _age(each.oldest_undelivered_id, now, nothing_waits)),
        entries_read=known_or(group.entries_read, NO_LAG),
        members=own.map(lambda each: [_consumer(member) for member in each.members]),
    )


def _consumer(member: ConsumerInfo) -> Consumer:
    held_s = known_or(member.held_s, absent("it holds nothing"))
    return Consumer(printable(member.name), member.pending, member.idle_s, held_s)


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
