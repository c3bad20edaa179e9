"""Gamma's markets to stream:markets: all of them once, then the new and the changed ones, and those fills wait for."""

import time
from collections.abc import Callable, Mapping

from common.http import HttpSource
from common.runtime import Context, main
from common.state import read_state
from ingesters.gamma import EventListing, Gamma, Listing, MarketListing, OffsetListing
from ingesters.market_jobs import (
    CLOSED_PAGES,
    OPEN_PAGES,
    GoneLookup,
    Job,
    Newest,
    Refresh,
    Sweep,
    TokenLookup,
)
from ingesters.market_publisher import Publisher
from ingesters.market_sweep import Ration, Watch, restored

COMPONENT = "polymarket_ingester"
IDLE_S = 1.0  # between two looks for work, when there is none
SPARE_SHARE = 5  # a fifth of the requests is spared for tokens that fills wait for
FULL_S = 1.0  # between two looks at a stream that is full
FULL = "waiting: stream is full"


class PolymarketIngester:
    """Takes the jobs in turn, one request a step."""

    instance = COMPONENT

    def __init__(self, context: Context, gamma: Gamma, clock: Callable[[], float] = time.time) -> None:
        settings, queue = context.settings, context.queue
        watch = Watch(read_state(queue, "polymarket_watched"))
        stream = queue.keys(settings.stream_markets)
        listing = _listing(gamma, settings.polymarket_paging, settings.polymarket_tags)
        place = restored(listing.name, read_state(queue, "polymarket_cursor"), read_state(queue, "polymarket_offset"))
        interval_s = settings.polymarket_poll_interval
        publisher = Publisher(queue, stream, watch, context.log, clock)
        sweep = Sweep(listing, publisher, watch, place=place, ration=Ration(CLOSED_PAGES, interval_s), log=context.log)
        gone = GoneLookup(gamma, publisher, watch)
        from_events = settings.polymarket_tags == "events"
        self._tokens = TokenLookup(gamma, publisher, queue)
        self._jobs: list[Job] = [
            self._tokens,
            Newest(gamma, publisher, interval_s, context.log, from_events=from_events),
            gone,
            sweep,
            Refresh(listing, publisher, watch, gone=gone, sweep=sweep, ration=Ration(OPEN_PAGES, interval_s)),
        ]
        self._context = context
        self._gamma = gamma
        self._clock = clock
        self._stream = stream
        self._publisher = publisher
        self._sweep = sweep
        self._spare = settings.polymarket_requests_per_10s // SPARE_SHARE
        self._idle_s = min(IDLE_S, interval_s)
        self._is_full = False

    def step(self) -> float:
        """One request, by the job whose turn it is; the seconds to wait when there is none to make."""
        self._is_full = (self._context.queue.backlog(self._stream) or 0) > self._context.settings.stream_backlog_limit
        if self._is_full:
            return FULL_S
        if wait_s := self._gamma.wait_s():
            return wait_s
        spare_wait_s = self._gamma.wait_s(self._spare)
        now = self._clock()
        job = self._next_job(now, only_tokens=spare_wait_s > 0)
        if job is None:
            return min(spare_wait_s or self._idle_s, self._idle_s)
        # To the end of the line first: a job that fails must not keep the others from their turn.
        self._jobs.remove(job)
        self._jobs.append(job)
        job.run(now)
        return 0.0

    def _next_job(self, now: float, *, only_tokens: bool) -> Job | None:
        jobs = [self._tokens] if only_tokens else self._jobs
        return next((job for job in jobs if job.has_work(now)), None)

    def drain(self) -> None:
        """Nothing is in hand between two steps."""

    def close(self) -> None:
        self._gamma.close()

    def report(self) -> Mapping[str, str | int | float]:
        publisher = self._publisher
        return {
            "records_in": publisher.records_in,
            "records_out": publisher.records_out,
            "dead_letters": publisher.dead_letters,
            "records_known": publisher.records_known,
            "source": self._gamma.host,
            "source_state": "catching up" if self._sweep.place.is_first else "live",
            "newest_event_at": int(publisher.newest_at) or "",
            "detail": FULL if self._is_full else self._detail(),
        }

    def _detail(self) -> str:
        place = self._sweep.place
        state = "done" if place.is_done else f"{'closed' if place.closed else 'open'} ones"
        return f"sweep {place.number}: {place.read:,} markets read, {state}"


def _listing(gamma: Gamma, paging: str, tags: str) -> Listing:
    if paging == "offset":
        return OffsetListing(gamma)
    return EventListing(gamma) if tags == "events" else MarketListing(gamma)


def build(context: Context, clock: Callable[[], float] = time.time) -> PolymarketIngester:
    """The stage, from its settings."""
    settings = context.settings
    source = HttpSource(
        "Gamma",
        settings.polymarket_api_url,
        requests_per_10s=settings.polymarket_requests_per_10s,
        connect_timeout_s=settings.http_connect_timeout_s,
        read_timeout_s=settings.http_read_timeout_s,
    )
    return PolymarketIngester(context, Gamma(source, settings.polymarket_page_size, clock), clock)


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build))
