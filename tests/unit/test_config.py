"""Settings: where they come from, and what is said about a wrong one."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from common.config import Settings, describe, doubtful_names, load_settings, main
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


SECRET_HOSTS = [
    "rediss://user:secret@host",
    "rediss://user:sec/ret@host:6379/0",
    "redis://:secret",
    "https://u:secret@h:8443",
    "user:secret@host",
    "user:secret",
    "host/secret",
]


@pytest.mark.parametrize("name", ["REDIS_HOST", "CLICKHOUSE_HOST", "DASHBOARD_HOST"])
@pytest.mark.parametrize("value", [*SECRET_HOSTS, "localhost:6379", " localhost", "a b", "[::1", "host,other", "é à"])
def test_a_host_is_a_host_alone_and_a_secret_in_it_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{name}: expected a host name or IP address alone, without scheme, user, port or path")
    assert "secret" not in line
    assert "ret@" not in line
    assert (repr(value) in line) == (value in {"localhost:6379", " localhost", "a b", "é à"})


@pytest.mark.parametrize(
    "host", ["localhost", "10.0.0.1", "::1", "[::1]", "fe80::1%eth0", "redis_1", "clickhouse.example.", "größe.example"]
)
def test_hosts_of_every_kind_are_taken(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", host)
    assert load_settings().clickhouse_host == host


@pytest.mark.parametrize("name", ["POLYMARKET_API_URL", "GOLDSKY_URL", "POLYGON_RPC_URL"])
@pytest.mark.parametrize("value", ["https://user:sec/ret@host", "https://user:secret@[host", "ftp://user:secret@host"])
def test_a_secret_in_a_wrong_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name}: expected an address that begins with http") as caught:
        load_settings()
    assert "sec" not in str(caught.value)


def test_a_password_that_is_not_text_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hunter\udce4")  # as Python reads a byte that is not UTF-8
    with pytest.raises(ConfigError, match=r"^REDIS_PASSWORD: expected text in UTF-8$"):
        load_settings()


def test_keys_in_every_address_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMARKET_API_URL", "https://user:secret@gamma.example")
    monkeypatch.setenv("GOLDSKY_URL", "https://gateway.example/api/secret/subgraphs/1")
    shown = describe(load_settings())
    assert "secret" not in shown
    assert "POLYMARKET_API_URL=https://gamma.example/(hidden)" in shown


ENVIRONMENT_FILES = {
    "UTF-16 with its mark": "REDIS_PASSWORD=secret\n".encode("utf-16"),
    "UTF-16 without": "REDIS_PASSWORD=secret\n".encode("utf-16-le"),
    "UTF-32": "REDIS_PASSWORD=secret\n".encode("utf-32"),
    "latin-1": "REDIS_PASSWORD=sécret\n".encode("latin-1"),
    "NUL": b"REDIS_PASSWORD=secret\0\n",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("data", ENVIRONMENT_FILES.values(), ids=ENVIRONMENT_FILES)
def test_a_file_that_is_not_utf_8_is_reported_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(ConfigError, match=r"^\.env.*: expected text in UTF-8.*; save the file as UTF-8$") as caught:
        load_settings()
    assert "cret" not in str(caught.value)


def test_the_line_of_a_byte_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"REDIS_PORT=6379\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"^\.env, line 2: "):
        load_settings()


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("\ufeffREDIS_HOST=größe.example\n".encode())
    assert load_settings().redis_host == "größe.example"
    assert doubtful_names() == []


def test_a_folder_or_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(".env")  # unreadable for root as well
    with pytest.raises(ConfigError, match=r"^\.env: expected a readable file: Too many levels"):
        load_settings()
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"^\.env: expected a readable file: Is a directory$"):
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
