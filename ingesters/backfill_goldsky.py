"""A backfill's way through the subgraph: seconds, in slices that are read in the order of (timestamp, id)."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import Unavailable
from common.http import RateLimit
from common.progress import DONE, Portion, Slice
from common.redis_queue import Offer, Position, RedisQueue
from common.state import claim_start, read_position
from ingesters.backfill_known import stored_ids
from ingesters.backfill_plan import Spacing
from ingesters.backfill_source import Bounds
from ingesters.fill_parser import SCHEMAS
from ingesters.fill_scan import Phase, Scan, advance
from ingesters.first_start import Beginning, iso, note_beginning, read_beginning
from ingesters.goldsky import Goldsky, PageTooLarge
from ingesters.goldsky_ingester import (
    SOURCE,
    PageSize,
    ParsedFill,
    check_progress,
    offer_fill,
    open_source,
    positions_ahead,
    window_s,
)
from ingesters.start import start_in_subgraph

FIRST_FILL = 1_668_988_800  # 2022-11-21: the exchange's first fills


class SubgraphReader:
    """One slice of the subgraph, page by page, ties included.

    Pages are asked for without an upper bound: a row from beyond the end proves that everything up to it was there,
    where an empty answer would cost two more requests. And a page begins with the row that the one before ended with:
    `skip` passes over the other rows of that second, and the first row shows whether they are still the same. Repeating
    them all, as the live ingester does, costs 5 % of a full page.
    """

    def __init__(self, goldsky: Goldsky, size: PageSize, slice_: Slice, clock: Callable[[], float]) -> None:
        timestamp, _, identity = slice_.cursor.partition(" ")
        self._goldsky = goldsky
        self._size = size
        self._end = slice_.end
        self._clock = clock
        self._scan = Scan(Position(int(timestamp), identity))
        self._skip = 0  # rows of the position's second before it, where that is known
        self._held: list[Offer] = []  # faulty rows until the cursor moves

    def read(self) -> Sequence[Portion]:
        """See Reader."""
        scan, asked = self._scan, self._size.first
        skip = self._skip if scan.phase is Phase.FROM else 0
        raws = self._ask(scan, asked, skip)
        now, parse = self._clock(), self._goldsky.schema.parse
        parsed = [offer_fill(raw, now, parse) for raw in raws or ()]
        if raws is None or (skip and not _begins_with(parsed, scan.position)):
            self._skip = 0
            return []
        inside = rows_before(parsed, self._end)
        ahead = positions_ahead(scan, inside)
        is_over, is_full = len(inside) < len(parsed), len(raws) >= asked
        if not is_over:
            check_progress(scan, raws, ahead, is_full=is_full)
        following = None if is_over else advance(scan, ahead, is_full=is_full)
        self._skip = rows_to_skip([place for _, place in inside], max(ahead), skip) if ahead else 0
        portion = self._portion(scan, inside, following)
        self._scan = following or scan
        return [] if portion is None else [portion]

    def _ask(self, scan: Scan, asked: int, skip: int) -> list[bytes] | None:
        """None when it was too much: less is asked for next."""
        try:
            raws = self._goldsky.fills(scan.where(), asked, skip)
        except PageTooLarge as error:
            if not self._size.shrink():
                raise Unavailable(f"Goldsky answers an error, even for {asked} fills: {error}") from error
            return None
        self._size.note_success()
        return raws

    def _portion(self, scan: Scan, rows: Sequence[ParsedFill], following: Scan | None) -> Portion | None:
        """None when the cursor stays: another question about the same place comes first."""
        position = scan.position if following is None else following.position
        self._held += [_dated(row, position) for row in rows if row.offer.fault]
        if following is not None and position == scan.position:
            return None
        new = [offer for offer, place in rows if place is not None and place > scan.position and not offer.fault]
        faulty, self._held = self._held, []
        return Portion(new, [], faulty, DONE if following is None else f"{position.timestamp} {position.id}")


def _begins_with(rows: Sequence[ParsedFill], position: Position) -> bool:
    return bool(rows) and rows[0].position == position


def _dated(row: ParsedFill, position: Position) -> Offer:
    at = position.timestamp if row.position is None else row.position.timestamp
    return row.offer._replace(timestamp=at)


def rows_before(rows: Sequence[ParsedFill], end: int) -> Sequence[ParsedFill]:
    """The page's rows up to the first one from second `end` on."""
    for number, row in enumerate(rows):
        if row.position is not None and row.position.timestamp >= end:
            return rows[:number]
    return rows


def rows_to_skip(places: Sequence[Position | None], last: Position, skipped: int) -> int:
    """How many rows of its second stand before `last`, the furthest of these places; `skipped`: before the page."""
    first = next(number for number, place in enumerate(places) if place and place.timestamp == last.timestamp)
    until = max(number for number, place in enumerate(places) if place == last)
    return until - first + (0 if first else skipped)


class SubgraphStation:
    """One worker's connection."""

    def __init__(self, settings: Settings, limit: RateLimit, spacing: Spacing, clock: Callable[[], float]) -> None:
        self._spacing = spacing
        self._has_turn = False
        self._source = open_source(settings, limit)
        self.host = self._source.host
        self._goldsky = Goldsky(self._source, SCHEMAS[settings.goldsky_schema])
        self._size = PageSize(settings.goldsky_page_size)
        self._clock = clock

    def wait_s(self) -> float:
        if not self._has_turn and (wait_s := self._spacing.take_s(time.monotonic())):
            return wait_s
        wait_s = self._source.take_turn_s()
        self._has_turn = wait_s > 0  # kept until the limit allows it
        return wait_s

    def open(self, slice_: Slice) -> SubgraphReader:
        return SubgraphReader(self._goldsky, self._size, slice_, self._clock)

    def close(self) -> None:
        self._source.close()


class Subgraph:
    """The source: see Source."""

    name = SOURCE
    unit = "seconds"
    first_width = 600
    most_width = 30 * 86_400

    def __init__(self, settings: Settings, queue: RedisQueue, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._queue = queue
        self._clock = clock
        self._limit = RateLimit(settings.backfill_requests_per_10s)
        self._spacing = Spacing(settings.backfill_requests_per_10s)

    def bounds(self, begin: int, end: int) -> Bounds:
        begin = max(begin, FIRST_FILL)
        wanted = min(end, self._settings.cutover_timestamp + 1)
        end = min(wanted, self._live_floor())
        notes = []
        if begin < wanted and end < wanted:
            notes.append(f"fills from {iso(end)} on are goldsky_ingester's, which reads them by itself")
        if begin < end and (head := self._head_s()) is not None and head + 1 < end:
            end = max(begin, head + 1)
            notes.append(f"the subgraph has got as far as {iso(head)}; for the rest, later: --from {iso(end)}")
        return Bounds(begin, end, begin, end, "; ".join(notes))

    def _head_s(self) -> int | None:
        """The second that the subgraph has read the chain up to; None where it does not say."""
        with closing(open_source(self._settings, self._limit)) as source:
            meta = Goldsky(source, SCHEMAS[self._settings.goldsky_schema]).meta()
        return None if meta is None else meta.timestamp

    def _live_floor(self) -> int:
        """The second from which on the live ingester publishes: see publish_new.lua."""
        window = window_s(self._settings)
        cursor = read_position(self._queue, SOURCE)
        return self._claim(window) if cursor is None else cursor.timestamp - window

    def _claim(self, window: int) -> int:
        """The live ingester has published nothing yet: it will begin where it has begun to look, or would begin now."""
        now = Beginning(start_in_subgraph(self._settings, self._clock()))
        start = read_beginning(self._queue, SOURCE, now).timestamp
        if not claim_start(self._queue, self._queue.cursor_keys(SOURCE)[0], start + window):
            return self._live_floor()  # it has published just now
        note_beginning(self._queue, SOURCE, Beginning(start))
        return start

    def known_between(self, clickhouse: ClickHouse, first: int, last: int) -> set[str]:
        return stored_ids(clickhouse, first, last)

    def station(self) -> SubgraphStation:
        return SubgraphStation(self._settings, self._limit, self._spacing, self._clock)

    def close(self) -> None:
        """Stations have the connections."""
