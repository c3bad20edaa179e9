"""The declarations of the tables."""

import re

import pytest

from common.tables import DEDUPLICATION_WINDOW, MARKETS, ORDER_FILLED, TABLES, TRADES, VIEWS, Column, Table

by_name = pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])


@by_name
def test_insert_tokens_work_on_every_table(table: Table) -> None:
    """With the server's default, 0, tokens do nothing."""
    assert f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}" in table.create("db")
    assert DEDUPLICATION_WINDOW >= 1000


@by_name
def test_every_column_says_what_it_is(table: Table) -> None:
    assert all(column.comment for column in table.columns)
    assert len({column.name for column in table.columns}) == len(table.columns)


@by_name
def test_making_a_table_again_is_harmless(table: Table) -> None:
    assert table.create("db").startswith(f"CREATE TABLE IF NOT EXISTS db.{table.name}\n")


@by_name
def test_keys_and_required_columns_exist(table: Table) -> None:
    assert {*table.order_by, *table.required} <= {column.name for column in table.columns}


@pytest.mark.parametrize("table", [ORDER_FILLED, TRADES], ids=["order_filled", "trades"])
def test_a_fill_is_told_apart_by_its_id_and_stays_in_one_partition(table: Table) -> None:
    assert "id" in table.order_by
    assert table.engine == "ReplacingMergeTree"
    assert table.partition_by == "toYYYYMM(timestamp)"  # event time: a repetition lands beside the first


def test_the_newest_version_of_a_market_wins() -> None:
    assert (MARKETS.engine, MARKETS.order_by) == ("ReplacingMergeTree(updated_at)", ("id",))


@by_name
def test_nothing_is_a_float(table: Table) -> None:
    assert not [column for column in table.columns if "Float" in column.type]


@by_name
def test_times_are_utc(table: Table) -> None:
    for column in table.columns:
        if "DateTime" in column.type:
            assert "'UTC'" in column.type


def test_what_has_a_default_is_not_inserted() -> None:
    assert "ingested_at" not in TRADES.inserted_columns()
    assert "timestamp" in TRADES.inserted_columns()


def test_comments_are_quoted() -> None:
    assert Column("a", "String", "it's a \\ b").ddl() == r"`a` String COMMENT 'it\'s a \\ b'"


def test_trades_keep_the_names_that_analysts_know() -> None:
    names = """timestamp market_id maker taker nonusdc_side maker_direction taker_direction price usd_amount
        token_amount transactionHash id token_id condition_id outcome fee is_taker_side exchange block_number log_index
        ingested_at"""
    assert [column.name for column in TRADES.columns] == names.split()


def test_views_read_only_what_was_made_before_them() -> None:
    made = {table.name for table in TABLES}
    for view in VIEWS:
        statement = view.create("db")
        sources = set(re.findall(r"\bdb\.(\w+)", statement)) - {view.name}
        assert sources
        assert sources <= made
        made.add(view.name)
