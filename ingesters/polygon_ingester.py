"""The exchanges' fills from the Polygon chain itself to stream:order_events, whole blocks in their order.

The seam with the subgraph, which has V1's fills alone: blocks before CUTOVER_BLOCK are never read here. From that
block on every fill is taken, except those of V1 up to and including CUTOVER_TIMESTAMP, that block's time: on the real
chain the last fills of V1 and the first of V2 are of the same second. goldsky_ingester takes exactly what is left out.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from common import parsing
from common.config import Settings
from common.errors import ConfigError, CursorLost, InvalidRecord
from common.http import HttpSource
from common.records import encode
from common.redis_queue import Height, Offer, Pushed
from common.runtime import Context, main
from common.state import read_height
from ingesters.block_search import Search
from ingesters.log_decoder import TOPICS, decode_log, is_removed, is_v1
from ingesters.polygon import AskAgain, Page, Polygon
from ingesters.provider import Log, Provider, Wanted
from ingesters.start import start_on_chain

COMPONENT = "polygon_ingester"
SOURCE = "polygon"
FULL_S = 1.0  # between two looks at a stream that is full
FULL = "waiting: stream is full"
FRESH_S = 300.0  # a newest fill older than that is a quiet source, or a dead one
LEAST_WINDOW_BLOCKS = 64
MOST_OFFERS = 2000  # in one script call, unless one block alone has more
SUMMARY_S = 60.0  # between two summaries in the log


class ParsedLog(NamedTuple):
    """What became of one log."""

    offer: Offer  # its `timestamp` is the block
    time: int  # Unix seconds of the block; 0 where that is unknown


class PolygonIngester:
    """One page a step: a look goes from the overlap behind the cursor to the newest final block, then it waits."""

    instance = COMPONENT

    def __init__(self, context: Context, polygon: Polygon, clock: Callable[[], float] = time.time) -> None:
        settings = context.settings
        self._context = context
        self._settings = settings
        self._polygon = polygon
        self._clock = clock
        self._stream = context.queue.keys(settings.stream_order_events)
        self._window_blocks = max(LEAST_WINDOW_BLOCKS, 2 * settings.polygon_overlap_blocks)
        self._start = start_on_chain(settings, clock())
        self._cursor = read_height(context.queue, SOURCE)  # the newest block published
        self._next = self._begin()  # the next block to read; None: to be found
        self._search: Search | None = None
        self._next_look_at = 0.0
        self._newest_event_at = 0
        self._head_at = 0
        self._head_block = 0
        self._state = "catching up"
        self._detail = ""
        self._summary_at = clock() + SUMMARY_S
        self._totals = Pushed(0, 0, 0)
        if self._cursor:
            context.log.info("going on from %s; ORDER_EVENTS_START is for a first start", self._cursor)

    def step(self) -> float:
        """One page, or nothing while there is nothing to ask; returns the seconds to wait."""
        if (self._context.queue.backlog(self._stream) or 0) > self._settings.stream_backlog_limit:
            self._detail = FULL
            return FULL_S
        self._detail = ""
        now = self._clock()
        wait_s = max(self._next_look_at - now, self._polygon.wait_s())
        if wait_s > 0:
            return wait_s
        try:
            if self._next is None:
                self._next = self._find_start(self._start.moment)
                self._start = self._start._replace(block=self._next)
            else:
                self._read_page(self._next, now)
        except AskAgain as error:
            self._context.log.debug("asking again: %s", error)
        except CursorLost as lost:
            self._fall_back(lost)
        return 0.0

    # --- where to begin ------------------------------------------------------------------------------------------

    def _begin(self) -> int | None:
        """A look reads the overlap again, for logs that appeared late; what was published is passed over."""
        if self._cursor is None:
            return self._start.block
        return max(self._settings.cutover_block, self._cursor.block + 1 - self._settings.polygon_overlap_blocks)

    def _fall_back(self, lost: CursorLost) -> None:
        """What Redis has lost is read again: going on from our own cursor would leave it out for ever."""
        self._cursor = read_height(self._context.queue, SOURCE)
        self._next = self._begin()
        self._context.log.warning("%s; reading on from %s", lost, self._cursor)

    def _find_start(self, moment: int) -> int | None:
        """One step of the search for the first block of a moment; None until it is found."""
        if self._search is None:
            self._search = Search(moment, self._settings.cutover_block, self._polygon.head().number + 1)
        elif self._search.found is None:
            self._search = self._search.narrowed(self._polygon.block_time(self._search.probe))
        if self._search.found is not None:
            self._context.log.info("starting with block %d", self._search.found)
        return self._search.found

    # --- pages ---------------------------------------------------------------------------------------------------

    def _read_page(self, first: int, now: float) -> None:
        page = self._polygon.read(first, max(first, self._cursor.block + 1) if self._cursor else first)
        self._head_at, self._head_block = page.head.timestamp, page.head.number
        if page.last >= first:
            self._publish(page)
            self._next = page.last + 1
        self._note(page, now)

    def _publish(self, page: Page) -> None:
        """The page and the cursor, block by whole block; raises Unavailable when a part of it was not written."""
        parsed = [found for log in page.logs if (found := parse_log(log, page, self._settings.cutover_timestamp))]
        for some, block in slices(parsed, page.last):
            newest = max([each.time for each in some], default=0)
            if block == page.head.number:
                newest = max(newest, page.head.timestamp)
            self._push([each.offer for each in some], block, newest)
            good = [each.time for each in some if not each.offer.fault]
            self._newest_event_at = max([self._newest_event_at, *good])

    def _push(self, offers: Sequence[Offer], block: int, newest: int) -> None:
        height = Height(block, max(newest, self._cursor.timestamp if self._cursor else 0))
        pushed = self._context.queue.push_blocks(
            self._stream,
            offers,
            source=SOURCE,
            height=height,
            window_blocks=self._window_blocks,
            after=self._cursor,
        )
        self._cursor = max(self._cursor or height, height)
        self._totals = Pushed(*(total + new for total, new in zip(self._totals, pushed, strict=True)))
        if pushed.dead:
            reasons = [f"{offer.identity}: {offer.fault}" for offer in offers if offer.fault]
            self._context.log.warning("dead letters: dead=%d first=%s", pushed.dead, reasons[0])

    def _note(self, page: Page, now: float) -> None:
        """What a page means for the state: the end of what exists, or how far behind we are."""
        if page.is_end:
            self._next_look_at = now + self._settings.polygon_poll_interval
            self._next = self._begin()
            self._change_state("live" if now - self._newest_event_at < FRESH_S else "idle")
        elif now - (self._cursor.timestamp if self._cursor else 0) > FRESH_S:
            self._change_state("catching up")
        if now >= self._summary_at:
            self._summary_at = now + SUMMARY_S
            self._context.log.info("published: cursor=%s totals=%s", self._cursor, self._totals)

    def _change_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._context.log.info("%s: cursor=%s totals=%s", state, self._cursor, self._totals)

    def drain(self) -> None:
        """Nothing is in hand between two steps."""

    def close(self) -> None:
        self._polygon.close()

    def report(self) -> Mapping[str, str | int | float]:
        return {
            "records_in": sum(self._totals),
            "records_out": self._totals.added,
            "dead_letters": self._totals.dead,
            "records_known": self._totals.known,
            "source": self._polygon.host,
            "source_state": self._state,
            "newest_event_at": self._newest_event_at or "",
            "head_at": self._head_at or "",
            "head_block": self._head_block or "",
            "detail": self._detail or "; ".join([*self._about_the_start(), *self._polygon.troubles()]),
        }

    def _about_the_start(self) -> list[str]:
        if self._head_block and self._head_block < (self._next or 0) and self._cursor is None:
            return [f"waiting for block {self._next}, the first to read"]
        return []


def parse_log(log: Log, page: Page, cutover_timestamp: int) -> ParsedLog | None:
    """The log as an offer; None for one that was taken back, and for a fill that the subgraph has.

    A faulty one keeps its bytes and lies at the page's end where it does not tell its block.
    """
    block = page.last if log.block is None else log.block
    try:
        if is_removed(log.fields):
            return None
        fill = decode_log(log.fields or parsing.json_object(log.raw), page.times.get(block))
    except InvalidRecord as error:
        # Not under its own id: should the source mend the log, it is published.
        return ParsedLog(Offer(parsing.identity_of_bytes(log.raw), log.raw, timestamp=block, fault=str(error)), 0)
    if is_v1(log.fields) and fill.timestamp <= cutover_timestamp:
        return None
    return ParsedLog(Offer(fill.id, encode(fill), timestamp=block), fill.timestamp)


def slices(parsed: Sequence[ParsedLog], last: int) -> Iterator[tuple[list[ParsedLog], int]]:
    """Whole blocks together, some MOST_OFFERS at a time, each with the block that it is complete up to."""
    some: list[ParsedLog] = []
    for block, logs in groupby(parsed, key=lambda each: each.offer.timestamp):
        new = list(logs)
        if some and len(some) + len(new) > MOST_OFFERS:
            yield some, block - 1
            some = []
        some += new
    yield some, last


def build(context: Context, clock: Callable[[], float] = time.time) -> PolygonIngester:
    """The stage, from its settings. Raises ConfigError for a start, an address or a provider that makes no sense."""
    settings = context.settings
    wanted = Wanted(exchange_addresses(settings), TOPICS)
    providers = [_provider(url, settings, wanted) for url in provider_urls(settings)]
    return PolygonIngester(context, Polygon(providers, clock), clock)


def _provider(url: str, settings: Settings, wanted: Wanted) -> Provider:
    source = HttpSource(
        "Polygon",
        url,
        requests_per_10s=settings.polygon_requests_per_10s,
        connect_timeout_s=settings.http_connect_timeout_s,
        read_timeout_s=settings.http_read_timeout_s,
    )
    confirmations = settings.polygon_confirmations
    return Provider(source, wanted, most_blocks=settings.polygon_max_blocks, confirmations=confirmations)


def provider_urls(settings: Settings) -> list[str]:
    """The addresses of POLYGON_RPC_URL, in their order. Raises ConfigError."""
    urls = _listed(settings.polygon_rpc_url)
    if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
        raise ConfigError("POLYGON_RPC_URL: expected addresses that begin with http:// or https://, comma-separated")
    return urls


def exchange_addresses(settings: Settings) -> frozenset[str]:
    """The contracts of EXCHANGE_ADDRESSES, in lower case. Raises ConfigError."""
    try:
        found = frozenset(parsing.address(text, "EXCHANGE_ADDRESSES") for text in _listed(settings.exchange_addresses))
    except InvalidRecord as error:
        raise ConfigError(str(error)) from error
    if not found:
        raise ConfigError("EXCHANGE_ADDRESSES: expected one contract at least")
    return found


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build))
