"""Stretches of time without fills that the pace around them does not explain. Pure."""

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

# In its first years the exchange had hours without a fill, today it has tens a second. So a gap is also longer than
# this many fills took next to it.
PACE_FILLS = 100
SHORTEST_GAP_S = 60  # fills are looked at by the minute


class Minute(msgspec.Struct, frozen=True):
    """The fills of one source in one minute."""

    source: str
    first: int  # Unix s
    last: int
    fills: int


class Gap(msgspec.Struct, frozen=True):
    """No fill between two moments. Each is the time of a fill, or an end of the range."""

    source: str  # of the fills around it; "a to b" where they differ, "" where there are none
    begin: int  # Unix s
    end: int

    @property
    def seconds(self) -> int:
        return self.end - self.begin


class _Pace:
    """How long the last PACE_FILLS fills took."""

    def __init__(self) -> None:
        self._minutes: deque[Minute] = deque()
        self._fills = 0

    def add(self, minute: Minute) -> None:
        self._minutes.append(minute)
        self._fills += minute.fills
        while self._fills - self._minutes[0].fills >= PACE_FILLS:
            self._fills -= self._minutes.popleft().fills

    def seconds(self) -> int | None:
        """None as long as there are too few to tell."""
        return self._minutes[-1].last - self._minutes[0].first if self._fills >= PACE_FILLS else None


class _Silence:
    """A silence that may be a gap: decided once the fills after it have told their pace, or there are no more."""

    def __init__(self, gap: Gap, before_s: int | None) -> None:
        self.gap = gap
        self._before_s = before_s
        self._after_s: int | None = None
        self._fills_after = 0

    @property
    def is_decided(self) -> bool:
        return self._after_s is not None

    def note(self, minute: Minute) -> None:
        self._fills_after += minute.fills
        if self._after_s is None and self._fills_after >= PACE_FILLS:
            self._after_s = minute.last - self.gap.end

    def is_gap(self) -> bool:
        """Longer than PACE_FILLS fills took on the livelier side. Where neither side tells, its length has decided."""
        paces = [pace for pace in (self._before_s, self._after_s) if pace is not None]
        return self.gap.seconds > min(paces, default=0)


def find_gaps(minutes: Iterable[Minute], begin: int, end: int, longest_s: int) -> Iterator[Gap]:
    """The gaps in [begin, end), in order of time. `minutes` come in order of `first`; memory does not grow with them.

    Silence of `longest_s` or less is never a gap.
    """
    pace, silences, reached, source = _Pace(), deque[_Silence](), begin, ""
    for minute in minutes:
        if minute.first - reached > longest_s:
            silences.append(_Silence(Gap(_between(source, minute.source), reached, minute.first), pace.seconds()))
        for silence in silences:
            silence.note(minute)
        while silences and silences[0].is_decided:
            yield from _gap_of(silences.popleft())
        pace.add(minute)
        reached, source = max(reached, minute.last), minute.source
    if end - reached > longest_s:
        silences.append(_Silence(Gap(source, reached, end), pace.seconds()))
    for silence in silences:
        yield from _gap_of(silence)


def _gap_of(silence: _Silence) -> Iterator[Gap]:
    if silence.is_gap():
        yield silence.gap


def _between(before: str, after: str) -> str:
    return after if before in {"", after} else f"{before} to {after}"
