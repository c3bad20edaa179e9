"""Every call of a short run fails once, before and after it takes effect; every fill still arrives once.

The process dies with the call, or only the call fails and the process goes on. Each run has streams of its own and
fills of its own; the tables are shared and compared at the end, id by id, as stored.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Protocol

import pytest

from common.config import Settings
from common.errors import Unavailable
from common.records import OrderFilled, encode, tokens_of
from common.redis_queue import Offer, Position, RedisQueue
from common.state import read_position
from common.tables import MARKETS
from processors.clickhouse_writer import ClickHouseWriter
from processors.trade_processor import TradeProcessor
from processors.trades import outcome_token, trade_of
from tests.builders import (
    Pipeline,
    make_fill,
    make_market,
    open_pipeline,
    own_name,
    remove_keys,
    settings_for,
    token_id,
)
from tests.sabotage import (
    FAILURES,
    Died,
    Failure,
    SabotagedQueue,
    Saboteur,
    every_call,
    sabotaged_processor,
    sabotaged_writer,
)
from tests.servers import ClickHouseServer, RedisServer

FILLS_A_RUN = 6
MOST_STEPS = 200
NEVER = 0  # the call that is never made
LISTED = [make_market(i) for i in range(10)]
TOKENS = {token: facts for market in LISTED for token, facts in tokens_of(market).items()}
NewRun = Callable[[int], Pipeline]

every_failure = pytest.mark.parametrize("failure", FAILURES, ids=str)


class Steps(Protocol):
    """A stage, as far as these tests are concerned."""

    def step(self) -> float: ...


@pytest.fixture
def base_settings(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
    """Return settings under which a step always has something due, and care is taken once a process."""
    return settings_for(
        redis_server,
        clickhouse_server,
        own_name(),
        clickhouse_writer_max_wait=1e-9,
        clickhouse_writer_max_batch_size=4,
        processor_batch_size=4,
        trim_interval_s=1000,
        lease_s=1000,
        unknown_token_recheck_s=1000,
    )


@pytest.fixture
def tables(base_settings: Settings) -> Iterator[Pipeline]:
    """Yield the pipeline that has the tables; its markets are there."""
    with open_pipeline(base_settings) as pipeline:
        pipeline.make_tables()
        pipeline.stop_merges("order_filled", "trades")
        pipeline.clickhouse.batch_insert(MARKETS, b"\n".join(encode(market) for market in LISTED), "markets")
        yield pipeline


@pytest.fixture
def new_run(base_settings: Settings) -> Iterator[NewRun]:
    """Return a function that makes the streams of run number n, with its fills on them."""
    opened: list[Pipeline] = []

    def new(number: int) -> Pipeline:
        pipeline = Pipeline(base_settings.model_copy(update={"key_prefix": f"{own_name()}:"}))
        opened.append(pipeline)
        pipeline.add(pipeline.events, *(encode(fill) for fill in fills_of(number)))
        return pipeline

    yield new
    for pipeline in opened:
        remove_keys(pipeline.queue)
        pipeline.close()


def fills_of(number: int) -> list[OrderFilled]:
    return [make_fill(i) for i in range(number * 10, number * 10 + FILLS_A_RUN)]


def late_fill(number: int) -> OrderFilled:
    """Return a fill of a market that is listed late."""
    return make_fill(number * 10 + FILLS_A_RUN, maker_asset_id="0", taker_asset_id=token_id(1000 + number))


def ids_of(fills: list[OrderFilled]) -> list[str]:
    return sorted(fill.id for fill in fills)


def live(build: Callable[[], Steps], is_done: Callable[[Pipeline], bool], pipeline: Pipeline) -> None:
    """Run a stage from its making until it is done or dead; when only a call fails, it goes on."""
    stage: Steps | None = None
    with suppress(Died):
        for _ in range(MOST_STEPS):
            with suppress(Unavailable):
                stage = stage or build()
                stage.step()
                if is_done(pipeline):
                    return
        raise AssertionError(f"not done after {MOST_STEPS} steps")


def left(pipeline: Pipeline, stream: str, group: str) -> int | None:
    """Return how many entries a group still has to finish; None before it is made."""
    for info in pipeline.queue.stream_info(stream).groups:
        if info.name == group:
            return info.pending + (info.lag or 0)
    return None


def processors_left(pipeline: Pipeline) -> int | None:
    return left(pipeline, pipeline.events, pipeline.settings.group_events_processors)


def only_the_late_one_is_left(pipeline: Pipeline) -> bool:
    return processors_left(pipeline) == 1


def is_written(pipeline: Pipeline) -> bool:
    """Whether the writers have finished fills and trades."""
    settings = pipeline.settings
    of_events = left(pipeline, pipeline.events, settings.group_order_events_writers)
    return of_events == left(pipeline, pipeline.trades, settings.group_trades_writers) == 0


def process_in_peace(pipeline: Pipeline, number: int) -> None:
    """Let a healthy processor do what is left, once the late market is listed."""
    pipeline.expire_leases()
    pipeline.add(pipeline.markets, encode(make_market(1000 + number)))
    live(pipeline.processor, lambda pipeline: processors_left(pipeline) == 0, pipeline)


def write_in_peace(pipeline: Pipeline) -> None:
    """Let a healthy writer do what is left."""
    pipeline.expire_leases()
    live(partial(sabotaged_writer, pipeline, Saboteur(FAILURES[0], NEVER)), is_written, pipeline)


def add_trades(pipeline: Pipeline, number: int) -> None:
    trades = [trade_of(fill, TOKENS[outcome_token(fill)]) for fill in fills_of(number)]
    pipeline.add(pipeline.trades, *(encode(trade) for trade in trades))


def made_trades(pipeline: Pipeline) -> list[str]:
    return sorted(row.split(b'"id":"')[1].split(b'"')[0].decode() for row in pipeline.rows(pipeline.trades))


def assert_nothing_is_left(pipeline: Pipeline) -> None:
    assert pipeline.pending(pipeline.events) == pipeline.pending(pipeline.trades) == 0
    assert pipeline.dead(pipeline.events) == pipeline.dead(pipeline.trades) == []
    assert not pipeline.queue.call("KEYS", pipeline.queue.keys.manifests("*"))
    assert pipeline.queue.lost_entries() == 0


def assert_every_row_once(tables: Pipeline, runs: int) -> None:
    expected = ids_of([fill for number in range(runs) for fill in fills_of(number)])
    assert runs > FILLS_A_RUN, "hardly any calls were made"
    assert tables.ids("order_filled") == expected
    assert tables.ids("trades") == expected


class Publisher:
    """An ingester at its barest: what comes after the cursor is published, page by page, without any overlap."""

    def __init__(self, pipeline: Pipeline, queue: RedisQueue, fills: list[OrderFilled]) -> None:
        self._stream = pipeline.events
        self._queue = queue
        self._fills = fills

    def step(self) -> float:
        cursor = read_position(self._queue, "goldsky") or Position(-1, "")
        page = [fill for fill in self._fills if (fill.timestamp, fill.id) > cursor][:2]
        if page:
            offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in page]
            position = Position(page[-1].timestamp, page[-1].id)
            self._queue.push_batch(self._stream, offers, source="goldsky", position=position, window_s=60)
        return 0.0


def is_published(pipeline: Pipeline) -> bool:
    """Whether an ingester would say that it has caught up."""
    last = fills_of(0)[-1]
    return read_position(pipeline.queue, "goldsky") == Position(last.timestamp, last.id)


@every_failure
def test_every_fill_is_published_once_wherever_the_push_fails(base_settings: Settings, failure: Failure) -> None:
    for number, saboteur in enumerate(every_call(failure)):
        with open_pipeline(base_settings.model_copy(update={"key_prefix": f"{own_name()}:"})) as pipeline:
            queue = SabotagedQueue(pipeline.settings)
            queue.saboteur = saboteur
            live(partial(Publisher, pipeline, queue, fills_of(0)), is_published, pipeline)
            live(partial(Publisher, pipeline, pipeline.queue, fills_of(0)), is_published, pipeline)
            assert pipeline.rows(pipeline.events) == [encode(fill) for fill in fills_of(0)], f"call {number + 1}"
            queue.close()


@every_failure
@pytest.mark.usefixtures("tables")
def test_every_trade_is_made_once_wherever_the_processor_fails(new_run: NewRun, failure: Failure) -> None:
    for number, saboteur in enumerate(every_call(failure)):
        pipeline = new_run(number)
        pipeline.add(pipeline.events, encode(late_fill(number)))
        live(partial(sabotaged_processor, pipeline, saboteur), only_the_late_one_is_left, pipeline)
        process_in_peace(pipeline, number)
        assert made_trades(pipeline) == ids_of([*fills_of(number), late_fill(number)]), f"call {number + 1}"
        assert_nothing_is_left(pipeline)


@every_failure
@pytest.mark.usefixtures("tables")
def test_every_trade_is_made_once_wherever_the_processor_that_takes_over_fails(
    new_run: NewRun, failure: Failure
) -> None:
    """The first processor dies with fills in hand, and its name is taken: its entries have to be claimed."""
    for number, saboteur in enumerate(every_call(failure)):
        pipeline = new_run(number)
        pipeline.add(pipeline.events, encode(late_fill(number)))
        dead = pipeline.processor()
        dead._read()
        live(partial(processor_in_place_of, pipeline, saboteur, dead), only_the_late_one_is_left, pipeline)
        process_in_peace(pipeline, number)
        assert made_trades(pipeline) == ids_of([*fills_of(number), late_fill(number)]), f"call {number + 1}"
        assert_nothing_is_left(pipeline)


def processor_in_place_of(pipeline: Pipeline, saboteur: Saboteur, dead: TradeProcessor) -> Steps:
    """Return a processor under another name than the dead one's, whose lease then runs out."""
    processor = sabotaged_processor(pipeline, saboteur)
    pipeline.queue.call("DEL", dead._lease.key)
    return processor


@every_failure
def test_every_row_lands_once_wherever_the_writer_fails(tables: Pipeline, new_run: NewRun, failure: Failure) -> None:
    runs = 0
    for saboteur in every_call(failure):
        pipeline = new_run(runs)
        add_trades(pipeline, runs)
        live(partial(sabotaged_writer, pipeline, saboteur), is_written, pipeline)
        write_in_peace(pipeline)
        assert_nothing_is_left(pipeline)
        runs += 1
    assert_every_row_once(tables, runs)


@every_failure
def test_every_row_lands_once_wherever_the_writer_that_takes_over_fails(
    tables: Pipeline, new_run: NewRun, failure: Failure
) -> None:
    """The first writer dies when ClickHouse has its batches and Redis does not know."""
    runs = 0
    for saboteur in every_call(failure):
        pipeline = new_run(runs)
        add_trades(pipeline, runs)
        dead = sabotaged_writer(pipeline, Saboteur(failure, NEVER))
        dead.step()
        live(partial(writer_in_place_of, pipeline, saboteur, dead), is_written, pipeline)
        write_in_peace(pipeline)
        assert_nothing_is_left(pipeline)
        runs += 1
    assert_every_row_once(tables, runs)


def writer_in_place_of(pipeline: Pipeline, saboteur: Saboteur, dead: ClickHouseWriter) -> Steps:
    """Return a writer under another name than the dead one's, whose lease then runs out."""
    writer = sabotaged_writer(pipeline, saboteur)
    pipeline.queue.call("DEL", dead._lease.key)
    return writer
