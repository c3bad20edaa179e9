"""The tables: how much is in them, and how new it is."""

from typing import NamedTuple

import msgspec

from common.clickhouse import ClickHouse
from common.tables import MARKETS, ORDER_FILLED, RECORD_TABLES, TRADES
from monitoring.reading import Reading, Server, absent, known, known_or, unknown

STORED_WINDOW_S = 300  # only fills whose block is that recent tell the pace of now; older ones were caught up with
STORED_LAST_S = 60  # and only what was written in the last minute
_NEWEST = {MARKETS.name: "updated_at", ORDER_FILLED.name: "timestamp", TRADES.name: "timestamp"}  # columns of time


class TableState(msgspec.Struct, frozen=True):
    """A table: how much is in it, and how new."""

    name: str
    rows: Reading[int]
    size_bytes: Reading[int]
    newest_at: Reading[float]  # Unix seconds


class Stored(msgspec.Struct, frozen=True):
    """Seconds from a fill's block to its row in order_filled, over those written in the last minute."""

    fills: int
    p50_s: float
    p99_s: float


class _Size(NamedTuple):
    rows: int | None
    size_bytes: int | None


def read_tables(clickhouse: ClickHouse, database: Server) -> list[TableState]:
    """Every table of the pipeline; a missing one is unknown with that reason."""
    sizes = database.read(lambda: _sizes(clickhouse))
    return [_table(clickhouse, database, sizes, table.name) for table in RECORD_TABLES]


def _sizes(clickhouse: ClickHouse) -> dict[str, _Size]:
    rows = clickhouse.query(
        "SELECT name, total_rows, total_bytes FROM system.tables WHERE database = {database:String}",
        {"database": clickhouse.database},
    )
    return {name: _Size(count, size) for name, count, size in rows}


def _table(clickhouse: ClickHouse, database: Server, sizes: Reading[dict[str, _Size]], name: str) -> TableState:
    missing = unknown(f"there is no table {clickhouse.database}.{name}: run setup_schema.py")
    untold = unknown("ClickHouse does not tell")
    found = sizes.then(lambda tables: known_or(tables.get(name), missing))
    return TableState(
        name=name,
        rows=found.then(lambda size: known_or(size.rows, untold)),
        size_bytes=found.then(lambda size: known_or(size.size_bytes, untold)),
        newest_at=found.then(lambda _: _newest(clickhouse, database, name)),
    )


def _newest(clickhouse: ClickHouse, database: Server, table: str) -> Reading[float]:
    """The newest row's own time. On the partitioned tables ClickHouse answers that from the parts' extremes alone."""
    if table not in _NEWEST:
        return absent("its rows tell no time")
    sql = f"SELECT count(), toUnixTimestamp(max({_NEWEST[table]})) FROM {clickhouse.database}.{table}"  # noqa: S608 - constants and a checked name
    answer = database.read(lambda: clickhouse.query(sql)[0])
    return answer.then(lambda row: known(float(row[1])) if row[0] else absent("no rows yet"))


def read_stored(clickhouse: ClickHouse, database: Server, now: float) -> Reading[Stored]:
    """How long recent fills took from their block to ClickHouse. Reads the newest end of the sorting key only."""
    sql = (
        "SELECT count(), quantile(0.5)(took_s), quantile(0.99)(took_s) FROM ("  # noqa: S608 - a checked name
        "SELECT toUnixTimestamp64Milli(ingested_at) / 1000 - toUnixTimestamp(timestamp) AS took_s "
        f"FROM {clickhouse.database}.{ORDER_FILLED.name} WHERE timestamp >= toDateTime({{since:UInt32}}, 'UTC') "
        "AND ingested_at >= toDateTime64({written_since:UInt32}, 3, 'UTC'))"
    )
    bounds = {"since": int(now) - STORED_WINDOW_S, "written_since": int(now) - STORED_LAST_S}
    answer = database.read(lambda: clickhouse.query(sql, bounds)[0])
    quiet = absent("no fill of now was written in the last minute")
    return answer.then(lambda row: known(Stored(row[0], max(0.0, row[1]), max(0.0, row[2]))) if row[0] else quiet)
