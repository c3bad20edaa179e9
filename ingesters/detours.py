"""Another endpoint for a question that the usual one does not answer, until the usual one works again."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from common.errors import Unavailable
from common.fallback import Fallback

T = TypeVar("T")


class Detours:
    """Which kinds of questions take the detour. All threads share it: what one finds out holds for all.

    No status decides which error means that an endpoint is gone: it is, for a while, when it fails where the other one
    answers the same question.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._fallbacks: dict[str, Fallback] = {}
        self._lock = threading.Lock()  # guards the fallbacks and what they hold

    def ask(self, what: str, usual: Callable[[], T], other: Callable[[], T]) -> T:
        """The answer of either. Raises as the first one that was asked; nothing is learnt when both fail."""
        is_detour = self._is_on(what)
        first, second = (other, usual) if is_detour else (usual, other)
        try:
            answer, failure = first(), None
        except Unavailable as error:
            if error.retry_after_s:
                raise  # too many requests, not the wrong endpoint
            answer, failure = _or_else(second, error), error
        self._note(what, is_usual=is_detour is (failure is not None), failure=failure)
        return answer

    def describe(self) -> list[str]:
        """For the heartbeat: each detour, and why."""
        with self._lock:
            return [text for fallback in self._fallbacks.values() if (text := fallback.describe())]

    def _is_on(self, what: str) -> bool:
        with self._lock:
            return what in self._fallbacks and self._fallbacks[what].is_on

    def _note(self, what: str, *, is_usual: bool, failure: Unavailable | None) -> None:
        """The usual endpoint has answered, or the other one after it failed."""
        with self._lock:
            if is_usual and what in self._fallbacks:
                self._fallbacks[what].end()
            elif not is_usual and failure is not None:
                self._begin(what, failure.reason)

    def _begin(self, what: str, reason: str) -> None:
        if what not in self._fallbacks:
            self._fallbacks[what] = Fallback(f"{what} go another way", self._log, self._clock)
        if not self._fallbacks[what].is_on:  # several threads may have failed at once
            self._fallbacks[what].begin(reason)


def _or_else(ask: Callable[[], T], error: Unavailable) -> T:
    try:
        return ask()
    except Unavailable:
        raise error from None
