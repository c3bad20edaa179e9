"""The embedded ClickHouse as a process: kill -9, SIGTERM, a second copy, passwords."""

import http.client
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from common.clickhouse import ClickHouse
from common.errors import Unavailable
from common.records import encode
from common.tables import ORDER_FILLED
from tests.builders import make_fill, make_settings
from tests.servers import ClickHouseServer, environment, free_port
from tests.waiting import wait_until

ROWS_PER_BATCH = 500
TABLE = (
    "CREATE TABLE t (n UInt64, text String) ENGINE = ReplacingMergeTree ORDER BY n "
    "SETTINGS non_replicated_deduplication_window = 1000"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """Return a server that the test may kill."""
    with ClickHouseServer(tmp_path) as server:
        yield server


def connected(server: ClickHouseServer, **options: Any) -> Client:
    return clickhouse_connect.get_client(host=server.host, port=server.port, **options)


def post(server: ClickHouseServer, sql: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request("POST", "/", sql.encode())
        answer = connection.getresponse()
        return answer.status, answer.read()


def insert_batch(client: Client, batch: int) -> None:
    start = batch * ROWS_PER_BATCH
    rows = b"".join(b'{"n":%d,"text":"row %d"}\n' % (n, n) for n in range(start, start + ROWS_PER_BATCH))
    settings = {"async_insert": 0, "insert_deduplication_token": f"batch-{batch}"}
    client.raw_insert("t", ["n", "text"], rows, settings=settings, fmt="JSONEachRow")


def fills_of(batch: int) -> bytes:
    start = batch * ROWS_PER_BATCH
    return b"\n".join(encode(make_fill(number)) for number in range(start, start + ROWS_PER_BATCH))


def insert_until_killed(server: ClickHouseServer, clickhouse: ClickHouse, first_batch: int) -> int:
    """Insert batch after batch while the server is killed; return the first batch that got no answer."""
    answered = [first_batch]

    def kill_under_load() -> None:
        wait_until(lambda: answered[-1] > first_batch + 5, "some inserts are answered")
        server.kill()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_under_load)
        with suppress(Unavailable):
            while not killing.done():
                clickhouse.batch_insert(ORDER_FILLED, fills_of(answered[-1]), f"batch-{answered[-1]}")
                answered.append(answered[-1] + 1)
        killing.result()
    return answered[-1]


def accept_and_close(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.close()


def run_again(server: ClickHouseServer, port: int) -> "subprocess.CompletedProcess[str]":
    """Start a second server on the same directory."""
    command = server.command()
    command[command.index("--port") + 1] = str(port)
    return subprocess.run(command, env=environment({}), capture_output=True, text=True, timeout=60, check=False)


def test_every_row_lands_once_wherever_kill_9_hits(server: ClickHouseServer) -> None:
    """Answered inserts survive; the one that was cut off is repeated with its token, as the writer does."""
    settings = make_settings(clickhouse_host=server.host, clickhouse_port=server.port)
    with connected(server) as client:
        client.command(f"CREATE DATABASE {settings.clickhouse_database}")
        client.command(ORDER_FILLED.create(settings.clickhouse_database))
    with closing(ClickHouse(settings)) as clickhouse:
        batch = 0
        for _ in range(4):
            batch = insert_until_killed(server, clickhouse, batch)
            server.start()
            clickhouse.insert_again(ORDER_FILLED, fills_of(batch), f"batch-{batch}")
            expected = (batch + 1) * ROWS_PER_BATCH
            [counted] = clickhouse.query(f"SELECT count(), uniqExact(id) FROM {clickhouse.database}.order_filled")
            assert counted == (expected, expected)
            batch += 1


def test_tokens_outlive_a_restart(server: ClickHouseServer) -> None:
    with connected(server) as client:
        client.command(TABLE)
        insert_batch(client, 0)
    server.restart()
    with connected(server) as client:
        insert_batch(client, 0)
        assert client.command("SELECT count() FROM t") == ROWS_PER_BATCH


def test_sigterm_lets_the_running_query_finish(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, "--stop-limit-s", "60") as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, server, "SELECT sleepEachRow(1) FROM numbers(8) SETTINGS max_block_size = 1")
        wait_until(lambda: b"sleepEachRow" in post(server, "SHOW PROCESSLIST")[1], "the query runs")
        assert server.stop() == 0
        assert running.result() == (200, b"0\n" * 8)


def test_sigterm_waits_no_longer_than_its_limit(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, "--stop-limit-s", "0.2") as server, ThreadPoolExecutor(1) as pool:
        endless = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
        running = pool.submit(post, server, endless)
        wait_until(lambda: b"sipHash64" in post(server, "SHOW PROCESSLIST")[1], "the query runs")
        assert server.stop() == 0
        assert isinstance(running.exception(), (ConnectionError, http.client.HTTPException))


def test_a_second_server_on_the_directory_is_refused(server: ClickHouseServer) -> None:
    second = run_again(server, free_port())
    assert second.returncode == 2
    assert "another process serves this directory" in second.stderr


def test_a_server_that_answers_already_is_left_alone(server: ClickHouseServer) -> None:
    second = run_again(server, server.port)
    assert second.returncode == 3
    assert "another server already answers at " in second.stdout


def test_a_port_that_something_else_uses_is_a_clear_error(server: ClickHouseServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:
        pool.submit(accept_and_close, other)
        second = run_again(server, other.getsockname()[1])
    assert second.returncode == 2
    assert "in use by something" in second.stderr


def test_localhost_is_served_where_clients_look_for_it(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, "--host", "localhost") as server:
        for host in ("localhost", "127.0.0.1"):
            with clickhouse_connect.get_client(host=host, port=server.port) as client:
                assert client.command("SELECT 1") == 1


def test_a_password_is_required_once_it_is_set(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, env={"CLICKHOUSE_USER": "ann", "CLICKHOUSE_PASSWORD": "s:cret"}) as server:
        with connected(server, username="ann", password="s:cret") as client:
            assert client.command("SELECT 1") == 1
        for user, password in (("ann", "wrong"), ("default", ""), ("ann", "")):
            with pytest.raises(DatabaseError, match="516"):
                connected(server, username=user, password=password)
        assert post(server, "SELECT 1")[0] == 403


def test_a_query_over_the_memory_limit_fails_alone(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, "--max-memory-bytes", str(1024**3)) as server, connected(server) as client:
        with pytest.raises(DatabaseError, match="code: 241"):
            client.query("SELECT length(groupArray(number)) FROM numbers(1000000000)")
        assert client.command("SELECT 1") == 1
