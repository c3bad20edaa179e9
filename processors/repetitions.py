"""Detects rows that were stored twice, and notes their hours of event time in ClickHouse.

After a loss of Redis' data (a lost append-only file, FLUSHALL, a failover to a lagging replica), entries come again
whose rows are in ClickHouse already, in other batches and so under other tokens. Redis can't reveal that reliably,
since the evidence is lost as well. So the rows themselves are checked: a sample of a batch, after its insert.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from common.clickhouse import ClickHouse
from common.errors import PipelineError
from common.redis_queue import Entry
from common.tables import ORDER_FILLED, REPEATED_HOURS, TRADES, Table

HOUR_S = 3600
FIRST, SPREAD = 8, 8  # rows sampled: repeated ones are at a batch's beginning, or all through it
NOTED_S = 30.0  # an hour that keeps getting such rows is noted again after this time; `monitoring` relies on it
# While a backlog lasts, large batches follow one another, and checking each of them took a third of ClickHouse's time.
# Rows that come again after a loss then fill many of them.
LARGE, PAUSE_S = 5_000, 10.0
# The columns that identify a row: its table's key.
KEYS: Mapping[str, Sequence[str]] = {
    ORDER_FILLED.name: ("timestamp", "id"),
    TRADES.name: ("market_id", "timestamp", "id"),
}


class _Row(msgspec.Struct):
    id: str
    timestamp: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]  # Unix seconds
    market_id: str = ""


class Repetitions:
    """Shared by the threads that insert. Whatever fails here costs a note, never a row."""

    def __init__(self, clickhouse: ClickHouse, log: logging.Logger) -> None:
        self._clickhouse = clickhouse
        self._log = log
        self._noted: dict[tuple[str, int], float] = {}
        self._checked_at: dict[str, float] = {}  # monotonic clock, by table

    def check(self, table: Table, entries: Sequence[Entry]) -> None:
        """Check a sample of a batch that has just been inserted."""
        if table.name not in KEYS or self._is_too_soon(table, len(entries)):
            return
        try:
            rows = _decoded(sample(entries))
            if rows and self._has_repeated(table, rows):
                self._note(table, _hours(_decoded(entries)))
        except PipelineError as error:
            self._log.warning("%s: can't tell whether rows were stored twice: %s", table.name, error)

    def _is_too_soon(self, table: Table, rows: int) -> bool:
        now = time.monotonic()
        if rows > LARGE and now - self._checked_at.get(table.name, -PAUSE_S) < PAUSE_S:
            return True
        self._checked_at[table.name] = now
        return False

    def _has_repeated(self, table: Table, rows: Sequence[_Row]) -> bool:
        """Whether any of the rows is stored more than once."""
        keys = ", ".join(KEYS[table.name])
        markets = "market_id IN {markets:Array(String)} AND " if "market_id" in KEYS[table.name] else ""
        times = [row.timestamp for row in rows]
        found = self._clickhouse.query(
            f"SELECT count() > uniqExact({keys}) FROM {self._clickhouse.database}.{table.name} WHERE {markets}"  # noqa: S608 - names are our own
            "timestamp >= toDateTime({first:UInt32}, 'UTC') AND timestamp <= toDateTime({last:UInt32}, 'UTC') "
            "AND id IN {ids:Array(String)}",
            {
                "markets": sorted({row.market_id for row in rows}),
                "first": min(times),
                "last": max(times),
                "ids": sorted({row.id for row in rows}),
            },
        )
        return bool(found[0][0])

    def _note(self, table: Table, hours: Iterable[int]) -> None:
        now = time.time()
        new = [hour for hour in sorted(hours) if now - self._noted.get((table.name, hour), 0.0) >= NOTED_S]
        if not new:
            return
        notes = [msgspec.json.encode({"table_name": table.name, "hour": hour}) for hour in new]
        self._clickhouse.batch_insert(REPEATED_HOURS, b"\n".join(notes), f"{table.name} {new} {now}")
        self._log.warning("%s: rows that were stored before came again, as after a loss of Redis' data", table.name)
        self._noted.update(((table.name, hour), now) for hour in new)


def sample(entries: Sequence[Entry]) -> list[Entry]:
    """The first entries, and others spread through the rest, including the last."""
    rest = entries[FIRST:]
    return [*entries[:FIRST], *rest[:: max(1, len(rest) // SPREAD)], *entries[-1:]]


def _decoded(entries: Iterable[Entry]) -> list[_Row]:
    return [row for entry in entries if (row := _decode(entry.data))]


def _decode(data: bytes) -> _Row | None:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # an odd row is no sample


_decoder = msgspec.json.Decoder(_Row)


def _hours(rows: Iterable[_Row]) -> set[int]:
    return {row.timestamp - row.timestamp % HOUR_S for row in rows}
