"""Which fills a query selects: filters, orders, pages and the limits of the source."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
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

_BIG, _DECIMAL, _BYTES, _TEXT = "BigInt", "BigDecimal", "Bytes", "String"
_NOTHING = f"0x{0:064x}"
_UNIT = 1_000_000
Getter = Callable[[Fill], Any]


def _buys(fill: Fill) -> bool:
    """Whether the maker gives collateral."""
    return fill.maker_asset_id == "0"


def _collateral(fill: Fill) -> int:
    return fill.maker_amount_filled if _buys(fill) else fill.taker_amount_filled


def _tokens(fill: Fill) -> int:
    return fill.taker_amount_filled if _buys(fill) else fill.maker_amount_filled


@dataclass(frozen=True, eq=False)
class Edition:
    """A subgraph of the exchanges: which fills it has, and how it tells them."""

    name: str
    fields: dict[str, tuple[str, Getter]]  # wire name → type and value
    has_v1: bool  # the fills of the first exchanges, else those of the later ones

    def getter(self, name: str) -> Getter:
        return self.fields[name][1] if name in self.fields else _type_name  # nothing else passes the schema

    def has(self, fill: Fill) -> bool:
        return fill.is_v1 == self.has_v1


def _type_name(_fill: Fill) -> str:
    return "OrderFilledEvent"


_COMMON: dict[str, tuple[str, Getter]] = {
    "transactionHash": (_BYTES, attrgetter("transaction_hash")),
    "timestamp": (_BIG, attrgetter("timestamp")),
    "orderHash": (_BYTES, attrgetter("order_hash")),
    "maker": (_TEXT, attrgetter("maker")),
    "taker": (_TEXT, attrgetter("taker")),
    "fee": (_BIG, attrgetter("fee")),
}
V1 = Edition(
    "v1",
    {
        "id": ("ID", attrgetter("id")),
        **_COMMON,
        "makerAssetId": (_TEXT, attrgetter("maker_asset_id")),
        "takerAssetId": (_TEXT, attrgetter("taker_asset_id")),
        "makerAmountFilled": (_BIG, attrgetter("maker_amount_filled")),
        "takerAmountFilled": (_BIG, attrgetter("taker_amount_filled")),
    },
    has_v1=True,
)
V2 = Edition(
    "v2",
    {
        "id": ("ID", lambda fill: fill.id.replace("_", "-")),
        **_COMMON,
        "side": (_TEXT, lambda fill: "BUY" if _buys(fill) else "SELL"),
        "tokenId": (_TEXT, attrgetter("token_id")),
        "collateralAmount": (_BIG, _collateral),
        "tokenAmount": (_BIG, _tokens),
        "price": (_DECIMAL, lambda fill: Decimal(_collateral(fill)) / _tokens(fill)),
        "size": (_DECIMAL, lambda fill: Decimal(_tokens(fill)) / _UNIT),
        "builder": (_BYTES, lambda _fill: _NOTHING),
        "metadata": (_BYTES, lambda _fill: _NOTHING),
        "exchange": (_BYTES, attrgetter("exchange")),
        "blockNumber": (_BIG, attrgetter("block_number")),
    },
    has_v1=False,
)

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
    edition: Edition = V1

    def visible(self, fills: Collection[Fill]) -> Collection[Fill]:
        """Those of the fills that the subgraph has, without what a fault withholds for now."""
        if self.world.settings.cutover is not None or not self.edition.has_v1:
            fills = [fill for fill in fills if self.edition.has(fill)]
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


def predicate_of(where: Where, edition: Edition = V1) -> Predicate:
    """Whether a fill passes. Raises GraphQLError where columns stand beside `or`, as the source does."""
    if "or" in where and len(where) > 1:
        raise GraphQLError("Cannot mix column filters with 'or' operator at the same level")
    tests = [_test_of(key, value, edition) for key, value in where.items() if value is not None]
    if len(tests) == 1:
        return tests[0]
    return lambda fill: all(test(fill) for test in tests)


def _test_of(key: str, value: Any, edition: Edition) -> Predicate:
    if key == "or":
        branches = [predicate_of(branch, edition) for branch in value]
        return lambda fill: any(branch(fill) for branch in branches)
    if key == "and":
        branches = [predicate_of(branch, edition) for branch in value]
        return lambda fill: all(branch(fill) for branch in branches)
    name, _, how = key.partition("_")
    get, compare = edition.getter(name), COMPARISONS[how]
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
    numbers, passes = _blocks(request, span_of(where)), predicate_of(where, request.edition)
    if order != "timestamp":
        return _sorted_page(request, numbers, passes, order, descending=descending)[skip : skip + first]
    found = _scan(request, reversed(numbers) if descending else numbers, passes, descending=descending)
    return [fill for _, fill in zip(range(skip + first), found, strict=False)][skip:]


def _check(name: str, value: Any, most: int) -> None:
    if value is None or not 0 <= value <= most:
        raise GraphQLError(f"The value of the `{name}` argument must be between 0 and {most}, but is {value}")


def _blocks(request: Request, span: Span) -> range:
    """The blocks of the span that the subgraph serves: up to the cut-over's own, or from that on."""
    world = request.world
    if world.cutover_block is not None:
        cutover = chain.time_of(world.cutover_block)
        span = span.within(Span(None, cutover) if request.edition.has_v1 else Span(cutover, None))
    return world.numbers(span.first, None if span.last is None else span.last + 1)


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
    get = request.edition.getter(order)
    return sorted(
        _scan(request, numbers, passes, descending=False), key=lambda fill: (get(fill), fill.id), reverse=descending
    )


def find(request: Request, identity: str) -> Fill | None:
    fill = request.world.fill(identity.replace("-", "_"))
    return None if fill is None or not request.visible([fill]) else fill


def meta(world: World, edition: Edition = V1) -> dict[str, Any]:
    """The newest block. V1's goes on after the cut-over, when no fill comes any more and its time is not told."""
    number = world.last_block()
    timestamp: int | None = chain.time_of(number)
    if edition.has_v1 and world.settings.cutover is not None and chain.time_of(number) >= world.settings.cutover:
        timestamp = None
    block = {"number": number, "timestamp": timestamp, "hash": hex_digest(world.settings.seed, "block", number)}
    return {"block": block, "deployment": "QmSimulatedOrderbookSubgraph", "hasIndexingErrors": False}
