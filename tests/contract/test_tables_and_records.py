"""Every record fits its table, on the server as well as on paper."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from common.records import Market, OrderFilled, Token, Trade, encode
from common.tables import MARKET_TOKENS, MARKETS, ORDER_FILLED, TRADES, Table
from processors.trades import trade_of
from tests.builders import Pipeline, make_fill, make_market

PAIRS = [(Market, MARKETS), (OrderFilled, ORDER_FILLED), (Trade, TRADES)]
paired = pytest.mark.parametrize(("record", "table"), PAIRS, ids=[table.name for _, table in PAIRS])


@paired
def test_fields_and_inserted_columns_are_the_same(record: type[msgspec.Struct], table: Table) -> None:
    assert set(record.__struct_fields__) == set(table.inserted_columns())


@paired
def test_optional_fields_are_nullable_columns(record: type[msgspec.Struct], table: Table) -> None:
    types = {column.name: column.type for column in table.columns}
    optional = {field.name for field in msgspec.structs.fields(record) if field.default is None}
    assert optional == {name for name, kind in types.items() if "Nullable" in kind}


def test_a_token_is_what_the_view_of_markets_keeps() -> None:
    columns = {column.name for column in MARKET_TOKENS.columns}
    assert set(Token.__struct_fields__) <= columns


@paired
def test_the_server_has_the_declared_columns_in_the_declared_order(
    pipeline: Pipeline, record: type[msgspec.Struct], table: Table
) -> None:
    rows = pipeline.clickhouse.query(
        "SELECT name, type, comment FROM system.columns WHERE database = {d:String} AND table = {t:String} "
        "ORDER BY position",
        {"d": pipeline.settings.clickhouse_database, "t": table.name},
    )
    assert rows == [(column.name, column.type, column.comment) for column in table.columns]
    assert set(record.__struct_fields__) <= {name for name, _, _ in rows}


LARGEST = 2**64 - 1
LARGEST_FILL = make_fill(
    1,
    id="x" * 200,
    timestamp=2**32 - 1,
    maker_asset_id="0",
    taker_asset_id=str(2**256 - 1),
    maker_amount_filled=LARGEST,
    taker_amount_filled=1,
    fee=LARGEST,
    exchange="0x" + "f" * 40,
    block_number=LARGEST,
    log_index=2**32 - 1,
)
SMALLEST_FILL = make_fill(
    2, timestamp=0, maker_asset_id="0", taker_asset_id="1", maker_amount_filled=0, taker_amount_filled=1, fee=0
)
FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2105, 12, 31, 23, 59, 59, tzinfo=UTC)
LARGEST_MARKET = make_market(
    1,
    question="é" * 10_000,
    token_ids=[str(2**256 - 1)] * 200,
    outcomes=["o" * 300] * 200,
    outcome_prices=[Decimal("99999999999999999999.999999999999999999")] * 200,
    tags=[f"tag {i}" for i in range(200)],
    volume=Decimal("99999999999999999999999999999999.999999"),
    liquidity=Decimal("-1.000001"),
    updated_at=LAST,
    created_at=FIRST,
    start_date=FIRST,
    end_date=LAST,
    closed_time=LAST,
    winning_outcome="",
)
SMALLEST_MARKET = make_market(
    2, question="", slug="", condition_id="", token_ids=[], outcomes=[], outcome_prices=[], updated_at=FIRST
)


@pytest.mark.parametrize(
    ("table", "record"),
    [
        (ORDER_FILLED, LARGEST_FILL),
        (ORDER_FILLED, SMALLEST_FILL),
        (TRADES, trade_of(LARGEST_FILL, Token("m", "c", "", "token200"))),
        (TRADES, trade_of(SMALLEST_FILL, Token("m", "c", "o", "token1"))),
        (MARKETS, LARGEST_MARKET),
        (MARKETS, SMALLEST_MARKET),
    ],
    ids=["large fill", "small fill", "large trade", "small trade", "large market", "small market"],
)
def test_the_columns_hold_extreme_values_unchanged(
    pipeline: Pipeline, table: Table, record: OrderFilled | Trade | Market
) -> None:
    pipeline.clickhouse.batch_insert(table, encode(record), "t")
    columns = table.inserted_columns()
    [row] = pipeline.clickhouse.query(
        f"SELECT {', '.join(columns)} FROM {pipeline.settings.clickhouse_database}.{table.name}"
    )
    for column, value in zip(columns, row, strict=True):
        assert comparable(value) == comparable(getattr(record, column)), column


def comparable(value: Any) -> Any:
    """Return a value as both sides have it: times as seconds."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).timestamp()
    return value
