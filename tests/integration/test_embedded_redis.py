"""The embedded Redis server: what is written stays, nothing is evicted, two servers never share a directory."""

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import redis

from tests.servers import RedisServer, environment, free_port
from tests.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a server that the test may kill."""
    with RedisServer(tmp_path) as server:
        yield server


def connected(server: RedisServer, password: str | None = None) -> "redis.Redis":
    return redis.Redis(server.host, server.port, password=password, decode_responses=True)


def information(client: "redis.Redis", section: str) -> dict[str, object]:
    return cast("dict[str, object]", client.info(section))


def accept_and_close(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.close()


def append(client: "redis.Redis", last: int, number: int) -> int:
    """Append the numbers after `last` and return the new last one."""
    for n in range(last + 1, last + number + 1):
        client.xadd("stream:trades", {"data": str(n)})
    return last + number


def numbers(client: "redis.Redis") -> list[int]:
    entries = cast("list[tuple[str, dict[str, str]]]", client.xrange("stream:trades"))
    return [int(fields["data"]) for _, fields in entries]


def fill(client: "redis.Redis") -> None:
    for n in range(100):
        client.set(f"key-{n}", "x" * 100_000)


def run_again(server: RedisServer, port: int) -> "subprocess.CompletedProcess[str]":
    """Start a second server on the same directory."""
    command = server.command()
    command[command.index("--port") + 1] = str(port)
    return subprocess.run(command, env=environment({}), capture_output=True, text=True, timeout=60, check=False)


def test_the_process_that_was_started_is_the_server(server: RedisServer) -> None:
    with closing(connected(server)) as client:
        assert information(client, "server")["process_id"] == server.pid


def test_nothing_is_evicted_and_writes_go_to_an_append_only_file(server: RedisServer) -> None:
    with closing(connected(server)) as client:
        config = cast("dict[str, str]", client.config_get("*"))
    assert (config["maxmemory-policy"], config["maxmemory"]) == ("noeviction", str(2 * 1024**3))
    assert (config["appendonly"], config["appendfsync"], config["save"]) == ("yes", "always", "")
    assert (config["bind"], config["protected-mode"]) == ("127.0.0.1", "yes")


def test_a_full_server_refuses_writes(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxmemory", "3mb") as server, closing(connected(server)) as client:
        client.set("kept", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill(client)
        assert client.get("kept") == "1"


def test_kill_9_loses_nothing_that_was_answered(server: RedisServer) -> None:
    written = 0
    for _ in range(3):
        with closing(connected(server)) as client:
            written = append(client, written, 300)
        server.kill()
        server.start()
        with closing(connected(server)) as client:
            assert numbers(client) == list(range(1, written + 1))


def test_sigterm_ends_it_cleanly_and_keeps_the_data(server: RedisServer) -> None:
    with closing(connected(server)) as client:
        client.set("key", "value")
    assert server.stop() == 0
    server.start()
    with closing(connected(server)) as client:
        assert client.get("key") == "value"


def test_its_folder_is_open_to_its_owner_only_also_one_that_was_not(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir(mode=0o755)
    with RedisServer(tmp_path):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_server_that_answers_already_is_left_alone(server: RedisServer) -> None:
    second = run_again(server, server.port)
    assert second.returncode == 3
    assert "another server already answers at " in second.stdout


def test_a_second_server_on_the_directory_is_refused(server: RedisServer) -> None:
    second = run_again(server, free_port())
    assert second.returncode == 2
    assert "another process serves this directory" in second.stderr


def test_a_port_that_something_else_uses_is_a_clear_error(server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:
        pool.submit(accept_and_close, other)
        second = run_again(server, other.getsockname()[1])
    assert second.returncode == 2
    assert "in use by something" in second.stderr


def test_a_password_is_required_once_it_is_set_and_shows_in_no_process_list(tmp_path: Path) -> None:
    with RedisServer(tmp_path, env={"REDIS_PASSWORD": 's"e c\\ret'}) as server:
        with closing(connected(server, 's"e c\\ret')) as client:
            assert client.ping()
        with closing(connected(server)) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
        shown = subprocess.run(["ps", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=True)
        assert "ret" not in shown.stdout
        assert run_again(server, server.port).returncode == 3, "a server that wants a password is a server"


def test_a_broken_locale_does_not_stop_it(tmp_path: Path) -> None:
    with RedisServer(tmp_path, env={"LC_ALL": "xx_XX.nonsense"}) as server:
        wait_until(server.answers, "the server answers")
