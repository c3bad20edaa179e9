"""The questions of start.sh and of health checks, asked of real servers, of nobody and of strangers."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from common import probe
from common.probe import (
    FAULTY,
    LOADING,
    NO,
    TAKEN,
    WITHOUT_SOURCES,
    YES,
    Answer,
    ask_clickhouse,
    ask_free,
    ask_health,
    ask_http,
    ask_redis,
)
from tests.faults.append_only_file import finish_loading, load_slowly
from tests.servers import ROOT, ClickHouseServer, RedisServer, environment, free_port
from tests.waiting import wait_until

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer take its time on a busy machine."""
    monkeypatch.setattr(probe, "ANSWER_LIMIT_S", 60.0)


@contextmanager
def stranger(status: int = 200, body: bytes = b"hello") -> Iterator[int]:
    """Serve one and the same answer to every request on the port that comes back."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's signature
            pass

    server = HTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_servers_that_answer_are_recognised(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> None:
    assert ask_redis(redis_server.host, redis_server.port).code == YES
    assert ask_clickhouse(clickhouse_server.host, clickhouse_server.port).code == YES
    assert ask_http(f"{clickhouse_server.url}/ping").code == YES


@pytest.mark.parametrize("ask", [ask_redis, ask_clickhouse])
def test_nobody_and_a_stranger_are_told_apart(ask: Callable[[str, int], Answer]) -> None:
    assert ask(HOST, free_port()).code == NO
    with stranger() as port:
        assert ask(HOST, port).code == TAKEN


def test_a_server_of_the_other_kind_is_a_stranger(
    redis_server: RedisServer, clickhouse_server: ClickHouseServer
) -> None:
    assert ask_clickhouse(redis_server.host, redis_server.port).code == TAKEN
    assert ask_redis(clickhouse_server.host, clickhouse_server.port).code == TAKEN


def test_a_port_in_use_is_not_free() -> None:
    with stranger() as port:
        assert ask_free(HOST, port).code == TAKEN
    assert ask_free(HOST, free_port()).code == YES


def test_health_tells_the_verdict_and_its_reasons() -> None:
    with stranger(200, b'{"status": "degraded", "reasons": ["Gamma answers 503"]}') as port:
        assert ask_health(f"http://{HOST}:{port}/health") == (YES, "degraded\n  Gamma answers 503")
    with stranger(503, b'{"status": "broken", "reasons": []}') as port:
        assert ask_health(f"http://{HOST}:{port}/health") == (NO, "broken")
    with stranger(503, b'{"status": "broken", "pipeline": "broken", "reasons": []}') as port:
        assert ask_health(f"http://{HOST}:{port}/health") == (NO, "broken")
    with stranger(503, b'{"status": "broken", "pipeline": "degraded", "reasons": []}') as port:
        assert ask_health(f"http://{HOST}:{port}/health") == (WITHOUT_SOURCES, "broken")


def test_health_without_a_dashboard_is_a_no_with_a_reason() -> None:
    answer = ask_health(f"http://{HOST}:{free_port()}/health")
    assert answer.code == NO
    assert "does not answer" in answer.text


@pytest.mark.parametrize("script", ["setup_schema.py", "test_setup.py"])
def test_the_setup_commands_wait_for_a_server_that_is_loading(
    script: str, tmp_path: Path, clickhouse_server: ClickHouseServer
) -> None:
    server = RedisServer(tmp_path).start()
    server.stop()
    load_slowly(server.directory / "redis")
    server.launch()
    wait_until(lambda: ask_redis(server.host, server.port).code == LOADING, "the server loads its data")
    variables = {"REDIS_PORT": str(server.port), "CLICKHOUSE_PORT": str(clickhouse_server.port)}
    nobody = f"http://{HOST}:{free_port()}"
    sources = {"POLYMARKET_API_URL": nobody, "GOLDSKY_URL": nobody, "POLYGON_RPC_URL": nobody}
    own = {"REDIS_HOST": HOST, "CLICKHOUSE_HOST": HOST, "CLICKHOUSE_DATABASE": f"loading_{script[:-3]}"}
    env = environment({**variables, **sources, **own})
    command = [sys.executable, "-u", str(ROOT / script)]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    assert running.stderr.readline() == f"Redis at {HOST}:{server.port} is loading its data; waiting for it\n"
    finish_loading(server.port)
    printed, errors = running.communicate(timeout=120)
    server.stop()
    assert errors == ""
    assert "FAIL  Redis" not in printed
    assert running.returncode == (0 if script == "setup_schema.py" else 1)  # the tables are missing


def test_a_server_that_reports_what_is_wrong_with_it_is_not_taken_for_a_working_one() -> None:
    with socket.create_server((HOST, 0)) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(_refuse, listening)
        answer = ask_redis(HOST, listening.getsockname()[1])
    assert (answer.code, answer.text.partition(": ")[2]) == (FAULTY, "MISCONF the disk is full")


def _refuse(listening: socket.socket) -> None:
    for _ in range(2):  # is anybody there, and PING
        connection, _ = listening.accept()
        with connection:
            if connection.recv(64):
                connection.sendall(b"-MISCONF the disk is full\r\n")
