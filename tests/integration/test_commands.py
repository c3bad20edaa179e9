"""The commands that a person runs to see whether the pipeline works, and how all commands report wrong settings."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

import test_message
import test_setup
from common.config import Settings
from common.redis_queue import redis_cli
from tests.builders import Pipeline, make_market
from tests.servers import ROOT, environment, free_port

LIMIT_S = 120.0
STAGES = (
    "ingesters.polymarket_ingester",
    "ingesters.goldsky_ingester",
    "ingesters.polygon_ingester",
    "processors.trade_processor",
    "processors.clickhouse_writer",
    "monitoring.dashboard",
)
COMMANDS = (
    *(f"-m {stage}" for stage in STAGES),
    *(str(ROOT / script) for script in ("setup_schema.py", "test_setup.py", "test_message.py")),
    "-m common.config",
    "-m common.probe settings",
    "-m common.probe heartbeat dashboard",
    "-m monitoring.audit",
    "-m ingesters.backfill --from 2024-10-01 --to 2024-10-02",
    "-m processors.dead_letters list",
)


@pytest.fixture
def settings(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Of a pipeline whose tables exist and whose sources are away; without a `.env`."""
    monkeypatch.chdir(tmp_path)
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


def start_sh(**variables: str) -> str:
    """What ./start.sh prints before it exits with status 2. Its folder has a short path, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="start-", dir="/tmp") as data:
        result = subprocess.run(
            [ROOT / "start.sh"],
            env=environment({"DATA_DIR": data, "LOG_DIR": data, **variables}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    assert result.returncode == 2, result.stdout
    return result.stdout


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
        assert (found.found, found.remedy, found.is_warning) == ("missing", ".venv/bin/python3 setup_schema.py", False)

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

    def test_an_env_file_that_others_may_read_is_warned_about(self, settings: Settings, tmp_path: Path) -> None:
        assert outcome(settings)[".env"].found == "none"
        (tmp_path / ".env").write_text("", "utf-8")
        for mode, is_open in ((0o600, False), (0o640, True), (0o604, True), (0o644, True), (0o400, False)):
            (tmp_path / ".env").chmod(mode)
            found = outcome(settings)[".env"]
            assert (found.remedy, found.is_warning) == ("chmod 600 .env" if is_open else "", is_open)

    def test_a_misspelt_setting_is_warned_about(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "setting names" not in outcome(settings)
        monkeypatch.setenv("CLICKHOUSE_PASWORD", "secret")
        found = outcome(settings)["setting names"]
        assert found.found == "environment: CLICKHOUSE_PASWORD is not a setting; did you mean CLICKHOUSE_PASSWORD?"
        assert found.is_warning

    def test_its_redis_commands_reach_the_configured_server(self, settings: Settings) -> None:
        plain = settings.model_copy(update={"redis_host": "localhost", "redis_port": 6379})
        assert redis_cli(plain) == "redis-cli"
        assert redis_cli(settings) == f"redis-cli -h {settings.redis_host} -p {settings.redis_port}"
        locked = plain.model_copy(update={"redis_password": SecretStr("secret")})
        assert redis_cli(locked) == "redis-cli --askpass"


class TestWrongSettings:
    """Every process exits with status 2 and one readable line, which never repeats a secret."""

    def run(self, command: str, folder: Path, **variables: str) -> str:
        """What the command printed before it exited with status 2."""
        result = subprocess.run(
            [sys.executable, *command.split()],
            cwd=folder,
            env=environment(variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
        return result.stderr

    @pytest.mark.parametrize("command", COMMANDS)
    def test_whatever_is_run(self, command: str, tmp_path: Path) -> None:
        printed = self.run(command, tmp_path, REDIS_HOST="rediss://user:secret@host")
        assert printed.startswith("REDIS_HOST: expected a host name or IP address alone, without scheme, user, port or")
        assert "secret" not in printed
        assert "Traceback" not in printed

    @pytest.mark.parametrize("command", ["-m common.probe settings", f"-m {STAGES[0]}", str(ROOT / "test_setup.py")])
    def test_whatever_reads_the_file(self, command: str, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("REDIS_PASSWORD=secret\n", "utf-16")
        printed = self.run(command, tmp_path)
        assert printed.startswith(".env: expected text in UTF-8, got UTF-16 or binary data; save the file as UTF-8\n")
        assert "secret" not in printed
        assert "Traceback" not in printed

    def test_start_sh_ends_before_it_starts_anything(self) -> None:
        printed = start_sh(REDIS_HOST="rediss://user:secret@host")
        assert "REDIS_HOST: expected a host name or IP address alone, without scheme" in printed
        assert "secret" not in printed
        assert "Traceback" not in printed

    def test_start_sh_warns_once_about_a_misspelt_setting(self) -> None:
        printed = start_sh(LOG_DIR="50%", REDIS_PASWORD="secret")
        assert printed.count("REDIS_PASWORD is not a setting; did you mean REDIS_PASSWORD?") == 1
        assert "secret" not in printed

    def test_a_stage_logs_which_setting_is_misspelt(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("REDIS_PASWORD=secret\n", "utf-8")
        stage = [sys.executable, "-m", "monitoring.dashboard"]
        variables = {"REDIS_PORT": str(free_port()), "LOG_TO_FILE": "false"}
        with subprocess.Popen(
            stage, cwd=tmp_path, env=environment(variables), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            process.kill()
        assert lines[1].endswith(
            "WARNING - .env, line 1: REDIS_PASWORD is not a setting; did you mean REDIS_PASSWORD?\n"
        )


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
