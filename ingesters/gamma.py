"""Gamma's REST API as pages of markets: keyset and offset listings, newest first, look-ups by token and by id."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import msgspec

from common import parsing
from common.errors import InvalidRecord, Unavailable
from common.http import HttpSource, Rejected
from ingesters.detours import Detours
from ingesters.market_parser import identity_of

Params = list[tuple[str, str]]
Asking = Callable[[], AbstractContextManager[None]]

TOKENS_A_REQUEST = 40  # 78 digits each; Gamma answers 414 to an address over 8 KB
IDS_A_REQUEST = 100  # Gamma takes 400 ids, and returns 100 markets at most
MOST_IDS = 400
MOST_OFFSET = 2000  # beyond it Gamma answers 422
UNPROCESSABLE = 422
EVENTS_A_PAGE = 50  # events nest all their markets, hundreds at times
CLOB_TOKENS, POSITIONS = "clob_token_ids", "position_ids"  # the filters that find a market by an outcome token
# A CDN keeps each answer for 300 s. The sweeps live with that: they are thousands of addresses, and a price may be some
# minutes old. Looking for what is new can't, so those few requests carry one more parameter, which Gamma ignores and
# which changes every so many seconds: that is at most one request to the origin per question and period.
LOOKUP_FRESH_S = 5.0


# How the next page of the newest ones is asked for: a page is followed by one of the same endpoint.
_OFFSET, _CURSOR = "offset=", "cursor="


class Refused(Unavailable):
    """Gamma refuses a request (4xx). It may never take that request again, or a filter in front of it had a bad moment.

    One refusal does not tell which: ask again later, and only decide when others pass meanwhile.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class FilterIgnored(Unavailable):
    """Gamma answers other markets than those asked for: it passes over filters that it does not know."""


class Record(NamedTuple):
    """A listed market in its original bytes."""

    raw: bytes
    event: Mapping[str, Any] | None = None  # the event it was nested in, in an event listing
    fault: str = ""  # why it can't even be taken for a market


class Page(NamedTuple):
    """One page of a listing."""

    records: list[Record]
    identities: frozenset[str]  # of what was listed: markets, or events
    following: str | None  # what to send for the next page; None after the last
    is_cut: bool = False  # the listing goes on where this kind of paging can't reach


class Listing(Protocol):
    """A way to page through all markets of one state."""

    @property
    def name(self) -> str:
        """Told in the state, since a cursor of one listing means nothing to another."""

    def page(self, after: str, *, closed: bool) -> Page:
        """The page after `after`, "" for the first. Raises Unavailable, Refused among them."""


class Gamma:
    """The requests, each checked to be what it should. All raise Unavailable, and Refused where Gamma answers 4xx."""

    def __init__(
        self, source: HttpSource, page_size: int, detours: Detours, clock: Callable[[], float] = time.time
    ) -> None:
        """`detours`: shared by all connections, so that one finds out for all which endpoint works."""
        self.host = source.host
        self.take_turn_s = source.take_turn_s
        self.close = source.close
        self.page_size = page_size
        self._source = source
        self._detours = detours
        self._clock = clock

    def keyset(self, noun: str, limit: int, after: str, *, closed: bool) -> tuple[list[bytes], str | None]:
        """A keyset page of "markets" or "events", and the cursor of the next; None after the last one."""
        return self._keyset(noun, [*_listing_params(limit, closed=closed), *_after(after)])

    def offset(self, limit: int, offset: int, *, closed: bool, fresh_s: float = 0.0) -> list[bytes]:
        """Markets by descending id: the newest first. Refused beyond what Gamma lists this way."""
        params = [*_listing_params(limit, closed=closed), *_DESCENDING, ("offset", str(offset))]
        return self._ask("/markets", [*params, *self._fresh(fresh_s)])[0]

    def newest(self, limit: int, after: str = "", *, closed: bool = False, fresh_s: float = 0.0) -> Page:
        """Markets by descending id. `after`: what a page names as following; "" for the first."""
        by_offset = partial(self._newest_by_offset, limit, closed=closed, fresh_s=fresh_s)
        by_cursor = partial(self._newest_by_cursor, "markets", limit, closed=closed, fresh_s=fresh_s)
        if after.startswith(_OFFSET):
            return by_offset(int(after.removeprefix(_OFFSET)))
        if after:
            return by_cursor(after.removeprefix(_CURSOR))
        return self._detours.ask("newest markets", partial(by_offset, 0), partial(by_cursor, ""))

    def newest_events(self, limit: int, fresh_s: float) -> Page:
        """Open events by descending id, with their markets."""
        params = [*_listing_params(limit, closed=False), *_DESCENDING, *self._fresh(fresh_s)]

        def by_offset() -> Page:
            raws = self._ask("/events", params)[0]
            return Page(nested_markets(raws), frozenset(map(identity_of, raws)), None)

        def by_cursor() -> Page:
            page = self._newest_by_cursor("events", limit, "", closed=False, fresh_s=fresh_s)
            return page._replace(following=None)

        return self._detours.ask("newest events", by_offset, by_cursor)

    def by_tokens(self, tokens: Sequence[str], *, field: str, closed: bool) -> list[bytes]:
        """The markets of these tokens, by a field that lists them. A closed one is only found with `closed`."""
        wanted = [*((field, token) for token in tokens), *self._fresh(LOOKUP_FRESH_S)]
        digits = [token.encode() for token in tokens]
        return self._looked_up(f"look-ups by {field}", 100, wanted, lambda raw: _has_any(raw, digits), closed=closed)

    def by_ids(self, ids: Sequence[int], *, closed: bool) -> list[bytes]:
        """The markets of these ids. A closed one is only found with `closed`."""
        wanted = [*(("id", str(market_id)) for market_id in ids), *self._fresh(LOOKUP_FRESH_S)]
        known = set(map(str, ids))
        return self._looked_up("look-ups by id", 100, wanted, lambda raw: identity_of(raw) in known, closed=closed)

    def in_range(self, first: int, last: int, *, closed: bool) -> list[bytes]:
        """Markets with an id from `first` to `last`, `page_size` of them at most."""
        known = {str(market_id) for market_id in range(first, last + 1)}
        wanted = [("id", str(market_id)) for market_id in range(first, last + 1)]
        size = self.page_size
        return self._looked_up("ranges of ids", size, wanted, lambda raw: identity_of(raw) in known, closed=closed)

    def _looked_up(
        self, what: str, limit: int, wanted: Params, is_wanted: Callable[[bytes], bool], *, closed: bool
    ) -> list[bytes]:
        params = [*_listing_params(limit, closed=closed), *wanted]

        def checked(raws: list[bytes]) -> list[bytes]:
            if sum(map(is_wanted, raws)) < len(raws) / 2:
                raise FilterIgnored(f"Gamma at {self.host} answers other markets than those asked for: {what}")
            return raws

        return self._detours.ask(
            what,
            lambda: checked(self._ask("/markets", params)[0]),
            lambda: checked(self._keyset("markets", params)[0]),
        )

    def _newest_by_offset(self, limit: int, offset: int, *, closed: bool, fresh_s: float) -> Page:
        raws = self.offset(limit, offset, closed=closed, fresh_s=fresh_s)
        following = offset + limit
        more = f"{_OFFSET}{following}" if raws and following <= MOST_OFFSET else None
        return Page([Record(raw) for raw in raws], frozenset(map(identity_of, raws)), more)

    def _newest_by_cursor(self, noun: str, limit: int, after: str, *, closed: bool, fresh_s: float) -> Page:
        params = [*_listing_params(limit, closed=closed), *_DESCENDING, *_after(after), *self._fresh(fresh_s)]
        raws, following = self._keyset(noun, params)
        identities = list(map(identity_of, raws))
        numbers = [int(identity) for identity in identities if identity.isdecimal()]
        if any(number < higher for number, higher in pairwise(numbers)):
            raise Unavailable(f"Gamma at {self.host} does not list {noun} by descending id")
        records = [Record(raw) for raw in raws] if noun == "markets" else nested_markets(raws)
        return Page(records, frozenset(identities), f"{_CURSOR}{following}" if following else None)

    def _keyset(self, noun: str, params: Params) -> tuple[list[bytes], str | None]:
        items, rest = self._ask(f"/{noun}/keyset", params, noun)
        following = rest.get("next_cursor") if isinstance(rest, dict) else None
        if not isinstance(following, str | None):
            raise Unavailable(f"Gamma at {self.host} answers a cursor that is no text")
        return items, following or None

    def _ask(self, path: str, params: Params, key: str = "") -> tuple[list[bytes], Any]:
        try:
            body = self._source.get(path, params)
        except Rejected as error:
            raise Refused(error.reason, error.status) from error
        return self._items(body, key)

    def _items(self, body: bytes, key: str) -> tuple[list[bytes], Any]:
        """The elements of a page, and what else it says. Raises Unavailable when it is no page."""
        try:
            return _taken_apart(body, key)
        except (ValueError, RecursionError, InvalidRecord) as error:
            what = f"something that is no page of {key or 'markets'}"
            raise Unavailable(f"Gamma at {self.host} answers {what}: {parsing.shown(body)}") from error

    def _fresh(self, fresh_s: float) -> Params:
        return [("_", str(int(self._clock() // fresh_s)))] if fresh_s else []


def _listing_params(limit: int, *, closed: bool) -> Params:
    return [("limit", str(limit)), ("closed", "true" if closed else "false"), ("include_tag", "true")]


_DESCENDING = [("order", "id"), ("ascending", "false")]


def _has_any(raw: bytes, digits: Sequence[bytes]) -> bool:
    return any(token in raw for token in digits)


def _after(cursor: str) -> Params:
    return [("after_cursor", cursor)] if cursor else []


class _MarketsPage(msgspec.Struct):
    markets: list[msgspec.Raw]
    next_cursor: Any = None


class _EventsPage(msgspec.Struct):
    events: list[msgspec.Raw]
    next_cursor: Any = None


_PAGES: dict[str, msgspec.json.Decoder[Any]] = {
    "": msgspec.json.Decoder(list[msgspec.Raw]),
    "markets": msgspec.json.Decoder(_MarketsPage),
    "events": msgspec.json.Decoder(_EventsPage),
}


def _taken_apart(body: bytes, key: str) -> tuple[list[bytes], Any]:
    try:
        page = _PAGES[key].decode(body)
    except msgspec.ValidationError:
        raise
    except ValueError:
        # Malformed as a whole, or just one element of it: then the others are still good.
        items, rest = parsing.split_records(body, key)
        return items, parsing.json_value(rest, "page")
    if not key:
        return [bytes(item) for item in page], None
    return [bytes(item) for item in getattr(page, key)], {"next_cursor": page.next_cursor}


class MarketListing:
    """All markets by keyset: the way that reaches every one of them."""

    name = "markets/keyset"

    def __init__(self, gamma: Gamma) -> None:
        self._gamma = gamma

    def page(self, after: str, *, closed: bool) -> Page:
        raws, following = self._gamma.keyset("markets", self._gamma.page_size, after, closed=closed)
        return Page([Record(raw) for raw in raws], frozenset(map(identity_of, raws)), following)


class EventListing:
    """All markets as their events nest them: has tags whatever `include_tag` does, and misses markets without event."""

    name = "events/keyset"

    def __init__(self, gamma: Gamma) -> None:
        self._gamma = gamma

    def page(self, after: str, *, closed: bool) -> Page:
        raws, following = self._gamma.keyset("events", EVENTS_A_PAGE, after, closed=closed)
        return Page(nested_markets(raws), frozenset(map(identity_of, raws)), following)


class OffsetListing:
    """The newest some 2,000 markets by offset, the older way. The end is an empty page."""

    name = "markets"

    def __init__(self, gamma: Gamma) -> None:
        self._gamma = gamma

    def page(self, after: str, *, closed: bool) -> Page:
        offset = int(after or "0")
        try:
            raws = self._gamma.offset(self._gamma.page_size, offset, closed=closed)
        except Refused as error:
            if offset and error.status == UNPROCESSABLE:
                return Page([], frozenset(), None, is_cut=True)
            raise
        following = offset + len(raws)
        is_cut = bool(raws) and following > MOST_OFFSET
        has_more = bool(raws) and not is_cut
        identities = frozenset(map(identity_of, raws))
        return Page([Record(raw) for raw in raws], identities, str(following) if has_more else None, is_cut)


def nested_markets(events: Sequence[bytes]) -> list[Record]:
    """The markets in events; an event that can't be read stands for itself and becomes a dead letter."""
    return [record for raw in events for record in _nested(raw)]


class _Event(msgspec.Struct):
    id: Any = None
    slug: Any = None
    title: Any = None
    tags: Any = None
    markets: list[msgspec.Raw] | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


def _nested(raw: bytes) -> list[Record]:
    try:
        event = _decode_event(raw)
    except (ValueError, RecursionError) as error:
        return _nested_leniently(raw, str(error))
    head = {"id": event.id, "slug": event.slug, "title": event.title, "tags": event.tags}
    return [Record(bytes(market), head) for market in event.markets or ()]


def _nested_leniently(raw: bytes, fault: str) -> list[Record]:
    """One of the markets, or something beside them, is no JSON: the others are still good."""
    try:
        markets, rest = parsing.split_records(raw, "markets")
        head = parsing.lenient_object(rest)
    except (ValueError, RecursionError, InvalidRecord):
        return [Record(raw, fault=f"event: {fault}")]
    return [Record(market, head) for market in markets]
