"""The schema: made, made again, upgraded, refused."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

import setup_schema
from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import ConfigError, Unavailable
from common.migrations import MIGRATIONS, Migration
from common.records import encode
from common.redis_queue import RedisQueue
from common.tables import DEDUPLICATION_WINDOW, LAST_SEEN_AT, MARKETS, ORDER_FILLED, TABLES, VIEWS
from setup_schema import apply_schema, claim_redis, existing_tables, setup
from tests.builders import Pipeline, make_fill, make_market, make_settings, open_pipeline, own_name, settings_for
from tests.servers import ROOT, ClickHouseServer, RedisServer
from tests.waiting import wait_until

SEEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = {declared.name for declared in (*TABLES, *VIEWS)}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def bare(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
    """Return settings of a database that does not exist yet."""
    return settings_for(redis_server, clickhouse_server, own_name())


def applied(clickhouse: ClickHouse) -> list[int]:
    rows = clickhouse.query(f"SELECT number FROM {clickhouse.database}.schema_migrations ORDER BY number")
    return [number for (number,) in rows]


def state_of(clickhouse: ClickHouse) -> list[tuple[str, str]]:
    rows = clickhouse.query(
        "SELECT name, create_table_query FROM system.tables WHERE database = {d:String} ORDER BY name",
        {"d": clickhouse.database},
    )
    return [(name, statement) for name, statement in rows]


def test_everything_is_made_and_said(bare: Settings, said: list[str]) -> None:
    clickhouse = ClickHouse(bare)
    apply_schema(clickhouse, "live", said.append)
    assert existing_tables(clickhouse) == {*NAMES, "schema_migrations"}
    assert said == [f"made      {clickhouse.database}.{declared.name}" for declared in (*TABLES, *VIEWS)]
    assert applied(clickhouse) == [0, *(migration.number for migration in MIGRATIONS)]


def test_a_second_run_changes_nothing_and_says_so(bare: Settings, said: list[str]) -> None:
    clickhouse = ClickHouse(bare)
    apply_schema(clickhouse, "live", lambda _: None)
    before = state_of(clickhouse)
    clickhouse.batch_insert(ORDER_FILLED, encode(make_fill(1)), "t")
    apply_schema(clickhouse, "live", said.append)
    assert state_of(clickhouse) == before
    assert said == [f"exists    {clickhouse.database}.{declared.name}" for declared in (*TABLES, *VIEWS)]
    assert applied(clickhouse) == [0, *(migration.number for migration in MIGRATIONS)]
    assert clickhouse.query(f"SELECT count() FROM {clickhouse.database}.order_filled") == [(1,)]


def test_what_is_missing_is_made_beside_what_exists(pipeline: Pipeline, said: list[str]) -> None:
    database = pipeline.settings.clickhouse_database
    pipeline.clickhouse.command(f"DROP TABLE {database}.trades")
    apply_schema(pipeline.clickhouse, "live", said.append)
    assert f"made      {database}.trades" in said
    assert f"exists    {database}.markets" in said
    assert len(said) == len(NAMES)


def test_an_older_database_is_upgraded(bare: Settings, said: list[str]) -> None:
    """Tables from before insert tokens: no settings, no sums by day, no list of migrations."""
    clickhouse = ClickHouse(bare)
    clickhouse.command(f"CREATE DATABASE {clickhouse.database}")
    for table in TABLES:
        older = table._replace(settings=(), projection=None).create(clickhouse.database)
        clickhouse.command(re.sub(r"SETTINGS .*\n", "", older))
    clickhouse.batch_insert(ORDER_FILLED, encode(make_fill(1)), "t")
    apply_schema(clickhouse, "live", said.append)
    assert "migrated  1: insert tokens work on every table" in said
    for name, statement in state_of(clickhouse):
        if name in {table.name for table in TABLES}:
            assert f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}" in statement
    for _ in range(2):
        clickhouse.batch_insert(ORDER_FILLED, encode(make_fill(2)), "t2")
    assert clickhouse.query(f"SELECT count() FROM {clickhouse.database}.order_filled") == [(2,)]
    assert "PROJECTION by_day" in dict(state_of(clickhouse))["trades"]


def a_migration(number: int) -> Migration:
    statement = "ALTER TABLE {database}.trades ADD COLUMN IF NOT EXISTS note String DEFAULT ''"
    return Migration(number, "trades have a note", (statement,))


def test_a_new_migration_is_applied_once_to_a_database_that_exists(pipeline: Pipeline, said: list[str]) -> None:
    for _ in range(2):
        apply_schema(pipeline.clickhouse, "live", said.append, (*MIGRATIONS, a_migration(99)))
    assert said.count("migrated  99: trades have a note") == 1
    assert pipeline.count("trades", "count(note)") == 0
    assert applied(pipeline.clickhouse).count(99) == 1


def test_a_new_database_counts_as_migrated(bare: Settings, said: list[str]) -> None:
    clickhouse = ClickHouse(bare)
    apply_schema(clickhouse, "live", said.append, (*MIGRATIONS, a_migration(99)))
    assert not [line for line in said if line.startswith("migrated")]
    assert 99 in applied(clickhouse)


def test_a_migration_that_was_interrupted_is_applied_again(pipeline: Pipeline, said: list[str]) -> None:
    broken = Migration(99, "two steps", (*a_migration(99).statements, "ALTER TABLE {database}.no_such_table DELETE"))
    with pytest.raises(Unavailable):
        apply_schema(pipeline.clickhouse, "live", said.append, (*MIGRATIONS, broken))
    assert 99 not in applied(pipeline.clickhouse)
    apply_schema(pipeline.clickhouse, "live", said.append, (*MIGRATIONS, a_migration(99)))
    assert 99 in applied(pipeline.clickhouse)


def test_a_database_of_the_other_mode_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"^PIPELINE_MODE: ClickHouse database \w+ holds live data"):
        apply_schema(pipeline.clickhouse, "demo", lambda _: None)


def test_a_redis_of_the_other_mode_is_refused(queue: RedisQueue) -> None:
    claim_redis(queue, "demo")
    claim_redis(queue, "demo")
    with pytest.raises(ConfigError, match=r"^PIPELINE_MODE: Redis holds demo data"):
        claim_redis(queue, "live")


def test_a_refusal_by_clickhouse_leaves_no_mark_in_redis(pipeline: Pipeline) -> None:
    """Else going back to the right mode would be refused as well."""
    with pytest.raises(ConfigError):
        setup(pipeline.settings.model_copy(update={"pipeline_mode": "demo"}), lambda _: None)
    setup(pipeline.settings, lambda _: None)


def test_a_refusal_by_redis_leaves_no_mark_in_clickhouse(bare: Settings) -> None:
    with open_pipeline(bare) as pipeline:
        claim_redis(pipeline.queue, "live")
        with pytest.raises(ConfigError):
            setup(bare.model_copy(update={"pipeline_mode": "demo"}), lambda _: None)
        setup(bare, lambda _: None)


def test_markets_of_before_show_no_time_until_they_are_listed_again(bare: Settings, said: list[str]) -> None:
    """The table and the entries in the stream of the version before, and a writer's batch that it had fixed."""
    older = MARKETS._replace(columns=tuple(column for column in MARKETS.columns if column != LAST_SEEN_AT))
    with open_pipeline(bare) as pipeline:
        clickhouse = pipeline.clickhouse
        clickhouse.command(f"CREATE DATABASE {clickhouse.database}")
        clickhouse.command(older.create(clickhouse.database))
        clickhouse.batch_insert(older, encode(make_market(1)), "token of before")
        pipeline.add_markets([2])
        apply_schema(clickhouse, "live", said.append)
        assert "migrated  4: markets show when Gamma listed them last" in said
        clickhouse.batch_insert(MARKETS, encode(make_market(1)), "token of before")
        pipeline.add(pipeline.markets, encode(make_market(3, last_seen_at=SEEN)))
        writer = pipeline.writer()
        wait_until(lambda: writer.step() >= 0 and pipeline.count("markets") == 3, "all are written")
        writer.close()
        rows = clickhouse.query(f"SELECT id, last_seen_at FROM {clickhouse.database}.markets ORDER BY id")
        assert rows == [("1001", None), ("1002", None), ("1003", SEEN.replace(tzinfo=None))]


class TestCommand:
    """`.venv/bin/python3 setup_schema.py` as an operator runs it."""

    def run(self, settings: Settings, **changes: str) -> "subprocess.CompletedProcess[str]":
        variables = {
            "REDIS_HOST": settings.redis_host,
            "REDIS_PORT": str(settings.redis_port),
            "KEY_PREFIX": settings.key_prefix,
            "CLICKHOUSE_HOST": settings.clickhouse_host,
            "CLICKHOUSE_PORT": str(settings.clickhouse_port),
            "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        }
        return subprocess.run(
            [sys.executable, "setup_schema.py"],
            cwd=ROOT,
            env={**os.environ, **variables, **changes},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_it_makes_everything_then_changes_nothing_then_refuses_the_other_mode(self, pipeline: Pipeline) -> None:
        database = pipeline.settings.clickhouse_database
        pipeline.clickhouse.command(f"DROP DATABASE {database}")
        first = self.run(pipeline.settings)
        assert (first.returncode, first.stderr) == (0, "")
        assert f"made      {database}.trades\n" in first.stdout
        second = self.run(pipeline.settings)
        assert second.returncode == 0
        assert f"exists    {database}.trades\n" in second.stdout
        other = self.run(pipeline.settings, PIPELINE_MODE="demo")
        assert other.returncode == 2
        assert other.stderr.startswith("PIPELINE_MODE: ")
        assert "Traceback" not in other.stderr

    @pytest.mark.parametrize(
        ("change", "returncode", "text"),
        [
            ({"CLICKHOUSE_PORT": "1"}, 1, "CLICKHOUSE_HOST"),
            ({"REDIS_PORT": "1"}, 1, "REDIS_HOST"),
            ({"REDIS_PORT": "abc"}, 2, "REDIS_PORT: expected an integer, got 'abc'"),
            ({"CLICKHOUSE_PASSWORD": "wrong"}, 2, "CLICKHOUSE_PASSWORD"),
            ({"REDIS_PASSWORD": "wrong"}, 2, "REDIS_PASSWORD"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_said_and_the_exit_status_tells(
        self, pipeline: Pipeline, change: dict[str, str], returncode: int, text: str
    ) -> None:
        answer = self.run(pipeline.settings, **change)
        assert answer.returncode == returncode
        assert text in answer.stderr
        assert "Traceback" not in answer.stderr


def test_the_command_and_the_function_are_one(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
    monkeypatch.setattr(setup_schema, "load_settings", lambda: pipeline.settings)
    assert setup_schema.main() == 0
    monkeypatch.setattr(setup_schema, "load_settings", lambda: make_settings(redis_host="127.0.0.1", redis_port=1))
    assert setup_schema.main() == 1
