"""Waiting for a condition instead of sleeping, always with a limit."""

import threading
import time
from collections.abc import Callable

POLL_S = 0.02
LIMIT_S = 60.0  # only a failure waits that long: a machine may be slow, or paused for seconds


def wait_until(predicate: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Return once the predicate is true; TimeoutError names what did not happen within the limit."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit_s} s")
        pause.wait(POLL_S)
