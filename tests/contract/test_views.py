"""The views that analysts' queries rely on: their columns, in this order, with these types."""

import pytest

from common.tables import TRADES, VIEWS, View
from tests.builders import Pipeline

PROMISED = {
    "trades_taker": [(column.name, column.type) for column in TRADES.columns],
    "daily_volume": [
        ("day", "Date"),
        ("trades", "UInt64"),
        ("volume", "Decimal(38, 6)"),
        ("tokens", "Decimal(38, 6)"),
        ("markets", "UInt64"),
    ],
    "market_summary": [
        ("market_id", "String"),
        ("question", "String"),
        ("event", "Nullable(String)"),
        ("outcomes", "Array(LowCardinality(String))"),
        ("last_prices", "Map(String, Nullable(Decimal(38, 12)))"),
        ("volume", "Decimal(38, 6)"),
        ("trades", "UInt64"),
        ("first_trade", "Nullable(DateTime('UTC'))"),
        ("last_trade", "Nullable(DateTime('UTC'))"),
        ("closed", "Bool"),
        ("winning_outcome", "Nullable(String)"),
    ],
}


def test_every_view_that_is_asked_has_its_columns_promised() -> None:
    assert {view.name for view in VIEWS if not view.target} == set(PROMISED)


@pytest.mark.parametrize("view", PROMISED)
def test_a_view_has_the_promised_columns(pipeline: Pipeline, view: str) -> None:
    rows = pipeline.clickhouse.query(
        "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String} ORDER BY position",
        {"d": pipeline.settings.clickhouse_database, "t": view},
    )
    assert rows == PROMISED[view]


@pytest.mark.parametrize("view", VIEWS, ids=[view.name for view in VIEWS])
def test_a_view_says_what_it_is(pipeline: Pipeline, view: View) -> None:
    rows = pipeline.clickhouse.query(
        "SELECT name, comment FROM system.tables WHERE database = {d:String} AND comment != ''",
        {"d": pipeline.settings.clickhouse_database},
    )
    assert (view.name, view.comment) in rows
