"""The configuration that the embedded Redis server runs with."""

from dataclasses import replace
from pathlib import Path

import pytest

from embedded import redis_server
from embedded.redis_server import ServerSettings

SETTINGS = ServerSettings("127.0.0.1", 6379, Path("data"), "2gb", "")


def test_nothing_is_evicted_and_writes_are_on_disk_before_they_are_answered() -> None:
    lines = redis_server.configuration(SETTINGS).splitlines()
    assert {"maxmemory-policy noeviction", "appendonly yes", "appendfsync always"} <= set(lines)


def test_there_is_a_password_only_if_one_is_set() -> None:
    assert "requirepass" not in redis_server.configuration(SETTINGS)
    assert 'requirepass "pass"' in redis_server.configuration(replace(SETTINGS, password="pass"))


def test_a_value_cannot_add_a_line() -> None:
    text = redis_server.configuration(replace(SETTINGS, password='x"\nsave 1 1\n\\é'))
    assert 'requirepass "x\\x22\\x0asave 1 1\\x0a\\x5c\\xc3\\xa9"' in text.splitlines()


def test_localhost_is_served_on_both_of_its_addresses() -> None:
    assert "bind 127.0.0.1 -::1" in redis_server.configuration(replace(SETTINGS, host="localhost"))


def test_arguments_become_settings() -> None:
    arguments = ["--host", "0.0.0.0", "--port", "7000", "--dir", "d", "--maxmemory", "512mb"]
    assert redis_server.parse_arguments(arguments, "pw") == ServerSettings("0.0.0.0", 7000, Path("d"), "512mb", "pw")


def test_a_size_that_is_none_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        redis_server.parse_arguments(["--dir", "d", "--maxmemory", "lots"], "")
    assert caught.value.code == 2
    assert "expected a size such as 512mb or 2gb, got 'lots'" in capsys.readouterr().err


def test_the_package_carries_a_binary_for_this_machine() -> None:
    assert redis_server.binary_path().is_file()
