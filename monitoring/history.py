"""The last quarter of an hour as evenly spaced samples: rates from counters, gauges as they are, gaps as gaps."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

INTERVAL_S = 5.0
SPAN_S = 15 * 60.0
LENGTH = int(SPAN_S / INTERVAL_S)
RECENT_S = 30.0  # a rate shown as a number is the mean over this time: heartbeats and polls come in lumps
_JOINED_S = 1.9 * INTERVAL_S  # samples further apart than this don't continue one another


class Sample(NamedTuple):
    """What was known at one time. A name that is missing was not known."""

    at: float  # Unix seconds; a few milliseconds after a multiple of INTERVAL_S
    counters: Mapping[str, float]  # they only grow, unless what counts them starts anew
    gauges: Mapping[str, float]


class Step(NamedTuple):
    """A counter's growth from one sample to the next."""

    at: float
    elapsed_s: float
    growth: float


class History:
    """A ring of samples."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=LENGTH + 1)  # a rate needs the sample before as well

    def add(self, sample: Sample) -> None:
        if self._samples and sample.at <= self._samples[-1].at:
            self._samples.clear()  # the clock was set back: the old times mean nothing any more
        self._samples.append(sample)

    def rates(self, name: str, now: float) -> list[float | None]:
        """A counter's growth per second, oldest first, one value an interval; None where it is not known."""
        return _slots(((step.at, step.growth / step.elapsed_s) for step in self._steps(name)), now)

    def gauges(self, name: str, now: float) -> list[float | None]:
        """A gauge's values, oldest first, one an interval; None where it is not known."""
        return _slots(((each.at, each.gauges[name]) for each in self._samples if name in each.gauges), now)

    def recent_rate(self, name: str, now: float) -> float | None:
        """Mean growth per second over the last half minute; None when nothing of it is known."""
        recent = [step for step in self._steps(name) if now - RECENT_S <= step.at <= now]
        elapsed_s = sum(step.elapsed_s for step in recent)
        return sum(step.growth for step in recent) / elapsed_s if elapsed_s else None

    def _steps(self, name: str) -> Iterator[Step]:
        """Steps between neighbours that both know the counter; none where it fell or where samples are missing."""
        for before, after in pairwise(self._samples):
            first, second = before.counters.get(name), after.counters.get(name)
            elapsed_s = after.at - before.at
            if first is not None and second is not None and second >= first and elapsed_s <= _JOINED_S:
                yield Step(after.at, elapsed_s, second - first)


def _slots(points: Iterable[tuple[float, float]], now: float) -> list[float | None]:
    """Points placed by their time; the last slot is the interval that `now` lies in."""
    first = int(now // INTERVAL_S) - LENGTH + 1
    slots: list[float | None] = [None] * LENGTH
    for at, value in points:
        place = int(at // INTERVAL_S) - first
        if 0 <= place < LENGTH:
            slots[place] = value
    return slots
