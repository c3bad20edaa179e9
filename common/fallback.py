"""Something that is done another way since an error showed the need, until the usual way is tried again."""

import logging
from collections.abc import Callable

FIRST_S = 15.0  # until the usual way is tried again for the first time; doubled each time that it fails again
LONGEST_S = 600.0


class Fallback:
    """Begins with an error, is logged once, and expires: nothing that an error taught lasts until a restart.

    Ask `is_on` before each use of the usual way. Where it is off, try that, and report with `begin` or `end` how it
    went.
    """

    def __init__(
        self, what: str, log: logging.Logger, clock: Callable[[], float], *, longest_s: float = LONGEST_S
    ) -> None:
        """`what`: what is done instead, and what that costs, as an operator should read it.

        `longest_s`: the longest pause, less where the detour costs more than an attempt.
        """
        self._what = what
        self._log = log
        self._clock = clock
        self._longest_s = longest_s
        self._failures = 0  # in a row
        self._until = 0.0
        self._reason = ""

    @property
    def is_on(self) -> bool:
        """Whether the usual way is not to be tried now."""
        return self._failures > 0 and self._clock() < self._until

    def begin(self, reason: str) -> None:
        """The usual way has failed, for the first time or again."""
        pause_s = min(self._longest_s, FIRST_S * 2 ** min(self._failures, 10))
        self._until = self._clock() + pause_s
        self._failures += 1
        self._reason = reason
        if self._failures == 1:
            self._log.warning("%s: %s; the usual way is tried again from time to time", self._what, reason)

    def end(self) -> None:
        """The usual way works."""
        if self._failures:
            self._log.info("no longer necessary: %s", self._what)
        self._failures, self._reason = 0, ""

    def describe(self) -> str:
        """For the heartbeat: what is done instead, why, and when the usual way is tried again; empty when it works."""
        if not self._failures:
            return ""
        return f"{self._what}: {self._reason}; tried again in {max(0.0, self._until - self._clock()):.0f} s"
