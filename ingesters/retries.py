"""Which things to look up together after some of them could not be looked up. Pure.

A request that fails says nothing of which of its things is to blame. It is asked again in parts, until one of them
fails alone: only that one waits, longer each time, and the others are found meanwhile.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

PARTS = 7  # of a request that failed: of 40, the one to blame is alone in the third request
FIRST_S, LONGEST_S = 5.0, 60.0  # until one that failed alone is asked for again
FORGET_S = 3600.0  # nobody waits for it any more


class Doubt(NamedTuple):
    """What is known against one of them."""

    share: int  # how many may be asked for together with it, itself included
    failures: int  # alone, in a row
    retry_at: float
    reason: str


class Retries:
    """The doubts, by what is looked up."""

    def __init__(self) -> None:
        self._doubts: dict[str, Doubt] = {}

    def is_doubtful(self, key: str) -> bool:
        return key in self._doubts

    def group(self, keys: Iterable[str], most: int, now: float) -> list[str]:
        """Those to ask for next in one request; those without doubts first, and never together with others."""
        wanted = sorted(keys)
        clear = [key for key in wanted if key not in self._doubts]
        if clear:
            return clear[:most]
        due = [key for key in wanted if self._doubts[key].retry_at <= now]
        share = max((self._doubts[key].share for key in due), default=0)
        return [key for key in due if self._doubts[key].share == share][:share]

    def failed(self, keys: Sequence[str], now: float, reason: str) -> None:
        """A request for these had no good answer."""
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if now - doubt.retry_at < FORGET_S}
        if len(keys) > 1:
            share = -(-len(keys) // PARTS)
            self._doubts |= {key: Doubt(share, 0, now, reason) for key in keys}
        for key in keys if len(keys) == 1 else ():
            failures = self._doubts[key].failures if key in self._doubts else 0
            pause_s = min(LONGEST_S, FIRST_S * 2 ** min(failures, 10))
            self._doubts[key] = Doubt(1, failures + 1, now + pause_s, reason)

    def passed(self, keys: Iterable[str]) -> None:
        """A request for these was answered."""
        for key in keys:
            self._doubts.pop(key, None)

    def failing(self) -> dict[str, str]:
        """Those that failed alone, more than once, with the reason."""
        return {key: doubt.reason for key, doubt in self._doubts.items() if doubt.failures > 1}
