"""What the embedded ClickHouse refuses: foreign pages and names, ambiguous requests, clients without the password."""

import base64
import http.client
import re
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import pytest

from common.same_origin import HEADERS
from tests.servers import ClickHouseServer
from tests.waiting import wait_until

PASSWORD = "s:cret"
BASIC = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z - clickhouse_server - [A-Z]+ - .*")


class Answer(NamedTuple):
    status: int
    headers: "http.client.HTTPMessage"
    body: bytes


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """Return a server with a password, and with a name of its own."""
    env = {"CLICKHOUSE_USER": "ann", "CLICKHOUSE_PASSWORD": PASSWORD, "CLICKHOUSE_ALLOWED_HOSTS": "ch, Db.Example"}
    with ClickHouseServer(tmp_path_factory.mktemp("guarded"), env=env) as server:
        yield server


def ask(
    server: ClickHouseServer, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.msg, answer.read())


def url(sql: str = "SELECT 6 * 7", **more: str) -> str:
    return "/?" + urllib.parse.urlencode({"query": sql, **more})


def exchange(server: ClickHouseServer, sent: bytes) -> bytes:
    """Send bytes over one connection, say that there are no more, and return all that comes back."""
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d+) ", answers, re.MULTILINE)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
@pytest.mark.parametrize("path", ["/ping", "/replicas_status", "/", url(), "/nothing"])
@pytest.mark.parametrize(
    "header",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Host": "evil.test"},
        {"Host": ""},
    ],
)
def test_foreign_pages_and_names_are_refused(
    clickhouse_server: ClickHouseServer, method: str, path: str, header: dict[str, str]
) -> None:
    answer = ask(clickhouse_server, method, path, headers=header)
    assert (answer.status, answer.headers["Connection"]) == (403, "close")
    assert b"42" not in answer.body
    assert HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "TRACE", "PATCH", "CONNECT"])
def test_other_methods_do_nothing_and_allow_nothing(clickhouse_server: ClickHouseServer, method: str) -> None:
    asked = {"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"}
    answer = ask(clickhouse_server, method, url(), headers=asked)
    assert answer.status == HTTPStatus.NOT_IMPLEMENTED
    assert b"42" not in answer.body
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_people_and_clients_are_answered_and_no_browser_runs_or_shares_the_answer(
    clickhouse_server: ClickHouseServer,
) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Site": "same-origin"}):
        answer = ask(clickhouse_server, "GET", url(), headers=headers)
        assert (answer.status, answer.body) == (200, b"42\n")
        assert HEADERS.items() <= dict(answer.headers).items()
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_listed_names_are_answered(guarded: ClickHouseServer) -> None:
    for host, status in (("ch:8123", 200), ("DB.example", 200), ("localhost", 200), ("ch.evil.test", 403)):
        assert ask(guarded, "GET", "/ping", headers={"Host": host}).status == status


def test_a_wrong_list_of_names_is_one_clear_line(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path, env={"CLICKHOUSE_ALLOWED_HOSTS": "http://ch:8123"})
    expected = r"ended with 2: clickhouse_server: CLICKHOUSE_ALLOWED_HOSTS: expected host names .* 'http://ch:8123'\n$"
    with pytest.raises(RuntimeError, match=expected):
        server.start()


def test_the_body_of_a_refused_request_is_not_taken_for_the_next_one(clickhouse_server: ClickHouseServer) -> None:
    """A form of a foreign page may send any text: here a whole request of a client."""
    smuggled = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(url())}\r\n\r\n{url()}".encode()
    for length in (len(smuggled), 0):
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nContent-Length: {length}\r\n\r\n"
        assert statuses(exchange(clickhouse_server, head.encode() + smuggled)) == [403]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 0\r\nContent-Length: 8",
        b"Content-Length: +8",
        b"Content-Length: 8, 8",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"X: y\r\n Content-Length: 8",
        b"no header",
        b"X: " + b"y" * 70_000,
        b"\r\n".join(b"X: y" for _ in range(200)),
    ],
)
def test_an_ambiguous_request_is_refused_and_nothing_after_it_is_read(
    clickhouse_server: ClickHouseServer, head: bytes
) -> None:
    next_one = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sent = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n" + next_one
    answers = exchange(clickhouse_server, sent)
    assert len(statuses(answers)) == 1
    assert statuses(answers)[0] in {400, 431}
    assert b"Ok." not in answers


@pytest.mark.parametrize("size", [b"-8", b"+8", b"0x8", b"0_8", b"8 8", b"", b"g"])
def test_a_chunk_whose_size_is_none_is_refused(clickhouse_server: ClickHouseServer, size: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = exchange(clickhouse_server, head + size + b"\r\nSELECT 7\r\n0\r\n\r\nGET /ping HTTP/1.1\r\n\r\n")
    assert statuses(answers) == [400]


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1 x", b"GET / HTTP/x", b"GET / HTTP/2.0", b"POST /", b"\x1b[2J a b", b""]
)
def test_what_is_not_a_request_is_refused_in_plain_text(clickhouse_server: ClickHouseServer, line: bytes) -> None:
    answers = exchange(clickhouse_server, line + b"\r\nHost: localhost\r\n\r\n")
    assert statuses(answers) in ([400], [505], [])
    assert b"<" not in answers
    assert b"\x1b" not in answers


def test_a_request_without_headers_is_refused(clickhouse_server: ClickHouseServer) -> None:
    assert b"42" not in exchange(clickhouse_server, f"GET {url()}\r\n\r\n".replace("+", "%20").encode())
    assert statuses(exchange(clickhouse_server, f"GET {url()} HTTP/1.0\r\n\r\n".encode())) == [403]


@pytest.mark.parametrize(
    "parameters",
    [
        {"query_id": "a\r\nX-Injected: 1"},
        {"query_id": "a\nX-Injected: 1\n\n<script>"},
        {"query_id": "\x00\x1b[2J\x85\u2028漢"},
        {"query_id": "\u00e9"},
        {"default_format": "TabSeparated\r\nX-Injected: 1"},
        {"session_id": "a\r\nX-Injected: 1"},
    ],
)
@pytest.mark.parametrize("sql", ["SELECT 1", "INSERT INTO FUNCTION null('x UInt8') VALUES (1)", "SET max_threads = 1"])
def test_nothing_of_a_request_becomes_a_header(
    clickhouse_server: ClickHouseServer, parameters: dict[str, str], sql: str
) -> None:
    answer = ask(clickhouse_server, "POST", "/?" + urllib.parse.urlencode(parameters), sql.encode())
    assert "X-Injected" not in answer.headers
    assert all(value.isascii() and value.isprintable() for value in answer.headers.values())
    assert int(answer.headers["Content-Length"]) == len(answer.body)


def test_a_query_id_that_is_one_comes_back_as_it_is(clickhouse_server: ClickHouseServer) -> None:
    assert ask(clickhouse_server, "GET", url(query_id="a-1 {x}")).headers["X-ClickHouse-Query-Id"] == "a-1 {x}"


def test_nothing_of_a_request_becomes_a_log_line(clickhouse_server: ClickHouseServer) -> None:
    before = len(clickhouse_server.log())
    forged = "\n2026-11-28T00:00:00.000Z - clickhouse_server - INFO - forged\x1b[2J\r\u2028"
    ask(clickhouse_server, "POST", "/", f"SELECT `{forged}`".encode())
    ask(clickhouse_server, "POST", "/", f"SELECT throwIf(1, '{forged}')".encode())
    ask(clickhouse_server, "GET", url(user=forged))
    ask(clickhouse_server, "POST", "/?default_format=" + urllib.parse.quote(forged), b"SELECT 1")
    exchange(clickhouse_server, b"GET / \x1b[2J HTTP/1.1\r\n\r\n")
    exchange(clickhouse_server, b"GET / HTTP/1.1\r\nX\x1b[2J\r\n\r\n")
    wait_until(lambda: clickhouse_server.log()[before:].count("\n") >= 6, "the failures are logged")
    lines = clickhouse_server.log()[before:].splitlines()
    assert all(LINE.fullmatch(line) and line.isprintable() for line in lines), lines


class TestPassword:
    """A password that is set is required: there is no way around it."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
    @pytest.mark.parametrize(
        ("parameters", "headers"),
        [
            ({}, {}),
            ({"user": "ann"}, {}),
            ({"user": "ann", "password": ""}, {}),
            ({"user": "", "password": ""}, {}),
            ({"user": "", "password": PASSWORD}, {}),
            ({"password": PASSWORD}, {}),
            ({"user": "ann\0" + PASSWORD}, {}),
            ({}, {"X-ClickHouse-User": "ann"}),
            ({}, {"X-ClickHouse-Key": PASSWORD}),
            ({}, {"X-ClickHouse-User": ""}),
            ({"password": PASSWORD}, {"X-ClickHouse-User": "ann"}),
            ({"user": "ann"}, {"X-ClickHouse-Key": PASSWORD}),
            ({"user": "ann", "password": PASSWORD}, {"X-ClickHouse-Key": "wrong"}),
            ({"user": "ann"}, {"Authorization": BASIC}),
            ({}, {"Authorization": BASIC.replace("Basic", "Bearer")}),
            ({}, {"Authorization": BASIC.replace("Basic", "never")}),
            ({}, {"Authorization": "Basic"}),
            ({}, {"Authorization": ""}),
            ({}, {"Authorization": "Basic \u00e9"}),
            ({}, {"Authorization": "Basic " + base64.b64encode(b"ann:").decode()}),
            ({}, {"Authorization": "Basic " + base64.b64encode(b"ann").decode()}),
            ({"session_id": "s"}, {}),
            ({"quota_key": "ann", "role": "ann"}, {}),
        ],
    )
    def test_clients_without_it_are_refused(
        self, guarded: ClickHouseServer, method: str, parameters: dict[str, str], headers: dict[str, str]
    ) -> None:
        answer = ask(guarded, method, url(**parameters), headers=headers)
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert b"42" not in answer.body

    @pytest.mark.parametrize(
        ("parameters", "headers"),
        [
            ({"user": "ann", "password": PASSWORD}, {}),
            ({}, {"X-ClickHouse-User": "ann", "X-ClickHouse-Key": PASSWORD}),
            ({}, {"Authorization": BASIC}),
            ({}, {"Authorization": BASIC.replace("Basic", "bAsIc")}),
        ],
    )
    def test_clients_with_it_are_answered(
        self, guarded: ClickHouseServer, parameters: dict[str, str], headers: dict[str, str]
    ) -> None:
        assert ask(guarded, "GET", url(**parameters), headers=headers).body == b"42\n"

    def test_the_fields_of_a_form_do_not_give_it(self, guarded: ClickHouseServer) -> None:
        fields = {"query": "SELECT 6 * 7", "user": "ann", "password": PASSWORD}
        parts = (
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
        )
        body = ("".join(parts) + "--b--\r\n").encode()
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        assert ask(guarded, "POST", "/", body, form).status == 403
        assert ask(guarded, "POST", "/", body, form | {"Authorization": BASIC}).body == b"42\n"

    def test_a_connection_is_not_trusted_for_what_came_before(self, guarded: ClickHouseServer) -> None:
        with closing(http.client.HTTPConnection(guarded.host, guarded.port, timeout=60)) as connection:
            for headers, status in (({}, 403), ({"Authorization": BASIC}, 200), ({}, 403)) * 2:
                connection.request("POST", "/", b"SELECT 1", headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status

    def test_a_refused_body_is_not_taken_for_the_next_request(self, guarded: ClickHouseServer) -> None:
        inner = f"GET {url()} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BASIC}\r\n\r\n".encode()
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(inner)}\r\n\r\n"
        assert statuses(exchange(guarded, head.encode() + inner)) == [403]

    @pytest.mark.parametrize("path", ["/ping", "/ping?query=SELECT+6*7", "/replicas_status"])
    def test_whether_the_server_is_alive_is_no_secret(self, guarded: ClickHouseServer, path: str) -> None:
        answer = ask(guarded, "POST", path, b"SELECT 6 * 7")
        assert (answer.status, answer.body) == (200, b"Ok.\n")

    @pytest.mark.parametrize(
        "target", ["//?query=SELECT+6*7", "http://localhost/?query=SELECT+6*7", "/%2f?query=SELECT+6*7"]
    )
    def test_no_other_way_of_writing_the_address_leads_to_a_statement(
        self, guarded: ClickHouseServer, target: str
    ) -> None:
        answer = ask(guarded, "GET", target)
        assert answer.status in {403, 404}
        assert b"42" not in answer.body
