"""Which ranges of the sources are read again: only what the pipeline has read, and only what is old enough. Pure."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, NamedTuple

Source = Literal["goldsky", "polygon"]
SOURCES: tuple[Source, ...] = ("goldsky", "polygon")
WIDTHS = {"goldsky": 40, "polygon": 20}  # seconds, and blocks of some two seconds: one or two pages
UNITS = {"goldsky": "seconds", "polygon": "blocks"}


class Covered(NamedTuple):
    """A range that was read: begin <= place < end, in seconds or blocks; the same in Unix seconds."""

    source: Source
    begin: int
    end: int
    since: int
    until: int

    def settled(self, settled_at: int) -> "Covered":
        """The part of it from before that moment. Blocks are taken to last a second: that leaves out too many."""
        late_s = max(0, self.until - settled_at)
        return self._replace(end=self.end - late_s, until=self.until - late_s)

    @property
    def is_empty(self) -> bool:
        return self.end <= self.begin or self.until <= self.since


class Sample(NamedTuple):
    """A part of one to be read again: begin <= place < end."""

    source: Source
    begin: int
    end: int


Near = Callable[[Covered, int], int | None]  # place of the first stored fill from a moment on


def draw(covered: Sequence[Covered], count: int, rng: Random, near: Near) -> list[Sample]:
    """So many samples, as many of each source. Every second one lies around a stored fill, the others anywhere."""
    present = [source for source in SOURCES if any(each.source == source for each in covered)]
    samples = []
    for number in range(count if present else 0):
        source = present[number % len(present)]
        whole = _pick([each for each in covered if each.source == source], rng)
        place = near(whole, rng.randrange(whole.since, whole.until)) if number // len(present) % 2 else None
        anywhere = rng.randrange(whole.begin, whole.end)  # drawn in any case, so that a seed repeats the others
        samples.append(_around(whole, anywhere if place is None else place, rng))
    return samples


def _pick(covered: Sequence[Covered], rng: Random) -> Covered:
    return rng.choices(covered, [each.end - each.begin for each in covered])[0]


def _around(whole: Covered, place: int, rng: Random) -> Sample:
    width = WIDTHS[whole.source]
    begin = max(whole.begin, min(place - rng.randrange(width), whole.end - width))
    return Sample(whole.source, begin, min(begin + width, whole.end))
