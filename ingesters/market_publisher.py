"""Pages of listed markets to the stream, with the counts that the heartbeat tells."""

import logging
from collections.abc import Callable, Iterable, Mapping

from common import parsing
from common.records import Market
from common.redis_queue import Offer, RedisQueue
from ingesters.gamma import Record
from ingesters.market_parser import ParsedMarket, offer_faulty, offer_market
from ingesters.market_sweep import CURSOR, Watch

SOURCE = "polymarket"

State = Callable[[], Mapping[str, str]]


def no_state() -> Mapping[str, str]:
    return {}


class Publisher:
    """Parses records, tells the watch, and pushes what changed together with a sweep's state."""

    def __init__(
        self, queue: RedisQueue, stream: str, watch: Watch, log: logging.Logger, clock: Callable[[], float]
    ) -> None:
        self._queue = queue
        self._stream = stream
        self._watch = watch
        self._log = log
        self._clock = clock
        self.records_in = self.records_out = self.dead_letters = self.records_known = 0
        self.newest_at = 0.0  # latest updatedAt of all, Unix seconds

    def publish(self, records: Iterable[Record], state: State = no_state, *, cursor: str | None = None) -> list[Market]:
        """The markets among the records, after those that changed went out and the state was written with them.

        `state` is asked once the watch knows these markets. `cursor`: what the sweep's cursor has to be in Redis, ""
        for none. Raises Unavailable: nothing was pushed, repeat the page; CursorLost: nothing was pushed, and the
        sweep's state is another one.
        """
        now = self._clock()
        parsed = [_parsed(record, now) for record in records]
        markets = [market for _, market in parsed if market is not None]
        for market in markets:
            self._watch.note(market, now)
        self._push([offer for offer, _ in parsed], state(), cursor)
        self.newest_at = max([self.newest_at, *(market.updated_at.timestamp() for market in markets)])
        return markets

    def _push(self, offers: list[Offer], state: Mapping[str, str], cursor: str | None) -> None:
        if not offers and not state:
            return
        expected = None if cursor is None else (CURSOR, cursor)
        pushed = self._queue.push_changed(self._stream, offers, source=SOURCE, state=state, expected=expected)
        self.records_in += len(offers)
        self.records_out += pushed.added
        self.dead_letters += pushed.dead
        self.records_known += pushed.known
        if pushed.dead:
            reasons = [f"{offer.identity}: {offer.fault}" for offer in offers if offer.fault]
            self._log.warning("dead letters: dead=%d first=%s", pushed.dead, reasons[0])


def _parsed(record: Record, now: float) -> ParsedMarket:
    if record.fault:
        return ParsedMarket(offer_faulty(parsing.identity_of_bytes(record.raw), record.raw, record.fault), None)
    return offer_market(record.raw, record.event, listed_at=int(now))
