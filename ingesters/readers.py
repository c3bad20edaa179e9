"""Threads that read pages ahead of the one that publishes them, each with connections of its own, under one limit."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import NamedTuple

from common.errors import Unavailable
from common.runtime import fulfil
from ingesters.gamma import Gamma, Page

IDLE_S = 2.0  # a thread that nobody needs for so long ends

Read = Callable[[Gamma], Page]


class Task(NamedTuple):
    """Something to read, and where the page is awaited."""

    read: Read
    spare: int  # of the limit, for what can't wait
    page: Future[Page]


class Readers:
    """At most `count` requests at a time. Its owner is one thread, and closes it."""

    def __init__(self, count: int, open_gamma: Callable[[], Gamma]) -> None:
        self.count = count
        self._open = open_gamma
        self._changed = threading.Condition()  # guards the three below
        self._tasks: deque[Task] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopping = threading.Event()  # set by the owner, never in a signal handler

    def submit(self, read: Read, spare: int) -> Future[Page]:
        """Read it as soon as a thread is free and the limit, less `spare`, allows. What it raises is the result's."""
        task = Task(read, spare, Future())
        with self._changed:
            self._tasks.append(task)
            if len(self._tasks) > self._idle and len(self._threads) < self.count:
                self._start()
            self._changed.notify_all()
        return task.page

    def close(self, within_s: float) -> bool:
        """Drop what waits, let what is under way come to its end; whether all did within that time."""
        self._stopping.set()
        with self._changed:
            threads = list(self._threads)
            while self._tasks:
                self._tasks.popleft().page.cancel()
            self._changed.notify_all()
        deadline = time.monotonic() + within_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _start(self) -> None:
        # A daemon: a request that hangs must not keep a stopped process alive. Its page is read again after the start.
        thread = threading.Thread(target=self._serve, name="reader", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _serve(self) -> None:
        gamma = self._open()
        try:
            while (task := self._next()) is not None:
                if task.page.set_running_or_notify_cancel():
                    fulfil(task.page, partial(self._read, task, gamma))
        finally:
            gamma.close()

    def _next(self) -> Task | None:
        """The next task; None, and this thread counts no more, when there is none for a while."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._tasks or self._stopping.is_set(), IDLE_S)
            self._idle -= 1
            if self._tasks:
                return self._tasks.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def _read(self, task: Task, gamma: Gamma) -> Page:
        while wait_s := gamma.take_turn_s(task.spare):
            if self._stopping.wait(wait_s):
                raise Unavailable("stopping")
        return task.read(gamma)


def await_any(pages: Iterable[Future[Page]], within_s: float) -> bool:
    """Whether one of the pages is there, or why it is not, after waiting for it that long at most."""
    return bool(wait(list(pages), within_s, FIRST_COMPLETED).done)
