"""Gamma's markets to stream:markets: all of them once, then the new and the changed ones, and those fills wait for."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from common.config import Settings
from common.fallback import Fallback
from common.freshness import Freshness
from common.http import HttpSource, RateLimit, host_of
from common.runtime import Context, main
from common.state import read_state
from ingesters.detours import Detours
from ingesters.errands import Errand
from ingesters.gamma import EventListing, Gamma, MarketListing, OffsetListing
from ingesters.market_jobs import (
    CLOSED_PAGES,
    OPEN_PAGES,
    GoneLookup,
    Newest,
    Refresh,
    TokenLookup,
    WaitingTokens,
)
from ingesters.market_lanes import ListLane
from ingesters.market_publisher import Publisher
from ingesters.market_sweep import CURSOR, Place, Ration, Refusals, Restored, Watch, restored
from ingesters.readers import Readers, await_any
from ingesters.sweep import CLOSED, OPEN, Spare, Sweep

COMPONENT = "polymarket_ingester"
IDLE_S = 1.0  # between two looks for work, when there is none
PAGE_WAIT_S = 0.2  # at most, for a page that is under way, until tokens that fills wait for are looked at again
ALMOST_S = 0.01  # until the next look at such a page
# What the limit on requests keeps for those above: look-ups of tokens, then the other jobs, the sweep along the lists,
# and last the one by ids, which must not keep the lists from being read.
OTHERS_SHARE, LISTS_SHARE, IDS_SHARE = 60, 30, 20
# Look-ups of tokens at a time, and of those among them that failed before. Each may hang until it is cut off.
LOOKUPS, DOUBTFUL_LOOKUPS = 3, 3
OTHER_JOBS = 3
RETRY_S = 60.0  # at most, until what Gamma refuses is asked for again
FULL_S = 1.0  # between two looks at a stream that is full
FULL = "waiting: stream is full"


class PolymarketIngester:
    """Sends the jobs' requests and publishes what has come, one answer a step. Requests are made by other threads."""

    instance = COMPONENT

    def __init__(
        self,
        context: Context,
        open_gamma: Callable[[], Gamma],
        detours: Detours,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._context = context
        self._clock = clock
        self._detours = detours
        self._open_gamma = open_gamma
        self._listing = _listing_of(context.settings)
        self._freshness = Freshness(clock())
        self._asking = partial(self._freshness.asking, clock)
        self._stream = context.queue.keys(context.settings.stream_markets)
        self._watch = Watch(read_state(context.queue, "polymarket_watched"))
        self._publisher = Publisher(context.queue, self._stream, self._watch, context.log, clock)
        self._readers = Readers(context.settings.polymarket_sweep_workers, open_gamma)
        self._urgent = Readers(LOOKUPS + DOUBTFUL_LOOKUPS + OTHER_JOBS, open_gamma)  # one for each errand
        self._no_newest = self._fallback("new markets come minutes later, with the list of the open ones")
        self._no_positions = self._fallback("tokens are not looked up by position id")
        self._waiting = WaitingTokens(context.queue)
        self._sweep = self._make_sweep()
        gone = GoneLookup(self._publisher, self._watch)
        self._refresh = self._make_refresh(gone)
        self._errands = self._make_errands(gone)
        self._host = host_of(context.settings.polymarket_api_url)
        self._idle_s = min(IDLE_S, context.settings.polymarket_poll_interval)
        self._is_full = False
        self._note()

    def _make_sweep(self) -> Sweep:
        settings, limit = self._context.settings, self._context.settings.polymarket_requests_per_10s
        return Sweep(
            self._lanes("the sweep's {} markets"),
            self._publisher,
            self._watch,
            self._readers,
            restore=self._restored,
            ration=Ration(CLOSED_PAGES, settings.polymarket_poll_interval),
            limit=limit,
            spare=Spare(max(2, limit // LISTS_SHARE), max(3, limit // IDS_SHARE)),
            page_size=settings.polymarket_page_size,
            asking=self._asking,
            log=self._context.log,
            by_list=self._fallback("the closed markets can't be read by id, they are listed page by page"),
        )

    def _make_refresh(self, gone: GoneLookup) -> Refresh:
        open_lane = self._lanes("{} markets")
        return Refresh(
            lambda: open_lane(Place(), OPEN),
            self._publisher,
            self._watch,
            gone=gone,
            sweep=self._sweep,
            ration=Ration(OPEN_PAGES, self._context.settings.polymarket_poll_interval),
        )

    def _make_errands(self, gone: GoneLookup) -> list[Errand]:
        """Each is one request at a time; the more of them, the fewer wait for an answer that hangs."""
        settings = self._context.settings
        newest = Newest(
            self._publisher,
            settings.polymarket_poll_interval,
            settings.polymarket_page_size,
            self._no_newest,
            from_events=settings.polymarket_tags == "events",
        )
        lookups = [
            TokenLookup(self._publisher, self._waiting, self._no_positions, doubtful=doubtful)
            for doubtful in (*[False] * LOOKUPS, *[True] * DOUBTFUL_LOOKUPS)
        ]
        spare = max(1, settings.polymarket_requests_per_10s // OTHERS_SHARE)
        return [
            *(Errand(lookup, self._urgent, 0) for lookup in lookups),
            *(Errand(job, self._urgent, spare) for job in (newest, gone, self._refresh)),
        ]

    def _lanes(self, what: str) -> Callable[[Place, bool], ListLane]:
        """Makes lanes along the open or the closed ones. `what`: their name, with a place for which."""
        refusals = {
            closed: Refusals(what.format("closed" if closed else "open"), self._context.log, self._clock)
            for closed in (OPEN, CLOSED)
        }
        return lambda place, closed: ListLane(self._listing, place, refusals[closed], closed=closed)

    def _fallback(self, what: str) -> Fallback:
        return Fallback(what, self._context.log, self._clock, longest_s=RETRY_S)

    def _restored(self) -> Restored:
        cursor, read = (read_state(self._context.queue, name) for name in (CURSOR, "polymarket_offset"))
        return Restored(cursor or "", restored(self._listing.name, cursor, read))

    def step(self) -> float:
        """Send what is to be sent, and publish one answer that has come; the seconds to wait when there is none."""
        self._is_full = (self._context.queue.backlog(self._stream) or 0) > self._context.settings.stream_backlog_limit
        if self._is_full:
            return FULL_S
        now = self._clock()
        for errand in self._errands:
            errand.ask(now)
        self._sweep.ask(now)
        if not self._take_answer():
            return self._await_answer()
        self._note()
        return 0.0

    def _take_answer(self) -> bool:
        """Publish what one errand has brought, and the sweep; whether there was anything."""
        errand = next((errand for errand in self._errands if errand.has_work()), None)
        has_swept = self._sweep.has_work()
        if errand is not None:
            # To the end of the line first: a job that fails must not keep the others from their turn.
            self._errands.remove(errand)
            self._errands.append(errand)
            errand.run(self._asking, self._clock)
        if has_swept:
            self._sweep.run()
        return errand is not None or has_swept

    def _await_answer(self) -> float:
        """The seconds to wait, after waiting some for what is under way."""
        awaited = [*self._sweep.awaited(), *(page for errand in self._errands for page in errand.awaited())]
        if not awaited:
            return self._idle_s
        return 0.0 if await_any(awaited, PAGE_WAIT_S) else ALMOST_S

    def _note(self) -> None:
        """For the freshness: markets have no head, so that it is the last good answer."""
        is_at_end, answered_at = not self._sweep.round.is_first, self._freshness.facts.answered_at
        newest_at = self._publisher.newest_at or None
        self._freshness.note_read(self._clock(), answered_at if is_at_end else None, newest_at, is_at_end=is_at_end)

    def drain(self) -> None:
        """Nothing is in hand between two steps; pages that were read ahead are read again."""
        within_s = self._context.settings.drain_s / 4
        if not all([self._urgent.close(within_s), self._readers.close(within_s)]):
            self._context.log.warning("a request to %s hangs, it is left behind", self._host)

    def close(self) -> None:
        self._urgent.close(0)
        self._readers.close(0)

    def report(self) -> Mapping[str, str | int | float]:
        publisher = self._publisher
        return {
            **self._freshness.report(self._clock()),
            "head_at": int(self._freshness.facts.answered_at or 0) or "",
            "records_in": publisher.records_in,
            "records_out": publisher.records_out,
            "dead_letters": publisher.dead_letters,
            "records_known": publisher.records_known,
            "source": self._host,
            "detail": FULL
            if self._is_full
            else "; ".join([self._progress(), *self._detours.describe(), *self._limits()]),
            "degraded": "; ".join(self._costly_limits()),
        }

    def _costly_limits(self) -> list[str]:
        """What makes markets come later than they should."""
        swept = self._sweep.describe() if self._sweep.round.is_first else []
        found = (self._no_newest.describe(), self._refresh.describe(), self._waiting.describe(), *swept)
        return [text for text in found if text]

    def _limits(self) -> list[str]:
        """What is done otherwise than usual, for nothing or next to nothing."""
        swept = [] if self._sweep.round.is_first else self._sweep.describe()
        return [text for text in (self._no_positions.describe(), *swept) if text]

    def _progress(self) -> str:
        at = self._sweep.round
        lists = [name for name, place in (("open", at.open), ("closed", at.closed)) if not place.is_done]
        return f"sweep {at.number}: {at.read:,} markets read, {' and '.join(lists) + ' ones' if lists else 'done'}"


def _listing_of(settings: Settings) -> type[MarketListing | EventListing | OffsetListing]:
    if settings.polymarket_paging == "offset":
        return OffsetListing
    return EventListing if settings.polymarket_tags == "events" else MarketListing


def build(context: Context, clock: Callable[[], float] = time.time) -> PolymarketIngester:
    """The stage, from its settings."""
    settings = context.settings
    limit = RateLimit(settings.polymarket_requests_per_10s)
    detours = Detours(context.log, clock)

    def open_gamma() -> Gamma:
        source = HttpSource(
            "Gamma",
            settings.polymarket_api_url,
            requests_per_10s=settings.polymarket_requests_per_10s,
            connect_timeout_s=settings.http_connect_timeout_s,
            read_timeout_s=settings.http_read_timeout_s,
            limit=limit,
        )
        return Gamma(source, settings.polymarket_page_size, detours, clock)

    return PolymarketIngester(context, open_gamma, detours, clock)


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build))
