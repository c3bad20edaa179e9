"""A backfill's way through the chain: blocks, in slices that are read in their order, final ones alone."""

import logging
import time
from collections.abc import Callable, Sequence

from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import Unavailable
from common.http import RateLimit
from common.progress import DONE, Portion, Slice
from common.redis_queue import RedisQueue
from common.state import claim_start, read_height
from ingesters.backfill_known import stored_contents
from ingesters.backfill_source import Bounds
from ingesters.block_search import Search
from ingesters.first_start import Beginning, note_beginning, read_beginning
from ingesters.polygon import Polygon
from ingesters.polygon_ingester import ParsedLog, open_polygon, parse_page, provider_urls, slices
from ingesters.polygon_window import SOURCE, settle_older_state, window_blocks
from ingesters.provider import Head
from ingesters.start import start_on_chain

MOST_BLOCKS = 100  # a request; some 8,000 fills, 40 MB in memory: more at once would not be faster


class ChainReader:
    """One slice of the chain. A provider is asked only once it has the slice's last block."""

    def __init__(self, polygon: Polygon, slice_: Slice, cutover_timestamp: int) -> None:
        self._polygon = polygon
        self._next = int(slice_.cursor)
        self._last = slice_.end - 1
        self._cutover_timestamp = cutover_timestamp
        self._time = cutover_timestamp  # of the last fill that told one, for faulty logs that don't

    def read(self) -> Sequence[Portion]:
        """See Reader. A page of many fills comes as several portions, each of whole blocks."""
        page = self._polygon.read(self._next, self._last, self._last)
        if page.last < self._next:
            raise Unavailable(f"no provider of Polygon has block {self._last} yet")
        parsed = parse_page(page, self._cutover_timestamp)
        portions = [self._portion(some, block) for some, block in slices(parsed, page.last)]
        self._next = page.last + 1
        return portions

    def _portion(self, logs: Sequence[ParsedLog], block: int) -> Portion:
        self._time = max([self._time, *(log.time for log in logs)])
        new = [log.offer._replace(timestamp=log.time) for log in logs if not log.offer.fault]
        faulty = [log.offer._replace(timestamp=self._time) for log in logs if log.offer.fault]
        return Portion(new, [], faulty, DONE if block >= self._last else str(block + 1))


class ChainStation:
    """One worker's connections, to all providers."""

    def __init__(self, polygon: Polygon, cutover_timestamp: int) -> None:
        self.wait_s = polygon.wait_s
        self.close = polygon.close
        self._polygon = polygon
        self._cutover_timestamp = cutover_timestamp

    def open(self, slice_: Slice) -> ChainReader:
        return ChainReader(self._polygon, slice_, self._cutover_timestamp)


class Chain:
    """The source: see Source."""

    name = SOURCE
    unit = "blocks"
    most_width = 1_000_000

    def __init__(self, settings: Settings, queue: RedisQueue, clock: Callable[[], float] = time.time) -> None:
        most_blocks = min(MOST_BLOCKS, settings.polygon_max_blocks)
        self._settings = settings.model_copy(update={"polygon_max_blocks": most_blocks})
        self._queue = queue
        self._clock = clock
        self.first_width = 4 * most_blocks
        self._limits = {url: RateLimit(settings.backfill_polygon_requests_per_10s) for url in provider_urls(settings)}
        self._polygon = self._open()
        self._head: Head | None = None
        self._claimed: Beginning | None = None
        self._searches: dict[int, Search] = {}  # by moment; they go on after an interruption

    def bounds(self, begin: int, end: int) -> Bounds:
        since = max(begin, self._settings.cutover_timestamp)
        if end <= since:
            return Bounds(0, 0, since, since)
        first, floor, wanted = self._block_of(since), self._live_floor(), self._block_of(end)
        if wanted <= floor and end <= self._newest().timestamp + 1:
            return Bounds(first, wanted, since, end)
        last = min(wanted, floor)
        note = f"fills from block {last} on are polygon_ingester's, which reads them by itself"
        until = self._polygon.block_time(last - 1) + 1 if first < last else since
        return Bounds(first, last, since, until, note)

    def _live_floor(self) -> int:
        """The block from which on the live ingester publishes: see publish_new.lua. It reads none before its first."""
        settle_older_state(self._queue, self._settings)
        window = window_blocks(self._settings)
        cursor = read_height(self._queue, SOURCE)
        if cursor is None:
            return self._claim(window)
        began = read_beginning(self._queue, SOURCE, Beginning(cursor.timestamp, cursor.block))
        return max(cursor.block - window, began.block if cursor.timestamp else 0)

    def _claim(self, window: int) -> int:
        """The live ingester has published nothing yet: it will begin where it has begun to look, or would begin now."""
        if self._claimed is None:  # the same after an interruption
            now = start_on_chain(self._settings, self._clock())
            self._claimed = read_beginning(self._queue, SOURCE, Beginning(now.moment, now.block or 0))
        block = self._claimed.block or self._block_of(self._claimed.timestamp)
        moment = self._claimed.timestamp or self._time_of(block)
        if not claim_start(self._queue, self._queue.height_keys(SOURCE)[0], block + window):
            return self._live_floor()  # it has published just now
        note_beginning(self._queue, SOURCE, Beginning(moment, block))
        return block

    def _time_of(self, block: int) -> int:
        if block <= self._settings.cutover_block:
            return self._settings.cutover_timestamp
        head = self._newest()
        return head.timestamp if block > head.number else self._polygon.block_time(block)

    def _block_of(self, moment: int) -> int:
        """The first block of a moment or later, never one before the cut-over's; one beyond the head at most."""
        search = self._searches.get(moment)
        if search is None:
            cutover = self._settings.cutover_block
            search = self._searches[moment] = Search(moment, cutover, max(cutover, self._newest().number + 1))
        while (found := search.found) is None:
            search = self._searches[moment] = search.narrowed(self._polygon.block_time(search.probe))
        return found

    def _newest(self) -> Head:
        """The newest final block when this began; later ones are the live ingester's."""
        if self._head is None:
            self._head = self._polygon.head()
        return self._head

    def known_between(self, clickhouse: ClickHouse, first: int, last: int) -> set[str]:
        return stored_contents(clickhouse, first, last)

    def station(self) -> ChainStation:
        return ChainStation(self._open(), self._settings.cutover_timestamp)

    def close(self) -> None:
        self._polygon.close()

    def _open(self) -> Polygon:
        return open_polygon(self._settings, logging.getLogger(__name__), self._clock, self._limits)
