"""Behind HTTP_PROXY: what goes through the proxy, and what is reported when it fails."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from common.clickhouse import ClickHouse
from common.errors import Unavailable
from common.http import HttpSource
from tests.builders import Pipeline, make_settings
from tests.integration.ingesting import Asked, Reply, upstream
from tests.servers import ROOT, ClickHouseServer, environment, free_port

REFUSALS = [
    b"HTTP/1.1 407 Proxy Authentication Required",
    b"HTTP/1.1 403 \x1b[31mForbidden",
    b"HTTP/1.1 502 Bad Gateway",
]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@contextmanager
def proxy(status_line: bytes) -> Iterator[str]:
    """HOST:PORT of a proxy that answers every request alike, with a page of its own."""
    page = b"\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy"
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(status_line + page)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listening.getsockname()
        yield f"{host}:{port}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://user:secret@{address}")


def get(url: str) -> bytes:
    with closing(HttpSource("Gamma", url, requests_per_10s=100, connect_timeout_s=60.0, read_timeout_s=60.0)) as source:
        return source.get("/markets")


def failure(url: str) -> str:
    with pytest.raises(Unavailable) as caught:
        get(url)
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_what_is_on_the_internet_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return Reply(b"[]")

    with upstream(answer) as url:
        use(monkeypatch, url.removeprefix("http://"))
        assert get("http://gamma.example") == b"[]"
    assert asked[0].headers["host"] == "gamma.example"
    assert "proxy-authorization" in asked[0].headers


def test_loopback_and_private_names_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, f"127.0.0.1:{free_port()}")
    with upstream(lambda _: Reply(b"[]")) as url:
        assert get(url) == b"[]"
        assert get(url.replace("127.0.0.1", "localhost")) == b"[]"
    for name in ("simulator", "gamma.internal"):
        assert failure(f"http://{name}:1").startswith(f"cannot reach Gamma at {name}:1: ")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    use(monkeypatch, address)
    expected = f"cannot reach Gamma at gamma.example through the proxy {address}: connection refused"
    assert failure(f"{scheme}://gamma.example") == expected


@pytest.mark.parametrize("status_line", REFUSALS, ids=["407", "403", "502"])
def test_a_refusal_of_the_proxy_is_no_answer_of_the_source(monkeypatch: pytest.MonkeyPatch, status_line: bytes) -> None:
    with proxy(status_line) as address:
        use(monkeypatch, address)
        status = status_line.split()[1].decode()
        expected = f"cannot reach Gamma at gamma.example through the proxy {address}: the proxy answers {status}"
        assert failure("https://gamma.example") == expected


def test_without_a_tunnel_a_proxy_that_wants_a_password_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(REFUSALS[0]) as address:
        use(monkeypatch, address)
        assert failure("http://gamma.example") == f"the proxy {address} requires a user and a password: it answers 407"


def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "gamma.invalid")
    assert failure("http://gamma.invalid").startswith("cannot reach Gamma at gamma.invalid: ")


class TestClickHouse:
    def test_on_this_machine_it_is_reached_directly(
        self, monkeypatch: pytest.MonkeyPatch, clickhouse_server: ClickHouseServer
    ) -> None:
        use(monkeypatch, f"127.0.0.1:{free_port()}")
        for host in ("127.0.0.1", "localhost"):
            clickhouse = ClickHouse(make_settings(clickhouse_host=host, clickhouse_port=clickhouse_server.port))
            assert clickhouse.query("SELECT 1") == [(1,)]
            clickhouse.close()

    @pytest.mark.parametrize("status_line", [*REFUSALS, b"HTTP/1.1 200 OK"], ids=["407", "403", "502", "200"])
    def test_elsewhere_the_proxy_is_named_whatever_it_answers(
        self, monkeypatch: pytest.MonkeyPatch, status_line: bytes
    ) -> None:
        with proxy(status_line) as address:
            use(monkeypatch, address)
            clickhouse = ClickHouse(make_settings(clickhouse_host="clickhouse.example"))
            with pytest.raises(Unavailable) as caught:
                clickhouse.query("SELECT 1")
        expected = f"ClickHouse at clickhouse.example:8123 through the proxy {address}: "
        assert str(caught.value).startswith(expected)
        assert "secret" not in str(caught.value)

    def test_a_proxy_that_is_away_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        address = f"127.0.0.1:{free_port()}"
        use(monkeypatch, address)
        clickhouse = ClickHouse(make_settings(clickhouse_host="clickhouse.example"))
        with pytest.raises(Unavailable, match=f"through the proxy {address}: .*refused") as caught:
            clickhouse.query("SELECT 1")
        assert "secret" not in str(caught.value)

    def test_a_command_on_this_machine_works_behind_a_proxy_that_is_away(self, pipeline: Pipeline) -> None:
        away = {name: f"http://127.0.0.1:{free_port()}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
        own = {name.upper(): str(getattr(pipeline.settings, name)) for name in pipeline.settings.model_fields_set}
        result = subprocess.run(
            [sys.executable, "setup_schema.py"],
            cwd=ROOT,
            env=environment(own | away),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
