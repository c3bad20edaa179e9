"""The views' figures, by hand: right before parts are merged, and where rows are missing."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from common.records import OrderFilled, Token, encode
from common.tables import MARKETS, TRADES
from processors.trades import trade_of
from setup_schema import apply_schema
from tests.builders import EXCHANGE_V1, Pipeline, make_fill, make_market, token_id, wallet

MIDNIGHT = 1_763_078_400  # 2025-11-14T00:00:00Z
YES, NO = Token("1000", "0xc0", "Yes", "token1"), Token("1000", "0xc0", "No", "token2")
OTHER = Token("1001", "0xc1", "Yes", "token1")


def match(i: int, at: int, usd: int, tokens: int, **changes: Any) -> list[OrderFilled]:
    """Return match number i: the taker's own row and a maker's, of the same amounts in USD and tokens."""
    amounts = {"maker_amount_filled": usd * 10**6, "taker_amount_filled": tokens * 10**6}
    common = {"timestamp": at, "maker_asset_id": "0", "taker_asset_id": token_id(0), **amounts, **changes}
    return [
        make_fill(2 * i, taker=EXCHANGE_V1, **common),
        make_fill(2 * i + 1, taker=wallet(9), **common),
    ]


LATE = match(1, MIDNIGHT - 1, 10, 20)


def add_trades(pipeline: Pipeline, name: str, token: Token, *fills: OrderFilled) -> None:
    rows = b"\n".join(encode(trade_of(fill, token)) for fill in fills)
    pipeline.clickhouse.batch_insert(TRADES, rows, name)


def add_market(pipeline: Pipeline, i: int, **changes: Any) -> None:
    market = make_market(i, **changes)
    pipeline.clickhouse.batch_insert(MARKETS, encode(market), f"{market.id} {market.updated_at}")


def ask(pipeline: Pipeline, sql: str) -> list[tuple[Any, ...]]:
    return pipeline.clickhouse.query(sql.replace("polymarket.", f"{pipeline.settings.clickhouse_database}."))


@pytest.fixture
def traded(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Yield a pipeline that does not merge by itself: 10 + 30 USD on one day, 5 on the next, in parts of their own."""
    pipeline.clickhouse.command(f"SYSTEM STOP MERGES {pipeline.settings.clickhouse_database}.trades")
    early = match(2, MIDNIGHT, 5, 10)
    add_market(pipeline, 0)
    add_market(pipeline, 1)
    add_trades(pipeline, "first", YES, *LATE)
    add_trades(pipeline, "second", OTHER, *match(3, MIDNIGHT - 3600, 30, 40))
    add_trades(pipeline, "third", YES, *early)
    assert pipeline.count("trades") == 6
    yield pipeline
    pipeline.clickhouse.command(f"SYSTEM START MERGES {pipeline.settings.clickhouse_database}.trades")


@pytest.fixture
def doubled(traded: Pipeline) -> Pipeline:
    """Return that pipeline with a third of its rows stored twice, as after a loss of Redis' data."""
    add_trades(traded, "again", YES, *LATE)
    assert traded.count("trades") == 8
    return traded


DAYS = [
    (date(2025, 11, 13), 2, Decimal(40), Decimal(60), 2),
    (date(2025, 11, 14), 1, Decimal(5), Decimal(10), 1),
]


def test_volume_per_day_counts_each_match_once(traded: Pipeline) -> None:
    assert ask(traded, "SELECT * FROM polymarket.daily_volume ORDER BY day") == DAYS


def test_sums_are_right_again_once_what_was_stored_twice_is_merged(doubled: Pipeline) -> None:
    table = f"{doubled.settings.clickhouse_database}.trades"
    doubled.clickhouse.command(f"SYSTEM START MERGES {table}")
    doubled.clickhouse.command(f"OPTIMIZE TABLE {table} FINAL")
    assert ask(doubled, "SELECT * FROM polymarket.daily_volume ORDER BY day") == DAYS
    volumes = "SELECT volume FROM polymarket.market_summary ORDER BY market_id"
    assert ask(doubled, volumes) == [(Decimal(15),), (Decimal(30),)]


@pytest.mark.parametrize("view", ["daily_volume", "market_summary"])
def test_sums_come_from_the_projection(traded: Pipeline, view: str) -> None:
    plan = "\n".join(line for (line,) in ask(traded, f"EXPLAIN SELECT * FROM polymarket.{view}"))
    assert "ReadFromMergeTree (by_day)" in plan
    assert ".trades)" not in plan


def test_a_day_can_be_picked(traded: Pipeline) -> None:
    assert ask(traded, "SELECT volume FROM polymarket.daily_volume WHERE day = '2025-11-14'") == [(Decimal(5),)]


def test_the_takers_rows_are_there_once_and_no_others(doubled: Pipeline) -> None:
    rows = ask(doubled, "SELECT id, taker, is_taker_side, usd_amount FROM polymarket.trades_taker ORDER BY id")
    assert rows == [(make_fill(2 * i).id, EXCHANGE_V1, True, Decimal(usd)) for i, usd in ((1, 10), (2, 5), (3, 30))]


def test_the_takers_rows_have_every_column_of_trades(doubled: Pipeline) -> None:
    ours = ask(doubled, "SELECT * FROM polymarket.trades_taker ORDER BY id LIMIT 1")
    theirs = ask(doubled, "SELECT * FROM polymarket.trades FINAL WHERE is_taker_side ORDER BY id LIMIT 1")
    assert ours == theirs


def test_a_market_is_summed_up(traded: Pipeline) -> None:
    summary = "SELECT market_id, question, volume, trades, first_trade, last_trade FROM polymarket.market_summary"
    assert ask(traded, f"{summary} ORDER BY market_id") == [
        ("1000", "Does number 0 come up?", Decimal(15), 2, at(MIDNIGHT - 1), at(MIDNIGHT)),
        ("1001", "Does number 1 come up?", Decimal(30), 1, at(MIDNIGHT - 3600), at(MIDNIGHT - 3600)),
    ]


def at(seconds: int) -> datetime:
    """Return what the driver gives for a DateTime('UTC')."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def test_a_market_without_a_trade_has_no_price_and_no_times(pipeline: Pipeline) -> None:
    add_market(pipeline, 5)
    columns = "last_prices, last_prices['Yes'], volume, trades, first_trade, last_trade"
    assert ask(pipeline, f"SELECT {columns} FROM polymarket.market_summary") == [({}, None, Decimal(0), 0, None, None)]


def test_the_newest_version_of_a_market_is_summed_up_and_only_that(traded: Pipeline) -> None:
    newer = datetime(2025, 12, 1, tzinfo=UTC)
    add_market(traded, 0, updated_at=newer, closed=True, winning_outcome="No", event_title="Numbers")
    columns = "event, outcomes, closed, winning_outcome, volume"
    assert ask(traded, f"SELECT {columns} FROM polymarket.market_summary WHERE market_id = '1000'") == [
        ("Numbers", ["Yes", "No"], True, "No", Decimal(15))
    ]


def last_prices(pipeline: Pipeline, market_id: str = "1000") -> Any:
    [(prices,)] = ask(pipeline, f"SELECT last_prices FROM polymarket.market_summary WHERE market_id = '{market_id}'")
    return prices


def test_each_outcome_has_its_own_last_price(traded: Pipeline) -> None:
    """The taker bought No while the makers' rows are of Yes: tokens of both were made."""
    add_trades(traded, "yes", YES, make_fill(100, **of(MIDNIGHT + 5, usd=6, tokens=10), taker=wallet(1)))
    add_trades(traded, "no", NO, make_fill(101, **of(MIDNIGHT + 4, usd=4, tokens=10), taker=EXCHANGE_V1))
    assert last_prices(traded) == {"Yes": Decimal("0.6"), "No": Decimal("0.4")}
    assert list(last_prices(traded)) == ["Yes", "No"], "in the order of the market's outcomes"
    assert last_prices(traded, "1001") == {"Yes": Decimal("0.75")}


def of(timestamp: int, usd: int, tokens: int, **changes: Any) -> dict[str, Any]:
    return {
        "timestamp": timestamp,
        "maker_asset_id": "0",
        "taker_asset_id": token_id(0),
        "maker_amount_filled": usd * 10**6,
        "taker_amount_filled": tokens * 10**6,
        **changes,
    }


def test_within_a_block_the_last_log_has_the_last_price(traded: Pipeline) -> None:
    logs = [(300, 3), (2_000_000_000, 7), (4, 5)]  # the last is neither the first nor the last by id
    fills = [
        make_fill(200 + i, **of(MIDNIGHT + 9, usd, 10, block_number=90_000_000, log_index=log_index))
        for i, (log_index, usd) in enumerate(logs)
    ]
    add_trades(traded, "one block", YES, *fills)
    assert last_prices(traded) == {"Yes": Decimal("0.7")}


def test_the_last_price_among_fills_without_a_place_in_their_block_does_not_change(traded: Pipeline) -> None:
    fills = [make_fill(300 + i, **of(MIDNIGHT + 9, 1 + i, 20)) for i in range(8)]
    for i, fill in enumerate(fills):
        add_trades(traded, f"tie {i}", YES, fill)
    assert len({last_prices(traded)["Yes"] for _ in range(5)}) == 1


def test_a_database_from_before_the_views_gets_them(traded: Pipeline) -> None:
    said: list[str] = []
    for view in ("market_summary", "daily_volume", "trades_taker"):
        traded.clickhouse.command(f"DROP VIEW {traded.settings.clickhouse_database}.{view}")
    apply_schema(traded.clickhouse, "live", said.append)
    assert f"made      {traded.settings.clickhouse_database}.daily_volume" in said
    assert len(ask(traded, "SELECT * FROM polymarket.daily_volume")) == 2


EXAMPLES = {
    "volume a day": "SELECT day, volume, trades FROM polymarket.daily_volume WHERE day >= today() - 7 ORDER BY day",
    "largest markets": """SELECT question, volume, last_prices['Yes'] AS yes FROM polymarket.market_summary
        ORDER BY volume DESC LIMIT 10""",
    "resolved": """SELECT question, winning_outcome, last_prices, last_trade FROM polymarket.market_summary
        WHERE closed AND winning_outcome IS NOT NULL ORDER BY last_trade DESC LIMIT 10""",
    "minutes of a market": """SELECT toStartOfMinute(timestamp) AS minute, outcome, sum(usd_amount) AS volume
        FROM polymarket.trades_taker WHERE market_id = '517310' GROUP BY minute, outcome ORDER BY minute""",
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_documented_queries_run(traded: Pipeline, example: str) -> None:
    ask(traded, EXAMPLES[example])


@pytest.mark.parametrize(
    ("sql", "source", "column"),
    [
        ("SELECT * FROM polymarket.market_summary WHERE market_id = '1000'", " (by_day)", "market_id in ["),
        ("SELECT * FROM polymarket.trades_taker WHERE market_id = '1000'", ".trades)", "market_id in ["),
        ("SELECT * FROM polymarket.daily_volume WHERE day = '2025-11-14'", " (by_day)", "toDate(timestamp) in ["),
    ],
    ids=["market_summary", "trades_taker", "daily_volume"],
)
def test_what_is_asked_for_narrows_what_is_read(traded: Pipeline, sql: str, source: str, column: str) -> None:
    """The condition reaches an index through the view."""
    plan = "\n".join(line for (line,) in ask(traded, f"EXPLAIN indexes = 1 {sql}"))
    assert column in plan.split(source)[1], plan
