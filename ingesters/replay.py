"""Dead letters that an ingester wrote, parsed again as it would parse them now, and published if it has not done so.

`processors.dead_letters replay` runs it as a process of its own: see common/helper_process.py. Nobody else does.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from common.clickhouse import ClickHouse
from common.config import Settings, load_settings
from common.dead_letters import (
    DeadLetter,
    InClickHouse,
    Replayed,
    Window,
    discard_dead_letters,
    page_of_dead_letters,
    replay_fill,
    replay_market,
)
from common.errors import ConfigError, PipelineError, Unavailable
from common.helper_process import Answer, ReplayedLetter, ReplayRequest, serve
from common.keys import Route
from common.leases import Lease, take_lease
from common.progress import DONE, Portion
from common.redis_queue import Offer, RedisQueue
from common.state import check_mode, read_state
from ingesters import goldsky_ingester, market_publisher, polygon_ingester
from ingesters.backfill_known import Barrier, Known, stored_contents, stored_ids, without_known
from ingesters.backfill_run import RENEWALS, Keeper
from ingesters.fill_identity import identity_of, places_of
from ingesters.fill_parser import SCHEMAS
from ingesters.log_decoder import has_time
from ingesters.market_parser import offer_faulty, offer_market
from ingesters.polygon import AskAgain, Page, Polygon
from ingesters.polygon_window import SOURCE as POLYGON
from ingesters.polygon_window import settle_older_state, window_blocks
from ingesters.provider import Head, Log, log_of

BARRIER_S = 60.0  # the longest wait for the writers
LOOK_S = 0.2  # between two looks at them
OTHER_SIDE = "it lies on the other source's side of the cut-over"
TAKEN_BACK_OR_OTHER_SIDE = f"a reorganisation took the log back, or {OTHER_SIDE}"
KNOWN = "published meanwhile"
EVENT = "event: "  # how the reasons of those letters begin that are an event and not a market


class Stays(PipelineError):
    """The letter can't be replayed now; the text says why."""


class Parsed(NamedTuple):
    """A letter that can be read by now."""

    letter: DeadLetter
    offer: Offer
    time: int = 0  # fills: Unix seconds of the event
    log_index: int = 0  # of a log


class Refused(NamedTuple):
    """A letter that still can't be read, or that holds nothing that the pipeline wants."""

    letter: DeadLetter
    text: str  # why
    is_unwanted: bool = False


Parse = Callable[[Sequence[DeadLetter]], list[Parsed | Refused]]


class Replayer(Protocol):
    """One source's letters."""

    def replay(self, stream: str, letters: Sequence[DeadLetter], *, dry_run: bool) -> Iterator[ReplayedLetter]:
        """What becomes of each. Raises Unavailable."""

    def close(self) -> None:
        """Let go of leases and connections."""


# --- parsing ---------------------------------------------------------------------------------------------------------


def parse_rows(settings: Settings, letters: Sequence[DeadLetter]) -> list[Parsed | Refused]:
    """Rows of the subgraph."""
    parse, now = SCHEMAS[settings.goldsky_schema].parse, time.time()
    return [_row(letter, goldsky_ingester.offer_fill(letter.data, now, parse).offer, settings) for letter in letters]


def _row(letter: DeadLetter, offer: Offer, settings: Settings) -> Parsed | Refused:
    if offer.fault:
        return Refused(letter, offer.fault)
    if offer.timestamp > settings.cutover_timestamp:
        return Refused(letter, OTHER_SIDE, is_unwanted=True)
    return Parsed(letter, offer, offer.timestamp)


class LogParser:
    """Logs of the chain. Where a log does not tell its time, a provider is asked for the block's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._polygon: Polygon | None = None
        self._times: dict[int, int] = {}  # of blocks that were asked for

    def __call__(self, letters: Sequence[DeadLetter]) -> list[Parsed | Refused]:
        """All of them as one page, like the answer that they came in."""
        logs = [log_of(letter.data) for letter in letters]
        untimed = {log.block: self._trouble_with_time(log) for log in logs if log.block is not None}
        page = Page(0, 0, Head(0, 0), logs, self._times)
        return _with_places(
            Refused(letter, untimed[log.block]) if log.block and untimed[log.block] else self._parsed(letter, log, page)
            for letter, log in zip(letters, logs, strict=True)
        )

    def close(self) -> None:
        if self._polygon is not None:
            self._polygon.close()

    def _parsed(self, letter: DeadLetter, log: Log, page: Page) -> Parsed | Refused:
        if log.block is not None and log.block < self._settings.cutover_block:
            return Refused(letter, OTHER_SIDE, is_unwanted=True)
        found = polygon_ingester.parse_log(log, page, self._settings.cutover_timestamp)
        if found is None:
            return Refused(letter, TAKEN_BACK_OR_OTHER_SIDE, is_unwanted=True)
        if found.offer.fault:
            return Refused(letter, found.offer.fault)
        return Parsed(letter, found.offer, found.time, found.log_index)

    def _trouble_with_time(self, log: Log) -> str:
        """Why the time of the log's block is not known; empty once it is, or the log tells it."""
        assert log.block is not None
        if has_time(log.fields) or log.block in self._times or log.block < self._settings.cutover_block:
            return ""
        try:
            self._times[log.block] = self._block_time(log.block)
        except Unavailable as error:
            return f"the time of block {log.block} could not be looked up: {error.reason}"
        return ""

    def _block_time(self, block: int) -> int:
        """Raises Unavailable. The head is asked for first, which shows that the provider serves this chain."""
        if self._polygon is None:
            self._polygon = polygon_ingester.open_polygon(self._settings, logging.getLogger(__name__), time.time)
        while True:
            time.sleep(self._polygon.wait_s())
            try:
                self._polygon.head()
                return self._polygon.block_time(block)
            except AskAgain:
                continue


def _with_places(found: Iterable[Parsed | Refused]) -> list[Parsed | Refused]:
    """Tell equal fills of one transaction apart, whose letters came together: see `fill_identity`."""
    results = list(found)
    places = places_of((each.offer.identity, each.log_index) for each in results if isinstance(each, Parsed))

    def placed(parsed: Parsed) -> Parsed:
        place = places[parsed.offer.identity, parsed.log_index]
        return parsed._replace(offer=parsed.offer._replace(identity=identity_of(parsed.offer.identity, place)))

    return [placed(each) if isinstance(each, Parsed) else each for each in results]


# --- fills -----------------------------------------------------------------------------------------------------------


class History:
    """Whether ClickHouse has a source's fills from below its floor, while no backfill of the source can publish."""

    def __init__(
        self, queue: RedisQueue, clickhouse: ClickHouse, settings: Settings, source: str, known_between: Known
    ) -> None:
        self._known_between = known_between
        self._queue = queue
        self._clickhouse = clickhouse
        self._settings = settings
        self._source = source
        self._closing = ExitStack()
        self._lease: Lease | None = None
        self._floor = -1
        self._published: set[str] = set()  # by us, since the barrier; on their way to ClickHouse
        self._trouble = ""

    def close(self) -> None:
        self._closing.close()

    def look_for(self, stream: str, parsed: Parsed, *, dry_run: bool) -> InClickHouse:
        """Raises Stays, Unavailable."""
        offer = parsed.offer
        if not dry_run:
            self._be_sure(stream, offer.timestamp)
        dated = offer._replace(timestamp=parsed.time)
        is_known = bool(without_known(self._clickhouse, Portion([dated], [], [], DONE), self._known_between).known)
        holder = self._lease.holder if self._lease else ""
        return InClickHouse(is_known or offer.identity in self._published, holder, self._floor)

    def note_published(self, parsed: Parsed) -> None:
        self._published.add(parsed.offer.identity)

    def _be_sure(self, stream: str, place: int) -> None:
        """From here on, what was published from below `place` is in ClickHouse, or known to us."""
        if self._trouble:
            raise Stays(self._trouble)
        if self._lease is None:
            self._hold()
        if place < self._floor:
            return
        floor = int(read_state(self._queue, f"{self._source}_floor") or -1)
        self._wait_for_writers(stream)
        self._floor = max(floor, place + 1)

    def _hold(self) -> None:
        lease = take_lease(self._queue, f"backfill_{self._source}", self._settings.lease_s)
        if lease is None:
            raise Stays(f"a backfill of {self._source} is running; replay it again afterwards")
        self._lease = lease
        self._closing.enter_context(closing(Keeper(lease, self._settings.lease_s / RENEWALS)))

    def _wait_for_writers(self, stream: str) -> None:
        barrier = Barrier(self._queue, Route(stream, self._settings.group_order_events_writers))
        until = time.monotonic() + BARRIER_S
        while reason := barrier.obstacle():
            if time.monotonic() > until:
                self._trouble = f"not replayed: {reason}"  # said of the others at once
                raise Stays(self._trouble)
            time.sleep(LOOK_S)


class FillReplayer:
    """Letters of a source of fills."""

    def __init__(
        self,
        queue: RedisQueue,
        window: Window,
        history: History,
        parse: Parse,
        close: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._window = window
        self._history = history
        self._parse = parse
        self._close_parser = close

    def replay(self, stream: str, letters: Sequence[DeadLetter], *, dry_run: bool) -> Iterator[ReplayedLetter]:
        for parsed in self._parse(letters):
            if isinstance(parsed, Refused):
                yield _not_published(self._queue, stream, parsed, dry_run=dry_run)
            else:
                yield self._publish(stream, parsed, dry_run=dry_run)

    def close(self) -> None:
        self._history.close()
        self._close_parser()

    def _publish(self, stream: str, parsed: Parsed, *, dry_run: bool) -> ReplayedLetter:
        move = partial(
            replay_fill,
            self._queue,
            stream,
            parsed.letter.id,
            parsed.offer,
            window=self._window,
            dry_run=dry_run,
        )
        outcome = move()
        if outcome == "older":
            try:
                older = self._history.look_for(stream, parsed, dry_run=dry_run)
            except Stays as error:
                return ReplayedLetter(parsed.letter.id, "stays", str(error))
            outcome = move(older=older)
            if outcome == "published":
                self._history.note_published(parsed)
        return _told(parsed.letter, outcome)


# --- markets ---------------------------------------------------------------------------------------------------------


class MarketReplayer:
    """Gamma's letters.

    A letter has the market's bytes alone: of one that came nested in an event, the event's fields and tags are missing
    until the next sweep lists it, which publishes it again with them.
    """

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue

    def replay(self, stream: str, letters: Sequence[DeadLetter], *, dry_run: bool) -> Iterator[ReplayedLetter]:
        for letter in letters:
            parsed = _parsed_market(letter)
            if isinstance(parsed, Refused):
                yield _not_published(self._queue, stream, parsed, dry_run=dry_run)
                continue
            source, fault = market_publisher.SOURCE, offer_faulty("", b"", letter.reason).version
            outcome = replay_market(
                self._queue, stream, letter.id, parsed.offer, source=source, fault=fault, dry_run=dry_run
            )
            yield _told(letter, outcome)

    def close(self) -> None:
        """Nothing is held."""


def _parsed_market(letter: DeadLetter) -> Parsed | Refused:
    if letter.reason.startswith(EVENT):
        return Refused(letter, "these are the bytes of an event with its markets; the next sweep reads it again")
    offer = offer_market(letter.data, listed_at=int(letter.id.split("-", 1)[0]) // 1000).offer
    return Refused(letter, offer.fault) if offer.fault else Parsed(letter, offer)


# --- the process -----------------------------------------------------------------------------------------------------


def _not_published(queue: RedisQueue, stream: str, parsed: Refused, *, dry_run: bool) -> ReplayedLetter:
    letter_id = parsed.letter.id
    if not parsed.is_unwanted:
        return ReplayedLetter(letter_id, "stays", f"still can't be read: {parsed.text}")
    if not dry_run and not discard_dead_letters(queue, stream, [letter_id]):
        return ReplayedLetter(letter_id, "gone")
    return ReplayedLetter(letter_id, "dropped", parsed.text)


def _told(letter: DeadLetter, outcome: Replayed) -> ReplayedLetter:
    if outcome == "older":
        return ReplayedLetter(letter.id, "stays", "another process took the lease on backfills; replay it again")
    if outcome == "known":
        return ReplayedLetter(letter.id, "dropped", KNOWN)
    return ReplayedLetter(letter.id, outcome)


class Replayers:
    """One for each source, made when it is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue = RedisQueue(settings)
        self._clickhouse = ClickHouse(settings)
        self._made: dict[str, Replayer] = {}

    def check_mode(self) -> None:
        """Raises ConfigError for another mode's data, Unavailable."""
        check_mode(self._queue, self._settings.pipeline_mode)

    def answer(self, line: bytes) -> list[ReplayedLetter]:
        request = msgspec.json.decode(line, type=ReplayRequest)
        found: list[ReplayedLetter] = []
        by_source: dict[str, list[DeadLetter]] = {}
        for letter_id in request.ids:
            letters = page_of_dead_letters(self._queue, request.stream, letter_id, letter_id, 1)
            found += [] if letters else [ReplayedLetter(letter_id, "gone")]
            for letter in letters:
                by_source.setdefault(letter.source_stream, []).append(letter)
        for source, letters in by_source.items():
            found += self._replayer(source).replay(request.stream, letters, dry_run=request.dry_run)
        return found

    def close(self) -> None:
        for replayer in self._made.values():
            replayer.close()
        self._queue.close()
        self._clickhouse.close()

    def _replayer(self, source: str) -> Replayer:
        if source not in self._made:
            self._made[source] = self._new(source)
        return self._made[source]

    def _new(self, source: str) -> Replayer:
        queue, settings = self._queue, self._settings
        if source == market_publisher.SOURCE:
            return MarketReplayer(queue)
        if source == goldsky_ingester.SOURCE:
            history = History(queue, self._clickhouse, settings, source, stored_ids)
            window = Window(source, queue.cursor_keys(source)[0], goldsky_ingester.window_s(settings))
            return FillReplayer(queue, window, history, lambda letters: parse_rows(settings, letters), lambda: None)
        if source == POLYGON:
            settle_older_state(queue, settings)
            history = History(queue, self._clickhouse, settings, source, stored_contents)
            window = Window(source, queue.height_keys(source)[0], window_blocks(settings))
            parser = LogParser(settings)
            return FillReplayer(queue, window, history, parser, parser.close)
        raise ConfigError(f"no source of this pipeline is called {source!r}")


@contextmanager
def opened() -> Iterator[Answer]:
    """What answers requests. Raises ConfigError."""
    settings = load_settings()
    with closing(Replayers(settings)) as replayers:
        replayers.check_mode()
        yield replayers.answer


if __name__ == "__main__":
    raise SystemExit(serve(opened))
