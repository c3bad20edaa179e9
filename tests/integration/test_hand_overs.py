"""The three hand-overs together: from a source's pages to the tables, with everything done twice or cut short."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from common.errors import Unavailable
from common.records import OrderFilled, encode
from common.redis_queue import Offer, Position
from processors.clickhouse_writer import ClickHouseWriter
from processors.trade_processor import TradeProcessor
from tests.builders import Pipeline, make_fill, make_market, open_pipeline, own_name, settings_for
from tests.servers import ClickHouseServer, RedisServer
from tests.waiting import wait_until

Stage = TradeProcessor | ClickHouseWriter
PAGE = 20
LIMIT_S = 120.0
OVERLAP = 7  # rows of a page that the next one brings again


def pages(numbers: range) -> list[list[OrderFilled]]:
    fills = [make_fill(i) for i in numbers]
    return [fills[max(0, start - OVERLAP) : start + PAGE] for start in range(0, len(fills), PAGE)]


def publish(pipeline: Pipeline, page: Sequence[OrderFilled]) -> None:
    offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in page]
    position = Position(page[-1].timestamp, page[-1].id)
    pipeline.queue.push_batch(pipeline.events, offers, source="goldsky", position=position, window_s=60)


def settle(pipeline: Pipeline, stages: Sequence[Stage]) -> None:
    """Step the stages until every group has read and acknowledged everything; outages of others are sat out."""

    def advance() -> bool:
        for stage in stages:
            with suppress(Unavailable):
                stage.step()
        return pipeline.unfinished() == 0

    wait_until(advance, "everything is in the tables", LIMIT_S)


def assert_every_fill_once(pipeline: Pipeline, numbers: range) -> None:
    expected = sorted(make_fill(i).id for i in numbers)
    assert pipeline.ids("order_filled") == expected
    assert pipeline.ids("trades") == expected
    assert pipeline.dead(pipeline.events) == pipeline.dead(pipeline.trades) == []
    assert pipeline.pending(pipeline.events) == pipeline.pending(pipeline.trades) == 0


def test_pages_published_twice_and_out_of_order_arrive_once(pipeline: Pipeline) -> None:
    pipeline.add_markets(range(10))
    for i, page in enumerate(pages(range(300))):
        publish(pipeline, page)
        if i:
            publish(pipeline, pages(range(300))[i - 1])
    settle(pipeline, [pipeline.processor(), pipeline.writer()])
    assert_every_fill_once(pipeline, range(300))


def test_two_of_everything_share_the_work(pipeline: Pipeline) -> None:
    pipeline.add_markets(range(10))
    small = {"processor_batch_size": 25, "clickhouse_writer_max_batch_size": 40}
    builders: list[Callable[..., Stage]] = [pipeline.processor, pipeline.processor, pipeline.writer, pipeline.writer]
    stages = [build(**small) for build in builders]
    for page in pages(range(600)):
        publish(pipeline, page)
        publish(pipeline, page)
    settle(pipeline, stages)
    assert_every_fill_once(pipeline, range(600))
    assert all(stage.report()["records_out"] for stage in stages)


@pytest.mark.parametrize("seed", range(4))
def test_stages_that_die_at_random_lose_and_double_nothing(pipeline: Pipeline, seed: int) -> None:
    """A stage that dies is dropped where it stands, its lease runs out, and another one begins."""
    random = Random(seed)
    small = {"processor_batch_size": 10, "clickhouse_writer_max_batch_size": 15}
    builders: list[Callable[..., Stage]] = [pipeline.processor, pipeline.processor, pipeline.writer, pipeline.writer]
    stages: list[Stage] = [build(**small) for build in builders]
    todo = pages(range(400))
    while todo:
        if random.random() < 0.4:
            publish(pipeline, todo.pop(0))
        if len(todo) == 10:
            pipeline.add(pipeline.markets, *(encode(make_market(i)) for i in range(10)))
        place = random.randrange(len(stages))
        stages[place].step()
        if random.random() < 0.15:
            pipeline.queue.call("DEL", stages[place]._lease.key)
            stages[place] = builders[place](**small)
        for stage in stages:
            stage._next_care_at = 0.0
    settle(pipeline, stages)
    assert_every_fill_once(pipeline, range(400))


@pytest.mark.parametrize("seed", range(3))
def test_stages_that_are_paused_past_their_lease_lose_and_double_nothing(pipeline: Pipeline, seed: int) -> None:
    """Every stage goes on after its lease has run out, and finds out late."""
    random = Random(seed)
    small = {"processor_batch_size": 10, "clickhouse_writer_max_batch_size": 15}
    builders: list[Callable[..., Stage]] = [
        pipeline.processor,
        pipeline.processor,
        pipeline.writer,
        pipeline.writer,
        pipeline.writer,
    ]
    stages: list[Stage] = [build(**small) for build in builders]
    pipeline.add_markets(range(10))
    todo = pages(range(400))
    while todo:
        if random.random() < 0.4:
            publish(pipeline, todo.pop(0))
        stage = random.choice(stages)
        if random.random() < 0.1:
            pipeline.queue.call("DEL", stage._lease.key)
        if random.random() < 0.3:
            stage._next_care_at = 0.0
        stage.step()
    for stage in stages:
        stage._next_care_at = 0.0

    settle_with_care(pipeline, stages)
    assert_every_fill_once(pipeline, range(400))


def settle_with_care(pipeline: Pipeline, stages: Sequence[Stage]) -> None:
    def advance() -> bool:
        for stage in stages:
            stage._next_care_at = 0.0
            stage.step()
        return pipeline.unfinished() == 0

    wait_until(advance, "everything is in the tables", LIMIT_S)


class TestServersThatGo:
    """Both servers, taken away in turn."""

    @pytest.fixture
    def servers(self, tmp_path: Path) -> Iterator[tuple[Pipeline, RedisServer, ClickHouseServer]]:
        with (
            RedisServer(tmp_path / "r") as redis,
            ClickHouseServer(tmp_path / "c") as clickhouse,
            open_pipeline(settings_for(redis, clickhouse, own_name())) as pipeline,
        ):
            pipeline.make_tables()
            yield pipeline, redis, clickhouse

    def test_each_may_go_and_come_back_at_any_time(
        self, servers: tuple[Pipeline, RedisServer, ClickHouseServer]
    ) -> None:
        pipeline, redis, clickhouse = servers
        pipeline.add_markets(range(10))
        stages: list[Stage] = [pipeline.processor(), pipeline.writer()]
        for i, page in enumerate(pages(range(200))):
            publish(pipeline, page)
            if i == 3:
                clickhouse.kill()
            if i == 5:
                redis.restart()
            if i == 7:
                clickhouse.start()
            for stage in stages * 2:
                with suppress(Unavailable):
                    stage.step()
        settle(pipeline, stages)
        assert_every_fill_once(pipeline, range(200))
