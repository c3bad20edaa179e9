"""Checks that everything the pipeline needs is there, and says what to do about what is not.

Exit status: 0 all well (an unreachable source is a warning: the pipeline waits for it), 1 something is missing,
2 the configuration is wrong.
"""

import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from common.clickhouse import ClickHouse
from common.config import Settings, doubtful_names, load_settings
from common.env_file import ENV_FILE
from common.errors import ConfigError, PipelineError
from common.http import HttpSource, Rejected
from common.printable import printable
from common.probe import wait_while_loading
from common.redis_queue import RedisQueue
from common.state import read_state
from common.tables import DEDUPLICATION_WINDOW, TABLES, Table

OLDEST_REDIS = (6, 2)
OLDEST_CLICKHOUSE = (24, 3)


class Shortfall(PipelineError):
    """Something is there, but not as the pipeline needs it."""


def require(condition: object, shortfall: str) -> None:
    if not condition:
        raise Shortfall(shortfall)


class Check(NamedTuple):
    """The outcome of one check."""

    name: str
    found: str
    remedy: str = ""  # empty: all well
    is_warning: bool = False


def check(name: str, look: Callable[[], str], remedy: str, *, is_warning: bool = False) -> Check:
    """Run one look; its failure becomes the finding, with the remedy."""
    try:
        return Check(name, look())
    except PipelineError as error:
        return Check(name, str(error), remedy, is_warning)


def version_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def redis_version(queue: RedisQueue) -> str:
    info = queue.call("INFO", "server")
    version = str(info.get("valkey_version") or info["redis_version"])
    require(version_of(version) >= OLDEST_REDIS, f"version {version} is too old")
    return version


def redis_fact(queue: RedisQueue, section: str, name: str, wanted: str) -> str:
    """A line of INFO, which needs no more rights than reading."""
    held = str(queue.call("INFO", section)[name])
    require(held == wanted, f"{name} is {held!r}, wanted {wanted!r}")
    return f"{name} {held}"


def redis_checks(queue: RedisQueue, mode: str) -> Iterator[Check]:
    """What does not hold without a server is left out where there is none."""
    remedy = "start it (./start.sh does), or set REDIS_HOST and REDIS_PORT"
    server = check("Redis", lambda: redis_version(queue), remedy)
    yield server
    if server.remedy:
        return
    yield check(
        "Redis keeps data",
        lambda: redis_fact(queue, "persistence", "aof_enabled", "1"),
        f"{queue.cli} CONFIG SET appendonly yes: without it a restart loses what was not yet in ClickHouse",
    )
    yield check(
        "Redis drops nothing",
        lambda: redis_fact(queue, "memory", "maxmemory_policy", "noeviction"),
        f"{queue.cli} CONFIG SET maxmemory-policy noeviction: eviction would remove fills",
    )
    remedy = "right beside ./start.sh --demo, which simulates the sources below; else see PIPELINE_MODE"
    yield check("data", lambda: mode_of_data(queue, mode), remedy, is_warning=True)


def mode_of_data(queue: RedisQueue, wanted: str) -> str:
    held = read_state(queue, "mode")
    require(held in {None, wanted}, f"Redis holds {held} data, these settings are for {wanted}")
    return f"{wanted} data" if held else "no data yet"


def clickhouse_version(clickhouse: ClickHouse) -> str:
    version = str(clickhouse.query("SELECT version()")[0][0])
    require(version_of(version) >= OLDEST_CLICKHOUSE, f"version {version} is too old")
    return version


def table_state(clickhouse: ClickHouse, table: Table) -> str:
    """Row count; the assertion says how the table differs from its declaration."""
    where = {"database": clickhouse.database, "table": table.name}
    filters = "database = {database:String} AND "
    rows = clickhouse.query(f"SELECT name FROM system.columns WHERE {filters} table = {{table:String}}", where)  # noqa: S608
    require(rows, "missing")
    lacking = [column.name for column in table.columns if (column.name,) not in rows]
    require(not lacking, f"lacks {', '.join(lacking)}")
    ((made_with, count),) = clickhouse.query(
        f"SELECT engine_full, total_rows FROM system.tables WHERE {filters} name = {{table:String}}",  # noqa: S608
        where,
    )
    wanted = f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
    require(wanted in made_with, "insert tokens do nothing on it")
    return f"{count:,} rows"


def clickhouse_checks(clickhouse: ClickHouse) -> Iterator[Check]:
    remedy = "start it (./start.sh does), or set CLICKHOUSE_HOST and CLICKHOUSE_PORT"
    yield check("ClickHouse", lambda: clickhouse_version(clickhouse), remedy)
    for table in TABLES:
        yield check(f"table {table.name}", partial(table_state, clickhouse, table), ".venv/bin/python3 setup_schema.py")


def reach(name: str, url: str, settings: Settings, ask: Callable[[HttpSource], bytes]) -> str:
    """The source's host, once it has answered; a refusal is an answer too."""
    source = HttpSource(
        name,
        url,
        requests_per_10s=1,
        connect_timeout_s=settings.http_connect_timeout_s,
        read_timeout_s=settings.http_read_timeout_s,
    )
    try:
        ask(source)
    except Rejected as error:
        require(error.status not in (401, 403), error.reason)
    finally:
        source.close()
    return f"{source.host} answers"


def source_checks(settings: Settings) -> Iterator[Check]:
    remedy = "check network, proxy and the URL; the pipeline runs meanwhile and goes on by itself"
    meta = b'{"query":"{_meta{block{number}}}"}'
    yield check(
        "Gamma (markets)",
        lambda: reach(
            "Gamma", settings.polymarket_api_url, settings, lambda source: source.get("/markets", [("limit", "1")])
        ),
        f"POLYMARKET_API_URL: {remedy}",
        is_warning=True,
    )
    yield check(
        "Goldsky (fills)",
        lambda: reach("Goldsky", settings.goldsky_url, settings, lambda source: source.post(meta)),
        f"GOLDSKY_URL: {remedy}",
        is_warning=True,
    )
    chain_id = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
    for url in settings.polygon_rpc_url.split(","):
        yield check(
            "Polygon (fills)",
            partial(reach, "Polygon", url.strip(), settings, lambda source: source.post(chain_id)),
            f"POLYGON_RPC_URL: {remedy}",
            is_warning=True,
        )


def env_file_access() -> str:
    """Who may read `.env`, which may hold passwords and keys."""
    try:
        mode = ENV_FILE.stat().st_mode
    except FileNotFoundError:
        return "none"
    require(not mode & (stat.S_IRGRP | stat.S_IROTH), f"others may read it ({stat.filemode(mode)})")
    return "readable by its owner only"


def settings_checks(settings: Settings) -> Iterator[Check]:
    yield Check("settings", f"{settings.pipeline_mode} mode")
    for doubt in doubtful_names():
        yield Check("setting names", doubt, "env.example lists every setting", is_warning=True)
    yield check(".env", env_file_access, f"chmod 600 {ENV_FILE}", is_warning=True)


def run_checks(settings: Settings) -> Iterator[Check]:
    mode = settings.pipeline_mode
    yield from settings_checks(settings)
    queue, clickhouse = RedisQueue(settings), ClickHouse(settings)
    try:
        yield from redis_checks(queue, mode)
        yield from clickhouse_checks(clickhouse)
    finally:
        queue.close()
        clickhouse.close()
    yield from source_checks(settings)


def show(result: Check) -> None:
    mark = "ok  " if not result.remedy else "warn" if result.is_warning else "FAIL"
    print(f"{mark}  {result.name:20} {printable(result.found)}")
    if result.remedy:
        print(f"      {'':20} -> {result.remedy}")


def main() -> int:
    try:
        settings = load_settings()
    except ConfigError as error:
        print(f"{error}\n-> set it in the environment or in .env; env.example explains each", file=sys.stderr)
        return 2
    wait_while_loading(settings)
    failed = False
    try:
        for result in run_checks(settings):
            show(result)
            failed = failed or bool(result.remedy and not result.is_warning)
    except ConfigError as error:  # in a variable that is not a setting: a proxy
        print(error, file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
