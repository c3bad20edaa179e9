"""The pipeline's processes, as their heartbeats tell."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from monitoring.reading import Reading, absent, known, known_or, unknown

COMPONENTS = (
    "polymarket_ingester",
    "goldsky_ingester",
    "polygon_ingester",
    "trade_processor",
    "clickhouse_writer",
    "dashboard",
)

StageState = Literal["running", "starting", "waiting", "draining", "stopped", "silent", "missing", "unknown"]
ALIVE: tuple[StageState, ...] = ("waiting", "starting", "draining", "running")  # what needs attention most comes first
COMMON_FIELDS = frozenset(
    {"component", "instance", "pid", "host", "state", "reason", "next_attempt_at", "started_at", "updated_at", "starts"}
    | {"mode"}
)
NO_HEARTBEAT: Reading[Any] = absent("no heartbeat")
NOT_TOLD: Reading[Any] = absent("not reported")
_LAST_TIME = 2**32  # Unix seconds; what is later is no time


class Instance(msgspec.Struct, frozen=True):
    """One process."""

    name: str
    pid: str
    host: str
    state: str
    reason: str
    heartbeat_age_s: float
    fresh: bool  # young enough to count as alive
    started_at: Reading[float]  # Unix seconds
    next_attempt_at: Reading[float]  # Unix seconds
    starts: Reading[int]  # of its component, ever, without those that ended as they were told
    report: dict[str, str]  # what the stage adds to its heartbeat

    @property
    def is_alive(self) -> bool:
        return self.fresh and self.state in ALIVE


class Stage(msgspec.Struct, frozen=True):
    """One component: all its processes together."""

    component: str
    state: StageState
    reason: str
    heartbeat_age_s: Reading[float]  # of the youngest
    restarts: Reading[int]  # after a crash, ever: such starts beyond the processes that run now
    next_attempt_at: Reading[float]  # Unix seconds
    records_in: Reading[int]  # since the processes started
    records_out: Reading[int]
    dead_letters: Reading[int]
    waiting: Reading[int]  # fills that wait for their market
    latency_p50_s: Reading[float]  # arrival in Redis to acknowledged by ClickHouse, over the last minute
    latency_p99_s: Reading[float]
    newest_event_at: Reading[float]  # Unix seconds
    source: str
    source_state: str
    detail: str
    degraded: str  # what it can't do as it should, though it runs; empty when all is well
    instances: list[Instance]


def read_stage(component: str, beats: Reading[list[dict[str, str]]], stale_after_s: float, now: float) -> Stage:
    """A component's state out of all heartbeats."""
    own = [beat for beat in beats.value or [] if beat.get("component") == component]
    instances = sorted((_instance(beat, stale_after_s, now) for beat in own), key=lambda each: each.heartbeat_age_s)
    alive = [each for each in instances if each.is_alive]
    nothing = NO_HEARTBEAT if beats.state == "known" else unknown(beats.reason)
    state, reason = _state(instances, alive) if beats.state == "known" else ("unknown", beats.reason)

    def of_alive(choose: Callable[[Iterable[float]], float], name: str) -> Reading[float]:
        return _combined(choose, alive, name) if alive else nothing

    def total(name: str) -> Reading[int]:
        return of_alive(sum, name).map(int)

    return Stage(
        component=component,
        state=state,
        reason=reason,
        heartbeat_age_s=known(instances[0].heartbeat_age_s) if instances else nothing,
        restarts=_restarts(instances, len(alive)) if instances else nothing,
        next_attempt_at=_soonest(alive),
        records_in=total("records_in"),
        records_out=total("records_out"),
        dead_letters=total("dead_letters"),
        waiting=total("waiting"),
        latency_p50_s=of_alive(max, "latency_p50_s"),
        latency_p99_s=of_alive(max, "latency_p99_s"),
        newest_event_at=of_alive(max, "newest_event_at").then(as_time),
        source=_text(alive, "source"),
        source_state=_text(alive, "source_state"),
        detail=_text(alive, "detail"),
        degraded=_text(alive, "degraded"),
        instances=[each for each in instances if each.state != "stopped" or not alive],  # a replaced one is history
    )


def _instance(beat: Mapping[str, str], stale_after_s: float, now: float) -> Instance:
    updated_at = number(beat.get("updated_at", ""))
    age_s = max(0.0, now - updated_at) if updated_at is not None else math.inf
    return Instance(
        name=beat.get("instance", ""),
        pid=beat.get("pid", ""),
        host=beat.get("host", ""),
        state=beat.get("state", ""),
        reason=beat.get("reason", ""),
        heartbeat_age_s=age_s,
        fresh=age_s <= stale_after_s,
        started_at=_field(beat, "started_at").then(as_time),
        next_attempt_at=_field(beat, "next_attempt_at").then(as_time),
        starts=_field(beat, "starts").map(int),
        report={name: text for name, text in beat.items() if name not in COMMON_FIELDS},
    )


def _state(instances: Sequence[Instance], alive: Sequence[Instance]) -> tuple[StageState, str]:
    if not instances:
        return "missing", "no heartbeat"
    for state in ALIVE:
        for each in alive:
            if each.state == state:
                return state, each.reason
    stopped = instances[0].state == "stopped"
    return ("stopped", instances[0].reason) if stopped else ("silent", instances[0].reason)


def _restarts(instances: Sequence[Instance], running: int) -> Reading[int]:
    starts = [each.starts.value for each in instances if each.starts.value is not None]
    counted = running or any(each.state != "stopped" for each in instances)  # one that crashed has not restarted yet
    return known(max(0, max(starts) - counted)) if starts else NOT_TOLD


def _soonest(alive: Sequence[Instance]) -> Reading[float]:
    times = [each.next_attempt_at.value for each in alive if each.next_attempt_at.value is not None]
    return known(min(times)) if times else absent("none is due")


def _combined(choose: Callable[[Iterable[float]], float], alive: Sequence[Instance], name: str) -> Reading[float]:
    values = [value for each in alive if (value := number(each.report.get(name, ""))) is not None]
    return known(choose(values)) if values else NOT_TOLD


def _text(alive: Sequence[Instance], name: str) -> str:
    return next((each.report[name] for each in alive if each.report.get(name)), "")


def _field(beat: Mapping[str, str], name: str) -> Reading[float]:
    return known_or(number(beat.get(name, "")), NOT_TOLD)


def as_time(value: float) -> Reading[float]:
    """Unix seconds, where it can be such."""
    return known(value) if 0 < value < _LAST_TIME else absent("none yet")


def number(text: str) -> float | None:
    """A finite number out of a heartbeat's text; None when it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
