"""The commands that a person runs to see whether the pipeline works: test_setup.py and test_message.py."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import test_message
import test_setup
from common.config import Settings
from tests.builders import Pipeline, make_market
from tests.servers import ROOT, environment, free_port

LIMIT_S = 120.0


@pytest.fixture
def settings(pipeline: Pipeline) -> Settings:
    """Of a pipeline whose tables are made, and whose sources are not there."""
    nobody = f"http://127.0.0.1:{free_port()}"
    sources = {"polymarket_api_url": nobody, "goldsky_url": nobody, "polygon_rpc_url": f"{nobody}/a,{nobody}/b"}
    return pipeline.settings.model_copy(update=sources)


def outcome(settings: Settings) -> dict[str, test_setup.Check]:
    return {check.name: check for check in test_setup.run_checks(settings)}


def run(
    script: str, settings: Settings, folder: Path, changes: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """The command, in a folder without a `.env`."""
    told = {name.upper(): str(getattr(settings, name)) for name in settings.model_fields_set}
    return subprocess.run(
        [sys.executable, str(ROOT / script)],
        cwd=folder,
        env=environment({**told, **changes}),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


class TestSetup:
    def test_with_everything_there_only_the_sources_that_are_away_are_warned_of(self, settings: Settings) -> None:
        found = outcome(settings)
        warned = {name for name, check in found.items() if check.remedy}
        assert warned == {"Gamma (markets)", "Goldsky (fills)", "Polygon (fills)"}
        assert all(found[name].is_warning for name in warned)
        assert found["table trades"].found == "0 rows"
        assert found["data"].found == "no data yet"

    def test_a_table_that_is_missing_is_named_with_the_command_that_makes_it(
        self, settings: Settings, pipeline: Pipeline
    ) -> None:
        pipeline.clickhouse.command(f"DROP TABLE {pipeline.clickhouse.database}.trades")
        found = outcome(settings)["table trades"]
        assert (found.found, found.remedy, found.is_warning) == ("missing", "python3 setup_schema.py", False)

    def test_a_table_without_a_column_or_without_tokens_is_told(self, settings: Settings, pipeline: Pipeline) -> None:
        database = pipeline.clickhouse.database
        pipeline.clickhouse.command(f"ALTER TABLE {database}.trades DROP COLUMN fee")
        pipeline.clickhouse.command(
            f"ALTER TABLE {database}.order_filled MODIFY SETTING non_replicated_deduplication_window = 0"
        )
        found = outcome(settings)
        assert found["table trades"].found == "lacks fee"
        assert found["table order_filled"].found == "insert tokens do nothing on it"

    def test_data_of_the_other_mode_are_told(self, settings: Settings, pipeline: Pipeline) -> None:
        pipeline.queue.call("SET", pipeline.queue.keys.state("mode"), "demo")
        found = outcome(settings)["data"]
        assert found.found == "Redis holds demo data, these settings are for live"
        assert found.remedy
        assert found.is_warning

    def test_servers_that_are_away_are_failures_and_the_rest_is_looked_at_all_the_same(
        self, settings: Settings
    ) -> None:
        found = outcome(settings.model_copy(update={"redis_port": free_port(), "clickhouse_port": free_port()}))
        failed = {name for name, check in found.items() if check.remedy and not check.is_warning}
        assert failed >= {"Redis", "ClickHouse", "table trades"}
        assert "data" not in found
        assert found["Gamma (markets)"].is_warning

    def test_it_ends_with_0_1_or_2(self, settings: Settings, tmp_path: Path) -> None:
        assert run("test_setup.py", settings, tmp_path, {}).returncode == 0
        away = run("test_setup.py", settings, tmp_path, {"CLICKHOUSE_PORT": str(free_port())})
        assert (away.returncode, away.stderr) == (1, "")
        assert "FAIL  ClickHouse" in away.stdout
        wrong = run("test_setup.py", settings, tmp_path, {"REDIS_PORT": "six"})
        assert wrong.returncode == 2
        assert "REDIS_PORT" in wrong.stderr


class TestMessage:
    def test_a_fill_arrives_and_nothing_of_it_stays(
        self, settings: Settings, pipeline: Pipeline, tmp_path: Path
    ) -> None:
        result = run("test_message.py", settings, tmp_path, {})
        assert result.returncode == 0, result.stdout + result.stderr
        assert "It arrived, and everything was removed again." in result.stdout
        assert "1, Yes, SELL, 0.940000000000, 0.245575" in result.stdout
        assert pipeline.queue.call("KEYS", "*test_message*") == []
        assert pipeline.clickhouse.query("SHOW DATABASES LIKE '%test_message%'") == []

    def test_one_that_does_not_arrive_is_told_with_the_hop(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(test_message, "LIMIT_S", 0.5)
        monkeypatch.setattr(test_message, "test_market", lambda: make_market(1))
        assert not test_message.send(test_message.scratch_settings(settings))
        assert "stream:trades" in capsys.readouterr().out.splitlines()[-1]

    def test_servers_that_are_away_are_told_with_what_to_do(self, settings: Settings, tmp_path: Path) -> None:
        result = run("test_message.py", settings, tmp_path, {"CLICKHOUSE_PORT": str(free_port())})
        assert result.returncode == 1
        assert "test_setup.py" in result.stderr
