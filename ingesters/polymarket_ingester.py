"""Gamma's markets to stream:markets: all of them once, then the new and the changed ones, and those fills wait for."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial

from common.freshness import Freshness
from common.http import HttpSource, RateLimit
from common.runtime import Context, main
from common.state import read_state
from ingesters.gamma import Asking, EventListing, Gamma, Listing, MarketListing, OffsetListing
from ingesters.market_jobs import CLOSED_PAGES, OPEN_PAGES, GoneLookup, Job, Newest, Refresh, TokenLookup
from ingesters.market_publisher import Publisher
from ingesters.market_sweep import Ration, Round, Watch, restored
from ingesters.readers import Readers
from ingesters.sweep import Spare, Sweep

COMPONENT = "polymarket_ingester"
IDLE_S = 1.0  # between two looks for work, when there is none
PAGE_WAIT_S = 0.2  # at most, for a page that is under way, until tokens that fills wait for are looked at again
ALMOST_S = 0.01  # until the next look at such a page
# What the limit on requests keeps for those above: look-ups of tokens, then the other jobs, the sweep along the lists,
# and last the one by ids, which must not keep the lists from being read.
OTHERS_SHARE, LISTS_SHARE, IDS_SHARE = 60, 30, 20
FULL_S = 1.0  # between two looks at a stream that is full
FULL = "waiting: stream is full"


class PolymarketIngester:
    """Takes the jobs in turn, one request a step."""

    instance = COMPONENT

    def __init__(
        self, context: Context, open_gamma: Callable[[Asking], Gamma], clock: Callable[[], float] = time.time
    ) -> None:
        settings, queue = context.settings, context.queue
        self._freshness = Freshness(clock())
        asking = partial(self._freshness.asking, clock)
        gamma = open_gamma(asking)
        watch = Watch(read_state(queue, "polymarket_watched"))
        stream = queue.keys(settings.stream_markets)
        open_listing = partial(_listing, paging=settings.polymarket_paging, tags=settings.polymarket_tags)
        listing = open_listing(gamma)
        interval_s = settings.polymarket_poll_interval
        publisher = Publisher(queue, stream, watch, context.log, clock)
        self._readers = Readers(settings.polymarket_sweep_workers, partial(open_gamma, nullcontext))
        limit = settings.polymarket_requests_per_10s
        sweep = Sweep(
            open_listing,
            publisher,
            watch,
            self._readers,
            place=_place(context, listing),
            ration=Ration(CLOSED_PAGES, interval_s),
            limit=limit,
            spare=Spare(max(2, limit // LISTS_SHARE), max(3, limit // IDS_SHARE)),
            page_size=settings.polymarket_page_size,
            asking=asking,
            log=context.log,
        )
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
        self._spare = max(1, limit // OTHERS_SHARE)
        self._idle_s = min(IDLE_S, interval_s)
        self._is_full = False
        self._note()

    def step(self) -> float:
        """One request, or what was read ahead, by the job whose turn it is; the seconds to wait when there is none."""
        self._is_full = (self._context.queue.backlog(self._stream) or 0) > self._context.settings.stream_backlog_limit
        if self._is_full:
            return FULL_S
        now = self._clock()
        self._sweep.ask(now)
        job = self._next_job(now)
        if job is None:
            if not self._sweep.is_under_way:
                return min(self._gamma.wait_s(self._spare) or self._idle_s, self._idle_s)
            if not self._sweep.await_work(PAGE_WAIT_S):
                return ALMOST_S
            job = self._sweep
        # To the end of the line first: a job that fails must not keep the others from their turn.
        self._jobs.remove(job)
        self._jobs.append(job)
        job.run(now)
        self._note()
        return 0.0

    def _note(self) -> None:
        """For the freshness: markets have no head, so that it is the last good answer."""
        is_at_end, answered_at = not self._sweep.round.is_first, self._freshness.facts.answered_at
        newest_at = self._publisher.newest_at or None
        self._freshness.note_read(self._clock(), answered_at if is_at_end else None, newest_at, is_at_end=is_at_end)

    def _next_job(self, now: float) -> Job | None:
        """The next one that has something to do, and may: its request is counted already."""
        return next((job for job in self._jobs if job.has_work(now) and self._may_run(job)), None)

    def _may_run(self, job: Job) -> bool:
        if job is self._sweep:
            return True  # its requests are the readers'
        return not self._gamma.take_turn_s(0 if job is self._tokens else self._spare)

    def drain(self) -> None:
        """Nothing is in hand between two steps; pages that were read ahead are read again."""
        if not self._readers.close(self._context.settings.drain_s / 2):
            self._context.log.warning("a request to %s hangs, it is left behind", self._gamma.host)

    def close(self) -> None:
        self._readers.close(0)
        self._gamma.close()

    def report(self) -> Mapping[str, str | int | float]:
        publisher = self._publisher
        return {
            **self._freshness.report(self._clock()),
            "head_at": int(self._freshness.facts.answered_at or 0) or "",
            "records_in": publisher.records_in,
            "records_out": publisher.records_out,
            "dead_letters": publisher.dead_letters,
            "records_known": publisher.records_known,
            "source": self._gamma.host,
            "detail": FULL if self._is_full else self._detail(),
        }

    def _detail(self) -> str:
        at = self._sweep.round
        lists = [name for name, place in (("open", at.open), ("closed", at.closed)) if not place.is_done]
        return f"sweep {at.number}: {at.read:,} markets read, {' and '.join(lists) + ' ones' if lists else 'done'}"


def _place(context: Context, listing: Listing) -> Round:
    queue = context.queue
    return restored(listing.name, read_state(queue, "polymarket_cursor"), read_state(queue, "polymarket_offset"))


def _listing(gamma: Gamma, paging: str, tags: str) -> Listing:
    if paging == "offset":
        return OffsetListing(gamma)
    return EventListing(gamma) if tags == "events" else MarketListing(gamma)


def build(context: Context, clock: Callable[[], float] = time.time) -> PolymarketIngester:
    """The stage, from its settings."""
    settings = context.settings
    limit = RateLimit(settings.polymarket_requests_per_10s)

    def open_gamma(asking: Asking) -> Gamma:
        source = HttpSource(
            "Gamma",
            settings.polymarket_api_url,
            requests_per_10s=settings.polymarket_requests_per_10s,
            connect_timeout_s=settings.http_connect_timeout_s,
            read_timeout_s=settings.http_read_timeout_s,
            limit=limit,
        )
        return Gamma(source, settings.polymarket_page_size, clock, asking)

    return PolymarketIngester(context, open_gamma, clock)


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build))
