"""Which slices of a run are open and who reads them: Redis' record of it, shared by the workers of one process."""

import threading
from typing import NamedTuple

from common.errors import PipelineError
from common.progress import DONE, Hour, Portion, Progress, Run, Slice
from ingesters.backfill_plan import Widths, share_done


class Snapshot(NamedTuple):
    """How far a run is, at one moment."""

    share: float  # of the range, 0 to 1
    reached: int  # everything before it has been read: Unix seconds or a block
    published: int
    known: int
    faulty: int

    @property
    def read(self) -> int:
        return self.published + self.known + self.faulty


class Book:
    """Slices to the workers that ask for them. Calls raise what Progress raises, and may then be repeated."""

    def __init__(self, progress: Progress, run: Run, widths: Widths) -> None:
        self._progress = progress
        self._widths = widths
        self._lock = threading.Lock()
        self._begin, self._end, self._frontier = run.begin, run.end, run.frontier
        self._waiting = list(run.slices)  # open, from before
        self._in_hand: dict[str, Slice] = {}
        self._is_stale = False  # a reply was lost: only Redis knows the frontier
        before = total(run)
        self._counts = [before.published, before.known, before.dead]

    def next(self) -> Slice | None:
        """A slice for the caller alone; None when all have been given out."""
        with self._lock:
            if self._is_stale:
                self._read_again()
            if not self._waiting and self._frontier < self._end:
                self._take()
            if not self._waiting:
                return None
            slice_ = self._waiting.pop(0)
            self._in_hand[slice_.field] = slice_
            return slice_

    def publish(self, slice_: Slice, portion: Portion) -> Slice:
        """Publish, and the slice with its new cursor."""
        self._progress.publish(slice_, portion)
        moved = slice_._replace(cursor=portion.cursor)
        with self._lock:
            self._widths.note_page(place(moved) - place(slice_))
            for which, offers in enumerate((portion.new, portion.known, portion.faulty)):
                self._counts[which] += len(offers)
            if portion.cursor == DONE:
                del self._in_hand[slice_.field]
            else:
                self._in_hand[slice_.field] = moved
        return moved

    def snapshot(self) -> Snapshot:
        with self._lock:
            open_ = [(place(slice_), slice_.end) for slice_ in (*self._waiting, *self._in_hand.values())]
            reached = min([first for first, _ in open_], default=self._frontier)
            share = share_done(self._begin, self._end, self._frontier, open_)
            return Snapshot(share, reached, *self._counts)

    def _take(self) -> None:
        width = self._widths.next(self._end - self._frontier)
        slice_ = Slice(self._frontier, self._frontier + width, str(self._frontier))
        self._is_stale = True
        if not self._progress.take(slice_):
            self._read_again()
            return
        self._is_stale = False
        self._frontier = slice_.end
        self._waiting.append(slice_)

    def _read_again(self) -> None:
        run = self._progress.read()
        if run is None:
            raise RunLost(f"{self._progress.key}: the progress is gone from Redis")
        self._frontier = run.frontier
        self._waiting = [slice_ for slice_ in run.slices if slice_.field not in self._in_hand]
        self._is_stale = False


class RunLost(PipelineError):
    """Redis has lost the progress. Begin again: what was published is found in ClickHouse."""


def place(slice_: Slice) -> int:
    """How far a slice has been read: a cursor begins with a second or a block."""
    return slice_.end if slice_.cursor == DONE else int(slice_.cursor.partition(" ")[0])


def total(run: Run) -> Hour:
    """What the run has counted so far."""
    hours = run.hours.values()
    return Hour(sum(hour.published for hour in hours), sum(hour.known for hour in hours), sum(h.dead for h in hours))
