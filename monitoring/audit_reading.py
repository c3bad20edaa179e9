"""What the audit counts in ClickHouse, a day at a time, so that no question grows with the history."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import msgspec

from common.clickhouse import ClickHouse
from monitoring.coverage import Minute

DAY_S = 86_400
SUBGRAPH, CHAIN = "subgraph", "chain"
# Above it the counts of a day are kept on disk, which is slower. 3 million fills take some 500 MB, 1.3 s.
_MEMORY_BYTES = 600_000_000


class Span(msgspec.Struct, frozen=True):
    """Part of a UTC day: begin <= timestamp < end, Unix s."""

    begin: int
    end: int


class Day(msgspec.Struct, frozen=True):
    """What one source's fills of one day, or part of one, became. Ids are counted once, rows as stored."""

    begin: int  # Unix s
    source: str
    fills: int  # rows of order_filled
    distinct_fills: int
    trades: int  # rows of trades
    distinct_trades: int
    fills_without_trade: int
    trades_without_fill: int
    on_their_way: int  # in one table only, and not long enough to be missed in the other
    trades_without_market: int
    prices_outside: int  # of [0, 1]; the contract does not forbid them
    volume: Decimal  # collateral of the taker orders' trades, each once
    first_block: int | None
    last_block: int | None

    @property
    def repeated_fills(self) -> int:
        return self.fills - self.distinct_fills

    @property
    def repeated_trades(self) -> int:
        return self.trades - self.distinct_trades


class Volume(msgspec.Struct, frozen=True):
    """Collateral traded in the markets whose whole life lies in the range, by our trades and by Gamma."""

    markets: int = 0
    ours: Decimal = Decimal(0)
    theirs: Decimal = Decimal(0)

    def plus(self, other: "Volume") -> "Volume":
        return Volume(self.markets + other.markets, self.ours + other.ours, self.theirs + other.theirs)


def spans(begin: int, end: int) -> list[Span]:
    """The range cut at every midnight UTC."""
    midnights = range((begin // DAY_S + 1) * DAY_S, end, DAY_S)
    edges = [begin, *midnights, end]
    return [Span(*edge) for edge in pairwise(edges)] if begin < end else []


def read_clock(clickhouse: ClickHouse) -> float:
    """ClickHouse's own time, Unix s: the clock of `ingested_at`."""
    return float(clickhouse.query("SELECT toUnixTimestamp64Milli(now64(3))")[0][0]) / 1000


def read_first(clickhouse: ClickHouse) -> int | None:
    """Time of the oldest fill or trade; None when there are none. Answered from the parts' extremes."""
    database = clickhouse.database
    rows = clickhouse.query(_FIRST.format(database=database))
    found = [first for count, first in rows if count]
    return min(found, default=None)


_FIRST = """SELECT count(), toUnixTimestamp(min(timestamp)) FROM {database}.order_filled
UNION ALL SELECT count(), toUnixTimestamp(min(timestamp)) FROM {database}.trades"""


def read_day(clickhouse: ClickHouse, span: Span, settled_at: float) -> list[Day]:
    """The counts of each source that has fills or trades then. What was written after `settled_at` isn't missed yet."""
    sql = _DAY.format(database=clickhouse.database, memory=_MEMORY_BYTES)
    rows = clickhouse.query(sql, {**_parameters(span), "settled_ms": int(settled_at * 1000)})
    return [Day(span.begin, CHAIN if on_chain else SUBGRAPH, *counts) for on_chain, *counts in rows]


# Both tables' rows by a 128-bit hash of their id: ids themselves are ten times as long.
_DAY = """SELECT
    block IS NOT NULL AS on_chain,
    sum(fill_rows), countIf(fill_rows > 0), sum(trade_rows), countIf(trade_rows > 0),
    countIf(trade_rows = 0 AND is_settled), countIf(fill_rows = 0 AND is_settled),
    countIf((fill_rows = 0 OR trade_rows = 0) AND NOT is_settled),
    countIf(lacks_market), countIf(is_outside), sum(usd), min(block), max(block)
FROM
(
    SELECT
        sum(is_fill) AS fill_rows, sum(is_trade) AS trade_rows, any(block_number) AS block,
        max(no_market) AS lacks_market, max(price_outside) AS is_outside, max(taker_usd) AS usd,
        min(ingested_at) <= fromUnixTimestamp64Milli({{settled_ms:Int64}}, 'UTC') AS is_settled
    FROM
    (
        SELECT
            sipHash128(id) AS fill, block_number, ingested_at, 1 AS is_fill, 0 AS is_trade,
            false AS no_market, false AS price_outside, toDecimal128(0, 6) AS taker_usd
        FROM {database}.order_filled
        WHERE timestamp >= toDateTime({{begin:UInt32}}, 'UTC') AND timestamp < toDateTime({{end:UInt32}}, 'UTC')
        UNION ALL
        SELECT
            sipHash128(id), block_number, ingested_at, 0, 1,
            ingested_at <= fromUnixTimestamp64Milli({{settled_ms:Int64}}, 'UTC') AND market_id NOT IN
            (
                SELECT id FROM {database}.markets WHERE id IN
                (
                    SELECT market_id FROM {database}.trades
                    WHERE timestamp >= toDateTime({{begin:UInt32}}, 'UTC')
                        AND timestamp < toDateTime({{end:UInt32}}, 'UTC')
                )
            ),
            price < 0 OR price > 1, if(is_taker_side, usd_amount, 0)
        FROM {database}.trades
        WHERE timestamp >= toDateTime({{begin:UInt32}}, 'UTC') AND timestamp < toDateTime({{end:UInt32}}, 'UTC')
    )
    GROUP BY fill
)
GROUP BY on_chain
ORDER BY on_chain
SETTINGS max_bytes_before_external_group_by = {memory}"""


def read_minutes(clickhouse: ClickHouse, span: Span) -> Iterator[Minute]:
    """The minutes that have fills, in order."""
    for on_chain, first, last, fills in clickhouse.query(
        _MINUTES.format(database=clickhouse.database), _parameters(span)
    ):
        yield Minute(CHAIN if on_chain else SUBGRAPH, first, last, fills)


_MINUTES = """SELECT
    block_number IS NOT NULL AS on_chain,
    toUnixTimestamp(min(timestamp)) AS first, toUnixTimestamp(max(timestamp)), count()
FROM {database}.order_filled
WHERE timestamp >= toDateTime({{begin:UInt32}}, 'UTC') AND timestamp < toDateTime({{end:UInt32}}, 'UTC')
GROUP BY on_chain, intDiv(toUnixTimestamp(timestamp), 60)
ORDER BY first, on_chain"""


def read_volume(clickhouse: ClickHouse, created: Span, closed_before: int) -> Volume:
    """Volume of the markets that were created in the span and closed before the end, with all of their trades."""
    sql = _VOLUME.format(database=clickhouse.database)
    ((markets, ours, theirs),) = clickhouse.query(sql, {**_parameters(created), "closed_before": closed_before})
    return Volume(markets, ours, theirs)


_VOLUME = """SELECT count(), sum(traded.ours), sum(market.theirs)
FROM
(
    SELECT id, assumeNotNull(volume) AS theirs FROM {database}.markets FINAL
    WHERE created_at >= toDateTime({{begin:UInt32}}, 'UTC') AND created_at < toDateTime({{end:UInt32}}, 'UTC')
        AND closed AND closed_time < toDateTime({{closed_before:UInt32}}, 'UTC') AND volume IS NOT NULL
) AS market
LEFT JOIN
(
    SELECT market_id, sum(usd_amount) AS ours FROM {database}.trades_taker
    WHERE market_id IN
    (
        SELECT id FROM {database}.markets
        WHERE created_at >= toDateTime({{begin:UInt32}}, 'UTC') AND created_at < toDateTime({{end:UInt32}}, 'UTC')
    )
    GROUP BY market_id
) AS traded ON traded.market_id = market.id"""


def _parameters(span: Span) -> dict[str, object]:
    return {"begin": span.begin, "end": span.end}
