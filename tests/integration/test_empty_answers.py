"""A 200 that confirms nothing, as proxies and dying servers send it, in front of a real ClickHouse."""

import http.client
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from common.clickhouse import ClickHouse
from common.errors import Unavailable
from common.records import encode
from common.tables import MARKETS, ORDER_FILLED
from processors.token_index import TokenIndex
from setup_schema import apply_schema, existing_tables
from tests.builders import Pipeline, make_fill, make_market, token_id
from tests.integration.ingesting import Asked, Reply, upstream
from tests.servers import ClickHouseServer

FILLS = b"\n".join(encode(make_fill(i)) for i in range(10))
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server", "keep-alive"}
EMPTY = Reply()
PAGE = Reply(b"<html>Sign in to continue</html>", headers=(("Content-Type", "text/html"),))


class Front:
    """What stands before the server; `change` makes another answer of a request and the server's own answer to it."""

    def __init__(self, server: ClickHouseServer) -> None:
        self._server = server
        self.change: Callable[[Asked, Callable[[], Reply]], Reply] = lambda _, real: real()

    def answer(self, asked: Asked) -> Reply:
        return self.change(asked, lambda: self._forward(asked))

    def _forward(self, asked: Asked) -> Reply:
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=60)
        headers = {name: value for name, value in asked.headers.items() if name not in {"host", "connection"}}
        connection.request("POST", f"{asked.path}?{urlencode(asked.params, doseq=True)}", asked.body, headers)
        answer = connection.getresponse()
        kept = tuple((name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP)
        reply = Reply(answer.read(), answer.status, kept)
        connection.close()
        return reply


def only(kind: bytes, reply: Reply, *, after: bool = False) -> Callable[[Asked, Callable[[], Reply]], Reply]:
    """Statements that begin like that get the reply; with `after` once the server has done its work."""

    def change(asked: Asked, real: Callable[[], Reply]) -> Reply:
        if not asked.body.startswith(kind):
            return real()
        if after:
            real()
        return reply

    return change


@pytest.fixture
def front(clickhouse_server: ClickHouseServer) -> Front:
    return Front(clickhouse_server)


@pytest.fixture
def clickhouse(front: Front, pipeline: Pipeline) -> Iterator[ClickHouse]:
    """The pipeline's database, through the front."""
    with upstream(front.answer) as url:
        port = int(url.rpartition(":")[2])
        client = ClickHouse(pipeline.settings.model_copy(update={"clickhouse_port": port}))
        yield client
        client.close()


@pytest.mark.parametrize("reply", [EMPTY, PAGE], ids=["empty", "page"])
def test_a_look_up_that_somebody_else_answers_has_failed(front: Front, clickhouse: ClickHouse, reply: Reply) -> None:
    assert clickhouse.query("SELECT 1 WHERE 0") == []
    front.change = only(b"SELECT", reply)
    for sql in ("SELECT 1", "SELECT count() FROM numbers(9)", "SELECT 1 WHERE 0", "SELECT 1 LIMIT 0"):
        with pytest.raises(Unavailable, match=r"ClickHouse at .*: answers 200 without ClickHouse's headers"):
            clickhouse.query(sql)
    front.change = lambda _, real: real()
    assert clickhouse.query("SELECT 1") == [(1,)]


def test_an_answer_that_lost_its_rows_on_the_way_has_failed(front: Front, clickhouse: ClickHouse) -> None:
    front.change = lambda asked, real: real()._replace(body=b"") if b"number" in asked.body else real()
    with pytest.raises(Unavailable, match="found 3 rows but sent none"):
        clickhouse.query("SELECT number FROM numbers(3)")


def test_the_first_words_with_a_server_are_its_own_as_well(front: Front, clickhouse: ClickHouse) -> None:
    front.change = lambda _asked, _real: EMPTY
    with pytest.raises(Unavailable, match="without ClickHouse's headers"):
        clickhouse.query("SELECT 1")
    front.change = lambda _, real: real()
    assert clickhouse.query("SELECT 1") == [(1,)]


def test_a_token_is_absent_only_when_the_table_was_asked(
    front: Front, clickhouse: ClickHouse, pipeline: Pipeline
) -> None:
    pipeline.clickhouse.batch_insert(MARKETS, encode(make_market(1)), "market")
    index = TokenIndex(pipeline.queue, clickhouse, pipeline.markets, 1000)
    assert index.look_up([token_id(1)]).keys() == {token_id(1)}
    front.change = lambda _asked, _real: EMPTY
    with pytest.raises(Unavailable):
        index.look_up([token_id(1)])


@pytest.mark.parametrize("after", [False, True], ids=["instead of the server", "after the server"])
@pytest.mark.parametrize("reply", [EMPTY, PAGE], ids=["empty", "page"])
def test_an_insert_that_the_server_has_not_confirmed_is_sent_again_and_is_there_once(
    front: Front, clickhouse: ClickHouse, pipeline: Pipeline, reply: Reply, *, after: bool
) -> None:
    pipeline.stop_merges("order_filled")
    front.change = only(b"INSERT", reply, after=after)
    with pytest.raises(Unavailable, match="nothing is confirmed"):
        clickhouse.batch_insert(ORDER_FILLED, FILLS, "t1")
    assert pipeline.count("order_filled") == (10 if after else 0)
    front.change = lambda _, real: real()
    clickhouse.batch_insert(ORDER_FILLED, FILLS, "t1")
    assert pipeline.count("order_filled") == 10


def test_a_repeated_batch_is_not_sent_under_another_token_because_a_look_failed(
    front: Front, clickhouse: ClickHouse, pipeline: Pipeline
) -> None:
    pipeline.stop_merges("order_filled")
    clickhouse.insert_again(ORDER_FILLED, FILLS, "t1")
    front.change = only(b"SELECT count()", EMPTY)
    with pytest.raises(Unavailable):
        clickhouse.insert_again(ORDER_FILLED, FILLS, "t1")
    assert pipeline.count("order_filled") == 10


def test_tables_are_made_and_found_only_by_the_server_itself(front: Front, clickhouse: ClickHouse) -> None:
    front.change = only(b"CREATE", EMPTY)
    with pytest.raises(Unavailable):
        apply_schema(clickhouse, "live", lambda _: None)
    front.change = only(b"SELECT name", EMPTY)
    with pytest.raises(Unavailable):
        existing_tables(clickhouse)


def test_what_the_server_answers_itself_is_never_doubted(clickhouse: ClickHouse, pipeline: Pipeline) -> None:
    database = pipeline.settings.clickhouse_database
    for client in (clickhouse, pipeline.clickhouse):  # through the front and directly
        client.command(f"CREATE TABLE {database}.odd (a Int8, b String) ENGINE = MergeTree ORDER BY a")
        client.command(f"INSERT INTO {database}.odd SELECT 1, 'x' WHERE 0")
        nothing: list[tuple[Any, ...]] = []
        for sql in (f"SELECT * FROM {database}.odd", "SELECT 1 WHERE 0", "SELECT 1 LIMIT 0", f"EXISTS {database}.no"):
            assert client.query(sql) == (nothing if "EXISTS" not in sql else [(0,)])
        assert client.query(f"SELECT a FROM {database}.odd GROUP BY a") == nothing
        assert len(client.query("SELECT number, repeat('x', 100) FROM numbers(100000)")) == 100_000
        client.command(f"DROP TABLE {database}.odd SYNC")
        client.batch_insert(ORDER_FILLED, FILLS, "t1")
    assert pipeline.count("order_filled") == 10
