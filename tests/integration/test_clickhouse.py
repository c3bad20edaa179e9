"""The adapter on a real server."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from common.clickhouse import ClickHouse
from common.errors import ConfigError, RefusedRows, Unavailable
from common.records import Market, OrderFilled, Token, Trade, encode, tokens_of
from common.redis_queue import RedisQueue
from common.tables import DEDUPLICATION_WINDOW, MARKETS, ORDER_FILLED, TABLES, TRADES, Table
from processors.token_index import TokenIndex
from processors.trades import trade_of
from setup_schema import apply_schema
from tests.builders import Pipeline, make_fill, make_market, make_settings, token_id
from tests.servers import ClickHouseServer
from tests.waiting import wait_until

TOKEN = Token("1000", "0xc0", "Yes", "token1")


def lines(records: Sequence[OrderFilled | Trade | Market]) -> bytes:
    return b"\n".join(encode(record) for record in records)


def fills(count: int, **changes: Any) -> bytes:
    return lines([make_fill(i, **changes) for i in range(count)])


def insert(pipeline: Pipeline, table: Table, rows: bytes, token: str = "t1") -> None:
    pipeline.clickhouse.batch_insert(table, rows, token)


def one_as_text(pipeline: Pipeline, table: str, columns: str) -> tuple[Any, ...]:
    texts = ", ".join(f"toString({column})" for column in columns.split())
    [row] = pipeline.clickhouse.query(f"SELECT {texts} FROM {pipeline.settings.clickhouse_database}.{table}")
    return row


class TestTokens:
    """An insert that is repeated."""

    def test_the_same_rows_with_the_same_token_are_there_once(self, pipeline: Pipeline) -> None:
        for _ in range(3):
            insert(pipeline, ORDER_FILLED, fills(100))
        assert pipeline.count("order_filled") == 100

    def test_the_same_rows_with_another_token_are_there_twice_and_once_with_final(self, pipeline: Pipeline) -> None:
        pipeline.stop_merges("order_filled")
        insert(pipeline, ORDER_FILLED, fills(10), "one")
        insert(pipeline, ORDER_FILLED, fills(10), "two")
        assert pipeline.count("order_filled") == 20
        assert pipeline.count("order_filled FINAL") == 10

    def test_equal_rows_with_tokens_of_their_own_are_not_swallowed(self, pipeline: Pipeline) -> None:
        pipeline.stop_merges("order_filled")
        insert(pipeline, ORDER_FILLED, fills(1), "one")
        insert(pipeline, ORDER_FILLED, fills(1, maker="0x1"), "two")
        assert pipeline.count("order_filled") == 2

    def test_a_repetition_over_several_months_is_dropped_as_a_whole(self, pipeline: Pipeline) -> None:
        rows = lines([make_fill(i, timestamp=1_700_000_000 + i * 2_700_000) for i in range(20)])
        for _ in range(2):
            insert(pipeline, ORDER_FILLED, rows)
        assert pipeline.count("order_filled") == 20

    def test_a_batch_may_reach_over_any_number_of_months(self, pipeline: Pipeline) -> None:
        """By default a server refuses more than 100 partitions at once, with a code that means: try again."""
        insert(pipeline, ORDER_FILLED, lines([make_fill(i, timestamp=86_400 * 31 * i) for i in range(1, 200)]))
        assert pipeline.count("order_filled") == 199

    def test_the_view_of_tokens_gets_no_second_copy_either(self, pipeline: Pipeline) -> None:
        for _ in range(2):
            insert(pipeline, MARKETS, lines([make_market(i) for i in range(10)]))
        assert (pipeline.count("markets"), pipeline.count("market_tokens")) == (10, 20)

    def test_a_token_is_remembered_over_a_restart(self, tmp_path: Path) -> None:
        with ClickHouseServer(tmp_path) as server:
            settings = make_settings(clickhouse_host="127.0.0.1", clickhouse_port=server.port)
            clickhouse = ClickHouse(settings)
            apply_schema(clickhouse, "live", lambda _: None)
            clickhouse.batch_insert(ORDER_FILLED, fills(10), "t1")
            server.kill()
            server.start()
            clickhouse.batch_insert(ORDER_FILLED, fills(10), "t1")
            assert clickhouse.query("SELECT count() FROM polymarket.order_filled") == [(10,)]

    @pytest.mark.parametrize(
        ("table", "rows"),
        [
            (ORDER_FILLED, lines([make_fill(1), make_fill(2, timestamp=1_700_000_000)])),
            (TRADES, lines([trade_of(make_fill(i), TOKEN) for i in range(3)])),
            (MARKETS, lines([make_market(1), make_market(2)])),
        ],
        ids=lambda value: value.name if isinstance(value, Table) else "",
    )
    def test_rows_that_are_missing_although_their_token_is_known_are_inserted(
        self, pipeline: Pipeline, table: Table, rows: bytes
    ) -> None:
        """As after a kill between the two. Deleted rows stand for it: their token stays known."""
        count = rows.count(b"\n") + 1
        insert(pipeline, table, rows)
        pipeline.clickhouse.insert_again(table, rows, "t1")
        assert pipeline.count(table.name) == count
        stored = f"{pipeline.settings.clickhouse_database}.{table.name}"
        pipeline.clickhouse.command(f"ALTER TABLE {stored} DELETE WHERE 1 SETTINGS mutations_sync = 1")
        insert(pipeline, table, rows)
        assert pipeline.count(table.name) == 0
        pipeline.clickhouse.insert_again(table, rows, "t1")
        assert pipeline.count(table.name) == count

    def test_tokens_that_are_missing_although_their_markets_are_there_are_inserted(self, pipeline: Pipeline) -> None:
        markets = lines([make_market(1, token_ids=[], outcomes=[]), make_market(2), make_market(3)])
        insert(pipeline, MARKETS, markets)
        count = pipeline.count("market_tokens")
        assert count == 4
        stored = f"{pipeline.settings.clickhouse_database}.market_tokens"
        pipeline.clickhouse.command(f"ALTER TABLE {stored} DELETE WHERE 1 SETTINGS mutations_sync = 1")
        insert(pipeline, MARKETS, markets)
        assert pipeline.count("market_tokens") == 0
        pipeline.clickhouse.insert_again(MARKETS, markets, "t1")
        assert pipeline.count("market_tokens") == count

    def test_markets_that_are_missing_beside_one_that_came_again_are_inserted(self, pipeline: Pipeline) -> None:
        markets = lines([make_market(1), make_market(2), make_market(3)])
        insert(pipeline, MARKETS, markets)
        for table in ("markets", "market_tokens"):
            stored = f"{pipeline.settings.clickhouse_database}.{table}"
            pipeline.clickhouse.command(f"ALTER TABLE {stored} DELETE WHERE 1 SETTINGS mutations_sync = 1")
        newer = make_market(1, updated_at=datetime(2026, 1, 1, tzinfo=UTC))
        pipeline.clickhouse.batch_insert(MARKETS, lines([newer]), "another")
        pipeline.clickhouse.insert_again(MARKETS, markets, "t1")
        assert pipeline.count("markets", "uniqExact(id)") == 3
        assert pipeline.count("market_tokens", "uniqExact(token_id)") == 6

    def test_tokens_of_an_older_version_are_not_those_of_the_batch(self, pipeline: Pipeline) -> None:
        older = make_market(1, updated_at=datetime(2025, 1, 1, tzinfo=UTC), outcomes=["No", "Yes"])
        pipeline.clickhouse.batch_insert(MARKETS, lines([older]), "older")
        insert(pipeline, MARKETS, market := lines([make_market(1)]))
        stored = f"{pipeline.settings.clickhouse_database}.market_tokens"
        pipeline.clickhouse.command(
            f"ALTER TABLE {stored} DELETE WHERE updated_at > '2025-06-01' SETTINGS mutations_sync = 1"
        )
        pipeline.clickhouse.insert_again(MARKETS, market, "t1")
        assert pipeline.count("market_tokens", "countIf(outcome = 'Yes' AND side = 'token1')") == 1

    @pytest.mark.parametrize("identity", ["it's", "a\\b", "a\tb", "é", "[1,2]", "a'); --", "\x00"])
    def test_a_market_of_an_odd_id_is_found(self, pipeline: Pipeline, identity: str) -> None:
        pipeline.stop_merges("markets")
        market = lines([make_market(1, id=identity, token_ids=[f"7{identity}"], outcomes=["Yes"])])
        for _ in range(2):
            pipeline.clickhouse.insert_again(MARKETS, market, "odd")
        assert pipeline.count("markets") == 1

    @pytest.mark.parametrize("updated_at", ["1800-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "2025-01-01T00:00:00", "?"])
    def test_a_market_of_an_odd_version_is_no_obstacle(self, pipeline: Pipeline, updated_at: str) -> None:
        row = b'{"id":"1","token_ids":["7"],"outcomes":["Yes"],"updated_at":"%s"}' % updated_at.encode()
        for _ in range(2):
            with suppress(RefusedRows):
                pipeline.clickhouse.insert_again(MARKETS, row, "odd")
        assert pipeline.count("markets") <= 1

    @pytest.mark.parametrize("timestamp", [-1, 2**40, '"2026-01-01"'])
    def test_a_row_that_can_not_be_looked_for_is_no_obstacle(self, pipeline: Pipeline, timestamp: object) -> None:
        row = b'{"id":"odd","transaction_hash":"0x","maker_asset_id":"0","taker_asset_id":"1","timestamp":%s}'
        for _ in range(2):
            pipeline.clickhouse.insert_again(ORDER_FILLED, row % str(timestamp).encode(), "odd")
        assert pipeline.count("order_filled") == 1

    def test_a_market_without_its_version_is_no_obstacle(self, pipeline: Pipeline) -> None:
        for _ in range(2):
            pipeline.clickhouse.insert_again(MARKETS, b'{"id":"1"}', "odd")
        assert pipeline.count("markets") == 1

    def test_a_month_that_is_missing_is_noticed(self, pipeline: Pipeline) -> None:
        insert(pipeline, ORDER_FILLED, old := lines([make_fill(1, timestamp=1_700_000_000)]), "old")
        pipeline.clickhouse.insert_again(ORDER_FILLED, b"\n".join((old, lines([make_fill(2)]))), "old")
        rows = f"SELECT uniqExact(id) FROM {pipeline.settings.clickhouse_database}.order_filled"
        assert pipeline.clickhouse.query(rows) == [(2,)]

    def test_every_table_has_its_window(self, pipeline: Pipeline) -> None:
        statements = pipeline.clickhouse.query(
            "SELECT create_table_query FROM system.tables WHERE database = {d:String} AND engine LIKE 'Replacing%'",
            {"d": pipeline.settings.clickhouse_database},
        )
        assert len(statements) == len(TABLES)
        assert all(f"deduplication_window = {DEDUPLICATION_WINDOW}" in statement for (statement,) in statements)


class TestRefusedRows:
    """Rows that no repetition would get in."""

    def row(self, **changes: Any) -> bytes:
        fields = {**json.loads(encode(make_fill(1))), **changes}
        return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()

    @pytest.mark.parametrize(
        "changes",
        [
            {"maker_amount_filled": -1},
            {"maker_amount_filled": 1.5},
            {"maker_amount_filled": "many"},
            {"maker_amount_filled": {"a": 1}},
            {"timestamp": "yesterday"},
            {"unheard_of": 1},
            {"id": ""},
            {"id": ...},
            {"maker_asset_id": ...},
        ],
        ids=str,
    )
    def test_a_bad_row_is_refused_and_takes_the_whole_batch_with_it(
        self, pipeline: Pipeline, changes: dict[str, Any]
    ) -> None:
        rows = b"\n".join([fills(10), self.row(**changes), fills(5)])
        with pytest.raises(RefusedRows):
            insert(pipeline, ORDER_FILLED, rows)
        assert pipeline.count("order_filled") == 0

    @pytest.mark.parametrize("rows", [b"{", b'{"id": "a"', b"null", b'{"id": "\xff\xfe"', b"[1]"], ids=repr)
    def test_broken_json_is_refused(self, pipeline: Pipeline, rows: bytes) -> None:
        with pytest.raises(RefusedRows):
            insert(pipeline, ORDER_FILLED, rows)

    def test_after_a_refusal_its_token_is_still_good(self, pipeline: Pipeline) -> None:
        with pytest.raises(RefusedRows):
            insert(pipeline, ORDER_FILLED, self.row(maker_amount_filled=-1))
        insert(pipeline, ORDER_FILLED, fills(10))
        assert pipeline.count("order_filled") == 10

    def test_the_reason_is_one_line_a_person_can_read(self, pipeline: Pipeline) -> None:
        with pytest.raises(RefusedRows) as caught:
            insert(pipeline, ORDER_FILLED, self.row(unheard_of=1))
        assert "unheard_of" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


class TestValues:
    """What goes in comes out, to the last digit."""

    @pytest.mark.parametrize(
        ("collateral", "tokens", "price", "usd_amount", "token_amount"),
        [
            (1, 10**12, "0.000000000001", "0.000001", "1000000"),
            (2**64 - 1, 1, "18446744073709551615", "18446744073709.551615", "0.000001"),
            (245_575, 261_250, "0.94", "0.245575", "0.26125"),
            (0, 2**64 - 1, "0", "0", "18446744073709.551615"),
        ],
    )
    def test_trades_keep_every_digit(
        self, pipeline: Pipeline, collateral: int, tokens: int, price: str, usd_amount: str, token_amount: str
    ) -> None:
        fill = make_fill(0, maker_amount_filled=collateral, taker_amount_filled=tokens, fee=2**64 - 1)
        insert(pipeline, TRADES, encode(trade_of(fill, TOKEN)))
        expected = (price, usd_amount, token_amount, "18446744073709.551615")
        assert one_as_text(pipeline, "trades", "price usd_amount token_amount fee") == expected

    def test_a_price_with_an_exponent_is_read(self, pipeline: Pipeline) -> None:
        row = encode(trade_of(make_fill(0, maker_amount_filled=1, taker_amount_filled=10**12), TOKEN))
        assert b'"1E-12"' in row
        insert(pipeline, TRADES, row)
        assert one_as_text(pipeline, "trades", "price") == ("0.000000000001",)

    @pytest.mark.parametrize(
        "outcome",
        [
            "Ja",
            "Größer als 5 €",
            "日本",
            "🙂",
            'say "no"',
            "it's",
            "a\nb",
            "a\tb\\n",
            "",
            " ",
            "</script>",
            "a\u0000b",
            "{x}",
        ],
    )
    def test_text_comes_out_as_it_went_in(self, pipeline: Pipeline, outcome: str) -> None:
        insert(pipeline, TRADES, encode(trade_of(make_fill(0), Token("1", "", outcome, "token1"))))
        assert one_as_text(pipeline, "trades", "outcome") == (outcome,)

    def test_a_trade_comes_out_as_it_went_in(self, pipeline: Pipeline) -> None:
        fill = make_fill(5, exchange="0xe1", block_number=2**64 - 1, log_index=2**32 - 1)
        trade = trade_of(fill, TOKEN)
        insert(pipeline, TRADES, encode(trade))
        columns = TRADES.inserted_columns()
        row = one_as_text(pipeline, "trades", " ".join(columns))
        for column, text in zip(columns, row, strict=True):
            value = getattr(trade, column)
            if column == "timestamp":
                assert text == "2025-11-13 02:13:21"
            elif isinstance(value, Decimal):
                assert Decimal(text) == value
            else:
                assert text == (str(value).lower() if isinstance(value, bool) else str(value))

    def test_a_fill_comes_out_as_it_went_in(self, pipeline: Pipeline) -> None:
        fill = make_fill(5, maker_amount_filled=2**64 - 1, fee=2**64 - 1, timestamp=2**32 - 1)
        insert(pipeline, ORDER_FILLED, encode(fill))
        columns = "id maker taker maker_asset_id taker_asset_id maker_amount_filled fee"
        assert one_as_text(pipeline, "order_filled", columns) == tuple(
            str(getattr(fill, column)) for column in columns.split()
        )
        assert one_as_text(pipeline, "order_filled", "toUnixTimestamp(timestamp)") == (str(2**32 - 1),)

    def test_absent_values_are_null(self, pipeline: Pipeline) -> None:
        insert(pipeline, ORDER_FILLED, encode(make_fill(5)))
        database = pipeline.settings.clickhouse_database
        rows = pipeline.clickhouse.query(f"SELECT exchange, block_number, log_index FROM {database}.order_filled")
        assert rows == [(None, None, None)]

    def test_a_markets_arrays_and_times_come_out_as_they_went_in(self, pipeline: Pipeline) -> None:
        market = make_market(
            1,
            token_ids=[str(2**256 - 1), "1", "2"],
            outcomes=["Ja", 'Nein, "nie"', "日本"],
            outcome_prices=[Decimal("0.123456789012345678"), Decimal(0), Decimal(1)],
            tags=["Politics", "it's"],
            volume=Decimal("12345678901234567890.123456"),
        )
        insert(pipeline, MARKETS, encode(market))
        [row] = pipeline.clickhouse.query(
            "SELECT token_ids, outcomes, arrayMap(price -> toString(price), outcome_prices), tags, toString(volume), "
            f"toString(updated_at) FROM {pipeline.settings.clickhouse_database}.markets"
        )
        assert row == (
            market.token_ids,
            market.outcomes,
            ["0.123456789012345678", "0", "1"],
            market.tags,
            "12345678901234567890.123456",
            "2025-11-13 02:00:00.123456",
        )


class TestTokenIndex:
    """Tokens looked up in the tables."""

    @pytest.fixture
    def index(self, pipeline: Pipeline) -> TokenIndex:
        return TokenIndex(pipeline.queue, pipeline.clickhouse, pipeline.markets, 1000)

    def test_a_token_is_what_the_record_of_its_market_says(self, pipeline: Pipeline, index: TokenIndex) -> None:
        market = make_market(3, token_ids=["1", "2", "3"], outcomes=["A", "B"])
        insert(pipeline, MARKETS, encode(market))
        assert index.look_up(["1", "2", "3", "4"]) == tokens_of(market)

    def test_the_newest_version_of_a_market_wins(self, pipeline: Pipeline, index: TokenIndex) -> None:
        old, new = make_market(3), make_market(3, condition_id="0xnew")
        new = make_market(3, condition_id="0xnew", updated_at=old.updated_at.replace(year=2026))
        insert(pipeline, MARKETS, encode(new), "one")
        insert(pipeline, MARKETS, encode(old), "two")
        assert index.look_up([token_id(3)])[token_id(3)].condition_id == "0xnew"

    def test_more_tokens_than_one_query_takes_are_found(self, pipeline: Pipeline, index: TokenIndex) -> None:
        insert(pipeline, MARKETS, lines([make_market(i) for i in range(600)]))
        wanted = [token_id(i, place) for i in range(600) for place in (0, 1)]
        assert set(index.look_up(wanted)) == set(wanted)
        assert index.get(wanted[-1]) is not None

    @pytest.mark.parametrize("token", ["it's", "\\", "a\nb", "['", "é", "x" * 100_000, "\x00"], ids=lambda t: t[:5])
    def test_no_token_however_odd_breaks_the_look_up(self, index: TokenIndex, token: str) -> None:
        assert index.look_up([token]) == {}

    def test_the_stream_of_markets_is_followed_from_its_beginning_past_what_is_no_market(
        self, pipeline: Pipeline, index: TokenIndex
    ) -> None:
        pipeline.add(pipeline.markets, b"no JSON", b'{"id":"\xff"}', b'{"a":' + b"[" * 9999)
        pipeline.add_markets(range(2))
        assert set(index.follow()) == {token_id(i, place) for i in range(2) for place in (0, 1)}
        assert index.follow() == {}


class TestTrouble:
    """A server that is away, or that refuses us."""

    def test_nobody_there_is_unavailable(self) -> None:
        clickhouse = ClickHouse(make_settings(clickhouse_host="127.0.0.1", clickhouse_port=1))
        for work in (
            lambda: clickhouse.query("SELECT 1"),
            lambda: clickhouse.command("SELECT 1"),
            lambda: clickhouse.batch_insert(TRADES, b"{}", "t"),
        ):
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
                work()
        clickhouse.close()

    def test_a_server_that_dies_is_unavailable_and_usable_once_it_is_back(self, tmp_path: Path) -> None:
        with ClickHouseServer(tmp_path) as server:
            clickhouse = ClickHouse(make_settings(clickhouse_host="127.0.0.1", clickhouse_port=server.port))
            apply_schema(clickhouse, "live", lambda _: None)
            server.kill()
            with pytest.raises(Unavailable):
                clickhouse.batch_insert(ORDER_FILLED, fills(10), "t1")
            with pytest.raises(Unavailable):
                clickhouse.query("SELECT 1")
            server.start()
            clickhouse.batch_insert(ORDER_FILLED, fills(10), "t1")
            assert clickhouse.query("SELECT count() FROM polymarket.order_filled") == [(10,)]

    @pytest.mark.parametrize("change", [{"clickhouse_password": "wrong"}, {"clickhouse_user": "nobody"}], ids=str)
    def test_who_is_not_let_in_has_a_configuration_to_mend(
        self, clickhouse_server: ClickHouseServer, change: dict[str, str]
    ) -> None:
        clickhouse = ClickHouse(
            make_settings(clickhouse_host="127.0.0.1", clickhouse_port=clickhouse_server.port, **change)
        )
        with pytest.raises(ConfigError, match="CLICKHOUSE_USER, CLICKHOUSE_PASSWORD"):
            clickhouse.query("SELECT 1")

    def test_a_missing_table_or_database_is_waited_for_with_a_hint(self, pipeline: Pipeline) -> None:
        with pytest.raises(Unavailable, match=r"setup_schema\.py") as caught:
            pipeline.clickhouse.query("SELECT * FROM no_such_database.t")
        assert caught.value.retry_after_s > 0
        pipeline.clickhouse.command(f"DROP TABLE {pipeline.settings.clickhouse_database}.order_filled")
        with pytest.raises(Unavailable, match=r"setup_schema\.py"):
            insert(pipeline, ORDER_FILLED, fills(1))

    def test_closing_twice_and_using_it_again_is_fine(self, pipeline: Pipeline) -> None:
        pipeline.clickhouse.close()
        pipeline.clickhouse.close()
        assert pipeline.clickhouse.query("SELECT 1") == [(1,)]


def test_queries_wait_for_no_queue(pipeline: Pipeline) -> None:
    """The adapters are independent: a Redis that is away does not matter here."""
    queue = RedisQueue(make_settings(redis_host="127.0.0.1", redis_port=1))
    index = TokenIndex(queue, pipeline.clickhouse, "s", 10)
    assert index.look_up(["1"]) == {}
    with pytest.raises(Unavailable):
        index.follow()
    wait_until(lambda: pipeline.count("trades") == 0, "the table answers")
