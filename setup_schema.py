"""Makes the database and its tables, or brings older ones up to date. Running it again changes nothing.

Exit status: 0 done, 1 ClickHouse or Redis is away, 2 the configuration is wrong or the data belongs to the other mode.
"""

import sys
from collections.abc import Callable, Sequence

from common.clickhouse import ClickHouse
from common.config import Settings, load_settings
from common.errors import ConfigError, Unavailable
from common.migrations import LEDGER, MIGRATIONS, Migration
from common.printable import printable
from common.probe import wait_while_loading
from common.redis_queue import RedisQueue
from common.state import check_mode, mixed_modes
from common.tables import TABLES, VIEWS

Say = Callable[[str], None]


def existing_tables(clickhouse: ClickHouse) -> set[str]:
    """Names of the tables and views that the database has."""
    rows = clickhouse.query(
        "SELECT name FROM system.tables WHERE database = {database:String}", {"database": clickhouse.database}
    )
    return {name for (name,) in rows}


def apply_schema(clickhouse: ClickHouse, mode: str, say: Say, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Make what is missing and migrate what is old. Raises ConfigError when the data belongs to the other mode."""
    clickhouse.command(f"CREATE DATABASE IF NOT EXISTS {clickhouse.database}")
    before = existing_tables(clickhouse)
    clickhouse.command(LEDGER.format(database=clickhouse.database))
    _check_mode(clickhouse, mode)
    _make_missing(clickhouse, before, say)
    is_new = not before & {table.name for table in TABLES}
    done = _applied(clickhouse)
    for migration in migrations:
        if migration.number in done:
            continue
        if not is_new:
            for statement in migration.statements:
                clickhouse.command(statement.format(database=clickhouse.database))
            say(f"migrated  {migration.number}: {migration.name}")
        _note(clickhouse, migration.number, migration.name, mode)
    if 0 not in done:
        _note(clickhouse, 0, "made", mode)


def _make_missing(clickhouse: ClickHouse, before: set[str], say: Say) -> None:
    for declared in (*TABLES, *VIEWS):
        clickhouse.command(declared.create(clickhouse.database))
        say(f"{'exists ' if declared.name in before else 'made   '}   {clickhouse.database}.{declared.name}")


def _check_mode(clickhouse: ClickHouse, mode: str) -> None:
    rows = clickhouse.query(f"SELECT DISTINCT mode FROM {clickhouse.database}.schema_migrations")  # noqa: S608
    others = {other for (other,) in rows} - {mode}
    if others:
        raise ConfigError(mixed_modes(f"ClickHouse database {clickhouse.database}", others.pop(), mode))


def claim_redis(queue: RedisQueue, mode: str) -> None:
    """Note in Redis which mode's data it holds. Raises ConfigError when it holds the other's."""
    queue.call("SET", queue.keys.state("mode"), mode, "NX")
    check_mode(queue, mode)


def _applied(clickhouse: ClickHouse) -> set[int]:
    return {number for (number,) in clickhouse.query(f"SELECT number FROM {clickhouse.database}.schema_migrations")}  # noqa: S608


def _note(clickhouse: ClickHouse, number: int, name: str, mode: str) -> None:
    clickhouse.command(
        f"INSERT INTO {clickhouse.database}.schema_migrations (number, name, mode) "  # noqa: S608 - own words only
        f"VALUES ({number}, '{name}', '{mode}')"
    )


def setup(settings: Settings, say: Say) -> None:
    """Prepare both servers. Raises ConfigError and Unavailable."""
    clickhouse, queue = ClickHouse(settings), RedisQueue(settings)
    try:
        check_mode(queue, settings.pipeline_mode)  # both before either is marked: a refusal leaves no trace
        apply_schema(clickhouse, settings.pipeline_mode, say)
        claim_redis(queue, settings.pipeline_mode)
    finally:
        clickhouse.close()
        queue.close()


def main() -> int:
    try:
        settings = load_settings()
        wait_while_loading(settings)
        setup(settings, print)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Unavailable as error:
        print(
            f"{printable(error.reason)}\nStart it, or set REDIS_HOST, CLICKHOUSE_HOST and their ports.", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
