"""The exchanges' fills from the Polygon chain itself to stream:order_events, whole blocks in their order.

The seam with the subgraph, which has V1's fills alone: blocks before CUTOVER_BLOCK are never read here. From that
block on every fill is taken, except those of V1 up to and including CUTOVER_TIMESTAMP, that block's time: on the real
chain the last fills of V1 and the first of V2 are of the same second. goldsky_ingester takes exactly what is left out.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple

from common import parsing
from common.config import Settings
from common.errors import ConfigError, CursorLost, InvalidRecord, Unavailable
from common.freshness import FRESH_S, OLD_HEAD_S, Freshness
from common.http import HttpSource, RateLimit
from common.records import encode
from common.redis_queue import Height, Offer, Pushed
from common.runtime import Context, main
from common.state import read_height, read_state
from ingesters.block_search import Search
from ingesters.fill_identity import content_of, identity_of, places_of
from ingesters.first_start import Beginning, about_earlier_start, note_beginning, read_beginning
from ingesters.log_decoder import TOPICS, decode_log, is_removed, is_v1
from ingesters.polygon import AskAgain, Page, Polygon
from ingesters.polygon_window import SOURCE, settle_older_state, window_blocks
from ingesters.provider import BLOCK_S, Log, Provider, Wanted
from ingesters.second_look import SecondLook
from ingesters.start import Start, start_on_chain
from ingesters.tally import Tally

COMPONENT = "polygon_ingester"
FULL_S = 1.0  # between two looks at a stream that is full
FULL = "waiting: stream is full"
OUTAGE_S = 60.0  # without the end of a look
READ_AGAIN = "polygon_reread_block"  # the state that tells up to which block the second look has come
MOST_OFFERS = 2000  # in one script call, unless one block alone has more


class ParsedLog(NamedTuple):
    """What became of one log."""

    offer: Offer  # its `timestamp` is the block
    time: int  # Unix seconds of the block; 0 where that is unknown
    log_index: int = 0


class PolygonIngester:
    """One page a step: a look goes from the overlap behind the cursor to the newest final block, then it waits.

    Meanwhile the blocks of some minutes ago are read once more, behind the cursor: the second look.
    """

    instance = COMPONENT

    def __init__(self, context: Context, polygon: Polygon, clock: Callable[[], float] = time.time) -> None:
        settings = context.settings
        self._context = context
        self._settings = settings
        self._polygon = polygon
        self._clock = clock
        self._stream = context.queue.keys(settings.stream_order_events)
        self._window_blocks = window_blocks(settings)
        self._start = start_on_chain(settings, clock())
        self._began_block = 0  # nothing before it is read here
        self._cursor = self._read_cursor()  # the newest block published
        self._next = self._begin()  # the next block to read; None: to be found
        self._again = SecondLook(settings.polygon_second_look_s, self._read_again_from())
        self._look_ended_at = -math.inf
        self._has_gone_back = False  # since then, to what was not read again yet
        self._may_look_again = False
        self._late = 0  # fills that the second look has found
        self._search: Search | None = None
        self._next_look_at = 0.0
        self._newest_event_at = 0
        self._freshness = Freshness(clock())
        self._detail = ""
        self._tally = Tally(context.log, clock())
        self._note_place(clock(), is_at_end=False)
        if self._cursor:
            self._go_on_from(self._cursor)

    def step(self) -> float:
        """One page, or nothing while there is nothing to ask; returns the seconds to wait."""
        if (self._context.queue.backlog(self._stream) or 0) > self._settings.stream_backlog_limit:
            self._detail = FULL
            return FULL_S
        self._detail = ""
        now = self._clock()
        wait_s = self._polygon.wait_s()
        try:
            if wait_s <= 0 and self._look_again(now):
                return 0.0
            wait_s = max(self._next_look_at - now, wait_s)
            if wait_s > 0:
                return wait_s
            if self._next is None:
                self._next = self._find_start(self._start.moment)
                self._start = self._start._replace(block=self._next)
            else:
                self._read_page(self._from_there_or_back(self._next, now), now)
        except AskAgain as error:
            self._context.log.debug("asking again: %s", error)
        except CursorLost as lost:
            self._fall_back(lost)
        return 0.0

    def _go_on_from(self, cursor: Height) -> None:
        """Say so; and when the setting names an earlier time than that of the first start, say that as well."""
        self._context.log.info("going on from %s", cursor)
        self._check_beginning(read_beginning(self._context.queue, SOURCE, Beginning(cursor.timestamp, cursor.block)))

    def _check_beginning(self, began: Beginning) -> None:
        self._began_block = began.block
        wanted = time_if_earlier(self._start, began, self._settings.cutover_timestamp)
        if wanted is not None:
            setting = self._settings.order_events_start
            self._context.log.warning(about_earlier_start(setting, SOURCE, wanted=wanted, began=began.timestamp))

    # --- where to begin ------------------------------------------------------------------------------------------

    def _read_cursor(self) -> Height | None:
        """The newest block published. One without a time is a start that a backfill has claimed: see `claim_start`."""
        settle_older_state(self._context.queue, self._settings)
        cursor = read_height(self._context.queue, SOURCE)
        if cursor is None:  # told at once: a backfill may claim the start before the first page is published
            note_beginning(self._context.queue, SOURCE, Beginning(self._start.moment, self._start.block or 0))
            return None
        if cursor.timestamp:
            return cursor
        block = max(self._settings.cutover_block, cursor.block - self._window_blocks)
        self._check_beginning(read_beginning(self._context.queue, SOURCE, Beginning(0, block)))
        self._start = Start(block)
        return None

    def _begin(self) -> int | None:
        """A look reads the overlap again, for logs that appeared late; what was published is passed over."""
        if self._cursor is None:
            return self._start.block
        return max(self._first_allowed(), self._cursor.block + 1 - self._settings.polygon_overlap_blocks)

    def _first_allowed(self) -> int:
        """Earlier blocks are those of a backfill, or so old that nothing of them is published any more."""
        window = self._cursor.block - self._window_blocks if self._cursor else 0
        return max(self._settings.cutover_block, self._began_block, window)

    def _read_again_from(self) -> int:
        text = read_state(self._context.queue, READ_AGAIN) or ""
        return max(self._first_allowed(), int(text) + 1 if text.isdecimal() else 0)

    def _from_there_or_back(self, block: int, now: float) -> int:
        """The block; after a start or an outage, once, an earlier one, if that was to be read again.

        For from now on the cursor moves fast, and what is far behind it is not published any more.
        """
        is_late = now - self._look_ended_at > OUTAGE_S
        if self._cursor is None or self._has_gone_back or not is_late or not self._settings.polygon_second_look_s:
            return block
        self._has_gone_back = True
        return min(block, max(self._first_allowed(), self._again.next))

    def _fall_back(self, lost: CursorLost) -> None:
        """What Redis has lost is read again: going on from our own cursor would leave it out for ever."""
        self._cursor = self._read_cursor()
        self._next = self._begin()
        self._again = SecondLook(self._settings.polygon_second_look_s, self._read_again_from())
        self._look_ended_at, self._has_gone_back = -math.inf, False
        self._context.log.warning("%s; reading on from %s", lost, self._cursor)

    def _find_start(self, moment: int) -> int | None:
        """One step of the search for the first block of a moment; None until it is found."""
        if self._search is None:
            with self._freshness.asking(self._clock):
                newest = self._polygon.head().number
            self._search = Search(moment, self._settings.cutover_block, newest + 1)
        elif self._search.found is None:
            with self._freshness.asking(self._clock):
                probed = self._polygon.block_time(self._search.probe)
            self._search = self._search.narrowed(probed)
        if self._search.found is not None:
            self._context.log.info("starting with block %d", self._search.found)
        return self._search.found

    # --- pages ---------------------------------------------------------------------------------------------------

    def _read_page(self, first: int, now: float) -> None:
        with self._freshness.asking(self._clock):
            page = self._polygon.read(first, max(first, self._cursor.block + 1) if self._cursor else first)
        old_head_s = self._polygon.age_limit_s(OLD_HEAD_S)
        self._freshness.note_head(self._clock(), page.head.number, page.head.timestamp, old_head_s)
        if page.last >= first:
            self._publish(page)
            self._next = page.last + 1
        self._note(page, now)

    def _publish(self, page: Page) -> None:
        """The page and the cursor, block by whole block; raises Unavailable when a part of it was not written."""
        parsed = parse_page(page, self._settings.cutover_timestamp)
        if self._cursor is None:
            note_beginning(self._context.queue, SOURCE, self._beginning(page, parsed))
            self._began_block, self._has_gone_back = page.first, True
            self._again.advance(page.first - 1)
        for some, block in slices(parsed, page.last):
            newest = max([each.time for each in some], default=0)
            if block == page.head.number:
                newest = max(newest, page.head.timestamp)
            height = Height(block, max(newest, self._cursor.timestamp if self._cursor else 0))
            self._push([each.offer for each in some], height)
            good = [each.time for each in some if not each.offer.fault]
            self._newest_event_at = max([self._newest_event_at, *good])

    def _beginning(self, page: Page, parsed: Sequence[ParsedLog]) -> Beginning:
        """Where the first start begins: the moment asked for, or what can be told of the block's time."""
        times = [each.time for each in parsed if each.time]
        first = self._settings.cutover_timestamp if page.first == self._settings.cutover_block else 0
        return Beginning(self._start.moment or first or min(times, default=page.head.timestamp), page.first)

    def _push(self, offers: Sequence[Offer], height: Height) -> Pushed:
        pushed = self._context.queue.push_blocks(
            self._stream,
            offers,
            source=SOURCE,
            height=height,
            window_blocks=self._window_blocks,
            after=self._cursor,
        )
        self._cursor = max(self._cursor or height, height)
        self._tally.add(pushed, offers)
        return pushed

    def _note(self, page: Page, now: float) -> None:
        """What a page means for the state: the end of what exists, or how far behind we are."""
        self._may_look_again = page.is_end
        if page.is_end:
            self._end_look(now)
        elif self._freshness.facts.at_end_at is None or now - self._read_to() > FRESH_S:
            self._note_place(now, is_at_end=False)
        self._tally.tell_state(self._freshness.verdict(now), self._cursor)
        self._tally.summarise(now, self._cursor)

    def _end_look(self, now: float) -> None:
        self._next_look_at = now + self._settings.polygon_poll_interval
        self._next = self._begin()
        self._look_ended_at, self._has_gone_back = now, False
        if self._cursor:
            self._again.note_end(now, self._cursor.block)
        self._note_place(now, is_at_end=True)

    # --- the second look -----------------------------------------------------------------------------------------

    def _look_again(self, now: float) -> bool:
        """One page of blocks that were read some minutes ago, between two looks; whether there was one.

        It never keeps a look waiting for more than this page, and its failures are no outage.
        """
        last = self._again.due(now)
        if last is None or self._cursor is None or not (self._may_look_again or now < self._next_look_at):
            return False
        self._may_look_again = False
        first = max(self._again.next, self._first_allowed())
        try:
            page = self._polygon.read(first, first, last) if first <= last else None
        except AskAgain as error:
            self._context.log.debug("asking again: %s", error)
            return True
        except Unavailable as error:
            self._context.log.debug("the second look waits: %s", error)
            self._again.postpone(now)
            return True
        if page is not None and page.last < first:
            self._again.postpone(now)
            return True
        if page is not None:
            self._publish_late(page, self._cursor)
        self._note_read_again(last if page is None else page.last)
        return True

    def _publish_late(self, page: Page, cursor: Height) -> None:
        """What was not there when these blocks were read first. The cursor stays where it is."""
        parsed = parse_page(page, self._settings.cutover_timestamp)
        late = sum(self._push([each.offer for each in some], cursor).added for some, _ in slices(parsed, page.last))
        if late:
            self._late += late
            self._context.log.warning("late: %d fills of blocks %d to %d", late, page.first, page.last)

    def _note_read_again(self, block: int) -> None:
        self._again.advance(block)
        self._context.queue.call("SET", self._context.queue.keys.state(READ_AGAIN), block)

    def _note_place(self, now: float, *, is_at_end: bool) -> None:
        read_to = self._freshness.head_time(now) if is_at_end else self._read_to() or None
        self._freshness.note_read(now, read_to, self._newest_event_at or None, is_at_end=is_at_end)

    def _read_to(self) -> float:
        return self._cursor.timestamp if self._cursor else 0

    def drain(self) -> None:
        """Nothing is in hand between two steps."""

    def close(self) -> None:
        self._polygon.close()

    def report(self) -> Mapping[str, str | int | float]:
        return {
            **self._tally.report(),
            **self._freshness.report(self._clock()),
            "source": self._polygon.host,
            "late_fills": self._late,
            "degraded": self._polygon.delay(),
            "detail": self._detail or "; ".join([*self._about_the_start(), *self._polygon.troubles()]),
        }

    def _about_the_start(self) -> list[str]:
        head = self._freshness.facts.head
        if head is not None and head < (self._next or 0) and self._cursor is None:
            return [f"waiting for block {self._next}, the first to read"]
        return []


def time_if_earlier(wanted: Start, began: Beginning, cutover_timestamp: int) -> int | None:
    """Unix seconds of a start that lies before the beginning; None for any other. A block's time is estimated."""
    if wanted.block is None:
        return wanted.moment if wanted.moment < began.timestamp else None
    if wanted.block >= began.block:
        return None
    return max(cutover_timestamp, began.timestamp - round((began.block - wanted.block) * BLOCK_S))


def parse_page(page: Page, cutover_timestamp: int) -> list[ParsedLog]:
    """The page's logs as offers, without those that are no fills of ours: see `parse_log`."""
    parsed = [found for log in page.logs if (found := parse_log(log, page, cutover_timestamp))]
    places = places_of((each.offer.identity, each.log_index) for each in parsed if not each.offer.fault)
    return [each if each.offer.fault else _placed(each, places[each.offer.identity, each.log_index]) for each in parsed]


def _placed(parsed: ParsedLog, place: int) -> ParsedLog:
    return parsed._replace(offer=parsed.offer._replace(identity=identity_of(parsed.offer.identity, place)))


def parse_log(log: Log, page: Page, cutover_timestamp: int) -> ParsedLog | None:
    """The log as an offer; None for one that was taken back, and for a fill that the subgraph has.

    The offer's identity is the fill's content: equal ones are told apart by their places, once all of them are known.
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
    return ParsedLog(Offer(content_of(fill), encode(fill), timestamp=block), fill.timestamp, fill.log_index or 0)


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
    return PolygonIngester(context, open_polygon(context.settings, context.log, clock), clock)


def open_polygon(
    settings: Settings,
    log: logging.Logger,
    clock: Callable[[], float],
    limits: Mapping[str, RateLimit] = MappingProxyType({}),
) -> Polygon:
    """All providers; `limits`: shared ones, by address, in place of each provider's own. Raises ConfigError."""
    wanted = Wanted(exchange_addresses(settings), TOPICS)
    return Polygon(
        [
            Provider(
                _http_source(url, settings, limits.get(url)),
                wanted,
                most_blocks=settings.polygon_max_blocks,
                confirmations=settings.polygon_confirmations,
                log=log,
                clock=clock,
            )
            for url in provider_urls(settings)
        ],
        clock,
    )


def _http_source(url: str, settings: Settings, limit: RateLimit | None) -> HttpSource:
    return HttpSource(
        "Polygon",
        url,
        requests_per_10s=settings.polygon_requests_per_10s,
        connect_timeout_s=settings.http_connect_timeout_s,
        read_timeout_s=settings.http_read_timeout_s,
        limit=limit,
    )


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
