"""An eviction policy that loses fills, on a real server: stages log it, and the dashboard's verdict names it."""

import logging
import time
from collections.abc import Iterator

import pytest

from common.eviction import REMEDY, EvictionWatch
from monitoring.health import judge
from monitoring.status import collect
from tests.dashboard import QuietPipeline
from tests.servers import ClickHouseServer, RedisServer

MENDED = REMEDY.split()


@pytest.fixture
def pipeline(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Iterator[QuietPipeline]:
    made = QuietPipeline.on(redis_server, clickhouse_server)
    made.beat_all()
    yield made
    made.queue.call(*MENDED)
    made.close()


def reasons(pipeline: QuietPipeline) -> list[str]:
    status = collect(pipeline.queue, pipeline.clickhouse, pipeline.settings, time.time())
    return [f"{reason.severity}: {reason.about} {reason.text}" for reason in judge(status).reasons]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_it_is_logged_and_degrades_until_the_command_that_is_named_has_run(
    pipeline: QuietPipeline, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    pipeline.queue.call("CONFIG", "SET", "maxmemory-policy", policy)
    EvictionWatch(pipeline.queue, logging.getLogger("stage")).check(time.time())
    [record] = caplog.records
    assert reasons(pipeline) == [f"degraded: Redis {record.getMessage()}"]
    assert (record.levelname, policy in record.getMessage()) == ("WARNING", True)
    assert record.getMessage().endswith(f"run {pipeline.queue.cli} {REMEDY}")
    pipeline.queue.call(*MENDED)
    assert reasons(pipeline) == []


def test_a_server_that_denies_info_is_unknown_and_not_a_fault(pipeline: QuietPipeline) -> None:
    pipeline.queue.call("ACL", "SETUSER", "default", "-info")
    try:
        EvictionWatch(pipeline.queue, logging.getLogger("stage")).check(time.time())
        status = collect(pipeline.queue, pipeline.clickhouse, pipeline.settings, time.time())
    finally:
        pipeline.queue.call("ACL", "SETUSER", "default", "+info")
    assert status.redis_state.eviction_policy.state == "unknown"
    assert judge(status).verdict == "ok"
