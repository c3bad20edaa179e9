"""The embedded ClickHouse keeps what its clients rely on: the driver, curl, and the writer's exactly-once inserts."""

import gzip
import http.client
import json
import socket
import threading
import urllib.parse
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from embedded import http_body
from embedded.http_answer import BUFFERED_BYTES
from tests.integration.ingesting import Asked, Reply, upstream
from tests.servers import ClickHouseServer
from tests.waiting import wait_until

TABLE = (
    "(id String, n UInt64) ENGINE = ReplacingMergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000"
)


def connected(server: ClickHouseServer, **options: Any) -> Client:
    return clickhouse_connect.get_client(host=server.host, port=server.port, **options)


@dataclass
class Answer:
    status: int
    headers: "http.client.HTTPMessage"
    body: bytes


def ask(
    server: ClickHouseServer, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Send one plain HTTP request, as curl would."""
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.msg, answer.read())


def query_url(sql: str, **more: str) -> str:
    return "/?" + urllib.parse.urlencode({"query": sql, **more})


@pytest.fixture
def client(clickhouse_server: ClickHouseServer) -> Iterator[Client]:
    """Return a client with a database of its own."""
    database = f"test_{uuid.uuid4().hex}"
    with connected(clickhouse_server) as first:
        first.command(f"CREATE DATABASE {database}")
        with connected(clickhouse_server, database=database) as client:
            yield client
        first.command(f"DROP DATABASE {database}")


def json_rows(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def numbered(start: int, stop: int) -> bytes:
    return json_rows([{"id": f"row-{n}", "n": n} for n in range(start, stop)])


def insert(client: Client, table: str, rows: bytes, token: str) -> int:
    """Insert as the pipeline's writer does; the written rows, views included."""
    pinned = {"async_insert": 0, "insert_deduplicate": 1, "deduplicate_blocks_in_dependent_materialized_views": 1}
    settings = {**pinned, "insert_deduplication_token": token}
    return client.raw_insert(table, ["id", "n"], rows, settings=settings, fmt="JSONEachRow").written_rows


def number_of_rows(client: Client, table: str) -> int:
    return int(client.query(f"SELECT count() FROM {table}").result_rows[0][0])


class TestDriver:
    def test_a_client_connects_and_learns_version_and_time_zone(self, client: Client) -> None:
        assert str(client.server_version).startswith("26.")
        assert client.query("SELECT 1").summary["result_rows"] == "1"

    @pytest.mark.parametrize(
        "value", ["plain", "it's", 'say "x"', "a\\b", "tab\tline\nend", "é 漢 🙂", "", "{x}", "\\N"]
    )
    def test_a_parameter_arrives_as_it_was_given(self, client: Client, value: str) -> None:
        rows = client.query("SELECT {value:String}, {n:UInt64}", parameters={"value": value, "n": 2**63}).result_rows
        assert rows == [(value, 2**63)]

    def test_parameters_too_long_for_a_url_arrive_too(self, client: Client) -> None:
        value = "x" * 200_000
        assert client.query("SELECT length({value:String})", parameters={"value": value}).result_rows == [(200_000,)]

    @pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", False])
    def test_rows_go_and_come_back_in_every_compression(
        self, client: Client, clickhouse_server: ClickHouseServer, compression: str
    ) -> None:
        client.command(f"CREATE TABLE t {TABLE}")
        rows = [(f"é-{n:06}", n) for n in range(5000)]
        with connected(clickhouse_server, database=client.database, compress=compression) as other:
            assert other.insert("t", rows, column_names=["id", "n"]).written_rows == 5000
            assert other.query("SELECT id, n FROM t ORDER BY n").result_rows == rows

    @pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip"])
    def test_raw_inserts_may_be_compressed(self, client: Client, compression: str) -> None:
        compressor = http_body.compressor(compression)
        client.command(f"CREATE TABLE t {TABLE}")
        body = compressor.compress(numbered(0, 1000)) + compressor.flush()
        client.raw_insert("t", ["id", "n"], body, fmt="JSONEachRow", compression=compression)
        assert number_of_rows(client, "t") == 1000

    def test_a_raw_query_answers_in_the_format_that_is_asked(self, client: Client) -> None:
        assert client.raw_query("SELECT 1 AS x", fmt="JSONEachRow") == b'{"x":1}\n'

    def test_commands_answer_values(self, client: Client) -> None:
        assert client.command("SELECT 40 + 2") == 42
        assert client.command("EXISTS TABLE t") == 0

    def test_an_error_carries_its_code(self, client: Client) -> None:
        with pytest.raises(DatabaseError, match="code: 60") as caught:
            client.query("SELECT * FROM missing")
        assert caught.value.code == 60

    def test_an_unknown_setting_is_an_error(self, clickhouse_server: ClickHouseServer) -> None:
        answer = ask(clickhouse_server, "GET", query_url("SELECT 1", no_such_setting="1"))
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "115")

    def test_an_answer_that_breaks_off_is_an_error(self, client: Client) -> None:
        rows = BUFFERED_BYTES  # of eight bytes each: the answer has begun when the error comes
        with pytest.raises(StreamFailureError, match="Code: 395"):
            len(client.query(f"SELECT number, throwIf(number = {rows}) FROM numbers({rows + 1})").result_rows)

    def test_a_stream_can_be_left_half_way(self, client: Client) -> None:
        with client.query_row_block_stream("SELECT number FROM numbers(100000000)") as blocks:
            assert next(iter(blocks))[0] == (0,)
        assert client.command("SELECT 1") == 1

    def test_a_large_answer_arrives_whole(self, client: Client) -> None:
        answer = client.query("SELECT number, toString(number) FROM numbers(1000000)")
        assert answer.row_count == 1_000_000
        assert answer.result_rows[-1] == (999_999, "999999")

    def test_settings_of_a_request_do_not_outlive_it(self, client: Client) -> None:
        ask_threads = "SELECT getSetting('max_threads')"
        before = client.query(ask_threads).result_rows
        assert client.query(ask_threads, settings={"max_threads": 7}).result_rows == [(7,)]
        assert client.query(ask_threads).result_rows == before

    def test_a_session_remembers_its_settings_and_temporary_tables(
        self, client: Client, clickhouse_server: ClickHouseServer
    ) -> None:
        client.command("SET max_threads = 7")
        client.command("CREATE TEMPORARY TABLE mine (n UInt8)")
        client.insert("mine", [[1]], column_names=["n"])
        assert client.query("SELECT n FROM mine", settings={"max_threads": 3}).result_rows == [(1,)]
        assert client.command("SELECT getSetting('max_threads')") == 7
        with connected(clickhouse_server) as other, pytest.raises(DatabaseError):
            other.query("SELECT n FROM mine")


class TestPlainHttp:
    def test_it_answers_that_it_is_alive(self, clickhouse_server: ClickHouseServer) -> None:
        assert [ask(clickhouse_server, "GET", path).body for path in ("/ping", "/", "/replicas_status")] == [
            b"Ok.\n"
        ] * 3

    def test_a_query_in_the_url_answers_tab_separated(self, clickhouse_server: ClickHouseServer) -> None:
        answer = ask(clickhouse_server, "GET", query_url("SELECT 1, 'a'", query_id="q-1"))
        assert (answer.status, answer.body) == (200, b"1\ta\n")
        assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"
        assert answer.headers["X-ClickHouse-Query-Id"] == "q-1"
        assert answer.headers["X-ClickHouse-Timezone"]
        assert answer.headers["Content-Type"].startswith("text/tab-separated-values")

    def test_a_query_in_the_body_is_answered(self, clickhouse_server: ClickHouseServer) -> None:
        answer = ask(clickhouse_server, "POST", "/?default_format=JSONEachRow", b"SELECT 1 AS x")
        assert answer.body == b'{"x":1}\n'

    def test_a_query_may_begin_in_the_url_and_end_in_the_body(self, clickhouse_server: ClickHouseServer) -> None:
        assert ask(clickhouse_server, "POST", query_url("SELECT 1 +"), b"2").body == b"3\n"

    def test_the_statement_in_the_url_takes_rows_from_the_body(
        self, client: Client, clickhouse_server: ClickHouseServer
    ) -> None:
        client.command("CREATE TABLE t (a UInt8, b String) ENGINE = Memory")
        for format_name, rows in (
            ("CSV", b'1,"x,y"\n'),
            ("TabSeparated", b"2\t\\N\n"),
            ("RowBinary", b"\x03\x03\x00\n'"),
            ("Values", b"(3 + 1, upper('z'))"),
        ):
            target = query_url(f"INSERT INTO t FORMAT {format_name}", database=client.database or "")
            answer = ask(clickhouse_server, "POST", target, rows)
            assert (answer.status, json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"]) == (200, "1")
        rows_read = client.query("SELECT a, hex(b) FROM t ORDER BY a").result_rows
        assert rows_read == [(1, "782C79"), (2, ""), (3, "000A27"), (4, "5A")]

    def test_values_may_follow_the_statement_in_the_body(
        self, client: Client, clickhouse_server: ClickHouseServer
    ) -> None:
        target = f"/?database={client.database}"
        ask(clickhouse_server, "POST", target, b"CREATE TABLE t (a UInt8) ENGINE = Memory")
        ask(clickhouse_server, "POST", target, b"INSERT INTO t VALUES (1), (2);")
        assert (
            ask(clickhouse_server, "GET", query_url("SELECT sum(a) FROM t", database=client.database or "")).body
            == b"3\n"
        )

    def test_a_body_may_come_in_chunks(self, client: Client, clickhouse_server: ClickHouseServer) -> None:
        client.command(f"CREATE TABLE t {TABLE}")
        with closing(http.client.HTTPConnection(clickhouse_server.host, clickhouse_server.port, timeout=60)) as plain:
            lines = iter([b"INSERT INTO t FORMAT JSONEachRow\n", *numbered(0, 100).splitlines(keepends=True)])
            plain.request("POST", f"/?database={client.database}", lines, encode_chunked=True)
            assert plain.getresponse().status == 200
        assert number_of_rows(client, "t") == 100

    def test_a_client_that_waits_for_leave_to_send_gets_it(self, clickhouse_server: ClickHouseServer) -> None:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\nExpect: 100-continue\r\n"
        with socket.create_connection((clickhouse_server.host, clickhouse_server.port), timeout=60) as plain:
            plain.sendall(head + b"Connection: close\r\n\r\n")
            assert plain.recv(100).startswith(b"HTTP/1.1 100 ")
            plain.sendall(b"SELECT 7")
            assert b"".join(iter(lambda: plain.recv(4096), b"")).endswith(b"\r\n\r\n7\n")

    def test_answers_are_compressed_on_request(self, clickhouse_server: ClickHouseServer) -> None:
        target = query_url("SELECT number FROM numbers(10000)")
        answer = ask(clickhouse_server, "GET", target, headers={"Accept-Encoding": "gzip"})
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.body).splitlines()[-1] == b"9999"

    @pytest.mark.parametrize(
        ("sql", "status", "code"), [("SELEC 1", 400, "62"), ("SELECT x", 404, "47"), ("SELECT throwIf(1)", 500, "395")]
    )
    def test_errors_answer_with_status_code_and_text(
        self, clickhouse_server: ClickHouseServer, sql: str, status: int, code: str
    ) -> None:
        answer = ask(clickhouse_server, "POST", "/", sql.encode())
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (status, code)
        assert answer.body.startswith(f"Code: {code}. DB::Exception: ".encode())

    def test_no_client_takes_half_an_answer_for_a_whole_one(self, clickhouse_server: ClickHouseServer) -> None:
        rows = BUFFERED_BYTES
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(clickhouse_server, "GET", query_url(f"SELECT throwIf(number = {rows}) FROM numbers({rows + 1})"))
        assert b"Code: 395. DB::Exception: " in caught.value.partial[-1000:]

    def test_get_only_reads(self, client: Client, clickhouse_server: ClickHouseServer) -> None:
        client.command(f"CREATE TABLE t {TABLE}")
        for sql in ("DROP TABLE t", "INSERT INTO t VALUES ('x', 1)", "INSERT INTO t SELECT 'x', 1"):
            answer = ask(clickhouse_server, "GET", query_url(sql, database=client.database or ""))
            assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
        assert number_of_rows(client, "t") == 0

    def test_a_get_changes_nothing_by_the_name_of_a_parameter_either(
        self, client: Client, clickhouse_server: ClickHouseServer
    ) -> None:
        client.command(f"CREATE TABLE t {TABLE}")
        smuggled = query_url("SELECT 1", **{f"param_x=1; DROP TABLE {client.database}.t; SET max_threads": "2"})
        assert ask(clickhouse_server, "GET", smuggled).status == 400
        assert number_of_rows(client, "t") == 0

    def test_a_connection_serves_further_requests_after_an_error(self, clickhouse_server: ClickHouseServer) -> None:
        with closing(http.client.HTTPConnection(clickhouse_server.host, clickhouse_server.port, timeout=60)) as plain:
            for body, expected in (
                (b"SELECT 1", 200),
                (b"SELEC" * 1000, 400),
                (b"INSERT INTO missing VALUES (1)", 404),
            ) * 2:
                plain.request("POST", "/", body)
                answer = plain.getresponse()
                answer.read()
                assert answer.status == expected


class TestInserts:
    @pytest.fixture(autouse=True)
    def _table(self, client: Client) -> None:
        client.command(f"CREATE TABLE t {TABLE}")

    def test_a_repeated_insert_with_its_token_writes_once(self, client: Client) -> None:
        for _ in range(3):
            insert(client, "t", numbered(0, 1000), "same")
        assert number_of_rows(client, "t") == 1000

    def test_the_token_outweighs_the_rows(self, client: Client) -> None:
        insert(client, "t", numbered(0, 10), "same")
        insert(client, "t", numbered(10, 20), "same")
        insert(client, "t", numbered(20, 30), "other")
        assert client.query("SELECT min(n), max(n), count() FROM t").result_rows == [(0, 29, 20)]

    def test_a_repeated_insert_leaves_materialized_views_alone(self, client: Client) -> None:
        client.command(
            "CREATE TABLE sums (day UInt8, total UInt64) ENGINE = SummingMergeTree ORDER BY day "
            "SETTINGS non_replicated_deduplication_window = 1000"
        )
        client.command("CREATE MATERIALIZED VIEW to_sums TO sums AS SELECT 1 AS day, count() AS total FROM t")
        for token in ("a", "a", "b", "a", "b"):
            insert(client, "t", numbered(0, 100), token)
        assert client.query("SELECT sum(total) FROM sums").result_rows == [(200,)]

    @pytest.mark.parametrize("place", [0, 25_000, 49_999])
    def test_a_bad_row_keeps_the_whole_insert_out(self, client: Client, place: int) -> None:
        lines = numbered(0, 50_000).splitlines(keepends=True)
        lines[place] = b'{"id": "bad", "n": "not a number"}\n'
        with pytest.raises(DatabaseError, match=r"code: (27|72)"):
            insert(client, "t", b"".join(lines), "bad")
        assert number_of_rows(client, "t") == 0
        insert(client, "t", numbered(0, 50_000), "bad")
        assert number_of_rows(client, "t") == 50_000, "a failed insert does not use up its token"

    def test_one_insert_is_one_part(self, client: Client) -> None:
        insert(client, "t", numbered(0, 100_000), "large")
        assert client.query("SELECT uniqExact(_part) FROM t").result_rows == [(1,)]

    def test_an_upload_that_breaks_off_writes_nothing(
        self, client: Client, clickhouse_server: ClickHouseServer
    ) -> None:
        sent = b"".join(b"%-50d,%012d\n" % (n, n) for n in range(32 * 1024))  # whole rows in every piece of a MiB
        target = query_url("INSERT INTO t FORMAT CSV", database=client.database or "")
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent) + 64}\r\n\r\n".encode()
        dropped = clickhouse_server.log().count("request dropped")
        with socket.create_connection((clickhouse_server.host, clickhouse_server.port)) as plain:
            plain.sendall(head + sent)
        wait_until(lambda: clickhouse_server.log().count("request dropped") > dropped, "the server notices")
        assert number_of_rows(client, "t") == 0

    def test_background_merges_keep_the_number_of_parts_small(self, client: Client) -> None:
        for n in range(60):
            insert(client, "t", numbered(n, n + 1), str(n))
        active = "SELECT count() FROM system.parts WHERE active AND table = 't' AND database = currentDatabase()"
        wait_until(lambda: int(client.query(active).result_rows[0][0]) < 20, "merges have run")


class TestConcurrency:
    def test_a_slow_query_delays_neither_inserts_nor_pings(self, unrestricted_server: ClickHouseServer) -> None:
        client = connected(unrestricted_server)
        client.command(f"CREATE TABLE t {TABLE}")
        begun: list[Asked] = []
        release = threading.Event()

        def late(request: Asked) -> Reply:
            begun.append(request)
            release.wait(60)
            return Reply(b"7\n")

        with upstream(late) as url, ThreadPoolExecutor() as pool:
            sql = f"SELECT * FROM url('{url}', 'CSV', 'n UInt8')".encode()
            slow = [pool.submit(ask, unrestricted_server, "POST", "/", sql) for _ in range(3)]
            wait_until(lambda: len(begun) == 3, "all of them are under way")
            insert(client, "t", numbered(0, 1000), "beside")
            assert ask(unrestricted_server, "GET", "/ping").status == 200
            assert not any(query.done() for query in slow)
            release.set()
            assert [query.result() for query in slow] == [Answer(200, ANY, b"7\n")] * 3

    def test_writers_and_readers_work_at_the_same_time(
        self, client: Client, clickhouse_server: ClickHouseServer
    ) -> None:
        client.command(f"CREATE TABLE t {TABLE}")

        def write(writer: int) -> None:
            with connected(clickhouse_server, database=client.database) as mine:
                for batch in range(10):
                    start = writer * 10_000 + batch * 1000
                    insert(mine, "t", numbered(start, start + 1000), f"{writer}-{batch}")
                    assert number_of_rows(mine, "t") >= 1000

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert client.query("SELECT count(), uniqExact(id) FROM t FINAL").result_rows == [(40_000, 40_000)]


@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO kept FORMAT JSONEachRow", "INSERT INTO kept SETTINGS async_insert = 0 FORMAT JSONEachRow"],
)
def test_a_row_that_violates_a_constraint_refuses_the_whole_insert(client: Client, statement: str) -> None:
    client.command(
        "CREATE TABLE kept (id String, CONSTRAINT id_given CHECK notEmpty(id)) ENGINE = MergeTree ORDER BY id"
    )
    with pytest.raises(DatabaseError) as refusal:
        client.raw_query(f'{statement}\n{{"id":"x"}}\n{{}}')
    assert refusal.value.code == 469
    assert client.query("SELECT count() FROM kept").result_rows == [(0,)]
