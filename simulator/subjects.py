"""What a list of Gamma's is made of: markets or events that pass the filters of a request, from any place on.

A filter that is cheap comes before the market is made, so that a page costs the same in a world of millions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from starlette.datastructures import QueryParams

from simulator import wording
from simulator.catalogue import Catalogue
from simulator.listing import iso
from simulator.markets import Market
from simulator.world import World

TOKEN_FILTERS = ("clob_token_ids", "position_ids")  # of markets of the older protocol, and of the new one
Test = Callable[[Market], bool]


class Subject(NamedTuple):
    """What one list item is made of: a market, or an event with its markets."""

    id: str
    markets: tuple[Market, ...]


class Subjects(Protocol):
    """A list, by places in the order of ids."""

    def __len__(self) -> int: ...

    def after(self, identity: int) -> int:
        """The place of the first one with a larger id, whether it passes or not."""

    def among(self, places: Iterable[int]) -> Iterator[Subject]:
        """Those that pass the filters."""

    def candidates(self) -> Sequence[int]:
        """All places in the order of ids that can pass: few, where the filters name what they want."""


class Markets:
    """Markets that pass the filters; what Gamma does not know it ignores."""

    def __init__(self, world: World, params: QueryParams, *, closed: bool) -> None:
        self._catalogue = _grown(world)
        self._now, self._fills_now = world.now(), world.fills_now()
        self._closed = closed
        self._wanted = _wanted(self._catalogue, params)
        self._tests = [_bounded(name, bound) for name in _BOUNDS if (bound := params.get(name))]
        if (tag_id := params.get("tag_id")) is not None:
            self._tests.append(lambda market: _has_tag(market, tag_id))

    def __len__(self) -> int:
        return len(self._catalogue)

    def after(self, identity: int) -> int:
        return self._catalogue.place_after(identity)

    def candidates(self) -> Sequence[int]:
        return range(len(self)) if self._wanted is None else sorted(self._wanted)

    def among(self, places: Iterable[int]) -> Iterator[Subject]:
        for place in places:
            if self._is_shown(place) and (self._wanted is None or place in self._wanted):
                market = self._catalogue[place]
                if all(test(market) for test in self._tests):
                    yield Subject(market.id, (market,))

    def _is_shown(self, place: int) -> bool:
        catalogue = self._catalogue
        is_right = catalogue.is_closed(place, self._now) == self._closed
        return is_right and catalogue.is_listed(place, self._now, self._fills_now)


class Events:
    """Events of the listed markets; an event is closed once all its markets are."""

    def __init__(self, world: World, params: QueryParams, *, closed: bool) -> None:
        self._catalogue = _grown(world)
        self._now, self._fills_now = world.now(), world.fills_now()
        self._closed = closed
        self._ids, self._slugs = set(params.getlist("id")), set(params.getlist("slug"))
        self._tag_id = params.get("tag_id")

    def __len__(self) -> int:
        return self._catalogue.count_events()

    def after(self, identity: int) -> int:
        return self._catalogue.event_after(identity)

    def candidates(self) -> Sequence[int]:
        return range(len(self))

    def among(self, places: Iterable[int]) -> Iterator[Subject]:
        for place in places:
            markets = [market for market in self._catalogue.members(place) if self._is_listed(market)]
            if markets and all(self._catalogue.is_closed(market, self._now) for market in markets) == self._closed:
                subject = Subject(
                    str(self._catalogue.event_id_of(place)), tuple(self._catalogue[market] for market in markets)
                )
                if self._passes(subject):
                    yield subject

    def _is_listed(self, market: int) -> bool:
        return self._catalogue.is_listed(market, self._now, self._fills_now)

    def _passes(self, subject: Subject) -> bool:
        return (
            (not self._ids or subject.id in self._ids)
            and (not self._slugs or subject.markets[0].event.slug in self._slugs)
            and (self._tag_id is None or _has_tag(subject.markets[0], self._tag_id))
        )


def _grown(world: World) -> Catalogue:
    world.catalogue.grow(world.now())
    return world.catalogue


def _wanted(catalogue: Catalogue, params: QueryParams) -> set[int] | None:
    """The places that the filters name, those that each of them names; None without such filters."""
    finders: dict[str, Callable[[str], int | None]] = {
        "id": catalogue.place_of_id,
        "slug": catalogue.place_of_slug,
        "condition_ids": catalogue.place_of_condition,
        **dict.fromkeys(TOKEN_FILTERS, catalogue.place_of_token),
    }
    wanted: set[int] | None = None
    for name, find in finders.items():
        if values := params.getlist(name):
            found = {
                place for value in values if (place := find(value)) is not None and _is(catalogue, place, name, value)
            }
            wanted = found if wanted is None else wanted & found
    return wanted


def _is(catalogue: Catalogue, place: int, name: str, value: str) -> bool:
    """Whether the market that was found by its code shows this value, too: some lack tokens or condition."""
    market = catalogue[place]
    if name in TOKEN_FILTERS and (market.oddity == "v2") is not (name == "position_ids"):
        return False
    shown = {"id": (market.id,), "slug": (market.slug,), "condition_ids": (market.condition_id,)}
    return value in shown.get(name, market.tokens)


_BOUNDS = ("start_date_min", "start_date_max")


def _bounded(name: str, bound: str) -> Test:
    """A bound on the start date, compared as the ISO text that it is."""
    if name.endswith("_min"):
        return lambda market: iso(market.created_at + 3600) >= bound
    return lambda market: iso(market.created_at + 3600) <= bound


def _has_tag(market: Market, tag_id: str) -> bool:
    return any(wording.TAGS[place][0] == tag_id for place in market.event.tags)
