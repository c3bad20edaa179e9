"""ClickHouse: the only module that speaks to it. Its errors come out as ours, named after what to do."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

import clickhouse_connect
import msgspec
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, Error
from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager_options
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager
from urllib3.exceptions import HTTPError

from common.config import Settings
from common.errors import ConfigError, RefusedRows, Unavailable
from common.printable import printable
from common.proxies import checked, is_private, through
from common.tables import MARKET_TOKENS, MARKETS, Table

# Pinned per insert, because servers' defaults differ and changed (async_insert is on by default since 26.2).
INSERT_SETTINGS: Mapping[str, str | int] = {
    "async_insert": 0,  # the answer means that the rows are in the table
    "insert_deduplicate": 1,  # heed the token
    "deduplicate_blocks_in_dependent_materialized_views": 1,  # and in views; 0 from 24.7 to 26.1 doubled them
    "date_time_input_format": "best_effort",  # the records' times are ISO
    "input_format_skip_unknown_fields": 0,  # a field without a column is an error, never dropped
    "input_format_parallel_parsing": 0,  # in several threads a row costs an eighth more CPU
    "max_partitions_per_insert_block": 0,  # a batch of any months goes in; the default, 100, would refuse it for ever
    "max_insert_block_size": 1_048_576,  # above every batch: one insert is one block, all of it or nothing
}
OPTIONAL_INSERT_SETTINGS: Mapping[str, str | int] = {"deduplicate_insert": "enable"}  # only newer servers know it

# Codes by what to do about them, from ClickHouse's ErrorCodes.cpp. Whatever is in neither is the rows' fault until
# bisecting has shown which row's; nothing is lost by that, the row goes to the dead letters with its bytes.
RETRY = frozenset(
    {159, 160, 164, 202, 203, 209, 210, 236, 241, 242, 243, 252, 265, 285, 290, 319, 364, 394, 999}
    | {74, 75, 76, 173, 198, 425, 439, 745}  # files, memory, DNS, system calls, threads, overload: the server is ill
)
SCHEMA = frozenset({8, 10, 16, 20, 36, 42, 43, 44, 46, 47, 48, 57, 60, 62, 81, 115, 179, 497})  # wrong for every row
DENIED = frozenset({192, 193, 194, 516})
LOOKED_FOR = 500  # keys a query: 40 KB of statement
OLDEST, NEWEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # versions that are compared
OLDEST_VERSION = -(2**63)
LOST_ATTEMPTS = 3  # to insert rows whose token is remembered without them
HTTPS_PORTS = (443, 8443)  # where the driver speaks TLS
# ClickHouse sends one of these with every complete answer, even an empty one; a proxy or a dying server does not.
CONFIRMED_BY = ("X-ClickHouse-Query-Id", "X-ClickHouse-Summary")


class ClickHouse:
    """One server. Connects with the first call and again after a failure; may be shared between threads."""

    def __init__(self, settings: Settings) -> None:
        self.database = settings.clickhouse_database
        self._proxy = _proxy_of(settings.clickhouse_host, settings.clickhouse_port)
        self._where = f"{settings.clickhouse_host}:{settings.clickhouse_port}{through(self._proxy)}"
        self._settings = settings
        self._client: Client | None = None
        driver = logging.getLogger("clickhouse_connect")
        if not driver.handlers:  # a command without a log of its own would print what the driver logs
            driver.addHandler(logging.NullHandler())

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a SELECT. Server-side parameters are written `{name:Type}` in the statement.

        No rows means that there are none: an answer that is empty for any other reason raises Unavailable.
        """
        try:
            answer = self._connected().query(sql, parameters=dict(parameters or {}))
        except (Error, HTTPError) as error:
            raise self._explained(error) from error
        rows = [tuple(row) for row in answer.result_rows]
        found = int(answer.summary.get("result_rows", 0))
        if found and not rows:
            raise Unavailable(f"ClickHouse at {self._where}: found {found} rows but sent none")
        return rows

    def command(self, sql: str) -> None:
        """A statement without rows."""
        try:
            self._connected().command(sql)
        except (Error, HTTPError) as error:
            raise self._explained(error) from error

    def batch_insert(self, table: Table, rows: bytes, token: str) -> None:
        """Insert rows of JSONEachRow, all or none; again with the same token changes nothing.

        Raises Unavailable (send the same again, with the same token), RefusedRows (bisect), ConfigError (access).
        """
        try:
            client = self._connected()
            optional = {
                name: value for name, value in OPTIONAL_INSERT_SETTINGS.items() if name in client.server_settings
            }
            client.raw_insert(
                f"{self.database}.{table.name}",
                column_names=table.inserted_columns(),
                insert_block=rows,
                settings={**INSERT_SETTINGS, **optional, "insert_deduplication_token": token},
                fmt="JSONEachRow",
            )
        except (Error, HTTPError) as error:
            raise self._explained(error) from error

    def insert_again(self, table: Table, rows: bytes, token: str) -> None:
        """Insert a batch that may have been sent before; as `batch_insert`.

        A server that is killed may remember a token whose rows it has not got, and would answer every repetition with
        success (seen with kill -9 under load: it writes the token down just before the part). So the rows are looked
        for, and where they are missing sent under another token; ReplacingMergeTree removes what was there of them.
        """
        self.batch_insert(table, rows, token)
        for attempt in range(1, LOST_ATTEMPTS + 1):
            if self._has(table, rows):
                return
            self.batch_insert(table, rows, f"{token}-{attempt}")
        if not self._has(table, rows):
            raise Unavailable(f"ClickHouse at {self._where} takes rows of {table.name} and does not show them")

    def _has(self, table: Table, rows: bytes) -> bool:
        """Whether the rows of a batch are there.

        Of fills and trades one a month is looked for: they make a part a month, which is there as a whole or not at
        all. Markets and their tokens are looked for one by one, since any of them may have come again by another batch.
        """
        samples = []
        for row in rows.split(b"\n"):
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # an odd row is no sample
                samples.append(_decode_sample(row))
        if table.name == MARKETS.name:
            markets = {sample.id: sample.version() for sample in samples}
            tokens = {token: sample.version() for sample in samples for token in sample.token_ids}
            return self._has_versions(MARKETS, "id", markets) and self._has_versions(MARKET_TOKENS, "token_id", tokens)
        sql = (
            f"SELECT count() FROM {self.database}.{table.name} "  # noqa: S608 - names are our own
            "WHERE id = {id:String} AND timestamp = toDateTime({time:UInt32}, 'UTC')"
        )
        months = {time.strftime("%Y%m", time.gmtime(sample.timestamp)): sample for sample in samples}
        return all(self.query(sql, {"id": sample.id, "time": sample.timestamp}) != [(0,)] for sample in months.values())

    def _has_versions(self, table: Table, key: str, versions: Mapping[str, int]) -> bool:
        """Whether the table has all of them, as new as that or newer."""
        sql = (
            f"SELECT {key}, toUnixTimestamp64Micro(max(updated_at)) FROM {self.database}.{table.name} "  # noqa: S608
            f"WHERE {key} IN {{keys:Array(String)}} GROUP BY {key}"
        )
        wanted = sorted(versions)
        for start in range(0, len(wanted), LOOKED_FOR):
            keys = wanted[start : start + LOOKED_FOR]
            found = dict(self.query(sql, {"keys": keys}))
            if any(each not in found or found[each] < versions[each] for each in keys):
                return False
        return True

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Client:
        if self._client is None:
            self._client = clickhouse_connect.get_client(
                host=self._settings.clickhouse_host,
                port=self._settings.clickhouse_port,
                username=self._settings.clickhouse_user,
                password=self._settings.clickhouse_password.get_secret_value(),
                connect_timeout=int(self._settings.clickhouse_timeout_s),
                send_receive_timeout=int(self._settings.clickhouse_timeout_s),
                autogenerate_session_id=False,  # sessions would forbid two statements at once
                query_retries=0,  # the back-off is run()'s
                pool_mgr=_pool(self._proxy),
            )
        return self._client

    def _explained(self, error: Error | HTTPError) -> Exception:
        code = error.code if isinstance(error, DatabaseError) else None
        reason = f"ClickHouse at {self._where}: {_first_line(error)}"
        if code in DENIED:
            return ConfigError(f"CLICKHOUSE_USER, CLICKHOUSE_PASSWORD: {reason}")
        if code in SCHEMA:
            return Unavailable(f"{reason} (does setup_schema.py need to run?)", retry_after_s=5)
        if code is None or code in RETRY:
            return Unavailable(reason)
        return RefusedRows(reason)


class _Pool(PoolManager):
    """Connections to ClickHouse; an answer that ClickHouse did not send is an error."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **more: Any) -> BaseHTTPResponse:  # type: ignore[override]  # noqa: FBT001, FBT002 - urllib3's own
        return _confirmed(super().urlopen(method, url, redirect, **more))


class _ProxiedPool(ProxyManager):
    """The same through a proxy."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **more: Any) -> BaseHTTPResponse:  # type: ignore[override]  # noqa: FBT001, FBT002
        return _confirmed(super().urlopen(method, url, redirect, **more))


def _confirmed(answer: BaseHTTPResponse) -> BaseHTTPResponse:
    """Raises HTTPError for a success that ClickHouse did not send: an empty body would pass for 0 rows or success."""
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES or any(name in answer.headers for name in CONFIRMED_BY):
        return answer
    answer.close()
    raise HTTPError(f"answers {answer.status} without ClickHouse's headers, so nothing is confirmed")


@cache
def _pool(proxy: str) -> PoolManager:
    """Shared by all clients of this process, like the driver's own."""
    options = get_pool_manager_options()
    return _ProxiedPool(proxy, **options) if proxy else _Pool(**options)


def _proxy_of(host: str, port: int) -> str:
    """The proxy that the driver would use; none for this machine and private networks. Raises ConfigError."""
    if is_private(host):
        return ""
    return checked(check_env_proxy("https" if port in HTTPS_PORTS else "http", host, port) or "", ("http", "https"))


class _Sample(msgspec.Struct):
    """What finds a row of any of our tables again."""

    id: str
    timestamp: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0  # fills and trades; it tells the partition
    updated_at: datetime | None = None  # markets
    token_ids: list[str] = []  # markets

    def version(self) -> int:
        """Unix microseconds; what ClickHouse could not tell, is any version."""
        if self.updated_at is None or not self.updated_at.tzinfo or not OLDEST < self.updated_at < NEWEST:
            return OLDEST_VERSION
        return (self.updated_at - OLDEST) // timedelta(microseconds=1)


_decode_sample = msgspec.json.Decoder(_Sample).decode


def _first_line(error: Exception) -> str:
    """The server's own first line; for a broken connection its innermost cause, without the address and its query."""
    cause: BaseException = error
    while isinstance(error, Error) and error.code is None and (inner := _inside(cause)):
        cause = inner
    return printable(str(cause).split("\n", 1)[0][:500])


def _inside(error: BaseException) -> BaseException | None:
    """What an error wraps: as its cause, or, with urllib3, as its reason."""
    reason = getattr(error, "reason", None)
    return error.__cause__ or (reason if isinstance(reason, BaseException) else None)
