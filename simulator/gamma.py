"""Gamma's lists of markets and events: offset paging, keyset paging, filters and refusals."""

import base64
import binascii
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from starlette.datastructures import QueryParams

from simulator import wording
from simulator.chance import mix
from simulator.faults import FaultBook
from simulator.limits import Limiter
from simulator.listing import Listing, tag
from simulator.subjects import Events, Markets, Subject, Subjects
from simulator.world import World

LIMITS = {"all": 4000, "lists": 900, "markets": 300, "events": 500, "tags": 200}
_MOST_ITEMS = 100
_DEFAULT_ITEMS = 20
_MOST_OFFSET = 2000
_ORDERS = ("id", "createdAt", "startDate", "endDate", "volumeNum", "liquidityNum", "volume24hr")
_MOST_VALUES = {"condition_ids": 100, "id": 400}

Item = dict[str, Any]


class Refusal(Exception):
    """A request that Gamma refuses, with its status and body."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"type": "validation error" if status == 422 else "not found error", "error": error}  # noqa: PLR2004


class Answer(NamedTuple):
    body: Any
    market_ids: list[str]  # the listed markets that the body shows


class Gamma:
    def __init__(self, world: World, faults: FaultBook) -> None:
        self._world = world
        self._faults = faults
        self._listing = Listing(world.settings.seed)

    def page(self, noun: str, params: QueryParams) -> Answer:
        """An offset page, a bare array. `noun` is "markets" or "events"."""
        if noun == "markets" and self._faults.take("gamma", {"markets_gone"}, self._world.now()):
            raise Refusal(410, "this endpoint is gone, use /markets/keyset")
        offset, limit = _whole(params, "offset", 0), _limit(params)
        if offset > _MOST_OFFSET:
            raise Refusal(422, f"offset too large, use /{noun}/keyset for deeper pagination")
        subjects = self._ordered(noun, self._subjects(noun, params), params)
        return self._answer(noun, list(islice(subjects, offset, offset + limit)), params)

    def keyset(self, noun: str, params: QueryParams) -> Answer:
        """A keyset page by ascending id, or by descending id where that is asked for.

        Only `after_cursor` moves on; the end is the answer without `next_cursor`. It takes the filters of offset pages.
        """
        if "offset" in params:
            raise Refusal(422, "offset is not supported, use after_cursor")
        limit, after = _limit(params), _cursor(params)
        subjects = self._subjects(noun, params)
        is_descending = params.get("order") == "id" and not _truth(params, "ascending", default=True)
        before = [] if is_descending else self._repeated(subjects, subjects.after(after), after, limit)
        places = _beyond(subjects, after, is_descending=is_descending)
        following = list(islice(subjects.among(places), limit - len(before) + 1))
        chosen = [*before, *following][:limit]
        answer = self._answer(noun, chosen, params)
        body: Item = {noun: answer.body}
        if len(before) + len(following) > limit:
            body["next_cursor"] = _encoded(chosen[-1].id)
        return Answer(body, answer.market_ids)

    def _repeated(self, subjects: Subjects, start: int, after: int, limit: int) -> list[Subject]:
        """Items move between pages on the live API; now and then a page begins with the last item of the one before."""
        if limit == 1 or after == 0 or mix(self._world.settings.seed, after) % 4:
            return []
        return list(islice(subjects.among(range(start - 1, -1, -1)), 1))

    def single(self, identity: str) -> Answer:
        """One market by id, open or closed."""
        world, now = self._world, self._world.now()
        world.catalogue.grow(now)
        place = world.catalogue.place_of_id(identity)
        if place is None or not world.catalogue.is_listed(place, now, world.fills_now()):
            raise Refusal(404, "id not found")
        return Answer(self._listing.market(world.catalogue[place], now), [identity])

    def tags(self, params: QueryParams) -> Answer:
        offset, limit = _whole(params, "offset", 0), _limit(params)
        return Answer([tag(place) for place in range(len(wording.TAGS))][offset : offset + limit], [])

    def _subjects(self, noun: str, params: QueryParams) -> Subjects:
        for name, most in _MOST_VALUES.items():
            if len(params.getlist(name)) > most:
                raise Refusal(422, f"{name}: at most {most} values")
        closed = _truth(params, "closed", default=False)
        return (Markets if noun == "markets" else Events)(self._world, params, closed=closed)

    def _ordered(self, noun: str, subjects: Subjects, params: QueryParams) -> Iterator[Subject]:
        order = params.get("order", "id")
        if order not in _ORDERS:
            raise Refusal(422, "order fields are not valid")
        ascending = _truth(params, "ascending", default=True)
        places = subjects.candidates()
        if order == "id":
            return subjects.among(places if ascending else reversed(places))
        return iter(sorted(subjects.among(places), key=self._sort_key(noun, order), reverse=not ascending))

    def _sort_key(self, noun: str, order: str) -> Callable[[Subject], tuple[Any, int]]:
        now = self._world.now()
        missing = 0 if order in {"volumeNum", "liquidityNum", "volume24hr"} else ""

        def key(subject: Subject) -> tuple[Any, int]:
            item = self._item(noun, subject, now, with_tags=False)
            name = {"volumeNum": "volume", "liquidityNum": "liquidity"}.get(order, order) if noun == "events" else order
            return item.get(name, missing), int(subject.id)

        return key

    def _answer(self, noun: str, subjects: list[Subject], params: QueryParams) -> Answer:
        now = self._world.now()
        with_tags = _truth(params, "include_tag", default=False)
        items = [self._item(noun, subject, now, with_tags=with_tags) for subject in subjects]
        served = {id(item): subject for item, subject in zip(items, subjects, strict=True)}
        spoiled = self._faults.spoil("gamma", items, now)
        shown = [served[id(item)] for item in spoiled if id(item) in served]
        return Answer(spoiled, [market.id for subject in shown for market in subject.markets])

    def _item(self, noun: str, subject: Subject, now: float, *, with_tags: bool) -> Item:
        if noun == "markets":
            return self._listing.market(subject.markets[0], now, with_tags=with_tags)
        return self._listing.event(subject.markets[0].event, list(subject.markets), now)


def _beyond(subjects: Subjects, after: int, *, is_descending: bool) -> Sequence[int]:
    """The places that follow a cursor, in the order that was asked for."""
    places = subjects.candidates()
    if not is_descending:
        return places[bisect_left(places, subjects.after(after)) :]
    return (places[: bisect_left(places, subjects.after(after - 1))] if after else places)[::-1]


def _whole(params: QueryParams, name: str, default: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise Refusal(422, f"{name} must be a non-negative integer")
    return int(text)


def _limit(params: QueryParams) -> int:
    """The size of a page, silently clamped."""
    return max(1, min(_MOST_ITEMS, _whole(params, "limit", _DEFAULT_ITEMS)))


def _truth(params: QueryParams, name: str, *, default: bool) -> bool:
    text = params.get(name)
    if text is None:
        return default
    if text not in {"true", "false"}:
        raise Refusal(422, f"{name} must be true or false")
    return text == "true"


def _encoded(identity: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"v": 1, "id": identity}).encode()).decode()


def _cursor(params: QueryParams) -> int:
    """The id after which to go on; 0 without a cursor."""
    text = params.get("after_cursor")
    if not text:
        return 0
    try:
        return int(json.loads(base64.urlsafe_b64decode(text.encode()))["id"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise Refusal(422, "invalid after_cursor") from None


def windows_of(path: str) -> tuple[str, ...]:
    """The rate limits that a path counts against."""
    first = path.strip("/").split("/")[0]
    if first in {"markets", "events"}:
        return ("all", "lists", first)
    return ("all", "tags") if first == "tags" else ("all",)


def limiter(clock: Callable[[], float]) -> Limiter:
    return Limiter(LIMITS, clock)
