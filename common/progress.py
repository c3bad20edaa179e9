"""How far a backfill has come: one hash a run, readable with `redis-cli HGETALL backfill:goldsky:<range>`.

A run covers a range of seconds or of blocks, slice by slice. Slices are taken from the frontier on; each has a cursor,
which moves in the same step in which a page's fills are published (`common/lua/publish_slice.lua`). So whatever ends a
run, the next one goes on behind the last page that was published. Every call takes effect only while the caller holds
the lease: one backfill a source at a time, and a process that was paused for long publishes nothing any more.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from common.errors import LeaseLost
from common.leases import Lease
from common.redis_queue import Offer, RedisQueue, utc_now

KEPT_S = 30 * 86_400  # a run that is complete can be looked at for a month
DONE = ""  # the cursor of a slice that has been read to its end
HOUR_S = 3600
_SLICE = "slice "
_HOUR = "%Y-%m-%dT%HZ"
_COUNTS = re.compile(r"published=(\d+) known=(\d+) dead=(\d+) first=(\d+) last=(\d+)")


class Hour(NamedTuple):
    """What was read of one hour's fills. Times are Unix seconds, 0 where there was none."""

    published: int = 0
    known: int = 0  # were there before, as ClickHouse says
    dead: int = 0
    first: int = 0
    last: int = 0


class Slice(NamedTuple):
    """A part of the range: begin <= place < end, in seconds or blocks."""

    begin: int
    end: int
    cursor: str  # as the source writes it

    @property
    def field(self) -> str:
        return f"{_SLICE}{self.begin}..{self.end}"


class Run(NamedTuple):
    """A run as Redis holds it."""

    begin: int
    end: int
    since: int  # the same range in Unix seconds
    until: int
    frontier: int  # slices were taken up to here
    slices: list[Slice]  # taken and not yet read to their ends
    hours: dict[int, Hour]  # by the hour's beginning
    is_complete: bool


class Portion(NamedTuple):
    """What one call publishes: a page, or whole blocks of one."""

    new: Sequence[Offer]  # to be published; `timestamp`: of the event
    known: Sequence[Offer]
    faulty: Sequence[Offer]
    cursor: str  # of the slice, once all of it is published; DONE: nothing is left


class Progress:
    """One run's progress, as long as the lease is held. Every call may be repeated; raises Unavailable, LeaseLost."""

    def __init__(self, queue: RedisQueue, lease: Lease, *, source: str, name: str, stream: str) -> None:
        self._queue = queue
        self._lease = lease
        self._source = source
        self.key = queue.keys.backfill(source, name)
        self._faults = queue.keys.backfill(source, "faults")
        self._stream = stream

    def read(self) -> Run | None:
        """None before the beginning."""
        reply = self._queue.call("HGETALL", self.key)
        fields = {reply[i].decode(): reply[i + 1].decode() for i in range(0, len(reply), 2)}
        return _run(fields) if "frontier" in fields else None

    def begin(self, begin: int, end: int, since: int, until: int) -> None:
        """Forget what was there and begin anew."""
        bounds = {"begin": begin, "end": end, "since": since, "until": until, "frontier": begin}
        self._write({"state": "running", "started_at": utc_now(), **bounds}, anew=True)

    def move_end(self, end: int, until: int) -> None:
        """Have the run go further."""
        self._write({"end": end, "until": until})

    def complete(self) -> None:
        self._write({"state": "complete", "completed_at": utc_now()}, keep_s=KEPT_S)

    def take(self, slice_: Slice) -> bool:
        """Open the slice that begins at the frontier. False when the frontier is elsewhere: read the run again."""
        arguments = [self._lease.holder, slice_.begin, slice_.end, slice_.field, slice_.cursor]
        return bool(self._checked(self._queue.script("take_slice", [self._lease.key, self.key], arguments)))

    def publish(self, slice_: Slice, portion: Portion) -> bool:
        """Publish a portion that begins at the slice's cursor. False when it had been published: by a lost reply."""
        keys = [self._lease.key, self.key, self._stream, self._queue.keys.dead_letters(self._stream), self._faults]
        hours = _hours(portion)
        places = {hour: place for place, hour in enumerate(hours, start=1)}
        arguments: list[Any] = [self._lease.holder, slice_.field, slice_.cursor, portion.cursor, self._source]
        arguments += (utc_now(), len(hours), len(portion.faulty))
        for begin, hour in hours.items():
            arguments += (_named(begin), hour.published, hour.known, hour.first, hour.last)
        for offer in portion.faulty:
            arguments += (places[_hour_of(offer)], offer.identity, offer.data, offer.fault)
        arguments += (offer.data for offer in portion.new)
        return bool(self._checked(self._queue.script("publish_slice", keys, arguments)))

    def add_faults(self, identities: Sequence[str]) -> None:
        """Remember dead letters that somebody else has written: they are not written again."""
        if identities:
            self._queue.call("SADD", self._faults, *identities)

    def _write(self, fields: Mapping[str, str | int], *, anew: bool = False, keep_s: int = 0) -> None:
        arguments: list[Any] = [self._lease.holder, int(anew), keep_s]
        for field in fields.items():
            arguments += field
        self._checked(self._queue.script("write_progress", [self._lease.key, self.key], arguments))

    def _checked(self, answer: int) -> int:
        if answer < 0:
            what = "its lease ran out" if answer == -1 else "a slice's cursor was moved by somebody else"
            raise LeaseLost(f"{self.key}: {what}")
        return answer


def read_runs(queue: RedisQueue) -> list[tuple[str, Run]]:
    """Every stored run, with the name of its source."""
    prefix, found = queue.keys.backfill("", "").removesuffix(":"), []
    for key in queue.scan(prefix):
        source, _, name = key.removeprefix(prefix).partition(":")
        if ".." in name and "frontier" in (fields := queue.read_hash(key)):
            found.append((source, _run(fields)))
    return found


def _hours(portion: Portion) -> dict[int, Hour]:
    """What the portion adds, by hour."""
    hours: dict[int, Hour] = {}
    for offers, published, known in ((portion.new, 1, 0), (portion.known, 0, 1)):
        for offer in offers:
            begin, at = _hour_of(offer), offer.timestamp
            old = hours.get(begin, Hour(first=at))
            hours[begin] = Hour(old.published + published, old.known + known, 0, min(old.first, at), max(old.last, at))
    for offer in portion.faulty:
        hours.setdefault(_hour_of(offer), Hour())
    return hours


def _hour_of(offer: Offer) -> int:
    return offer.timestamp - offer.timestamp % HOUR_S


def _named(hour: int) -> str:
    return datetime.fromtimestamp(hour, UTC).strftime(_HOUR)


def _run(fields: Mapping[str, str]) -> Run:
    slices = [_slice(field, cursor) for field, cursor in fields.items() if field.startswith(_SLICE)]
    return Run(
        begin=int(fields["begin"]),
        end=int(fields["end"]),
        since=int(fields["since"]),
        until=int(fields["until"]),
        frontier=int(fields["frontier"]),
        slices=sorted(slices),
        hours=_read_hours(fields),
        is_complete=fields["state"] == "complete",
    )


def _slice(field: str, cursor: str) -> Slice:
    begin, _, end = field.removeprefix(_SLICE).partition("..")
    return Slice(int(begin), int(end), cursor)


def _read_hours(fields: Mapping[str, str]) -> dict[int, Hour]:
    found = {field: counts for field, value in fields.items() if (counts := _COUNTS.fullmatch(value))}
    return {_hour_named(field): Hour(*map(int, counts.groups())) for field, counts in sorted(found.items())}


def _hour_named(name: str) -> int:
    return int(datetime.strptime(name, _HOUR).replace(tzinfo=UTC).timestamp())
