"""The three upstream sources: how fresh each one is, as its ingester's heartbeat tells. See common/freshness.py."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec

from common import freshness
from monitoring.reading import Reading, known_or
from monitoring.stages import NO_HEARTBEAT, NOT_TOLD, Stage, as_time, number

SourceState = Literal["catching up", "live", "idle", "stale", "unreachable", "ended", "unknown"]
DEAD: tuple[SourceState, ...] = ("stale", "unreachable")
_STATES: Mapping[str, SourceState] = {state: state for state in get_args(freshness.State)}


class Known(NamedTuple):
    """What does not change about a source."""

    name: str
    component: str  # that reads it
    feed: str  # what it has
    has_fills: bool
    has_end: bool  # while it catches up, it brings what is old


KNOWN = (
    Known("Gamma", "polymarket_ingester", "markets, REST", has_fills=False, has_end=False),
    Known("Goldsky", "goldsky_ingester", "earlier order fills, GraphQL", has_fills=True, has_end=True),
    Known("Polygon", "polygon_ingester", "order fills, JSON-RPC", has_fills=True, has_end=False),
)


class Source(msgspec.Struct, frozen=True):
    """One of them."""

    name: str
    component: str
    feed: str
    has_fills: bool
    has_end: bool
    host: str  # empty where the ingester does not tell
    state: SourceState
    since: Reading[float]  # Unix seconds: the beginning of the state
    reason: str
    newest_event_at: Reading[float]  # Unix seconds
    head_at: Reading[float]  # Unix seconds: its newest block; Gamma's last complete answer
    head_block: Reading[int]
    lag_s: Reading[float]  # how long ago the moment lies up to which everything has been read

    @property
    def is_dead(self) -> bool:
        return self.state in DEAD

    @property
    def brings_new_fills(self) -> bool:
        """Whether the fills of now arrive through it, or soon will."""
        return self.has_fills and (self.state in {"live", "idle"} or (self.state == "catching up" and not self.has_end))


def read_sources(stages: Sequence[Stage]) -> list[Source]:
    """In the order of KNOWN; unknown where no ingester tells of it any more."""
    by_name = {stage.component: stage for stage in stages}
    return [_source(each, by_name[each.component]) for each in KNOWN]


def _source(source: Known, stage: Stage) -> Source:
    process = next((each for each in stage.instances if each.is_alive), None)
    told = process.report if process else {}
    missing = NOT_TOLD if process else NO_HEARTBEAT
    return Source(
        name=source.name,
        component=source.component,
        feed=source.feed,
        has_fills=source.has_fills,
        has_end=source.has_end,
        host=told.get("source", ""),
        state=_STATES.get(told.get("source_state", ""), "unknown"),
        since=_moment(told, "source_since", missing),
        reason=told.get("source_reason", "") if process else f"{source.component} is {stage.state}",
        newest_event_at=_moment(told, "newest_event_at", missing),
        head_at=_moment(told, "head_at", missing),
        head_block=_value(told, "head_block", missing).map(int),
        lag_s=_value(told, "lag_s", missing),
    )


def _value(told: Mapping[str, str], name: str, missing: Reading[float]) -> Reading[float]:
    return known_or(number(told.get(name, "")), missing)


def _moment(told: Mapping[str, str], name: str, missing: Reading[float]) -> Reading[float]:
    return _value(told, name, missing).then(as_time)
