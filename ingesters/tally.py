"""What an ingester of fills has published since it started: the counts of its heartbeat, and lines in its log."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from common.freshness import Verdict
from common.redis_queue import Offer, Pushed

SUMMARY_S = 60.0  # between two summaries in the log


class Tally:
    """Counts of records: added to the stream, buried as dead letters, known already."""

    def __init__(self, log: logging.Logger, now: float) -> None:
        self._log = log
        self._total = self._told = Pushed(0, 0, 0)
        self._state = "catching up"  # what every source begins with
        self._summary_at = now + SUMMARY_S

    def add(self, pushed: Pushed, offers: Sequence[Offer]) -> None:
        """What became of these offers."""
        self._total = Pushed(*(total + new for total, new in zip(self._total, pushed, strict=True)))
        if pushed.dead:
            reasons = [f"{offer.identity}: {offer.fault}" for offer in offers if offer.fault]
            self._log.warning("dead letters: dead=%d first=%s", pushed.dead, reasons[0])

    def summarise(self, now: float, cursor: Any) -> None:
        """A line in the log, when the last one is a minute old and something was published since."""
        if now < self._summary_at:
            return
        self._summary_at = now + SUMMARY_S
        if self._total[:2] != self._told[:2]:  # what is read again and known already is no news
            self._told = self._total
            self._log.info("published: cursor=%s totals=%s", cursor, self)

    def tell_state(self, verdict: Verdict, cursor: Any) -> None:
        """A line for each change of the source's state; an outage has one from whoever waits it out."""
        if verdict.state == self._state:
            return
        self._state = verdict.state
        level = logging.WARNING if verdict.state == "stale" else logging.INFO
        told = f"{verdict.state}: {verdict.reason}" if verdict.reason else verdict.state
        self._log.log(level, "%s: cursor=%s totals=%s", told, cursor, self)

    def report(self) -> Mapping[str, str | int | float]:
        """What the heartbeat tells of it."""
        return {
            "records_in": sum(self._total),
            "records_out": self._total.added,
            "dead_letters": self._total.dead,
            "records_known": self._total.known,
        }

    def __str__(self) -> str:
        return str(self._total)
