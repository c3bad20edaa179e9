"""How a database of an older version becomes one of this version: numbered steps, each applied once.

A new database gets today's tables from `common/tables.py` and counts as fully migrated. To change a table: change its
declaration there, and append a migration here that does the same to a table that exists.
"""

from typing import NamedTuple

from common.tables import (
    DAILY_VOLUME,
    DEDUPLICATION_WINDOW,
    LAST_SEEN_AT,
    MARKET_SUMMARY,
    MARKET_TOKENS,
    MARKET_TOKENS_VIEW,
    TABLES,
    TRADES_BY_DAY,
)


class Migration(NamedTuple):
    """One step. Its statements may run twice (a crash between them and the note of it), so each is idempotent."""

    number: int
    name: str
    statements: tuple[str, ...]  # {database} stands for the database


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "insert tokens work on every table",
        tuple(
            f"ALTER TABLE {{database}}.{table.name} MODIFY SETTING "
            f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
            for table in TABLES
        ),
    ),
    Migration(
        2,
        "market_tokens is made for look-ups",
        (
            # The view comes back before the rows, so that no market slips through in between; twice is no harm.
            "DROP VIEW IF EXISTS {database}.market_tokens_view",
            "DROP TABLE IF EXISTS {database}.market_tokens",
            MARKET_TOKENS.create("{database}"),
            MARKET_TOKENS_VIEW.create("{database}"),
            f"INSERT INTO {{database}}.market_tokens {MARKET_TOKENS_VIEW.select}",
        ),
    ),
    Migration(
        3,
        "sums of trades by day; daily_volume and market_summary read them",
        (
            "ALTER TABLE {database}.trades MODIFY SETTING deduplicate_merge_projection_mode = 'rebuild'",
            f"ALTER TABLE {{database}}.trades ADD {TRADES_BY_DAY.ddl()}".replace(
                "PROJECTION", "PROJECTION IF NOT EXISTS"
            ),
            f"ALTER TABLE {{database}}.trades MATERIALIZE PROJECTION {TRADES_BY_DAY.name}",
            *(
                view.create("{database}").replace("CREATE VIEW IF NOT EXISTS", "CREATE OR REPLACE VIEW")
                for view in (DAILY_VOLUME, MARKET_SUMMARY)
            ),
        ),
    ),
    Migration(
        4,
        "markets show when Gamma listed them last",
        (f"ALTER TABLE {{database}}.markets ADD COLUMN IF NOT EXISTS {LAST_SEEN_AT.ddl()} AFTER updated_at",),
    ),
)

LEDGER = """CREATE TABLE IF NOT EXISTS {database}.schema_migrations
(
    `number` UInt32 COMMENT 'of the migration; 0 is the making of the database',
    `name` String COMMENT 'what it did',
    `mode` LowCardinality(String) COMMENT 'live or demo: where the data comes from',
    `applied_at` DateTime('UTC') DEFAULT now('UTC') COMMENT 'when'
)
ENGINE = MergeTree
ORDER BY number
COMMENT 'What has been done to this database'"""
