"""How a backfill's range is cut into slices, and its requests spread over time. Pure.

Slices are as wide as some SLICE_PAGES pages of late: wide enough that what a slice costs at its end, half a page on
average, does not count, and narrow enough that a density of fills that changed a hundredfold in two years is followed.
Towards the end of the range they shrink, so that all workers end together.
"""

import threading

from common.http import RATE_WINDOW_S

CATCH_UP = 2  # turns
SLICE_PAGES = 30
LEAST_PAGES = 6  # a slice at the end of the range
GROWTH = 8  # times the widest slice so far, at most: the first pages may lie in a silence
_DECAY = 0.98  # of what a page weighs with every later one: some fifty count


class Spacing:
    """Evenly spaced turns for all workers together: so many in ten seconds.

    A limit alone lets a whole window's requests go at once. Those that then wait in the network, or in the source's
    queue, arrive late beside the next window's, and the source counts too many.
    """

    def __init__(self, most: int) -> None:
        self._every_s = RATE_WINDOW_S / most
        self._next_at = 0.0
        self._lock = threading.Lock()

    def take_s(self, now: float) -> float:
        """Seconds until the next turn; where it is 0, the turn is taken. CATCH_UP late ones are caught up with."""
        with self._lock:
            wait_s = max(0.0, self._next_at - now)
            if not wait_s:
                self._next_at = max(self._next_at, now - CATCH_UP * self._every_s) + self._every_s
            return wait_s


class Widths:
    """How wide the next slice should be, in the units of its source: seconds or blocks."""

    def __init__(self, first: int, most: int, workers: int) -> None:
        self._widest = first
        self._first = first
        self._most = most
        self._workers = workers
        self._units = 0.0
        self._pages = 0.0

    def note_page(self, units: int) -> None:
        """A page has moved its slice's cursor so far."""
        self._units = self._units * _DECAY + units
        self._pages = self._pages * _DECAY + 1

    def next(self, left: int) -> int:
        """Of the next slice, where so much of the range is left, which is not nothing."""
        if self._pages:
            page = max(1.0, self._units / self._pages)
            wanted = max(min(SLICE_PAGES * page, left / self._workers), LEAST_PAGES * page)
        else:
            wanted = min(self._first, left / self._workers)
        width = max(1, min(int(wanted), self._most, GROWTH * self._widest, left))
        self._widest = max(self._widest, width)
        return width


def share_done(begin: int, end: int, frontier: int, open_: list[tuple[int, int]]) -> float:
    """From 0 to 1: how much of the range has been read. `open_`: place and end of each slice under way."""
    if end <= begin:
        return 1.0
    left = end - frontier + sum(max(0, slice_end - place) for place, slice_end in open_)
    return 1 - left / (end - begin)
