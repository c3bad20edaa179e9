"""Limits of the endpoint: how many statements run at once, and how long the last ones may take when it stops."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from embedded import errors


class Slots:
    """Places for running statements. A statement that finds none within the limit is refused, to be repeated later."""

    def __init__(self, count: int, wait_limit_s: float) -> None:
        self._count = count
        self._wait_limit_s = wait_limit_s
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def taken(self) -> Iterator[None]:
        if not self._free.acquire(timeout=self._wait_limit_s):
            message = f"Too many simultaneous queries. Maximum: {self._count}"
            raise errors.refusal("TOO_MANY_SIMULTANEOUS_QUERIES", message)
        try:
            yield
        finally:
            self._free.release()


class Stopping(Exception):
    """The server is about to end: drop the request unanswered, which tells the client to try again later."""


class RunningRequests:
    """Count of the requests under way, so that a stop can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._stopping = False
        self._changed = threading.Condition()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._changed:
            if self._stopping:
                raise Stopping
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def finish(self, limit_s: float) -> bool:
        """Admit no further request and wait for the running ones; tell whether all have ended within the limit."""
        with self._changed:
            self._stopping = True
            return self._changed.wait_for(lambda: self._count == 0, limit_s)
