"""A status with its verdict and how it changed: what one refresh of the page shows."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from monitoring.health import Health, judge
from monitoring.history import INTERVAL_S, History, Sample
from monitoring.reading import Reading, absent, known_or
from monitoring.status import Status

JUST_AFTER_S = 0.1  # a timer may be some milliseconds early
FRESH_S = 1.0  # however many ask, the servers are read at most that often


class Snapshot(msgspec.Struct, frozen=True):
    """One moment, with the quarter of an hour before it."""

    status: Status
    health: Health
    rates: dict[str, Reading[float]]  # per second, recent mean, by the names of `counters`
    rate_series: dict[str, list[float | None]]  # one value an interval, oldest first
    gauge_series: dict[str, list[float | None]]  # by the names of `gauges`

    def to_json(self) -> dict[str, Any]:
        """The answer of /api/status."""
        builtins: dict[str, Any] = msgspec.to_builtins(self.status)
        return {**builtins, "health": msgspec.to_builtins(self.health), "rates": msgspec.to_builtins(self.rates)}


def counters(status: Status) -> dict[str, Reading[int]]:
    """What only grows, by name."""
    found = {}
    for stage in status.stages:
        found[f"{stage.component}.records_in"] = stage.records_in
        found[f"{stage.component}.records_out"] = stage.records_out
    for stream in status.streams:
        found[f"{stream.name}.added"] = stream.entries_added
        found.update((f"{stream.name}.{group.name}.read", group.entries_read) for group in stream.groups)
    found.update((f"{table.name}.rows", table.rows) for table in status.tables)
    return found


def gauges(status: Status) -> dict[str, Reading[float]]:
    """What goes up and down, by name."""
    found: dict[str, Reading[Any]] = {
        f"{stream.name}.{group.name}.behind": group.behind for stream in status.streams for group in stream.groups
    }
    found["behind"] = backlog(status)
    found["redis_to_clickhouse_p99_s"] = status.latency.redis_to_clickhouse_p99_s
    found["block_to_clickhouse_p50_s"] = status.latency.block_to_clickhouse.map(lambda stored: stored.p50_s)
    return found


def backlog(status: Status) -> Reading[int]:
    """Entries that groups still have to do, over all of them; not known when one of them is not."""
    readings = [group.behind for stream in status.streams for group in stream.groups]
    missing = [reading for reading in readings if reading.value is None]
    return missing[0] if missing else known_or(sum(reading.value or 0 for reading in readings), absent("no groups"))


def _known_values(readings: dict[str, Reading[Any]]) -> dict[str, float]:
    return {name: reading.value for name, reading in readings.items() if reading.value is not None}


class Watch:
    """Takes snapshots on demand, at most one a second, and samples for the history on its own."""

    def __init__(self, read: Callable[[float], Status], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._history = History()
        self._newest: Snapshot | None = None
        self._one_at_a_time = asyncio.Lock()

    async def snapshot(self) -> Snapshot:
        """The newest snapshot, taken anew when it is older than a second."""
        async with self._one_at_a_time:
            if self._newest is not None and 0 <= self._clock() - self._newest.status.at < FRESH_S:
                return self._newest
            return await self._take()

    async def sample_for_ever(self) -> None:
        """Add to the history just after every multiple of the interval, so that each has a slot of its own."""
        while True:
            async with self._one_at_a_time:
                status = (await self._take()).status
            self.remember(status)
            next_at = (status.at // INTERVAL_S + 1) * INTERVAL_S + JUST_AFTER_S
            await asyncio.sleep(max(0.0, next_at - self._clock()))

    def remember(self, status: Status) -> None:
        self._history.add(Sample(status.at, _known_values(counters(status)), _known_values(gauges(status))))

    async def _take(self) -> Snapshot:
        self._newest = self.interpret(await asyncio.to_thread(self._read, self._clock()))
        return self._newest

    def interpret(self, status: Status) -> Snapshot:
        """A status seen together with the history."""
        names = counters(status)
        now = status.at
        return Snapshot(
            status=status,
            health=judge(status),
            rates={name: _rate(reading, self._history.recent_rate(name, now)) for name, reading in names.items()},
            rate_series={name: self._history.rates(name, now) for name in names},
            gauge_series={name: self._history.gauges(name, now) for name in gauges(status)},
        )


def _rate(counter: Reading[int], rate: float | None) -> Reading[float]:
    """The rate of a counter that can't be read now is not known either, whatever it was a moment ago."""
    return counter.then(lambda _: known_or(rate, absent("not yet measured")))
