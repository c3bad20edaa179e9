"""How fresh a source is: one word for each, decided from facts. Pure.

In the order in which they are looked for:

- `ended`: it has been read up to the configured cut-over, for good; it is not expected to bring anything any more.
- `unreachable`: no question has had a good answer for UNREACHABLE_S, or never any. One failed attempt is no outage.
- `catching up`: what exists has not been read to its end yet, or we have fallen behind again.
- `stale`: it answers and has been read to its end, but its own end (the head) is old or does not advance: a node or a
  subgraph that is dead and still answers. A source that does not tell its head's time is known by its newest event
  alone; where that is older than SILENT_S it counts as dead as well. Goldsky's subgraph told no time any more once its
  exchange had ended, and its block number went on for weeks.
- `idle`: it has been read to its head, which advances, but its newest event is older than FRESH_S: a quiet source.
- `live`: it has been read to its head, and its newest event is fresh.

What a source tells is judged by when it told it: while we do not ask, because the pipeline is full, nothing grows old.
The lag is how long ago the moment lies up to which everything has been read, whatever the state: for a live source the
time that its blocks take to become final and the poll interval, for one that is caught up with the way still to go,
and for one that is stale or unreachable it grows by a second a second.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from common.errors import Unavailable

State = Literal["catching up", "live", "idle", "stale", "unreachable", "ended"]

FRESH_S = 300.0  # a newest event older than that is not live any more
SILENT_S = 3600.0  # without a head's time: so old a newest event means a dead source, not a quiet one
OLD_HEAD_S = 120.0  # final blocks are some 5 s old, and a subgraph's some seconds more
UNREACHABLE_S = 10.0  # some five attempts of the back-off


class Facts(NamedTuple):
    """What is known of a source. Unix seconds; those of our own clock unless the source is said to tell them."""

    began_at: float
    failing_since: float | None = None  # the first question without a good answer; None: the last one had one
    failure: str = ""  # why the last question had none
    answered_at: float | None = None  # the last good answer
    newest_event_at: float | None = None  # as the source tells
    head: int | None = None  # its newest block
    head_at: float | None = None  # that block's time, as the source tells
    head_told_at: float | None = None
    head_moved_at: float | None = None  # when it was first told this head
    old_head_s: float = OLD_HEAD_S  # up to which age a head counts as one of now
    read_to: float | None = None  # everything up to this time of the source has been read
    at_end_at: float | None = None  # when its end was reached last; None: there is more to read
    has_ended: bool = False


class Verdict(NamedTuple):
    """The state, the reason where one is needed, and since when that lasts where the facts tell it."""

    state: State
    reason: str = ""
    since: float | None = None


def judge(facts: Facts, now: float) -> Verdict:
    """The state that the facts make."""
    if facts.has_ended:
        return Verdict("ended", "read up to the cut-over; nothing more is expected of it")
    if facts.failing_since is not None and (facts.answered_at is None or now - facts.failing_since >= UNREACHABLE_S):
        return Verdict("unreachable", facts.failure, facts.failing_since)
    if facts.at_end_at is None:
        return Verdict("catching up", facts.failure)
    return _dead_head(facts, facts.at_end_at) or _alive(facts, facts.at_end_at)


def lag_s(facts: Facts, now: float) -> float | None:
    """How long ago the moment lies up to which all has been read; None before the first page and after the end."""
    return None if facts.read_to is None or facts.has_ended else max(0.0, now - facts.read_to)


def _dead_head(facts: Facts, at: float) -> Verdict | None:
    """Why the source's head is not one of now, as of the last look at it; None when it is."""
    if facts.head_at is None:
        return _unmoved_head(facts) or _silence(facts, at)
    age_s = (facts.head_told_at or at) - facts.head_at
    if age_s < facts.old_head_s:
        return None
    return Verdict("stale", f"its newest block{_numbered(facts.head)} is of {_utc(facts.head_at)}", facts.head_at)


def _unmoved_head(facts: Facts) -> Verdict | None:
    if facts.head_told_at is None or facts.head_moved_at is None:
        return None
    if facts.head_told_at - facts.head_moved_at < facts.old_head_s:
        return None
    reason = f"its newest block{_numbered(facts.head)} has been the same since {_utc(facts.head_moved_at)}"
    return Verdict("stale", reason, facts.head_moved_at)


def _silence(facts: Facts, at: float) -> Verdict | None:
    newest = facts.began_at if facts.newest_event_at is None else facts.newest_event_at
    if at - newest < SILENT_S:
        return None
    return Verdict("stale", f"nothing has come since {_utc(newest)}, and it tells no time of its head", newest)


def _alive(facts: Facts, at: float) -> Verdict:
    newest = facts.newest_event_at
    if newest is None:
        return Verdict("idle", facts.failure or "no event so far, though it has been read to its head")
    if at - newest >= FRESH_S:
        return Verdict("idle", facts.failure or "nothing new, though it has been read to its head", newest)
    return Verdict("live", facts.failure)


def _numbered(head: int | None) -> str:
    return "" if head is None else f" ({head})"


def _utc(timestamp: float) -> str:
    """`2026-11-21 18:20:11 UTC`; the bare number for what a source tells outside the calendar."""
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{timestamp:g}"


class Freshness:
    """The facts of one source as they come in. Every method takes the time that it is."""

    def __init__(self, now: float) -> None:
        self.facts = Facts(now)
        self._state: State = "catching up"
        self._since = now

    @contextmanager
    def asking(self, clock: Callable[[], float], *, proves: bool = True) -> Iterator[None]:
        """A question to the source and nothing else: Unavailable means that it had no good answer.

        `proves`: a good one shows that the source works; else only a failure counts.
        """
        asked_at = clock()
        try:
            yield
        except Unavailable as error:
            since = asked_at if self.facts.failing_since is None else self.facts.failing_since
            self.facts = self.facts._replace(failing_since=since, failure=error.reason)
            raise
        if proves:
            self.facts = self.facts._replace(failing_since=None, failure="", answered_at=clock())

    def note_head(self, now: float, head: int | None, head_at: float | None, old_head_s: float = OLD_HEAD_S) -> None:
        """What the source says of its own end; None for what it does not say."""
        moved_at = now if head != self.facts.head else self.facts.head_moved_at
        told_at = None if head is None else now
        self.facts = self.facts._replace(
            head=head, head_at=head_at, head_told_at=told_at, head_moved_at=moved_at, old_head_s=old_head_s
        )

    def note_read(self, now: float, read_to: float | None, newest_event_at: float | None, *, is_at_end: bool) -> None:
        """How far it has been read."""
        self.facts = self.facts._replace(
            read_to=read_to, newest_event_at=newest_event_at, at_end_at=now if is_at_end else None, has_ended=False
        )

    def head_time(self, now: float) -> float:
        """The time of the source's head now, going by what was told last; now where it tells none."""
        head_at, told_at = self.facts.head_at, self.facts.head_told_at
        return now if head_at is None or told_at is None else head_at + now - told_at

    def note_ended(self) -> None:
        """It has been read up to the cut-over."""
        self.facts = self.facts._replace(has_ended=True)

    def verdict(self, now: float) -> Verdict:
        """The state now, with the time since when it has been that."""
        found = judge(self.facts, now)
        if found.since is not None:
            self._since = found.since
        elif found.state != self._state:
            self._since = now
        self._state = found.state
        return found._replace(since=self._since)

    def report(self, now: float) -> Mapping[str, str | int | float]:
        """What the heartbeat tells of the source."""
        facts, verdict, lag = self.facts, self.verdict(now), lag_s(self.facts, now)
        return {
            "source_state": verdict.state,
            "source_reason": verdict.reason,
            "source_since": f"{verdict.since:.0f}",
            "newest_event_at": _told(facts.newest_event_at),
            "head_at": _told(facts.head_at),
            "head_block": _told(facts.head),
            "lag_s": "" if lag is None else f"{lag:.1f}",
        }


def _told(value: float | None) -> str | int:
    """Whole, and empty where there is none."""
    return "" if value is None else int(value)
