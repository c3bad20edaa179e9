"""Settings: where they come from, and what is said about a wrong one."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from common.config import Settings, describe, load_settings, main
from common.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_defaults_that_the_documents_name() -> None:
    settings = load_settings()
    assert settings.clickhouse_writer_batch_size == 5000
    assert settings.clickhouse_writer_max_wait == 2
    assert settings.polymarket_poll_interval == 30
    assert settings.goldsky_poll_interval == 5
    assert (settings.redis_host, settings.redis_port) == ("localhost", 6379)
    assert (settings.clickhouse_host, settings.clickhouse_port) == ("localhost", 8123)
    assert settings.redis_password is None


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("REDIS_HOST=from-file\nREDIS_PORT=7000\nUNRELATED=1\n", "utf-8")
    monkeypatch.setenv("REDIS_PORT", "7001")
    settings = load_settings()
    assert (settings.redis_host, settings.redis_port, settings.redis_db) == ("from-file", 7001, 0)


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "")
    assert load_settings().redis_port == 6379


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("REDIS_PORT", "abc", "an integer"),
        ("REDIS_PORT", "0", "greater than or equal to 1"),
        ("CLICKHOUSE_PORT", "65536", "less than or equal to 65535"),
        ("CLICKHOUSE_WRITER_MAX_WAIT", "31", "less than or equal to 30"),
        ("CLICKHOUSE_WRITER_MAX_WAIT", "0", "greater than 0"),
        ("CLICKHOUSE_WRITER_BATCH_SIZE", "5.5", "an integer"),
        ("GOLDSKY_PAGE_SIZE", "1001", "less than or equal to 1000"),
        ("GOLDSKY_POLL_INTERVAL", "soon", "a valid number"),
        ("GOLDSKY_OVERLAP_S", "-1", "greater than or equal to 0"),
        ("POLYMARKET_PAGE_SIZE", "101", "less than or equal to 100"),
        ("POLYMARKET_PAGING", "pages", "'keyset' or 'offset'"),
        ("POLYMARKET_API_URL", "gamma", "an address that begins with http:// or https://"),
        ("POLYGON_RPC_URL", "ws://polygon-rpc.com", "an address that begins with http:// or https://"),
        ("GOLDSKY_SCHEMA", "v3", "'v1' or 'v2'"),
        ("CLICKHOUSE_DATABASE", "a-b", "a name of letters, digits and _"),
        ("PIPELINE_MODE", "test", "'live' or 'demo'"),
        ("LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("LOG_TO_FILE", "perhaps", "a valid boolean"),
        ("LEASE_S", "0.5", "greater than or equal to 1"),
        ("LEASE_S", "nan", "finite"),
        ("LEASE_S", "inf", "finite"),
        ("BACKOFF_MAX_S", "-1", "greater than 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_what_was_got(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{name}: expected ")
    assert expected in line
    assert line.endswith(f"got {value!r}")


def test_every_wrong_variable_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "abc")
    monkeypatch.setenv("LEASE_S", "0")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["REDIS_PORT", "LEASE_S"]


def test_a_wrong_line_of_the_file_is_named_as_well(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_DB=one\n", "utf-8")
    with pytest.raises(ConfigError, match=r"^REDIS_DB: expected an integer, got 'one'$"):
        load_settings()


def test_secrets_are_hidden_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "hunter3")
    monkeypatch.setenv("GOLDSKY_API_KEY", "hunter4")
    settings = load_settings()
    for shown in (describe(settings), repr(settings), str(settings)):
        assert "hunter" not in shown
    assert "REDIS_PASSWORD=(hidden)" in describe(settings)
    assert settings.redis_password == SecretStr("hunter2")


def test_the_keys_in_addresses_of_providers_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "POLYGON_RPC_URL", "https://polygon-rpc.com, https://rpc.example/v2/0123456789,https://a:b@c.example"
    )
    shown = describe(load_settings())
    expected = "https://polygon-rpc.com,https://rpc.example/(hidden),https://c.example/(hidden)"
    assert f"\nPOLYGON_RPC_URL={expected}  # " in shown


def test_a_wrong_address_is_told_without_the_key_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_RPC_URL", "ws://rpc.example/v2/0123456789")
    with pytest.raises(ConfigError, match=r"or https://, got 'ws://rpc\.example/\(hidden\)'$"):
        load_settings()


def test_a_key_that_fits_in_no_header_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSKY_API_KEY", "hunter 2")
    with pytest.raises(ConfigError, match=r"^GOLDSKY_API_KEY: expected visible ASCII") as caught:
        load_settings()
    assert "hunter" not in str(caught.value)


def test_an_unset_secret_is_shown_as_empty() -> None:
    assert "\nREDIS_PASSWORD=  # " in describe(load_settings())


def test_every_setting_is_shown_with_what_it_is() -> None:
    lines = describe(load_settings()).splitlines()
    assert len(lines) == len(Settings.model_fields)
    for line in lines:
        assignment, comment = line.split("  # ", 1)
        assert assignment.split("=")[0].isupper()
        assert comment


def test_what_is_shown_can_be_read_back_as_a_file(tmp_path: Path) -> None:
    before = load_settings()
    (tmp_path / ".env").write_text(describe(before), "utf-8")
    assert load_settings() == before


def test_the_command_prints_the_settings_or_the_complaints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main() == 0
    assert "CLICKHOUSE_WRITER_BATCH_SIZE=5000  # " in capsys.readouterr().out
    monkeypatch.setenv("REDIS_PORT", "abc")
    assert main() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "REDIS_PORT: expected an integer, got 'abc'\n"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.redis_port = 1  # type: ignore[misc]  # that is the point
