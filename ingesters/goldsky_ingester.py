"""The order book subgraph's fills to stream:order_events, in the order of time, none lost among equal seconds.

It is read up to and including CUTOVER_TIMESTAMP, the second of V1's last fills; polygon_ingester reads what is later.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from common import parsing
from common.config import Settings
from common.errors import CursorLost, InvalidRecord, Unavailable
from common.freshness import FRESH_S, Freshness
from common.http import HttpSource, RateLimit
from common.records import encode
from common.redis_queue import Offer, Position
from common.runtime import Context, main
from common.state import read_position
from ingesters.fill_parser import SCHEMAS, Parse, parse_fill
from ingesters.fill_scan import Phase, Scan, advance, begin
from ingesters.first_start import Beginning, about_earlier_start, note_beginning, read_beginning
from ingesters.goldsky import Goldsky, PageTooLarge
from ingesters.start import start_in_subgraph
from ingesters.tally import Tally

COMPONENT = "goldsky_ingester"
SOURCE = "goldsky"
FULL_S = 1.0  # between two looks at a stream that is full
FULL = "waiting: stream is full"
SMALLEST_PAGE = 25  # fills; where even these time out, the source is down
GROW_AFTER = 20  # good pages until a halved page is doubled again
FUTURE_S = 3600.0  # a fill cannot come from later than that, whatever the two clocks do
LEAST_WINDOW_S = 120
META_S = 15.0  # between two looks at what the subgraph says about itself
ENDED_S = 60.0  # between two looks at a source that has been read to the cut-over, for rows that appear late
OVER_S = 3600.0  # so long after the cut-over nothing appears late any more: the source is not asked again


class ParsedFill(NamedTuple):
    """What became of one row: the offer to publish, and its place in the order where it tells one."""

    offer: Offer
    position: Position | None


class PageSize:
    """Fills a request: halved when the source can't cope, doubled again after a while without trouble."""

    def __init__(self, most: int) -> None:
        self.first = most
        self._most = most
        self._good = 0

    def shrink(self) -> bool:
        """Ask for half; False when it can't get smaller."""
        self._good = 0
        smaller = max(min(SMALLEST_PAGE, self._most), self.first // 2)
        has_shrunk, self.first = smaller < self.first, smaller
        return has_shrunk

    def note_success(self) -> None:
        self._good += 1
        if self._good >= GROW_AFTER:
            self._good = 0
            self.first = min(self._most, 2 * self.first)


class GoldskyIngester:
    """One page a step: a look goes from the overlap behind the cursor to the end of what exists, then it waits."""

    instance = COMPONENT

    def __init__(self, context: Context, goldsky: Goldsky, clock: Callable[[], float] = time.time) -> None:
        settings = context.settings
        self._context = context
        self._settings = settings
        self._goldsky = goldsky
        self._clock = clock
        self._stream = context.queue.keys(settings.stream_order_events)
        self._window_s = window_s(settings)
        self._size = PageSize(settings.goldsky_page_size)
        self._until = settings.cutover_timestamp
        self._start = start_in_subgraph(settings, clock())
        self._cursor = self._read_cursor()  # the newest fill published
        self._scan: Scan | None = self._begin()  # None between two looks
        self._page_at = clock()  # when the source answered last
        self._resumed_at: Position | None = None  # the cursor when a look that was interrupted began again
        self._next_look_at = 0.0
        self._freshness = Freshness(clock())
        self._detail = ""
        self._meta_at = clock() + META_S
        self._has_told_head = False  # or could not
        self._has_indexing_errors = False
        self._tally = Tally(context.log, clock())
        self._note_place(clock(), is_at_end=False)
        self._check_beginning()

    def step(self) -> float:
        """One page, or nothing while there is nothing to ask; returns the seconds to wait."""
        if (self._context.queue.backlog(self._stream) or 0) > self._settings.stream_backlog_limit:
            self._detail = FULL
            return FULL_S
        self._detail = ""
        if wait_s := self._goldsky.wait_s():
            return wait_s
        try:
            return self._ask(self._clock())
        except CursorLost as lost:
            self._fall_back(lost)
            return 0.0

    def _ask(self, now: float) -> float:
        """The request that is due, if one is."""
        if now >= self._meta_at:
            self._look_at_meta(now)
        if self._scan is None:
            if now < self._next_look_at:
                return self._next_look_at - now
            self._scan = self._begin_again(now)
        elif self._was_interrupted(now):
            self._resumed_at = self._cursor
            self._scan = self._begin()
        if self._scan is None:
            self._end(now)
            return ENDED_S
        return self._read_page(self._scan, now)

    def _check_beginning(self) -> None:
        """Keep where reading begins; say so when the setting names an earlier time than that of the first start."""
        if self._cursor is None:
            note_beginning(self._context.queue, SOURCE, Beginning(self._start))
            return
        began = read_beginning(self._context.queue, SOURCE, Beginning(self._cursor.timestamp)).timestamp
        if self._start < began:
            setting = self._settings.order_events_start
            self._context.log.warning(about_earlier_start(setting, SOURCE, wanted=self._start, began=began))

    def _read_cursor(self) -> Position | None:
        """The newest fill published. One without an id is a start that a backfill has claimed: see `claim_start`."""
        cursor = read_position(self._context.queue, SOURCE)
        if cursor is None or cursor.id:
            return cursor
        wanted, self._start = self._start, cursor.timestamp - self._window_s
        if wanted < self._start:
            setting = self._settings.order_events_start
            self._context.log.warning(about_earlier_start(setting, SOURCE, wanted=wanted, began=self._start))
        return None

    def _begin(self) -> Scan | None:
        """A look reads the overlap again, for fills that appeared late; what was published is passed over.

        None when all of that lies behind the cut-over.
        """
        first = self._start
        if self._cursor is not None:
            first = max(0, self._cursor.timestamp - self._settings.goldsky_overlap_s)
        return begin(first, self._until) if first <= self._until else None

    def _begin_again(self, now: float) -> Scan | None:
        """The next look. Long after the cut-over there is none, unless Redis has lost what was published."""
        if self._freshness.facts.has_ended:
            before, self._cursor = self._cursor, self._read_cursor()
            if self._cursor == before and now >= self._until + OVER_S:
                return None
        return self._begin()

    def _end(self, now: float) -> None:
        """Everything up to the cut-over has been read. Its head is told once more, if it was read by us at all."""
        self._next_look_at = now + ENDED_S
        has_to_ask = self._freshness.facts.answered_at is not None and not self._has_told_head
        self._meta_at = now if has_to_ask else math.inf
        self._note_place(now, is_at_end=True)
        self._freshness.note_ended()
        self._tally.tell_state(self._freshness.verdict(now), self._cursor)

    def _was_interrupted(self, now: float) -> bool:
        """Whether a look has paused for so long that its next page could leave rows behind that were late before.

        They would lie further behind the new cursor than the overlap reaches. Where every page takes that long, a look
        still advances by a page between two beginnings.
        """
        overlap_s = self._settings.goldsky_overlap_s
        has_advanced = self._cursor is not None and self._cursor != self._resumed_at
        return overlap_s > 0 and has_advanced and now - self._page_at > overlap_s / 2

    def _fall_back(self, lost: CursorLost) -> None:
        """What Redis has lost is read again: going on from our own cursor would leave it out for ever."""
        self._cursor = self._read_cursor()
        self._scan = self._begin()
        self._context.log.warning("%s; reading on from %s", lost, self._cursor)

    def _look_at_meta(self, now: float) -> None:
        """What the subgraph says of its head: it may answer, and yet have stopped."""
        self._meta_at = math.inf if self._freshness.facts.has_ended else now + META_S
        self._has_told_head = True
        with self._freshness.asking(self._clock, proves=False):  # it may answer that, and no fills
            meta = self._goldsky.meta()
        if meta is not None:
            self._has_indexing_errors = meta.has_errors
            self._freshness.note_head(self._clock(), meta.block, meta.timestamp)
        self._tally.tell_state(self._freshness.verdict(self._clock()), self._cursor)

    def _read_page(self, scan: Scan, now: float) -> float:
        asked = self._size.first
        try:
            with self._freshness.asking(self._clock, proves=False):
                raws = self._page(scan, asked)
        except PageTooLarge as error:
            self._context.log.warning("smaller pages: fills=%d reason=%s", self._size.first, error)
            return 0.0
        self._size.note_success()
        self._page_at = now
        is_full = len(raws) >= asked
        parsed = [offer_fill(raw, now, self._goldsky.schema.parse) for raw in raws]
        ahead = positions_ahead(scan, parsed)
        self._push(parsed, max(ahead, default=scan.position))
        with self._freshness.asking(self._clock):
            check_progress(scan, raws, ahead, is_full=is_full)
        self._scan = advance(scan, ahead, is_full=is_full)
        self._note(now, is_full=is_full)
        return 0.0

    def _page(self, scan: Scan, first: int) -> list[bytes]:
        """Raises PageTooLarge once the next one is smaller, Unavailable when it can't get smaller."""
        try:
            return self._goldsky.fills(scan.where(), first)
        except PageTooLarge as error:
            if self._size.shrink():
                raise
            raise Unavailable(f"Goldsky answers an error, even for {first} fills: {error}") from error

    def _push(self, parsed: Sequence[ParsedFill], position: Position) -> None:
        """The page and the cursor, in one step; raises Unavailable when neither was written."""
        if not parsed:
            return
        offers = [_dated(offer, position) for offer, _ in parsed]
        queue = self._context.queue
        pushed = queue.push_batch(
            self._stream, offers, source=SOURCE, position=position, window_s=self._window_s, after=self._cursor
        )
        self._cursor = max(self._cursor or position, position)
        self._tally.add(pushed, offers)

    def _note(self, now: float, *, is_full: bool) -> None:
        """What a page means for the state: the end of what exists, or how far behind we are."""
        if self._scan is None and now >= self._until + self._settings.goldsky_overlap_s:
            self._end(now)
        elif self._scan is None:
            self._end_look(now)
        elif not self._freshness.facts.has_ended and self._is_behind(self._scan, now, is_full=is_full):
            self._note_place(now, is_at_end=False)
            self._tally.tell_state(self._freshness.verdict(now), self._cursor)
        self._tally.summarise(now, self._cursor)

    def _end_look(self, now: float) -> None:
        """Everything that exists has been read."""
        self._next_look_at = now + self._settings.goldsky_poll_interval
        if not self._has_told_head:
            self._meta_at = now
        self._note_place(now, is_at_end=True)
        self._tally.tell_state(self._freshness.verdict(now), self._cursor)

    def _is_behind(self, scan: Scan, now: float, *, is_full: bool) -> bool:
        """Whether there is so much left to read that the source can't be called live."""
        if self._freshness.facts.at_end_at is None:
            return True
        return is_full and self._age(now) >= FRESH_S and scan.position == self._cursor

    def _note_place(self, now: float, *, is_at_end: bool) -> None:
        cursor = self._cursor
        read_to = self._freshness.head_time(now) if is_at_end else cursor and float(cursor.timestamp)
        newest = float(cursor.timestamp) if cursor and cursor.id else None
        self._freshness.note_read(now, read_to, newest, is_at_end=is_at_end)

    def _age(self, now: float) -> float:
        return now - (self._cursor.timestamp if self._cursor else 0)

    def drain(self) -> None:
        """Nothing is in hand between two steps."""

    def close(self) -> None:
        self._goldsky.close()

    def report(self) -> Mapping[str, str | int | float]:
        return {
            **self._tally.report(),
            **self._freshness.report(self._clock()),
            "source": self._goldsky.host,
            "detail": self._detail or self._about_the_source(),
        }

    def _about_the_source(self) -> str:
        notes = ["the subgraph reports indexing errors"] if self._has_indexing_errors else []
        if self._size.first < self._settings.goldsky_page_size:
            notes.append(f"pages of {self._size.first}: larger ones time out")
        return "; ".join(notes)


def window_s(settings: Settings) -> int:
    """Seconds before the cursor in which an ingester still publishes what appears late."""
    return max(LEAST_WINDOW_S, 2 * settings.goldsky_overlap_s)


def offer_fill(raw: bytes, now: float, parse: Parse = parse_fill) -> ParsedFill:
    """The row as an offer, with its place. A faulty one keeps its bytes, and its place where that much is sound."""
    fields: dict[str, Any] = {}
    try:
        fields = parsing.json_object(raw)
        fill = parse(fields)
        _check_time(fill.timestamp, now)
    except InvalidRecord as error:
        # Not under its own id: should the source mend the row, it is published.
        offer = Offer(parsing.identity_of_bytes(raw), raw, fault=str(error))
        return ParsedFill(offer, _position(fields, now))
    # The place is the source's own: its ids order its answers, whatever the fill is called here.
    return ParsedFill(Offer(fill.id, encode(fill), timestamp=fill.timestamp), Position(fill.timestamp, fields["id"]))


def _position(fields: Mapping[str, Any], now: float) -> Position | None:
    try:
        timestamp = parsing.timestamp(fields.get("timestamp"), "timestamp")
        _check_time(timestamp, now)
        return Position(timestamp, parsing.identity(fields.get("id"), "id"))
    except InvalidRecord:
        return None


def _check_time(timestamp: int, now: float) -> None:
    """A cursor that follows a row from the future would pass over everything until then."""
    if timestamp > now + FUTURE_S:
        raise InvalidRecord(f"timestamp: expected a time up to now, got {timestamp}; is this machine's clock right?")


def positions_ahead(scan: Scan, parsed: Sequence[ParsedFill]) -> list[Position]:
    """Places of the page's rows beyond the scan's; faulty rows count only where no good one leads on."""
    good = [place for offer, place in parsed if place is not None and place > scan.position and not offer.fault]
    faulty = [place for offer, place in parsed if place is not None and place > scan.position and offer.fault]
    return good or faulty


def check_progress(scan: Scan, raws: Sequence[bytes], ahead: Sequence[Position], *, is_full: bool) -> None:
    """Raises Unavailable for a page that leads nowhere, though there must be more behind it."""
    # A page without anything new is what this question may bring: the rest of the second that was read.
    is_repeated = scan.phase is Phase.FROM and bool(scan.position.id)
    if raws and not ahead and (scan.phase is Phase.TIES or is_full) and not is_repeated:
        raise Unavailable(f"Goldsky's fills do not advance beyond {scan.position}: no row has a usable place")


def _dated(offer: Offer, position: Position) -> Offer:
    """A faulty row lies beside the page's last one in the window of what was published."""
    return offer._replace(timestamp=position.timestamp) if offer.fault else offer


def open_source(settings: Settings, limit: RateLimit | None = None) -> HttpSource:
    """The subgraph's address; `limit`: one that is shared, in place of the live ingester's own."""
    return HttpSource(
        "Goldsky",
        settings.goldsky_url,
        requests_per_10s=settings.goldsky_requests_per_10s,
        connect_timeout_s=settings.http_connect_timeout_s,
        read_timeout_s=settings.http_read_timeout_s,
        bearer=settings.goldsky_api_key.get_secret_value() if settings.goldsky_api_key else "",
        limit=limit,
    )


def build(context: Context, clock: Callable[[], float] = time.time) -> GoldskyIngester:
    """The stage, from its settings. Raises ConfigError for a start that can't be understood."""
    source = open_source(context.settings)
    return GoldskyIngester(context, Goldsky(source, SCHEMAS[context.settings.goldsky_schema]), clock)


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build))
