"""One declaration per table: its columns, its key, its DDL and how rows are inserted.

`setup_schema.py` makes the tables from here, the writer takes its INSERT from here, and a test holds the columns
against the records of `common/records.py`.
"""

from typing import NamedTuple

# ClickHouse drops a repeated insert only when it finds its token among that many last inserts of the table. At one
# insert a second this covers almost three hours, far beyond any take-over of a dead writer's batch.
DEDUPLICATION_WINDOW = 10_000


class Column(NamedTuple):
    """A column as `SHOW CREATE TABLE` would tell it."""

    name: str
    type: str
    comment: str
    codec: str = ""
    default: str = ""

    def ddl(self) -> str:
        default = f" DEFAULT {self.default}" if self.default else ""
        codec = f" CODEC({self.codec})" if self.codec else ""
        return f"`{self.name}` {self.type}{default} COMMENT {_quoted(self.comment)}{codec}"


class Projection(NamedTuple):
    """Sums that ClickHouse keeps with each part of a table, and answers fitting queries from by itself."""

    name: str
    select: str

    def ddl(self) -> str:
        return f"PROJECTION {self.name}\n    (\n{self.select}\n    )"


class Table(NamedTuple):
    """A table of the pipeline."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    engine: str
    order_by: tuple[str, ...]
    partition_by: str = ""
    settings: tuple[str, ...] = ()  # of the engine, beside those of all tables
    required: tuple[str, ...] = ()  # JSONEachRow fills what is missing with defaults; a row without these is refused
    projection: Projection | None = None

    def create(self, database: str) -> str:
        """The statement that makes the table where it is missing."""
        lines = [column.ddl() for column in self.columns]
        lines += (f"CONSTRAINT {name}_given CHECK notEmpty({name})" for name in self.required)
        lines += [self.projection.ddl()] if self.projection else []
        columns = ",\n    ".join(lines)
        partition = f"PARTITION BY {self.partition_by}\n" if self.partition_by else ""
        settings = (f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}", *self.settings)
        return (
            f"CREATE TABLE IF NOT EXISTS {database}.{self.name}\n(\n    {columns}\n)\n"
            f"ENGINE = {self.engine}\n{partition}ORDER BY ({', '.join(self.order_by)})\n"
            f"SETTINGS {', '.join(settings)}\n"
            f"COMMENT {_quoted(self.comment)}"
        )

    def inserted_columns(self) -> list[str]:
        """The columns that a record brings; the others have defaults."""
        return [column.name for column in self.columns if not column.default]


class View(NamedTuple):
    """A SELECT under a name: evaluated when it is asked, or, with a target, kept there with every insert."""

    name: str
    comment: str
    select: str  # {database} stands for the database
    target: str = ""  # table that a materialized view fills

    def create(self, database: str) -> str:
        """The statement that makes the view where it is missing."""
        kind, to = ("MATERIALIZED VIEW", f" TO {database}.{self.target}") if self.target else ("VIEW", "")
        select = self.select.format(database=database)
        return f"CREATE {kind} IF NOT EXISTS {database}.{self.name}{to} AS\n{select}\nCOMMENT {_quoted(self.comment)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_HEX = "ZSTD(1)"  # strings of hex and of digits do not compress under LZ4; ZSTD about halves them
_TIME = "DoubleDelta, ZSTD(1)"
_INGESTED = Column(
    "ingested_at", "DateTime64(3, 'UTC')", "when the row was written to ClickHouse", _TIME, "now64(3, 'UTC')"
)
_EXCHANGE = Column(
    "exchange", "LowCardinality(Nullable(String))", "exchange contract that emitted the fill; the V1 subgraph omits it"
)
_BLOCK = Column("block_number", "Nullable(UInt64)", "Polygon block; the V1 subgraph omits it", "ZSTD(1)")
_LOG_INDEX = Column("log_index", "Nullable(UInt32)", "place in the block; the V1 subgraph omits it", "ZSTD(1)")
_TIMESTAMP = Column("timestamp", "DateTime('UTC')", "block time", _TIME)

LAST_SEEN_AT = Column(
    "last_seen_at",
    "Nullable(DateTime('UTC'))",
    "when Gamma listed it last; of an open market at least every 6 hours, so one older than 7 hours is listed no more",
)

MARKETS = Table(
    name="markets",
    comment="Markets as Gamma lists them; one row a market after merging, use FINAL",
    columns=(
        Column("id", "String", "Gamma market id"),
        Column("question", "String", "what is asked", "ZSTD(3)"),
        Column("slug", "String", "name in addresses", "ZSTD(3)"),
        Column("condition_id", "String", "condition on chain; empty where Gamma has none", _HEX),
        Column("outcomes", "Array(LowCardinality(String))", "outcome names"),
        Column("outcome_prices", "Array(Decimal(38, 18))", "last prices, in the order of outcomes", "ZSTD(1)"),
        Column("token_ids", "Array(String)", "outcome token ids, in the order of outcomes", _HEX),
        Column("tags", "Array(LowCardinality(String))", "tag labels"),
        Column("active", "Bool", "listed"),
        Column("closed", "Bool", "trading has ended"),
        Column("winning_outcome", "Nullable(String)", "outcome that it resolved to, once it has"),
        Column("neg_risk", "Bool", "part of a negative-risk event"),
        Column("neg_risk_market_id", "Nullable(String)", "negative-risk group", _HEX),
        Column("volume", "Nullable(Decimal(38, 6))", "collateral traded, as Gamma tells"),
        Column("liquidity", "Nullable(Decimal(38, 6))", "collateral in the book, as Gamma tells"),
        Column("event_id", "Nullable(String)", "Gamma event id"),
        Column("event_slug", "Nullable(String)", "event's name in addresses", "ZSTD(3)"),
        Column("event_title", "Nullable(String)", "event's title", "ZSTD(3)"),
        Column("created_at", "Nullable(DateTime('UTC'))", "made in Gamma"),
        Column("start_date", "Nullable(DateTime('UTC'))", "trading starts"),
        Column("end_date", "Nullable(DateTime('UTC'))", "planned end"),
        Column("closed_time", "Nullable(DateTime('UTC'))", "closed"),
        Column("updated_at", "DateTime64(6, 'UTC')", "Gamma's updatedAt: the newest version wins"),
        LAST_SEEN_AT,
        _INGESTED,
    ),
    engine="ReplacingMergeTree(updated_at)",
    order_by=("id",),
    required=("id",),
)

MARKET_TOKENS = Table(
    name="market_tokens",
    comment="Outcome token to market, kept from markets; newest updated_at wins",
    columns=(
        Column("token_id", "String", "outcome token", _HEX),
        Column("market_id", "String", "Gamma market id"),
        Column("condition_id", "String", "condition on chain", _HEX),
        Column("outcome", "String", "outcome name"),
        Column("side", "LowCardinality(String)", "token1, token2, …: place in the market"),
        Column("updated_at", "DateTime64(6, 'UTC')", "version of the market"),
    ),
    engine="ReplacingMergeTree(updated_at)",
    order_by=("token_id",),
    # Looked up by thousands of tokens at random: small granules, each with all its columns in one place. Of 3 million
    # tokens, 1,000 are found more than three times as fast as with the defaults.
    settings=(
        "index_granularity = 64",
        "min_bytes_for_wide_part = 1000000000000",
        "min_rows_for_wide_part = 1000000000000",
    ),
)

MARKET_TOKENS_VIEW = View(
    name="market_tokens_view",
    comment="Keeps market_tokens",
    target="market_tokens",
    select="""SELECT
    token_id, id AS market_id, condition_id, outcomes[place] AS outcome,
    concat('token', toString(place)) AS side, updated_at
FROM {database}.markets
ARRAY JOIN token_ids AS token_id, arrayEnumerate(token_ids) AS place""",
)

ORDER_FILLED = Table(
    name="order_filled",
    comment="Every OrderFilled event, as emitted: one row per maker order and one per taker order",
    columns=(
        _TIMESTAMP,
        Column("maker", "String", "owner of the order", _HEX),
        Column("taker", "String", "counterparty; the exchange contract in the taker order's own row", _HEX),
        Column("maker_asset_id", "String", "token given by the maker; 0 is collateral", _HEX),
        Column("taker_asset_id", "String", "token received by the maker; 0 is collateral", _HEX),
        Column("maker_amount_filled", "UInt64", "base units, 6 decimals", "T64, ZSTD(1)"),
        Column("taker_amount_filled", "UInt64", "base units, 6 decimals", "T64, ZSTD(1)"),
        Column("fee", "UInt64", "base units; V1: of what the maker receives, V2: collateral", "T64, ZSTD(1)"),
        Column("transaction_hash", "String", "transaction", _HEX),
        Column("order_hash", "String", "order", _HEX),
        Column("id", "String", "the source's identity of the fill", _HEX),
        _EXCHANGE,
        _BLOCK,
        _LOG_INDEX,
        _INGESTED,
    ),
    engine="ReplacingMergeTree",
    order_by=("timestamp", "id"),
    partition_by="toYYYYMM(timestamp)",
    required=("id", "transaction_hash", "maker_asset_id", "taker_asset_id"),
)

# Within a block the log tells the order; the V1 subgraph does not know it, so that any fixed one does.
_PLACE = "bitShiftLeft(toUInt64(toUnixTimestamp(timestamp)), 32) + ifNull(log_index, toUInt32(cityHash64(id)))"
LAST_PRICE = f"argMax(price, {_PLACE})"

TRADES_BY_DAY = Projection(
    name="by_day",
    select=f"""SELECT
    toDate(timestamp) AS day, market_id, nonusdc_side, outcome, is_taker_side,
    count(), sum(usd_amount), sum(token_amount), uniq(market_id), min(timestamp), max(timestamp),
    {LAST_PRICE}
GROUP BY day, market_id, nonusdc_side, outcome, is_taker_side""",
)

TRADES = Table(
    name="trades",
    comment="Every fill with its market, price and sides; sum is_taker_side rows only, or the others only",
    columns=(
        _TIMESTAMP,
        Column("market_id", "String", "Gamma market id", _HEX),
        Column("maker", "String", "owner of the order", _HEX),
        Column("taker", "String", "counterparty; the exchange contract where is_taker_side", _HEX),
        Column("nonusdc_side", "LowCardinality(String)", "token1, token2, …: the outcome token's place in the market"),
        Column("maker_direction", "LowCardinality(String)", "BUY or SELL of the outcome token"),
        Column("taker_direction", "LowCardinality(String)", "BUY or SELL of the outcome token"),
        Column("price", "Decimal(38, 12)", "collateral per token", "ZSTD(1)"),
        Column("usd_amount", "Decimal(38, 6)", "collateral", "ZSTD(1)"),
        Column("token_amount", "Decimal(38, 6)", "outcome tokens", "ZSTD(1)"),
        Column("transactionHash", "String", "transaction", _HEX),
        Column("id", "String", "the fill's identity, as in order_filled", _HEX),
        Column("token_id", "String", "outcome token", _HEX),
        Column("condition_id", "String", "condition on chain", _HEX),
        Column("outcome", "LowCardinality(String)", "outcome name"),
        Column("fee", "Decimal(38, 6)", "V1: of what the maker receives, V2: collateral", "ZSTD(1)"),
        Column("is_taker_side", "Bool", "the taker order's own row"),
        _EXCHANGE,
        _BLOCK,
        _LOG_INDEX,
        _INGESTED,
    ),
    engine="ReplacingMergeTree",
    order_by=("market_id", "timestamp", "id"),
    partition_by="toYYYYMM(timestamp)",
    settings=("deduplicate_merge_projection_mode = 'rebuild'",),  # a merge that removes a repetition sums anew
    projection=TRADES_BY_DAY,
    required=("id", "market_id", "token_id"),
)

# Read with FINAL, so that a row that was inserted twice counts once before parts are merged, too. A key never lies in
# two partitions, so that their setting is safe: it spares merging partitions with one another. PREWHERE drops the other
# rows before FINAL compares ids, which are most of what it reads: repetitions of a fill agree on is_taker_side.
TRADES_TAKER = View(
    name="trades_taker",
    comment="The taker orders' rows of trades, each once: sums over them count volume once",
    select="""SELECT * FROM {database}.trades FINAL
PREWHERE is_taker_side
SETTINGS do_not_merge_across_partitions_select_final = 1""",
)

# The two below are answered from the projection, in tens of milliseconds over ten million trades. It counts what is
# stored: a row that was inserted twice, as only the loss of Redis' data makes one, counts twice until its parts are
# merged.

# uniq is exact up to 65,536 values, which is more markets than trade in a day, and twice as fast as uniqExact.
DAILY_VOLUME = View(
    name="daily_volume",
    comment="UTC days: trades, collateral and outcome tokens traded, markets with a trade; volume counted once",
    select="""SELECT
    toDate(timestamp) AS day,
    count() AS trades,
    sum(usd_amount) AS volume,
    sum(token_amount) AS tokens,
    uniq(market_id) AS markets
FROM {database}.trades
WHERE is_taker_side
GROUP BY day""",
)

# The last price is that of the last row of any kind: one of two outcomes may trade as the counterpart of new tokens of
# the other alone.
MARKET_SUMMARY = View(
    name="market_summary",
    comment="Every market with what was traded in it; volume counted once, nothing where there was no trade",
    select="""SELECT
    market.id AS market_id,
    market.question AS question,
    market.event_title AS event,
    market.outcomes AS outcomes,
    priced.last_prices AS last_prices,
    taken.volume AS volume,
    taken.trades AS trades,
    priced.first_trade AS first_trade,
    priced.last_trade AS last_trade,
    market.closed AS closed,
    market.winning_outcome AS winning_outcome
FROM {database}.markets AS market FINAL
LEFT JOIN
(
    SELECT
        market_id,
        CAST((groupArray(outcome), groupArray(last_price)), 'Map(String, Nullable(Decimal(38, 12)))') AS last_prices,
        toNullable(min(first_row)) AS first_trade,
        toNullable(max(last_row)) AS last_trade
    FROM
    (
        SELECT
            market_id,
            nonusdc_side,
            outcome,
            LAST_PRICE AS last_price,
            min(timestamp) AS first_row,
            max(timestamp) AS last_row
        FROM {database}.trades
        GROUP BY market_id, nonusdc_side, outcome
        ORDER BY market_id, nonusdc_side
    )
    GROUP BY market_id
) AS priced ON priced.market_id = market.id
LEFT JOIN
(
    SELECT market_id, sum(usd_amount) AS volume, count() AS trades
    FROM {database}.trades
    WHERE is_taker_side
    GROUP BY market_id
) AS taken ON taken.market_id = market.id
SETTINGS do_not_merge_across_partitions_select_final = 1""".replace("LAST_PRICE", LAST_PRICE),
)

# In ClickHouse, beside the rows: in Redis, the record of a loss would be lost with the rest.
REPEATED_HOURS = Table(
    name="repeated_hours",
    comment="Hours of event time in which rows were stored twice, as after a loss of Redis' data",
    columns=(
        Column("table_name", "LowCardinality(String)", "order_filled or trades"),
        Column("hour", "DateTime('UTC')", "its beginning"),
        Column("noticed_at", "DateTime64(3, 'UTC')", "when a writer saw that last", default="now64(3, 'UTC')"),
    ),
    engine="ReplacingMergeTree(noticed_at)",
    order_by=("table_name", "hour"),
    required=("table_name",),
)

RECORD_TABLES = (MARKETS, MARKET_TOKENS, ORDER_FILLED, TRADES)
TABLES = (*RECORD_TABLES, REPEATED_HOURS)
VIEWS = (MARKET_TOKENS_VIEW, TRADES_TAKER, DAILY_VOLUME, MARKET_SUMMARY)  # each after those that it reads
