"""The verdict on the pipeline, and the reasons for it. Pure: decided from a status alone."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from common.eviction import eviction_warning
from monitoring.disks import Disk
from monitoring.formatting import ago, duration, number, printable, size
from monitoring.reading import Reading
from monitoring.redis_server import OK, RedisState
from monitoring.repetitions import Repeated
from monitoring.sources import Source
from monitoring.stages import Stage
from monitoring.standstill import standstills
from monitoring.status import Status
from monitoring.streams import Stream

Severity = Literal["degraded", "broken"]  # works with limits, or a part of it does not work
Verdict = Literal["ok", "degraded", "broken"]
SOURCES = "sources of fills"


class Reason(msgspec.Struct, frozen=True):
    """Something that is not as it should be."""

    severity: Severity
    about: str  # the component, stream, table or server
    text: str


class Health(msgspec.Struct, frozen=True):
    """The verdict: that of the worst reason."""

    verdict: Verdict
    reasons: list[Reason]

    @property
    def of_pipeline(self) -> Verdict:
        """The same for what runs here: without the sources, which nobody here can start."""
        return _worst([reason for reason in self.reasons if reason.about != SOURCES])


def judge(status: Status) -> Health:
    """The worst comes first. A server that is away is named once, not again for everything that it hides."""
    reasons = sorted(_reasons(status), key=lambda reason: reason.severity)  # "broken" sorts before "degraded"
    return Health(_worst(reasons), reasons)


def _worst(reasons: Sequence[Reason]) -> Verdict:
    return reasons[0].severity if reasons else "ok"


def _reasons(status: Status) -> Iterator[Reason]:
    yield from _server("Redis", status.redis)
    yield from _server("ClickHouse", status.clickhouse)
    yield from _no_fills(status.sources)
    for stage in status.stages:
        yield from _stage(stage, status.at)
    for found in standstills(status):
        yield Reason(*found)
    for source in status.sources:
        yield from _source(source, status)
    for stream in status.streams:
        yield from _stream(stream, status.stream_backlog_limit)
    if status.clickhouse.state == "known":
        for table in status.tables:
            if table.rows.state == "unknown":
                yield Reason("broken", table.name, table.rows.reason)
    yield from _losses(status)
    yield from _redis(status.redis_state)
    for disk in status.disks.value or []:
        yield from _disk(disk)
    for repeated in status.repeated.value or []:
        yield from _repeated(repeated)


def _server(name: str, reachable: Reading[bool]) -> Iterator[Reason]:
    if reachable.state != "known":
        yield Reason("broken", name, f"can't be used: {printable(reachable.reason)}")


def _stage(stage: Stage, now: float) -> Iterator[Reason]:
    age = f"last heartbeat {ago(stage.heartbeat_age_s.value)}" if stage.heartbeat_age_s.value is not None else ""
    match stage.state:
        case "missing":
            yield Reason("broken", stage.component, "has no heartbeat: it is not running")
        case "silent":
            yield Reason("broken", stage.component, f"is silent: {age}")
        case "stopped":
            yield Reason("broken", stage.component, f"has stopped: {age}")
        case "waiting":
            yield Reason("degraded", stage.component, f"waits: {printable(stage.reason)}{_next_attempt(stage, now)}")
        case "starting" | "draining":
            yield Reason("degraded", stage.component, f"is {stage.state}")
    if stage.degraded:
        yield Reason("degraded", stage.component, printable(stage.degraded))


def _next_attempt(stage: Stage, now: float) -> str:
    at = stage.next_attempt_at.value
    return "" if at is None else f"; next attempt {f'in {duration(at - now)}' if at > now else 'now'}"


def _no_fills(sources: Sequence[Source]) -> Iterator[Reason]:
    """No fill of now can arrive: a source that should bring them is dead, and no other one does in its place."""
    of_fills = [source for source in sources if source.has_fills]
    if any(source.is_dead for source in of_fills) and not any(source.brings_new_fills for source in of_fills):
        told = "; ".join(f"{source.name} is {_told(source)}" for source in of_fills)
        yield Reason("broken", SOURCES, f"bring nothing new: {told}")


def _told(source: Source) -> str:
    return f"{source.state} ({printable(source.reason)})" if source.is_dead and source.reason else source.state


def _source(source: Source, status: Status) -> Iterator[Reason]:
    """A source that answers and brings nothing; one that can't be asked is told with the stage that waits for it."""
    newest = source.newest_event_at.value
    host = printable(source.host) or source.name
    if source.state == "stale":
        yield Reason("degraded", source.component, f"{host} is stale: {printable(source.reason)}")
    elif source.state == "idle" and newest is not None:
        age = ago(status.at - newest)
        yield Reason("degraded", source.component, f"{host} has nothing new: its newest event is {age}")
    elif source.state == "unreachable" and status.stage(source.component).state != "waiting":
        yield Reason("degraded", source.component, f"{host} is unreachable: {printable(source.reason)}")


def _stream(stream: Stream, backlog_limit: int) -> Iterator[Reason]:
    for group in stream.groups:
        if group.state == "missing":
            text = f"has no consumer group {group.name}: it is neither read nor trimmed"
            yield Reason("broken", stream.name, text)
        elif group.behind.value is not None and group.behind.value > backlog_limit:
            behind = f"{number(group.behind.value)} entries behind; ingesters pause above {number(backlog_limit)}"
            yield Reason("degraded", stream.name, f"group {printable(group.name)} is {behind}")


def _losses(status: Status) -> Iterator[Reason]:
    for letters in status.dead_letters:
        if letters.count.value:
            plural = "" if letters.count.value == 1 else "s"
            yield Reason("degraded", letters.stream, f"has {number(letters.count.value)} dead letter{plural}")
    if status.lost_entries.value:
        text = f"{number(status.lost_entries.value)} entries left Redis before every group had processed them"
        yield Reason("degraded", "Redis", text)


def _redis(redis: RedisState) -> Iterator[Reason]:
    policy = redis.eviction_policy.value
    if policy is not None and (warning := eviction_warning(printable(policy), redis.cli)):
        yield Reason("degraded", "Redis", warning)
    if redis.append_only_file.value not in {None, OK}:
        text = "can't write its append-only file and refuses all writes: is its disk full?"
        yield Reason("broken", "Redis", text)
    for what, status in (("rewrite its append-only file", redis.rewrite), ("write its last snapshot", redis.snapshot)):
        if status.value not in {None, OK}:
            yield Reason("degraded", "Redis", f"could not {what}: is its disk nearly full?")


def _disk(disk: Disk) -> Iterator[Reason]:
    """Merges, and with them inserts, stop before the last byte is used."""
    left = f"{size(disk.free_bytes)} of {size(disk.total_bytes)} free at {printable(disk.path)}"
    if disk.is_full:
        yield Reason("broken", "ClickHouse", f"its disk {printable(disk.name)} is full: {left}")
    elif disk.is_nearly_full:
        yield Reason("degraded", "ClickHouse", f"its disk {printable(disk.name)} is nearly full: {left}")


def _repeated(repeated: Repeated) -> Iterator[Reason]:
    cause = "as after a loss of Redis' data"
    remedy = f"merges remove them; to do so at once: {repeated.remedy}"
    if repeated.rows.value is None:
        text = f"may have rows stored twice, {cause}; how many is unknown ({printable(repeated.rows.reason)}); {remedy}"
        yield Reason("degraded", repeated.table, text)
    elif repeated.rows.value:
        rows = f"{number(repeated.rows.value)} row{'' if repeated.rows.value == 1 else 's'}"
        yield Reason("degraded", repeated.table, f"has {rows} stored twice, {cause}; {remedy}")
