"""Fixtures: streams and tables of a test's own on the session's servers."""

from collections.abc import Iterator

import pytest

from common.config import Settings
from common.redis_queue import RedisQueue
from processors import trade_processor
from tests.builders import Pipeline, make_settings, open_pipeline, own_name, remove_keys, settings_for
from tests.servers import ClickHouseServer, RedisServer


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a processor with nothing to read come back soon."""
    monkeypatch.setattr(trade_processor, "IDLE_BLOCK_MS", 5)


@pytest.fixture
def queue_settings(redis_server: RedisServer) -> Settings:
    return settings_for(redis_server, None, own_name())


@pytest.fixture
def queue(queue_settings: Settings) -> Iterator[RedisQueue]:
    """Yield a queue whose keys are gone afterwards; the test fails if it has left any without its prefix."""
    queue = RedisQueue(queue_settings)
    before = all_keys(queue)
    yield queue
    remove_keys(queue)
    left = all_keys(queue) - before
    queue.close()
    assert not left, "keys without the prefix"


@pytest.fixture
def pipeline_settings(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
    """Return settings of the test's own. A module's fixture of this name sets some of them otherwise."""
    return settings_for(redis_server, clickhouse_server, own_name())


@pytest.fixture
def pipeline(pipeline_settings: Settings) -> Iterator[Pipeline]:
    """Yield a pipeline with its tables; the test fails if it has left keys without its prefix."""
    outside = RedisQueue(make_settings(redis_port=pipeline_settings.redis_port, redis_host="127.0.0.1"))
    before = all_keys(outside)
    with open_pipeline(pipeline_settings) as pipeline:
        pipeline.make_tables()
        yield pipeline
    left = all_keys(outside) - before
    outside.close()
    assert not left, "keys without the prefix"


def all_keys(queue: RedisQueue) -> set[bytes]:
    return set(queue.call("KEYS", "*"))
