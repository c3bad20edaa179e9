"""The README's example queries over ten million trades, each the median of several runs, once parts are merged.

The floor: the sum of one column over the same rows.
"""

import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.fills import fill_rows, markets_of, trade_rows, world_of
from bench.result import Result, options, table
from bench.servers import Bench, servers
from common.records import encode
from common.tables import MARKETS, ORDER_FILLED, TRADES

TRADES_COUNT = 10_000_000
SAMPLE = 200_000
ROUNDS = 5
GOAL_MS = 200
ROWS_AN_INSERT = 50_000
README = Path(__file__).resolve().parent.parent / "README.md"
HOURS_APART = 4  # of two copies of the sample: ten million trades are those of nine days
# A copy of the sample up to some hours before now, with ids of its own.
COPY = """INSERT INTO {table} ({columns})
SELECT * REPLACE (
    timestamp + toIntervalSecond({newest}) - toIntervalHour({hours}) AS timestamp, concat(id, '-{hours}') AS id
)
FROM (SELECT {columns} FROM {table} WHERE NOT match(id, '-[0-9]+$'))"""


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("query", arguments, trades=TRADES_COUNT).trades
    with servers(clickhouse_timeout_s=600) as bench:  # merging ten million rows takes a while
        fill_tables(bench, count)
        queries = examples(bench)
        rows = [(" ".join(sql.split())[:90], *timed(bench, sql)) for sql in queries]
        floor, _ = timed(bench, f"SELECT sum(fee) FROM {bench.clickhouse.database}.trades")
        print(f"{bench.count('trades'):,} trades, {bench.count('markets'):,} markets")
    table(("query", "median ms", "slowest ms"), rows)
    return Result(
        "query", max(median for _, median, _ in rows), "ms (slowest query)", floor, GOAL_MS, lower_is_better=True
    )


def fill_tables(bench: Bench, count: int) -> None:
    """`count` fills and their trades: a sample, and copies of it in the weeks before, merged into one part a month."""
    sample = min(SAMPLE, count)
    world = world_of(sample)
    bench.clickhouse.batch_insert(MARKETS, b"\n".join(map(encode, markets_of(world))), "markets")
    for into, rows in ((ORDER_FILLED, list(fill_rows(world, sample))), (TRADES, list(trade_rows(world, sample)))):
        name = f"{bench.clickhouse.database}.{into.name}"
        for start in range(0, sample, ROWS_AN_INSERT):
            part = b"\n".join(rows[start : start + ROWS_AN_INSERT])
            bench.clickhouse.batch_insert(into, part, f"{into.name}{start}")
        columns = ", ".join(into.inserted_columns())
        newest = int(time.time() - world.now())
        for copy in range(count // sample - 1):
            hours = HOURS_APART * copy
            bench.clickhouse.command(COPY.format(table=name, columns=columns, newest=newest, hours=hours))
        bench.clickhouse.command(f"OPTIMIZE TABLE {name} FINAL")


def examples(bench: Bench) -> list[str]:
    """Every SELECT of the README, for a market of these tables."""
    blocks = re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    statements = re.sub(r"^--.*\n", "", ";".join(blocks), flags=re.MULTILINE).split(";")
    selects = [sql.strip() for sql in statements if sql.strip().startswith("SELECT")]
    busiest = (
        f"SELECT market_id FROM {bench.clickhouse.database}.trades GROUP BY market_id ORDER BY count() DESC LIMIT 1"
    )
    market = bench.clickhouse.query(busiest)[0][0]
    return [re.sub(r"market_id = '\d+'", f"market_id = '{market}'", sql) for sql in selects]


def timed(bench: Bench, sql: str) -> tuple[float, float]:
    """Median and longest, in milliseconds, after one run that warms up."""
    took = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        bench.clickhouse.query(sql)
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took[1:]), max(took[1:])
