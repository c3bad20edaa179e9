"""What goes wrong when: a schedule that depends on its seed alone. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from random import Random
from typing import Literal, NamedTuple, TypeVar

from simulator.faults import KINDS

T = TypeVar("T")
Kind = Literal["kill", "pause", "terminate", "lose", "away", "cut", "stall", "refuse", "source"]

SERVERS = ("redis", "clickhouse")
STAGES = (
    "trade_processor_a",
    "trade_processor_b",
    "clickhouse_writer_a",
    "clickhouse_writer_b",
    "goldsky_ingester",
    "polygon_ingester",
    "polymarket_ingester",
)
LEASED = STAGES[:4]
PROXIES = ("redis", "clickhouse", "source")
TARGETS: dict[Kind, tuple[str, ...]] = {
    "pause": (*LEASED, *STAGES),  # those that others take over from twice as often
    "terminate": (*STAGES, *SERVERS),
    "away": SERVERS,
    "stall": PROXIES,
    "refuse": PROXIES,
}
# What the requests of the hand-overs contain, as the protocols spell them: a reply to one of them that is lost leaves
# the process in doubt whether it took effect.
HAND_OVERS = (
    ("redis", "seen:goldsky"),
    ("redis", "seen:polygon"),
    ("redis", "stream:trades\r\n$23\r\nstream:order_events_dlq"),
    ("redis", "manifests:"),
    ("clickhouse", "insert_deduplication_token"),
)
HOLDING = "holding"  # at a moment when it is inside its hand-over
SOURCES = ("goldsky", "goldsky", "polygon", "polygon", "gamma")  # those of fills twice as often
# All that the simulator has, but for late_rows: only new fills can be late, and the subgraph has the old ones. Those of
# late_logs appear before the second look: see POLYGON_SECOND_LOOK_S in stack.py.
SOURCE_FAULTS: dict[str, tuple[dict[str, float], ...]] = {
    "http_403": ({"count": 3},),
    "http_429": ({"count": 2, "retry_after_s": 1}, {"count": 1}),
    "http_500": ({"count": 3}, {"probability": 0.5, "seconds": 3}),
    "timeout": ({"count": 1, "seconds": 4},),
    "truncated_json": ({"count": 2}, {"probability": 0.5, "seconds": 3}),
    "garbage": ({"count": 2},),
    "graphql_errors": ({"count": 2}, {"probability": 0.5, "seconds": 3}),
    "rpc_errors": ({"count": 2}, {"probability": 0.5, "seconds": 3}),
    "finalized_errors": ({"count": 1}, {"probability": 0.5, "seconds": 5}),
    "refused_batch": ({"count": 1}, {"probability": 0.7, "seconds": 5}),
    "late_logs": ({"count": 3, "seconds": 7}, {"probability": 0.3, "seconds": 5}),
    "short_page": ({"count": 5}, {"probability": 0.5, "seconds": 5}),
    "duplicate_rows": ({"count": 5}, {"probability": 0.5, "seconds": 5}),
    "malformed_record": ({"count": 3},),
    "markets_gone": ({"seconds": 20},),
    "removed_logs": ({"count": 5}, {"probability": 0.5, "seconds": 5}),
}
EVERY_S = 1.5  # a fault beside the kills every so often
LOSES_EVERY_S = 40
HOLDING_SHARE = 0.7  # of the kills; the others strike at any moment
HAND_OVER_SHARE = 0.7  # of the cuts; the others meet any message
FIRST_AT = 0.04  # of the whole time
KIND_WEIGHTS: dict[Kind, int] = {
    "cut": 10, "source": 8, "pause": 5, "terminate": 3, "stall": 2, "refuse": 2, "away": 1,
}  # fmt: skip


class Event(NamedTuple):
    """One thing that goes wrong."""

    at_s: float
    kind: Kind
    target: str  # a program, a proxy, or a source
    seconds: float = 0.0
    what: str = ""  # cut: direction; source: the simulator's kind of fault; kill, pause: HOLDING or nothing
    details: tuple[tuple[str, float | str], ...] = ()

    @property
    def name(self) -> str:
        """As it is counted."""
        return " ".join(part for part in (self.kind, self.target, self.what) if part)


def plan(seed: int, seconds: float, kills: int, *, lease_s: float, loses: bool) -> list[Event]:
    """Return the events of a run, in order: `kills` times SIGKILL, and other faults between them.

    Whatever can be killed is killed at least once if `kills` allows, and every other kind of fault happens at least
    once if the time does.
    """
    rng = Random(f"{seed} {seconds:g} {kills}")
    maker = _Maker(rng, lease_s)
    events = [maker.make(kind, target) for kind, target in _kinds(rng, seconds, kills, loses=loses)]
    times = sorted(rng.uniform(FIRST_AT * seconds, seconds) for _ in events)
    rng.shuffle(events)
    return [event._replace(at_s=round(at_s, 2)) for event, at_s in zip(events, times, strict=True)]


def _kinds(rng: Random, seconds: float, kills: int, *, loses: bool) -> Iterator[tuple[Kind, str]]:
    for target in _each_then_any(rng, (*STAGES, *SERVERS), kills):
        yield "kill", target
    for kind in _dealt(rng, KIND_WEIGHTS, round(seconds / EVERY_S)):
        yield kind, ""
    if loses:
        for _ in range(max(1, round(seconds / LOSES_EVERY_S))):
            yield "lose", "redis"


def _each_then_any(rng: Random, choice: Sequence[T], count: int) -> list[T]:
    """Return so many: each one once, as far as that goes, then any."""
    each = rng.sample(choice, len(choice))[:count]
    return each + rng.choices(choice, k=count - len(each))


def _dealt(rng: Random, weights: Mapping[T, int], count: int) -> list[T]:
    """Return so many: each one once, as far as that goes, then as from shuffled decks that hold each by its weight."""
    dealt = rng.sample(list(weights), len(weights))
    deck = [one for one, weight in weights.items() for _ in range(weight)]
    while len(dealt) < count:
        dealt += rng.sample(deck, len(deck))
    return dealt[:count]


class _Maker:
    def __init__(self, rng: Random, lease_s: float) -> None:
        self._rng = rng
        self._source_faults = cycle(rng.sample(list(SOURCE_FAULTS), len(SOURCE_FAULTS)))
        self._hand_overs = cycle(rng.sample(HAND_OVERS, len(HAND_OVERS)))
        self._seconds: dict[Kind, tuple[float, float]] = {
            "pause": (lease_s + 0.5, lease_s + 2),
            "away": (1, 3.5),
            "stall": (0.5, 4),
            "refuse": (0.5, 2),
        }

    def make(self, kind: Kind, target: str) -> Event:
        if kind == "cut":
            return self._cut()
        if kind == "source":
            return self._source()
        seconds = round(self._rng.uniform(*self._seconds.get(kind, (0, 0))), 1)
        chosen = target or self._rng.choice(TARGETS[kind])
        is_holding = chosen in LEASED and (kind == "pause" or (kind == "kill" and self._rng.random() < HOLDING_SHARE))
        return Event(0, kind, chosen, seconds, HOLDING if is_holding else "")

    def _cut(self) -> Event:
        """The reply of a hand-over, each in turn, or any message."""
        rng = self._rng
        target, marker, direction = rng.choice(PROXIES), "", rng.choice(("reply", "request"))
        if rng.random() < HAND_OVER_SHARE:
            (target, marker), direction = next(self._hand_overs), "reply"
        # clickhouse-connect sends a request again by itself when its connection breaks: one lost reply stays in there.
        times = rng.choice((4, 8) if marker and target == "clickhouse" else (1, 1, 2, 3))
        details = (("share", rng.choice((0.0, 0.3, 0.9))), ("times", times), ("marker", marker))
        return Event(0, "cut", target, what=direction, details=details)

    def _source(self) -> Event:
        """The kinds in turn, in an order that chance decides."""
        rng = self._rng
        what = next(self._source_faults)
        target = rng.choice([source for source in SOURCES if what in KINDS[source]])
        return Event(0, "source", target, what=what, details=tuple(rng.choice(SOURCE_FAULTS[what]).items()))
