"""One market as Gamma lists it, to a Market.

Gamma's oddities, all seen in real answers: lists as JSON inside strings, token ids of 78 digits, prices of 34 digits,
missing keys, times in several forms, dates in the years 24 and 2500, `positionIds` in place of `clobTokenIds`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from common import parsing
from common.errors import InvalidRecord
from common.records import Market, encode
from common.redis_queue import Offer

Fields = Mapping[str, Any]

VOLUME_PLACES = 6  # collateral
PRICE_PLACES = 18  # real prices have up to 34; ClickHouse keeps 18
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # version of a market without any time: whatever comes later replaces it
_VERSION_BYTES = 8


class ParsedMarket(NamedTuple):
    """What became of one listed market: the offer to publish, and the market unless it is faulty."""

    offer: Offer
    market: Market | None


def parse_market(raw: bytes | Fields, event: Fields | None = None) -> Market:
    """The market. Raises InvalidRecord with the field's name: dead-letter the record.

    `event` is the event that the market was nested in, when it came from an event listing: that has the tags.
    """
    fields = parsing.json_object(raw) if isinstance(raw, bytes) else raw
    head = _event_of(fields) if event is None else event
    outcomes = [parsing.text(name, "outcomes") for name in parsing.json_list(fields.get("outcomes"), "outcomes")]
    exact_prices = _prices(fields)
    closed = parsing.flag(fields.get("closed"), "closed")
    created_at = parsing.time(fields.get("createdAt"), "createdAt")
    return Market(
        id=market_id(fields),
        updated_at=parsing.time(fields.get("updatedAt"), "updatedAt") or created_at or EPOCH,
        question=parsing.text(fields.get("question"), "question"),
        slug=parsing.text(fields.get("slug"), "slug"),
        condition_id=parsing.text(fields.get("conditionId"), "conditionId").lower(),
        token_ids=_token_ids(fields),
        outcomes=outcomes,
        outcome_prices=_rounded(exact_prices),
        active=parsing.flag(fields.get("active"), "active"),
        closed=closed,
        neg_risk=parsing.flag(fields.get("negRisk"), "negRisk"),
        tags=_labels(fields.get("tags") or head.get("tags")),
        winning_outcome=winning_outcome(outcomes, exact_prices) if closed else None,
        volume=_money(fields, "volume", "volumeNum"),
        liquidity=_money(fields, "liquidity", "liquidityNum"),
        event_id=_id_text(head.get("id"), "event id"),
        event_slug=parsing.text(head.get("slug"), "event slug") or None,
        event_title=parsing.text(head.get("title"), "event title") or None,
        neg_risk_market_id=parsing.text(fields.get("negRiskMarketID"), "negRiskMarketID") or None,
        created_at=created_at,
        start_date=_date(fields, "startDate", "startDateIso"),
        end_date=_date(fields, "endDate", "endDateIso"),
        closed_time=parsing.time(fields.get("closedTime"), "closedTime"),
    )


def offer_market(raw: bytes, event: Fields | None = None) -> ParsedMarket:
    """The market as an offer; a faulty one with its reason and original bytes."""
    try:
        market = parse_market(raw, event)
    except InvalidRecord as error:
        return ParsedMarket(offer_faulty(identity_of(raw), raw, str(error)), None)
    return ParsedMarket(Offer(market.id, encode(market), version=version_of(market)), market)


def version_of(market: Market) -> str:
    """Fingerprint of everything but `updated_at`, which moves without any change that an analyst would see."""
    return _fingerprint(encode(msgspec.structs.replace(market, updated_at=EPOCH)))


def identity_of(raw: bytes) -> str:
    """A listed thing's id, or a hash of its bytes where it tells none."""
    try:
        return market_id(parsing.json_object(raw))
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


def _event_of(fields: Fields) -> Fields:
    events = parsing.json_list(fields.get("events"), "events")
    if not events:
        return {}
    if not isinstance(events[0], dict):
        raise parsing.invalid("events", "a list of events", events[0])
    return events[0]


def _token_ids(fields: Fields) -> list[str]:
    """`clobTokenIds`, or `positionIds` where a market of the new protocol has those instead."""
    listed = parsing.json_list(fields.get("clobTokenIds"), "clobTokenIds")
    if not listed:
        listed = parsing.json_list(fields.get("positionIds"), "positionIds")
    tokens = [parsing.token_id(token, "clobTokenIds") for token in listed]
    if "0" in tokens:
        raise parsing.invalid("clobTokenIds", "outcome tokens; 0 is collateral", listed)
    return tokens


def _prices(fields: Fields) -> list[Decimal]:
    listed = parsing.json_list(fields.get("outcomePrices"), "outcomePrices")
    prices = [parsing.exact(price, "outcomePrices") for price in listed]
    known = [price for price in prices if price is not None]
    return known if len(known) == len(prices) else []


def _rounded(prices: Iterable[Decimal]) -> list[Decimal]:
    rounded = (parsing.decimal(price, "outcomePrices", PRICE_PLACES) for price in prices)
    return [price for price in rounded if price is not None]


def _money(fields: Fields, as_text: str, as_number: str) -> Decimal | None:
    """The string field first: the number beside it has been through a float upstream."""
    money = parsing.decimal(fields.get(as_text), as_text, VOLUME_PLACES)
    return parsing.decimal(fields.get(as_number), as_number, VOLUME_PLACES) if money is None else money


def _date(fields: Fields, full: str, day: str) -> datetime | None:
    """The full time, or the day where Gamma has only that."""
    name = full if fields.get(full) else day
    return parsing.time(fields.get(name), name)


def _labels(listed: object) -> list[str]:
    """Labels of tags, sorted: the listings give the same tags in different orders."""
    labels = set()
    for tag in parsing.json_list(listed, "tags"):
        if not isinstance(tag, str | dict):
            raise parsing.invalid("tags", "a list of tags", tag)
        labels.add(parsing.text(tag.get("label") if isinstance(tag, dict) else tag, "tags"))
    return sorted(labels - {""})


def _id_text(value: object, field: str) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else parsing.text(value, field) or None
