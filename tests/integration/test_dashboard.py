"""The dashboard on a real Redis and a real ClickHouse, also while one of them is away."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.keys import Route
from monitoring.health import judge
from monitoring.status import Status, collect
from tests.builders import make_settings
from tests.dashboard import DashboardServer, QuietPipeline
from tests.servers import ClickHouseServer, RedisServer, free_port
from tests.waiting import wait_until


@pytest.fixture
def pipeline(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Iterator[QuietPipeline]:
    made = QuietPipeline.on(redis_server, clickhouse_server)
    yield made
    made.close()


def read(pipeline: QuietPipeline) -> Status:
    return collect(pipeline.queue, pipeline.clickhouse, pipeline.settings, time.time())


def named(found: list[dict[str, Any]], name: str, key: str = "name") -> dict[str, Any]:
    return next(each for each in found if each[key] == name)


# --- what is read ----------------------------------------------------------------------------------------------------


def test_an_empty_pipeline_reads_as_empty_and_not_as_unknown(pipeline: QuietPipeline) -> None:
    pipeline.beat_all()
    status = read(pipeline)
    assert judge(status).verdict == "ok"
    assert [table.rows.value for table in status.tables] == [0, 0, 0, 0]
    assert status.table("trades").newest_at.state == "absent"
    assert {mark.value.state for mark in status.watermarks} == {"absent"}
    assert [group.behind.value for stream in status.streams for group in stream.groups] == [0, 0, 0, 0]


def test_streams_groups_dead_letters_and_watermarks_are_read(pipeline: QuietPipeline) -> None:
    published_at = pipeline.publish(30, faults=2)
    route = Route(pipeline.events, pipeline.settings.group_events_processors)
    pipeline.queue.read_from_stream(route, "one", 10)
    status = read(pipeline)
    events = status.streams[1]
    processors, writers = events.groups
    assert events.length.value == events.entries_added.value == 30
    assert (processors.lag.value, processors.pending.value, processors.behind.value) == (20, 10, 30)
    assert (writers.lag.value, writers.pending.value) == (30, 0)
    assert processors.oldest_pending_age_s.value is not None
    assert writers.oldest_pending_age_s.state == "absent"
    letters = status.dead_letters[1]
    assert letters.count.value == 2
    assert letters.newest[0].reason == "not JSON"
    assert letters.newest[0].data == "<script>alert(1)</script>"
    watermark = status.watermarks[0]
    assert watermark.at is not None
    assert watermark.at.value == published_at


def test_rows_their_age_and_their_latency_are_read(pipeline: QuietPipeline) -> None:
    made_at = pipeline.store(100)
    written_at = time.time()
    status = read(pipeline)
    assert status.table("order_filled").rows.value == 100
    assert status.table("order_filled").newest_at.value == made_at
    stored = status.latency.block_to_clickhouse.value
    assert stored is not None
    assert stored.fills == 100
    assert 3 < stored.p50_s <= stored.p99_s < written_at - made_at + 1


def test_a_missing_table_is_unknown_and_hides_nothing_else(pipeline: QuietPipeline) -> None:
    pipeline.beat_all()
    pipeline.clickhouse.command(f"DROP TABLE {pipeline.clickhouse.database}.trades")
    status = read(pipeline)
    assert status.table("trades").rows.state == "unknown"
    assert status.table("order_filled").rows.value == 0
    assert status.clickhouse.state == "known"
    assert [reason.about for reason in judge(status).reasons] == ["trades"]


def test_a_missing_database_is_said_and_clickhouse_itself_is_not_blamed(pipeline: QuietPipeline) -> None:
    pipeline.clickhouse.command(f"DROP DATABASE {pipeline.clickhouse.database}")
    status = read(pipeline)
    assert status.clickhouse.state == "known"
    assert {table.rows.state for table in status.tables} == {"unknown"}
    assert "setup_schema.py" in status.table("trades").rows.reason


def test_a_missing_group_is_broken(pipeline: QuietPipeline) -> None:
    pipeline.beat_all()
    pipeline.queue.call("XGROUP", "DESTROY", pipeline.trades, pipeline.settings.group_trades_writers)
    assert [reason.about for reason in judge(read(pipeline)).reasons] == [pipeline.trades]


def test_lag_that_redis_cannot_tell_is_unknown_and_not_zero(pipeline: QuietPipeline) -> None:
    pipeline.publish(3)
    entries = pipeline.queue.read_simple(pipeline.events, b"0", 3)
    pipeline.queue.call("XDEL", pipeline.events, entries[1].id)
    groups = read(pipeline).streams[1].groups
    assert [group.lag.state for group in groups] == ["unknown", "unknown"]
    assert [group.behind.state for group in groups] == ["unknown", "unknown"]


def test_servers_that_nobody_runs_are_unknown_with_the_reason() -> None:
    port = free_port()
    status = read(QuietPipeline(make_settings(redis_port=port, clickhouse_port=port)))
    assert status.redis.state == status.clickhouse.state == "unknown"
    assert str(port) in status.redis.reason
    assert str(port) in status.clickhouse.reason
    assert {stage.state for stage in status.stages} == {"unknown"}


def test_the_disk_of_the_tables_is_read_with_what_is_free(pipeline: QuietPipeline) -> None:
    [disk] = read(pipeline).disks.value or []
    assert 0 < disk.free_bytes < disk.total_bytes == shutil.disk_usage(disk.path).total


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_disk_that_is_really_full_is_broken(redis_server: RedisServer, tmp_path: Path) -> None:
    small = tmp_path / "clickhouse"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", small], check=False)
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with ClickHouseServer(tmp_path) as clickhouse:
            pipeline = QuietPipeline.on(redis_server, clickhouse)
            pipeline.beat_all()
            [reason] = judge(read(pipeline)).reasons
            pipeline.close()
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    assert (reason.severity, reason.about, "is full" in reason.text) == ("broken", "ClickHouse", True)


# --- the process -----------------------------------------------------------------------------------------------------


def test_the_dashboard_answers_tells_its_heartbeat_and_ends_cleanly(pipeline: QuietPipeline, tmp_path: Path) -> None:
    pipeline.beat_all()
    pipeline.publish(30)
    with DashboardServer(tmp_path, pipeline.settings) as dashboard:
        assert "Everything works" in dashboard.get("/").body
        assert dashboard.get("/health").json() == {"status": "ok", "pipeline": "ok", "reasons": []}
        assert dashboard.get("/readyz").status == 200
        wait_until(lambda: _dashboard_beats(pipeline, dashboard.pid), "the dashboard's own heartbeat")
        status = dashboard.get("/api/status").json()
        assert named(status["streams"], pipeline.events)["length"]["value"] == 30
        assert dashboard.stop() == 0
    assert "Traceback" not in dashboard.log()


def test_a_port_that_is_taken_is_a_matter_of_configuration(
    pipeline: QuietPipeline, redis_server: RedisServer, tmp_path: Path
) -> None:
    dashboard = DashboardServer(tmp_path, pipeline.settings)
    dashboard.use_port(redis_server.port)
    with pytest.raises(RuntimeError, match=r"(?s)ended with 2: .*DASHBOARD_PORT: can't listen on"):
        dashboard.start()


def test_what_a_dead_clickhouse_knew_is_unknown_and_comes_back(redis_server: RedisServer, tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path / "own") as clickhouse:
        pipeline = QuietPipeline.on(redis_server, clickhouse)
        pipeline.beat_all()
        pipeline.store(10)
        with DashboardServer(tmp_path / "dashboard", pipeline.settings) as dashboard:
            assert dashboard.get("/health").status == 200
            clickhouse.kill()
            wait_until(lambda: dashboard.get("/health").status == 503, "ClickHouse counts as away")
            assert any("ClickHouse can't be used" in reason for reason in dashboard.get("/health").json()["reasons"])
            status = dashboard.get("/api/status").json()
            rows = named(status["tables"], "order_filled")["rows"]
            assert (rows["state"], rows["value"]) == ("unknown", None)
            assert named(status["streams"], pipeline.events)["length"]["value"] == 0  # Redis still tells
            assert dashboard.get("/readyz").status == 503
            assert dashboard.get("/livez").status == 200
            clickhouse.start()
            pipeline.beat_all()
            wait_until(lambda: dashboard.get("/health").status == 200, "ClickHouse counts as there again")
        pipeline.close()


def test_what_a_dead_redis_knew_is_unknown_and_comes_back(clickhouse_server: ClickHouseServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "own") as redis:
        pipeline = QuietPipeline.on(redis, clickhouse_server)
        pipeline.beat_all()
        pipeline.store(10)
        with DashboardServer(tmp_path / "dashboard", pipeline.settings) as dashboard:
            assert dashboard.get("/health").status == 200
            redis.kill()
            wait_until(lambda: dashboard.get("/health").status == 503, "Redis counts as away")
            status = dashboard.get("/api/status").json()
            assert named(status["streams"], pipeline.events)["length"]["state"] == "unknown"
            assert named(status["stages"], "trade_processor", "component")["state"] == "unknown"
            assert named(status["tables"], "order_filled")["rows"]["value"] == 10  # ClickHouse still tells
            assert "Something is broken" in dashboard.get("/").body
            redis.start()
            pipeline.beat_all()
            wait_until(lambda: dashboard.get("/health").status == 200, "Redis counts as there again")
            assert dashboard.stop() == 0
        pipeline.close()


def _dashboard_beats(pipeline: QuietPipeline, pid: int) -> bool:
    return any(beat.get("pid") == str(pid) and beat["state"] == "running" for beat in pipeline.queue.heartbeats())
