"""How a database of an older version becomes one of this version: numbered steps, each applied once.

A new database gets today's tables from `common/tables.py` and counts as fully migrated. To change a table: change its
declaration there, and append a migration here that does the same to a table that exists.
"""

from typing import NamedTuple

from common.tables import DEDUPLICATION_WINDOW, TABLES


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
