"""Stretches of time whose fills are still to come, since they are not read or not written yet. They are not gaps.

Only work in progress counts: of an ingester that is catching up, a live writer, a running backfill. What nothing is
about to fetch remains a gap.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from common.config import Settings
from common.keys import Route
from common.leases import holder_of
from common.progress import Run, read_runs
from common.records import OrderFilled, decode_order_filled
from common.redis_queue import RedisQueue
from common.state import read_state
from monitoring.coverage import Gap
from monitoring.formatting import utc
from monitoring.reading import Reading, Server
from monitoring.sources import Source, read_sources
from monitoring.stages import ALIVE, COMPONENTS, read_stage

FOR_EVER = 2**32  # Unix seconds, after everything
MAX_SAMPLE = 1000  # entries: enough to find the oldest of each source among them


class Unread(msgspec.Struct, frozen=True):
    """A stretch whose fills are still to come: begin <= timestamp < end, Unix seconds."""

    begin: int
    end: int
    text: str  # why, for people


class Side(NamedTuple):
    """A source of fills, and the time at which its fills end."""

    name: str  # in keys
    component: str
    end: int


def read_unread(queue: RedisQueue, settings: Settings, now: float) -> Reading[list[Unread]]:
    """Every such stretch; unknown, with the reason, when Redis is away."""
    redis = Server(lambda: queue.call("PING"))
    return redis.read(lambda: list(_unread(queue, settings, now)))


def _unread(queue: RedisQueue, settings: Settings, now: float) -> Iterator[Unread]:
    beats = Reading("known", queue.heartbeats())
    stages = [read_stage(component, beats, settings.stale_after_s, now) for component in COMPONENTS]
    sources = {source.component: source for source in read_sources(stages)}
    sides = (
        Side("goldsky", "goldsky_ingester", settings.cutover_timestamp + 1),
        Side("polygon", "polygon_ingester", FOR_EVER),
    )
    for side in sides:
        yield from _not_read(queue, side, sources[side.component])
    if next(stage for stage in stages if stage.component == "clickhouse_writer").state in ALIVE:
        yield from _not_written(queue, settings, sides)
    for source, run in read_runs(queue):
        if not run.is_complete and holder_of(queue, f"backfill_{source}") is not None:
            yield from _not_filled(source, run)


def _not_read(queue: RedisQueue, side: Side, source: Source) -> Iterator[Unread]:
    """What lies beyond the cursor of an ingester that reports that there is more."""
    if source.state != "catching up":
        return
    read_to = _seconds(read_state(queue, f"{side.name}_last_timestamp"))
    began = _seconds((read_state(queue, f"{side.name}_began") or "").partition(" ")[0])
    if read_to:
        text = f"{side.component} has read up to {utc(read_to)} and is still catching up"
    else:
        text = f"{side.component} has read nothing yet and is still catching up"
    if (read_to or began) < side.end:
        yield Unread(read_to or began, side.end, f"{text}; what comes after is not audited yet")


def _seconds(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _not_written(queue: RedisQueue, settings: Settings, sides: Sequence[Side]) -> Iterator[Unread]:
    """For each live ingester, from its oldest fill on that is still to be written."""
    route = Route(queue.keys(settings.stream_order_events), settings.group_order_events_writers)
    fills = _unwritten_fills(queue, route)
    for side in sides:
        floor = _seconds(read_state(queue, f"{side.name}_floor"))
        times = [fill.timestamp for fill in fills if _is_of_live_ingester(fill, side, floor)]
        if times:
            text = f"fills of {side.component} from {utc(min(times))} on are still to be written"
            yield Unread(min(times), side.end, f"{text}; what comes after is not audited yet")


def _unwritten_fills(queue: RedisQueue, route: Route) -> list[OrderFilled]:
    for group in queue.stream_info(route.stream).groups:
        if group.name == route.group:
            undone = [group.oldest_pending_id, queue.undelivered_since(route.stream, group)]
            first = min((each for each in undone if each), key=_place, default=None)
            entries = queue.read_from(route.stream, first, MAX_SAMPLE) if first else []
            return [fill for entry in entries if (fill := _decoded(entry.data))]
    return []


def _place(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def _decoded(data: bytes) -> OrderFilled | None:
    try:
        return decode_order_filled(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_of_live_ingester(fill: OrderFilled, side: Side, floor: int) -> bool:
    """A backfill's fills lie below the floor; with them, the stretch would begin before fills written long ago."""
    if side.name == "polygon":
        return fill.block_number is not None and fill.block_number >= floor
    return fill.block_number is None and fill.timestamp >= floor


def _not_filled(source: str, run: Run) -> Iterator[Unread]:
    """Slices that a backfill has not read to their end. Of a range of blocks, only the whole is known in seconds."""
    parts = [(each.begin, each.end) for each in run.slices] + [(run.frontier, run.end)]
    if (run.begin, run.end) != (run.since, run.until):
        parts = [(run.since, run.until)]
    for begin, end in parts:
        if begin < end:
            text = f"a backfill of {source} is under way from {utc(begin)} to {utc(end)}: not audited yet"
            yield Unread(begin, end, text)


def without_unread(gaps: Sequence[Gap], unread: Sequence[Unread], longest_s: int) -> list[Gap]:
    """The parts of the gaps outside these stretches that are longer than `longest_s`."""
    for stretch in unread:
        gaps = [part for gap in gaps for part in _outside(gap, stretch)]
    return [gap for gap in gaps if gap.seconds > longest_s]


def _outside(gap: Gap, stretch: Unread) -> Iterator[Gap]:
    if stretch.end <= gap.begin or stretch.begin >= gap.end:
        yield gap
        return
    if gap.begin < stretch.begin:
        yield Gap(gap.source, gap.begin, stretch.begin)
    if stretch.end < gap.end:
        yield Gap(gap.source, stretch.end, gap.end)
