"""Bytes on disk for a fill, in order_filled and trades together, once parts are merged; column by column.

The floor: the fills alone, as lines of JSON in one file compressed with zlib at its best level.
"""

import zlib
from collections.abc import Sequence

from bench.fills import fill_rows, trade_rows, world_of
from bench.result import Result, options, table
from bench.servers import Bench, servers
from common.tables import ORDER_FILLED, TRADES, Table

FILLS = 300_000
ROWS_AN_INSERT = 50_000
GOAL_BYTES = 250


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("storage", arguments, fills=FILLS).fills
    worst = 0.0
    for is_v1 in (True, False):
        world = world_of(count, is_v1=is_v1)
        fills, trades = list(fill_rows(world, count)), list(trade_rows(world, count))
        with servers() as bench:
            stored = stored_bytes(bench, ORDER_FILLED, fills) + stored_bytes(bench, TRADES, trades)
            print(f"{'V1, from the subgraph' if is_v1 else 'V2, from the chain'}: {stored / count:.0f} bytes a fill")
            table(("column", "bytes a row"), columns(bench))
        if stored / count > worst:
            worst, floor = stored / count, len(zlib.compress(b"\n".join(fills), 9)) / count
    return Result("storage", worst, "bytes/fill", floor, GOAL_BYTES, lower_is_better=True)


def stored_bytes(bench: Bench, into: Table, rows: Sequence[bytes]) -> int:
    for start in range(0, len(rows), ROWS_AN_INSERT):
        part = rows[start : start + ROWS_AN_INSERT]
        bench.clickhouse.batch_insert(into, b"\n".join(part), f"{into.name}{start}")
    bench.clickhouse.command(f"OPTIMIZE TABLE {bench.clickhouse.database}.{into.name} FINAL")
    sql = "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active AND table = {name:String}"
    ((size, stored),) = bench.clickhouse.query(sql, {"name": into.name})
    if stored != len(rows):
        raise SystemExit(f"{into.name}: {stored} rows, expected {len(rows)}")
    return int(size)


def columns(bench: Bench) -> list[tuple[str, float]]:
    sql = """SELECT concat(table, '.', column), sum(column_data_compressed_bytes) / sum(rows) AS bytes
        FROM system.parts_columns WHERE active AND table IN ('order_filled', 'trades')
        GROUP BY table, column HAVING bytes >= 0.1 ORDER BY table, bytes DESC"""
    return [(name, float(size)) for name, size in bench.clickhouse.query(sql)]
