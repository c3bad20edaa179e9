"""After a loss of markets in ClickHouse: published and written again from Gamma, by the running ingester and writer."""

import threading
from typing import Any, Self

import pytest

from common.errors import ConfigError
from common.redis_queue import Offer
from common.runtime import Context
from ingesters.polymarket_ingester import build
from processors import rebuild_markets
from processors.rebuild_markets import DONE, INTERRUPTED, Progress, forget_published, make_tables, run
from tests.builders import Pipeline
from tests.integration.ingesting import LOG, upstream
from tests.integration.test_parallel_sweep import mostly_closed
from tests.integration.test_polymarket_ingester import is_swept
from tests.pipelines import pipeline, pipeline_settings
from tests.waiting import wait_until

__all__ = ["pipeline", "pipeline_settings"]

COUNT = 1200


class Running:
    """An ingester and a writer in threads of their own, until the test ends."""

    def __init__(self, pipeline: Pipeline, url: str) -> None:
        changes = {"polymarket_api_url": url, "polymarket_poll_interval": 0.2, "polymarket_requests_per_10s": 10_000}
        settings = pipeline.settings.model_copy(update=changes)
        self.ingester = build(Context(settings, pipeline.new_queue(), LOG, lambda: False))
        self.writer = pipeline.writer()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._turn, args=[stage]) for stage in (self.ingester, self.writer)]

    def _turn(self, stage: Any) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(min(0.05, stage.step()))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        self.ingester.close()
        self.writer.close()


def stored(pipeline: Pipeline, table: str = "markets", column: str = "id") -> set[str]:
    rows = pipeline.clickhouse.query(f"SELECT DISTINCT {column} FROM {pipeline.clickhouse.database}.{table}")
    return {value for (value,) in rows}


def rebuild(pipeline: Pipeline, said: list[str], **options: bool) -> int:
    return run(pipeline.settings, pipeline.queue, pipeline.clickhouse, said.append, **options)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(rebuild_markets, "POLL_S", 0.05)
    return []


@pytest.mark.parametrize("loss", ["DROP TABLE {d}.markets", "TRUNCATE TABLE {d}.markets"])
def test_lost_markets_come_back_with_their_tokens(pipeline: Pipeline, said: list[str], loss: str) -> None:
    gamma, database = mostly_closed(COUNT), pipeline.clickhouse.database
    listed = set(map(str, gamma.markets))
    tokens = {f"{number}{place}" for number in listed for place in ("01", "02")}
    with upstream(gamma) as url:
        with Running(pipeline, url) as running:
            wait_until(lambda: is_swept(running.ingester) and stored(pipeline) == listed, "every market is written")
        pipeline.clickhouse.command(loss.format(d=database))
        pipeline.clickhouse.command(f"TRUNCATE TABLE {database}.market_tokens")
        with Running(pipeline, url):
            assert rebuild(pipeline, said) == DONE
    assert stored(pipeline) == listed
    assert stored(pipeline, "market_tokens", "token_id") == tokens
    assert (f"made {database}.markets" in said) is loss.startswith("DROP")
    assert said[-1].startswith(f"{len(listed):,} markets in the table")


def test_new_markets_reach_market_tokens_after_the_table_was_made_again(pipeline: Pipeline) -> None:
    database = pipeline.clickhouse.database
    for table in ("markets", "market_tokens"):
        pipeline.clickhouse.command(f"DROP TABLE {database}.{table}")
        assert make_tables(pipeline.clickhouse) == [table]
        pipeline.add_markets([len(table)])
        writer = pipeline.writer()
        wait_until(lambda: writer.step() >= 0 and pipeline.pending(pipeline.markets) == 0, "it is read")  # noqa: B023
        wait_until(lambda: writer.step() >= 0 and pipeline.count("market_tokens") > 0, "its tokens are kept")  # noqa: B023
        writer.drain()
        writer.close()
    assert make_tables(pipeline.clickhouse) == []
    assert pipeline.count("market_tokens", "uniqExact(market_id)") == 2


def test_everything_is_forgotten_but_the_dead_letters_of_records_without_an_id(pipeline: Pipeline) -> None:
    queue = pipeline.queue

    def push(*offers: Offer) -> tuple[int, int, int]:
        return queue.push_changed(pipeline.markets, offers, source="polymarket", state={"polymarket_cursor": "x"})

    offers = [Offer(str(number), b"1", version="a") for number in (5, 1_000, 90_000)]
    faulty = Offer("fault:00", b"?", version="b", fault="id: missing")
    assert push(*offers, faulty) == (3, 1, 0)
    assert push(*offers, faulty) == (0, 0, 4)
    forget_published(queue)
    assert queue.call("EXISTS", queue.keys.state("polymarket_cursor")) == 0
    assert push(*offers, faulty) == (3, 0, 1)


def test_without_an_ingester_it_says_so_and_ctrl_c_leaves_the_rest_to_it(
    pipeline: Pipeline, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("processors.rebuild_markets.time.sleep", interrupted)
    assert rebuild(pipeline, said) == INTERRUPTED
    assert "polymarket_ingester does not run: start it" in said[-2]
    assert said[-1].startswith("it goes on without this command")


def test_watching_changes_nothing(pipeline: Pipeline, said: list[str]) -> None:
    cursor = "listing=markets/keyset sweep=2 closed=true after=x"
    pipeline.queue.call("SET", pipeline.queue.keys.state("polymarket_cursor"), cursor)
    assert rebuild(pipeline, said, is_watching=True) == DONE
    assert pipeline.queue.call("GET", pipeline.queue.keys.state("polymarket_cursor")) == cursor.encode()


def test_the_other_modes_data_is_left_alone(pipeline: Pipeline, said: list[str]) -> None:
    pipeline.queue.call("SET", pipeline.queue.keys.state("mode"), "demo")
    with pytest.raises(ConfigError, match="PIPELINE_MODE"):
        rebuild(pipeline, said)


@pytest.mark.parametrize(
    ("cursor", "is_read"),
    [
        ("", False),
        ("listing=markets/keyset sweep=1 closed=false after=x", False),
        ("listing=markets/keyset sweep=1 closed=false after=x closed=true done", False),
        ("listing=markets/keyset sweep=1 closed=true after=x ids=5-9", False),
        ("listing=markets/keyset sweep=1 closed=true done", True),
        ("listing=markets/keyset sweep=2 closed=true after=x", True),
    ],
)
def test_all_is_read_once_the_first_sweep_is_over(cursor: str, is_read: bool) -> None:  # noqa: FBT001
    assert Progress(cursor, 1, 0, 1).is_read is is_read
