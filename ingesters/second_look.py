"""Which blocks are due to be read a second time: some nodes show logs of a final block only minutes later. Pure."""

from collections import deque

EVERY_S = 20.0  # blocks are read again together, so many seconds' worth of them


class SecondLook:
    """A pointer that trails behind the cursor. What was reached by a look is due `after_s` later, each block once."""

    def __init__(self, after_s: float, first: int) -> None:
        self.next = first  # the first block that was not read again
        self._after_s = after_s
        self._reached: deque[tuple[float, int]] = deque()  # when a look ended, and with which block
        self._last_due = first - 1
        self._not_before = 0.0

    def note_end(self, now: float, block: int) -> None:
        """A look has read everything up to this block."""
        if self._after_s and (not self._reached or now - self._reached[-1][0] >= EVERY_S):
            self._reached.append((now, block))

    def due(self, now: float) -> int | None:
        """The last block to read again now; None when none is."""
        while self._reached and now - self._reached[0][0] >= self._after_s:
            self._last_due = max(self._last_due, self._reached.popleft()[1])
        return self._last_due if self.next <= self._last_due and now >= self._not_before else None

    def advance(self, block: int) -> None:
        """Everything up to this block was read again."""
        self.next = max(self.next, block + 1)

    def postpone(self, now: float) -> None:
        """It can't be read at present."""
        self._not_before = now + EVERY_S
