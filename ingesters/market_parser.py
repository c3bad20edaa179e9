"""One market as Gamma lists it, to a Market.

Gamma's oddities, all seen in real answers: lists as JSON inside strings, token ids of 78 digits, prices of 34 digits,
missing keys, times in several forms, dates in the years 24 and 2500, `positionIds` in place of `clobTokenIds`, and in
optional fields dates like "November 4, 2020", "NaN", a flag that is 1.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import msgspec

from common import parsing
from common.errors import InvalidRecord
from common.records import Market, encode
from common.redis_queue import Offer

Fields = Mapping[str, Any]
T = TypeVar("T")

VOLUME_PLACES = 6  # collateral
PRICE_PLACES = 18  # real prices have up to 34; ClickHouse keeps 18
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # version of a market without any time: whatever comes later replaces it
# An open market that does not change is published again once in so long, so that its row shows that it is still listed.
SEEN_PERIOD_S = 6 * 3600
_VERSION_BYTES = 8


class ParsedMarket(NamedTuple):
    """What became of one listed market: the offer to publish, and the market unless it is faulty."""

    offer: Offer
    market: Market | None


class _Reader:
    """A listed thing's fields, one by one. What can't be read is absent, and noted by its name."""

    def __init__(self, fields: Fields, unreadable: set[str], prefix: str = "") -> None:
        self._fields = fields
        self._unreadable = unreadable
        self._prefix = prefix

    def read(self, name: str, parse: Callable[[Any, str], T], absent: T) -> T:
        try:
            return parse(self._fields.get(name), name)
        except InvalidRecord:
            self._unreadable.add(self._prefix + name)
            return absent

    def text(self, name: str) -> str:
        return self.read(name, parsing.text, "")

    def flag(self, name: str) -> bool:
        return self.read(name, parsing.flag, absent=False)

    def time(self, name: str) -> datetime | None:
        return self.read(name, parsing.time, None)

    def date(self, full: str, day: str) -> datetime | None:
        """The full time, or the day where Gamma has only that."""
        return self.time(full) or self.time(day)

    def money(self, as_text: str, as_number: str) -> Decimal | None:
        """The string field first: the number beside it has been through a float upstream."""
        money = self.read(as_text, _as_money, None)
        return self.read(as_number, _as_money, None) if money is None else money


def parse_market(raw: bytes | Fields, event: Fields | None = None) -> Market:
    """The market alone: see `read_market`."""
    return read_market(raw, event)[0]


def read_market(raw: bytes | Fields, event: Fields | None = None) -> tuple[Market, set[str]]:
    """The market, and the names of the fields that it lacks since they can't be read.

    Raises InvalidRecord where it has no readable id, or tokens that can't be read: dead-letter the record.
    `event` is the event that the market was nested in, when it came from an event listing: that has the tags.
    """
    fields = _object_of(raw) if isinstance(raw, bytes) else raw
    unreadable: set[str] = set()
    of_market = _Reader(fields, unreadable)
    nothing: Fields = {}
    no_names: list[str] = []
    no_prices: list[Decimal] = []
    head = of_market.read("events", _first_event, nothing) if event is None else event
    of_event = _Reader(head, unreadable, "event.")
    outcomes = of_market.read("outcomes", _names, no_names)
    exact_prices = of_market.read("outcomePrices", _prices, no_prices)
    closed = of_market.flag("closed")
    created_at = of_market.time("createdAt")
    market = Market(
        id=market_id(fields),
        updated_at=of_market.time("updatedAt") or created_at or EPOCH,
        question=of_market.text("question"),
        slug=of_market.text("slug"),
        condition_id=of_market.text("conditionId").lower(),
        token_ids=_token_ids(fields),
        outcomes=outcomes,
        outcome_prices=_rounded(exact_prices),
        active=of_market.flag("active"),
        closed=closed,
        neg_risk=of_market.flag("negRisk"),
        tags=of_market.read("tags", _labels, []) or of_event.read("tags", _labels, []),
        winning_outcome=winning_outcome(outcomes, exact_prices) if closed else None,
        volume=of_market.money("volume", "volumeNum"),
        liquidity=of_market.money("liquidity", "liquidityNum"),
        event_id=of_event.read("id", _id_text, None),
        event_slug=of_event.text("slug") or None,
        event_title=of_event.text("title") or None,
        neg_risk_market_id=of_market.text("negRiskMarketID") or None,
        created_at=created_at,
        start_date=of_market.date("startDate", "startDateIso"),
        end_date=of_market.date("endDate", "endDateIso"),
        closed_time=of_market.time("closedTime"),
    )
    return market, unreadable


def offer_market(raw: bytes, event: Fields | None = None, *, listed_at: int = 0) -> ParsedMarket:
    """The market as an offer; a faulty one with its reason and original bytes.

    `listed_at`: when Gamma listed it, Unix seconds.
    """
    try:
        market, unreadable = read_market(raw, event)
    except InvalidRecord as error:
        return ParsedMarket(offer_faulty(identity_of(raw), raw, str(error)), None)
    market = msgspec.structs.replace(market, last_seen_at=datetime.fromtimestamp(listed_at, UTC))
    offer = Offer(market.id, encode(market), version=version_of(market), unreadable=" ".join(sorted(unreadable)))
    return ParsedMarket(offer, market)


def version_of(market: Market) -> str:
    """Fingerprint of everything that an analyst would see change: not of `updated_at`, which moves by itself.

    Of `last_seen_at` it has the period, and of open markets only. The periods begin at another moment for each market,
    so that not all of them are published at once.
    """
    period = None if market.closed else _seen_period(market)
    return _fingerprint(encode(msgspec.structs.replace(market, updated_at=EPOCH, last_seen_at=period)))


def _seen_period(market: Market) -> datetime | None:
    if market.last_seen_at is None:
        return None
    shift = int(market.id) * 7919 % SEEN_PERIOD_S  # neighbours, which are often listed together, lie far apart
    seen = int(market.last_seen_at.timestamp())
    return datetime.fromtimestamp((seen + shift) // SEEN_PERIOD_S * SEEN_PERIOD_S, UTC)


def identity_of(raw: bytes) -> str:
    """A listed thing's id, or a hash of its bytes where it tells none."""
    try:
        return market_id(_object_of(raw))
    except InvalidRecord:
        return parsing.identity_of_bytes(raw)


def market_id(fields: Fields) -> str:
    """Gamma's id, decimal digits."""
    return str(parsing.whole(parsing.required(fields, "id"), "id", "an id in decimal digits", parsing.AMOUNT_LIMIT))


def winning_outcome(outcomes: list[str], exact_prices: list[Decimal]) -> str | None:
    """The outcome that a closed market resolved to: exactly one price 1 and the rest 0. All 0 means unknown."""
    if len(outcomes) != len(exact_prices) or any(price not in (0, 1) for price in exact_prices):
        return None
    winners = [outcome for outcome, price in zip(outcomes, exact_prices, strict=True) if price == 1]
    return winners[0] if len(winners) == 1 else None


def offer_faulty(identity: str, raw: bytes, reason: str) -> Offer:
    """One dead letter for a market and a reason, however often the sweeps find it again."""
    return Offer(identity, raw, version=_fingerprint(reason.encode()), fault=reason)


def _fingerprint(data: bytes) -> str:
    return blake2b(data, digest_size=_VERSION_BYTES).hexdigest()


def _object_of(raw: bytes) -> Fields:
    """A record's fields, also where JSON's rules are broken inside one of them: only that one can't be read then."""
    try:
        return parsing.json_object(raw)
    except InvalidRecord:
        return parsing.lenient_object(raw)


def _first_event(listed: object, field: str) -> Fields:
    events = parsing.json_list(listed, field)
    if not events:
        return {}
    if not isinstance(events[0], dict):
        raise parsing.invalid(field, "a list of events", events[0])
    return events[0]


def _names(listed: object, field: str) -> list[str]:
    return [parsing.text(name, field) for name in parsing.json_list(listed, field)]


def _token_ids(fields: Fields) -> list[str]:
    """`clobTokenIds`, or `positionIds` where a market of the new protocol has those instead."""
    listed = parsing.json_list(fields.get("clobTokenIds"), "clobTokenIds")
    if not listed:
        listed = parsing.json_list(fields.get("positionIds"), "positionIds")
    tokens = [parsing.token_id(token, "clobTokenIds") for token in listed]
    if "0" in tokens:
        raise parsing.invalid("clobTokenIds", "outcome tokens; 0 is collateral", listed)
    return tokens


def _prices(listed: object, field: str) -> list[Decimal]:
    prices = [parsing.exact(price, field) for price in parsing.json_list(listed, field)]
    known = [price for price in prices if price is not None]
    for price in known:
        parsing.decimal(price, field, PRICE_PLACES)  # one that is too large for its column
    return known if len(known) == len(prices) else []


def _rounded(prices: list[Decimal]) -> list[Decimal]:
    rounded = (parsing.decimal(price, "outcomePrices", PRICE_PLACES) for price in prices)
    return [price for price in rounded if price is not None]


def _as_money(value: object, field: str) -> Decimal | None:
    return parsing.decimal(value, field, VOLUME_PLACES)


def _labels(listed: object, field: str) -> list[str]:
    """Labels of tags, sorted: the listings give the same tags in different orders."""
    labels = set()
    for tag in parsing.json_list(listed, field):
        if not isinstance(tag, str | dict):
            raise parsing.invalid(field, "a list of tags", tag)
        labels.add(parsing.text(tag.get("label") if isinstance(tag, dict) else tag, field))
    return sorted(labels - {""})


def _id_text(value: object, field: str) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else parsing.text(value, field) or None
