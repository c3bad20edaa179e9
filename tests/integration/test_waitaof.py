"""REDIS_WAITAOF_S: nothing is sent to ClickHouse that Redis could still forget."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import ConfigError, Unavailable
from processors.clickhouse_writer import ClickHouseWriter
from tests.builders import Pipeline, open_pipeline, own_name, settings_for
from tests.servers import ClickHouseServer, RedisServer
from tests.waiting import wait_until

WAIT_S = 0.2


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a Redis whose settings a test may change."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def pipeline(own_redis: RedisServer, clickhouse_server: ClickHouseServer) -> Iterator[Pipeline]:
    settings = settings_for(own_redis, clickhouse_server, own_name())
    settings = settings.model_copy(update={"redis_waitaof_s": WAIT_S, "clickhouse_writer_max_wait": 0.01})
    with open_pipeline(settings) as pipeline:
        pipeline.make_tables()
        yield pipeline


def sends(writer: ClickHouseWriter) -> None:
    """Step until the writer has fixed a batch; what stops it comes out."""
    wait_until(lambda: writer.step() < 0, "a batch is due and stops the writer")


def rows(pipeline: Pipeline) -> int:
    return len(pipeline.ids("order_filled"))


def stores(pipeline: Pipeline, writer: ClickHouseWriter) -> None:
    """Step until the fill is in its table. A disk that is slow to sync is waited for, as a process would."""

    def is_stored() -> bool:
        with suppress(Unavailable):
            writer.step()
        return rows(pipeline) == 1

    wait_until(is_stored, "the fill is in its table")


@pytest.mark.parametrize("policy", ["everysec", "always"])
def test_a_batch_is_sent_once_its_manifest_is_on_disk(pipeline: Pipeline, policy: str) -> None:
    pipeline.queue.call("CONFIG", "SET", "appendfsync", policy)
    pipeline.add_fills(range(1))
    writer = pipeline.writer(redis_waitaof_s=5)
    stores(pipeline, writer)
    writer.close()


def test_while_redis_does_not_sync_nothing_is_sent(pipeline: Pipeline) -> None:
    pipeline.queue.call("CONFIG", "SET", "appendfsync", "no")
    pipeline.add_fills(range(1))
    writer = pipeline.writer()
    with pytest.raises(Unavailable, match=r"has not synced its append-only file within 0\.2 s"):
        sends(writer)
    with pytest.raises(Unavailable, match="has not synced"):
        writer.step()
    assert rows(pipeline) == 0
    pipeline.queue.call("CONFIG", "SET", "appendfsync", "always")
    stores(pipeline, writer)
    writer.close()


def test_a_redis_without_an_append_only_file_is_a_wrong_setting(pipeline: Pipeline) -> None:
    pipeline.queue.call("CONFIG", "SET", "appendonly", "no")
    pipeline.add_fills(range(1))
    writer = pipeline.writer()
    with pytest.raises(ConfigError, match=r"REDIS_WAITAOF_S: .* can't do that"):
        sends(writer)
    writer.close()
