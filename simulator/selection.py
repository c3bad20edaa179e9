"""Which fills a query selects: filters, orders, pages and the limits of the source."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from graphql import GraphQLError

from simulator import chain
from simulator.chance import hex_digest
from simulator.faults import Fault
from simulator.fills import Fill
from simulator.world import World

MOST_FIRST = 1000
MOST_SKIP = 5000
DEFAULT_FIRST = 100
_MOST_SCANNED = 400_000  # beyond, the source's database gives up as well

_BIG = "BigInt"
FIELDS = {  # wire name → type and attribute of a fill
    "id": ("ID", "id"),
    "transactionHash": ("Bytes", "transaction_hash"),
    "timestamp": (_BIG, "timestamp"),
    "orderHash": ("Bytes", "order_hash"),
    "maker": ("String", "maker"),
    "taker": ("String", "taker"),
    "makerAssetId": ("String", "maker_asset_id"),
    "takerAssetId": ("String", "taker_asset_id"),
    "makerAmountFilled": (_BIG, "maker_amount_filled"),
    "takerAmountFilled": (_BIG, "taker_amount_filled"),
    "fee": (_BIG, "fee"),
}
GETTERS: dict[str, Callable[[Fill], Any]] = {name: attrgetter(attribute) for name, (_, attribute) in FIELDS.items()}
GETTERS["__typename"] = lambda _fill: "OrderFilledEvent"

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "": lambda value, bound: bool(value == bound),
    "not": lambda value, bound: bool(value != bound),
    "gt": lambda value, bound: bool(value > bound),
    "gte": lambda value, bound: bool(value >= bound),
    "lt": lambda value, bound: bool(value < bound),
    "lte": lambda value, bound: bool(value <= bound),
    "in": lambda value, bound: value in bound,
    "not_in": lambda value, bound: value not in bound,
}

Where = dict[str, Any]
Predicate = Callable[[Fill], bool]


@dataclass
class Request:
    """One query under way: what it may see, and the fills that it selected, by the key of the answer."""

    world: World
    late: list[Fault] = field(default_factory=list)
    selected: dict[str, list[Fill]] = field(default_factory=dict)

    def visible(self, fills: Collection[Fill]) -> Collection[Fill]:
        """Those of the fills that the subgraph has: V1's alone, without what a fault withholds for now."""
        if self.world.settings.cutover is not None:
            fills = [fill for fill in fills if fill.is_v1]
        if not self.late:
            return fills
        now = self.world.now()
        return [fill for fill in fills if not any(fault.withholds(fill, now) for fault in self.late)]


class Span(NamedTuple):
    """Inclusive bounds on a timestamp; None is open."""

    first: int | None = None
    last: int | None = None

    def within(self, other: "Span") -> "Span":
        firsts = [first for first in (self.first, other.first) if first is not None]
        lasts = [last for last in (self.last, other.last) if last is not None]
        return Span(max(firsts, default=None), min(lasts, default=None))

    def around(self, other: "Span") -> "Span":
        first = None if self.first is None or other.first is None else min(self.first, other.first)
        last = None if self.last is None or other.last is None else max(self.last, other.last)
        return Span(first, last)


def span_of(where: Where) -> Span:
    """Bounds that every fill of this filter lies in: they decide which blocks to look at."""
    span = Span()
    for key, value in where.items():
        if key == "or" and value:
            hull = span_of(value[0])
            for branch in value[1:]:
                hull = hull.around(span_of(branch))
            span = span.within(hull)
        elif key == "and":
            for branch in value or ():
                span = span.within(span_of(branch))
        elif value is not None and (bound := _SPANS.get(key)):
            span = span.within(bound(value))
    return span


def _span_of_ids(ids: list[str]) -> Span:
    times = [chain.time_of(block) for block in map(chain.block_of_transaction, ids) if block is not None]
    return Span(min(times), max(times)) if times else Span(1, 0)


_SPANS: dict[str, Callable[[Any], Span]] = {
    "timestamp": lambda value: Span(value, value),
    "timestamp_gt": lambda value: Span(value + 1, None),
    "timestamp_gte": lambda value: Span(value, None),
    "timestamp_lt": lambda value: Span(None, value - 1),
    "timestamp_lte": lambda value: Span(None, value),
    "timestamp_in": lambda value: Span(min(value), max(value)) if value else Span(1, 0),
    "id": lambda value: _span_of_ids([value]),
    "id_in": _span_of_ids,
}


def predicate_of(where: Where) -> Predicate:
    """Whether a fill passes. Raises GraphQLError where columns stand beside `or`, as the source does."""
    if "or" in where and len(where) > 1:
        raise GraphQLError("Cannot mix column filters with 'or' operator at the same level")
    tests = [_test_of(key, value) for key, value in where.items() if value is not None]
    if len(tests) == 1:
        return tests[0]
    return lambda fill: all(test(fill) for test in tests)


def _test_of(key: str, value: Any) -> Predicate:
    if key == "or":
        branches = [predicate_of(branch) for branch in value]
        return lambda fill: any(branch(fill) for branch in branches)
    if key == "and":
        branches = [predicate_of(branch) for branch in value]
        return lambda fill: all(branch(fill) for branch in branches)
    name, _, how = key.partition("_")
    get, compare = GETTERS[name], COMPARISONS[how]
    bound = frozenset(value) if how.endswith("in") else value
    return lambda fill: compare(get(fill), bound)


def select(request: Request, arguments: dict[str, Any]) -> list[Fill]:
    """The fills of one page. Raises GraphQLError for what the source refuses."""
    first, skip = arguments.get("first", DEFAULT_FIRST), arguments.get("skip", 0)
    _check("first", first, MOST_FIRST)
    _check("skip", skip, MOST_SKIP)
    where = arguments.get("where") or {}
    descending = arguments.get("orderDirection") == "desc"
    order = arguments.get("orderBy") or "id"
    numbers, passes = _blocks(request.world, span_of(where)), predicate_of(where)
    if order != "timestamp":
        return _sorted_page(request, numbers, passes, order, descending=descending)[skip : skip + first]
    found = _scan(request, reversed(numbers) if descending else numbers, passes, descending=descending)
    return [fill for _, fill in zip(range(skip + first), found, strict=False)][skip:]


def _check(name: str, value: Any, most: int) -> None:
    if value is None or not 0 <= value <= most:
        raise GraphQLError(f"The value of the `{name}` argument must be between 0 and {most}, but is {value}")


def _blocks(world: World, span: Span) -> range:
    """The blocks of the span that the subgraph serves: none after the cut-over's own."""
    until = None if span.last is None else span.last + 1
    if world.cutover_block is not None:
        end = chain.time_of(world.cutover_block) + 1
        until = end if until is None else min(end, until)
    return world.numbers(span.first, until)


def _scan(
    request: Request, numbers: Collection[int] | Iterator[int], passes: Predicate, *, descending: bool
) -> Iterator[Fill]:
    """Passing fills in the order of time and id; GraphQLError once it has looked at too many."""
    scanned = 0
    for number in numbers:
        fills = request.visible(request.world.block(number).fills)
        scanned += len(fills)
        if scanned > _MOST_SCANNED:
            raise GraphQLError("statement timeout")
        yield from filter(passes, reversed(tuple(fills)) if descending else fills)


def _sorted_page(request: Request, numbers: range, passes: Predicate, order: str, *, descending: bool) -> list[Fill]:
    """All passing fills by another column than time; ties by id."""
    get = GETTERS[order]
    return sorted(
        _scan(request, numbers, passes, descending=False), key=lambda fill: (get(fill), fill.id), reverse=descending
    )


def find(request: Request, identity: str) -> Fill | None:
    fill = request.world.fill(identity)
    return None if fill is None or not request.visible([fill]) else fill


def meta(world: World) -> dict[str, Any]:
    """The newest block. It goes on after the cut-over, when no fill comes any more and its time is not told."""
    number = world.last_block()
    timestamp: int | None = chain.time_of(number)
    if world.settings.cutover is not None and chain.time_of(number) >= world.settings.cutover:
        timestamp = None
    block = {"number": number, "timestamp": timestamp, "hash": hex_digest(world.settings.seed, "block", number)}
    return {"block": block, "deployment": "QmSimulatedOrderbookSubgraph", "hasIndexingErrors": False}
