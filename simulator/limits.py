"""Rate limits: so many requests within a sliding window."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 10.0


@dataclass(slots=True)
class Window:
    limit: int
    times: deque[float] = field(default_factory=deque)

    def wait_s(self, now: float) -> float:
        """0 if there is room, else the seconds until there is."""
        while self.times and self.times[0] <= now - WINDOW_S:
            self.times.popleft()
        return 0.0 if len(self.times) < self.limit else self.times[0] + WINDOW_S - now


class Limiter:
    """Several windows that a request must fit all at once."""

    def __init__(self, limits: dict[str, int], clock: Callable[[], float]) -> None:
        self._windows = {name: Window(limit) for name, limit in limits.items()}
        self._clock = clock
        self.refused = 0

    def admit(self, *names: str) -> float:
        """0 and the request counts, or the seconds to wait and it does not."""
        now = self._clock()
        windows = [self._windows[name] for name in names]
        wait_s = max(window.wait_s(now) for window in windows)
        if wait_s > 0:
            self.refused += 1
            return wait_s
        for window in windows:
            window.times.append(now)
        return 0.0
