"""Names that look like settings: what causes a warning, what doesn't, and that no value is ever shown."""

import os
import re
from pathlib import Path

import pytest

from common.config import Settings, doubtful_names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REDIS_PASWORD", "REDIS_PASSWORD"),
        ("REDIS_PASS", "REDIS_PASSWORD"),
        ("REDIS_HOSTNAME", "REDIS_HOST"),
        ("CLICKHOUSE_PASS", "CLICKHOUSE_PASSWORD"),
        ("CLICKHOUSE_USERNAME", "CLICKHOUSE_USER"),
        ("CLICKHOUSE_DB", "CLICKHOUSE_DATABASE"),
        ("CLICKHOUSE_WRITER_BATCHSIZE", "CLICKHOUSE_WRITER_BATCH_SIZE"),
        ("POLYMARKET_POLL_INTERVALL", "POLYMARKET_POLL_INTERVAL"),
        ("GOLDSKY_API_TOKEN", "GOLDSKY_API_KEY"),
        ("POLYGON_RPC_URLS", "POLYGON_RPC_URL"),
        ("BACKFILL_WORKER", "BACKFILL_WORKERS"),
        ("DASHBOARD_PORTS", "DASHBOARD_PORT"),
        ("STREAM_BACKLOG_LIMITS", "STREAM_BACKLOG_LIMIT"),
        ("ORDER_EVENT_START", "ORDER_EVENTS_START"),
        ("redis_pasword", "REDIS_PASSWORD"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    assert doubtful_names() == [f"environment: {name.upper()} is not a setting; did you mean {meant}?"]
    monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(f"# mine\n\n{name}=hunter2\n", "utf-8")
    assert doubtful_names() == [f".env, line 3: {name} is not a setting; did you mean {meant}?"]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_with_a_letter_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    misspelt = f"{name}x".upper()
    monkeypatch.setenv(misspelt, "1")
    assert misspelt in "".join(doubtful_names())


def test_a_name_like_no_other_is_warned_about_in_the_file_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOMETHING_ELSE_ENTIRELY", "1")
    assert doubtful_names() == []
    (tmp_path / ".env").write_text("XYZZY_QUUX=1\n", "utf-8")
    assert doubtful_names() == [".env, line 1: XYZZY_QUUX is not a setting"]


@pytest.mark.parametrize("name", ["DATA_DIR", "SIMULATOR_PORT", "SIMULATOR_OPTIONS", "PYTHON", "HTTP_PROXY"])
def test_what_only_the_environment_sets_has_no_effect_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert doubtful_names() == []
    (tmp_path / ".env").write_text(f"export {name}=1\n", "utf-8")
    [warning] = doubtful_names()
    assert warning.startswith(f".env, line 1: {name} has no effect here")


@pytest.mark.parametrize("stray", ["hunter2", "aGVsbG8_hunter==", "-----BEGIN hunter KEY-----", "HUNTER2"])
def test_a_stray_secret_is_not_repeated(tmp_path: Path, stray: str) -> None:
    (tmp_path / ".env").write_text(f"REDIS_PORT=6379\n{stray}\n", "utf-8")
    shown = " ".join(doubtful_names())
    assert "hunter" not in shown.lower()


def test_kubernetes_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("REDIS", "CLICKHOUSE", "DASHBOARD", "CLICKHOUSE_WRITER", "POLYGON_INGESTER", "REDIS_MASTER"):
        port = f"{service}_PORT"
        for name in (
            *(f"{service}_SERVICE_HOST", f"{service}_SERVICE_PORT", f"{service}_SERVICE_PORT_HTTP", port),
            *(f"{port}_8123_TCP", f"{port}_8123_TCP_PROTO", f"{port}_8123_TCP_PORT", f"{port}_8123_TCP_ADDR"),
        ):
            monkeypatch.setenv(name, "tcp://10.0.0.1:8123")
    for name in ("HTTP_PROXY", "LOG_FORMAT", "GROUP_ID", "TOKEN", "KEY_FILE", "REDIS_VERSION"):
        monkeypatch.setenv(name, "1")
    assert doubtful_names() == []


def test_env_example_as_it_is_and_with_every_line_taken_in_is_without_doubt(tmp_path: Path) -> None:
    example = (ROOT / "env.example").read_text("utf-8")
    for text in (example, re.sub(r"(?m)^#(?=[A-Z0-9_]+=)", "", example), f"\ufeff{example}"):
        (tmp_path / ".env").write_text(text, "utf-8")
        assert doubtful_names() == []


def test_what_compose_and_start_sh_set_is_without_doubt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    names = {*re.findall(r"\$\{(\w+)", compose), *re.findall(r"(?m)^ +([A-Z_0-9]+):", compose), "COMPONENT"}
    exported = re.findall(r"export ((?:[A-Z_]+(?:=\S+)? ?)+)", (ROOT / "start.sh").read_text("utf-8"))
    names |= {word.partition("=")[0] for words in exported for word in words.split()}
    assert len(names) > 60
    for name in names:
        monkeypatch.setenv(name, "1")
    assert doubtful_names() == []
    of_start_sh = {"DATA_DIR", "SIMULATOR_PORT", "SIMULATOR_OPTIONS"}
    lines = [f"{name}=1\n" for name in names & {*re.findall(r"\$\{(\w+)", compose)} - of_start_sh]
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=polymarket\n" + "".join(lines), "utf-8")
    assert doubtful_names() == []
