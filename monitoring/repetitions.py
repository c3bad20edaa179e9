"""Rows that are stored twice, counted until merges have removed them.

The writers note the hours that have such rows (processors/repetitions.py), so a pipeline without notes is never
counted. Days are counted one by one, each at most once a minute, for a few seconds per round; a day whose count is 0 is
over unless it is noted again.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from common.clickhouse import ClickHouse
from common.errors import PipelineError
from common.tables import ORDER_FILLED, TRADES
from monitoring.reading import Reading, absent, known, unknown

LOOK_S = 5.0  # between two reads of the notes, which are few
COUNT_S = 60.0  # between two counts of the same day
ROUND_S = 10.0  # of counting; the remaining days come in the next round
QUERY_S = 4  # for one day
SETTLED_S = 60.0  # writers repeat a note after 30 s: where one is older than this, a later row has a newer note
DAY_S = 86_400
NOT_COUNTED: Reading[list["Repeated"]] = absent("not counted yet")
_KEYS = {table.name: ", ".join(table.order_by) for table in (ORDER_FILLED, TRADES)}


class Repeated(msgspec.Struct, frozen=True):
    """A table with rows stored twice, as of the last count."""

    table: str
    rows: Reading[int]  # beyond the first of each
    months: list[int]  # 202611: the partitions
    noticed_at: float  # Unix seconds, by ClickHouse's clock
    remedy: str  # the statement that removes them at once


class Note(NamedTuple):
    """A day of a table with such rows, as the writers have noted it."""

    table: str
    day: int  # Unix seconds of its beginning
    noticed_at: float


class Count(NamedTuple):
    """What a day had."""

    noticed_at: float  # of the note that it was counted for
    rows: int | None  # None: not counted, or it failed
    at: float  # our clock
    is_final: bool  # nothing is left, and no row can have come since without a newer note
    failure: str = ""


UNCOUNTED = Count(0.0, None, 0.0, is_final=False)


class RepetitionCounter:
    """Counts in the background; `latest` is what it knows."""

    def __init__(self, clickhouse: ClickHouse, clock: Callable[[], float] = time.time) -> None:
        self.latest = NOT_COUNTED
        self._clickhouse = clickhouse
        self._clock = clock
        self._counts: dict[tuple[str, int], Count] = {}

    async def count_for_ever(self) -> None:
        while True:
            await asyncio.to_thread(self.count)
            await asyncio.sleep(LOOK_S)

    def count(self) -> None:
        """One round: read the notes, and count what is open and due, the longest uncounted first."""
        try:
            server_now, notes = self._notes()
        except PipelineError as error:
            self.latest = unknown(str(error))
            return
        open_notes = [note for note in notes if not self._is_over(note)]
        until = self._clock() + ROUND_S
        for note in sorted(open_notes, key=lambda note: self._count_of(note).at):
            if self._clock() < until and self._is_due(note):
                self._counts[note.table, note.day] = self._counted(note, server_now)
        self.latest = known(self._summary([note for note in open_notes if not self._is_over(note)]))

    def _notes(self) -> tuple[float, list[Note]]:
        """ClickHouse's clock, and the days of all notes."""
        rows = self._clickhouse.query(_NOTES.format(database=self._clickhouse.database))
        return (rows[0][3] if rows else 0.0), [Note(*row[:3]) for row in rows]

    def _count_of(self, note: Note) -> Count:
        return self._counts.get((note.table, note.day), UNCOUNTED)

    def _is_over(self, note: Note) -> bool:
        count = self._count_of(note)
        return count.is_final and count.noticed_at >= note.noticed_at

    def _is_due(self, note: Note) -> bool:
        return self._clock() - self._count_of(note).at >= COUNT_S

    def _counted(self, note: Note, server_now: float) -> Count:
        database, table = self._clickhouse.database, note.table
        sql = _COUNT.format(database=database, table=table, keys=_KEYS[table], seconds=QUERY_S)
        try:
            [(rows,)] = self._clickhouse.query(sql, {"table": table, "begin": note.day, "end": note.day + DAY_S})
        except PipelineError as error:
            return Count(note.noticed_at, None, self._clock(), is_final=False, failure=str(error))
        is_settled = server_now - note.noticed_at >= SETTLED_S
        return Count(note.noticed_at, rows, self._clock(), is_final=rows == 0 and is_settled)

    def _summary(self, notes: list[Note]) -> list[Repeated]:
        """The tables with days that are still open."""
        tables = sorted({note.table for note in notes})
        return [self._repeated(table, [note for note in notes if note.table == table]) for table in tables]

    def _repeated(self, table: str, notes: list[Note]) -> Repeated:
        counts = [self._count_of(note) for note in notes]
        months = sorted({_month(note.day) for note in notes})
        partition = f" PARTITION {months[0]}" if len(months) == 1 else ""
        return Repeated(
            table=table,
            rows=_total(counts),
            months=months,
            noticed_at=max(note.noticed_at for note in notes),
            remedy=f"OPTIMIZE TABLE {self._clickhouse.database}.{table}{partition} FINAL",
        )


def _total(counts: list[Count]) -> Reading[int]:
    """Unknown while one day is: a partial sum would pass for the total."""
    known_rows = [count.rows for count in counts if count.rows is not None]
    if len(known_rows) == len(counts):
        return known(sum(known_rows))
    failure = next((count.failure for count in counts if count.failure), "")
    counted = f"{len(known_rows)} of {len(counts)} days counted so far, with {sum(known_rows)} rows"
    return unknown(f"{failure}; {counted}" if failure else counted)


def _month(at: int) -> int:
    moment = time.gmtime(at)
    return moment.tm_year * 100 + moment.tm_mon


_NOTES = """SELECT
    table_name, toUnixTimestamp(toStartOfDay(hour)) AS day,
    toUnixTimestamp64Milli(max(noticed_at)) / 1000, toUnixTimestamp64Milli(now64(3)) / 1000
FROM {database}.repeated_hours
WHERE table_name IN ('order_filled', 'trades')
GROUP BY table_name, day
ORDER BY table_name, day"""

# The table's whole key, since a merge removes rows that agree in all of it.
_COUNT = """SELECT count() - uniqExact({keys}) FROM {database}.{table}
WHERE timestamp >= toDateTime({{begin:UInt32}}, 'UTC') AND timestamp < toDateTime({{end:UInt32}}, 'UTC')
    AND toStartOfHour(timestamp) IN
    (
        SELECT hour FROM {database}.repeated_hours WHERE table_name = {{table:String}}
    )
SETTINGS max_execution_time = {seconds}, max_memory_usage = 2000000000"""
