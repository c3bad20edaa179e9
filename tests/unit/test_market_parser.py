"""A listed market becomes a Market or a dead letter with a reason, whatever Gamma writes into it."""

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRecord
from common.parsing import token_id
from common.records import Market, decode_market, encode
from ingesters.gamma import nested_markets
from ingesters.market_parser import (
    EPOCH,
    SEEN_PERIOD_S,
    identity_of,
    offer_market,
    parse_market,
    version_of,
    winning_outcome,
)

SAMPLES = Path(os.environ.get("SAMPLES", Path(__file__).parents[3] / "shared" / "data"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples of real answers in {SAMPLES}")

TOKENS = [
    "101676997363687199724245607342877036148401850938023978421879460310389391082353",
    "4153292802911610701832309484716814274802943278345248636922528170020319407796",
]
FULL: dict[str, Any] = {
    "id": "517310",
    "question": " Will it rain?\n",
    "conditionId": "0xAF9d0e448129a9f657f851d49495ba4742055d80e0ef1166ba0ee81d4d594214",
    "slug": "will-it-rain",
    "outcomes": '["Yes ", "No"]',
    "outcomePrices": '["0.0455", "0.9545"]',
    "clobTokenIds": json.dumps(TOKENS),
    "volume": "1067832.9411205",
    "volumeNum": 1.5,
    "liquidity": "19209.42167",
    "active": True,
    "closed": False,
    "negRisk": True,
    "negRiskMarketID": "0xa6",
    "createdAt": "2025-01-05T00:51:12.215249Z",
    "updatedAt": "2026-02-07T20:57:04.974481Z",
    "startDate": "2025-01-05T18:49:12.5Z",
    "endDate": "2025-12-31T12:00:00Z",
    "closedTime": "2026-01-01 00:00:16+00",
    "events": [{"id": "16282", "slug": "rain", "title": "Rain ", "endDate": "0024-01-01"}],
    "tags": [{"id": "1", "label": "Weather "}, {"id": "2", "label": "Asia"}, {"label": ""}],
}


def parse(**changes: object) -> Market:
    fields = {name: value for name, value in (FULL | changes).items() if value is not ...}
    return parse_market(json.dumps(fields).encode())


def test_a_full_market_keeps_what_analysts_query() -> None:
    assert parse() == Market(
        id="517310",
        updated_at=datetime(2026, 2, 7, 20, 57, 4, 974_481, UTC),
        question="Will it rain?",
        slug="will-it-rain",
        condition_id="0xaf9d0e448129a9f657f851d49495ba4742055d80e0ef1166ba0ee81d4d594214",
        token_ids=TOKENS,
        outcomes=["Yes", "No"],
        outcome_prices=[Decimal("0.045500000000000000"), Decimal("0.954500000000000000")],
        active=True,
        closed=False,
        neg_risk=True,
        tags=["Asia", "Weather"],
        volume=Decimal("1067832.941120"),
        liquidity=Decimal("19209.421670"),
        event_id="16282",
        event_slug="rain",
        event_title="Rain",
        neg_risk_market_id="0xa6",
        created_at=datetime(2025, 1, 5, 0, 51, 12, 215_249, UTC),
        start_date=datetime(2025, 1, 5, 18, 49, 12, 500_000, UTC),
        end_date=datetime(2025, 12, 31, 12, tzinfo=UTC),
        closed_time=datetime(2026, 1, 1, 0, 0, 16, tzinfo=UTC),
    )


def test_a_market_with_nothing_but_an_id_is_a_market() -> None:
    market = parse_market({"id": "5"})
    assert (market.updated_at, market.token_ids, market.volume, market.condition_id) == (EPOCH, [], None, "")
    assert not market.active
    assert not market.closed


def test_a_mapping_and_its_bytes_give_the_same_market() -> None:
    assert parse_market(FULL) == parse()


@pytest.mark.parametrize("missing", sorted(set(FULL) - {"id"}))
def test_any_key_but_the_id_may_be_missing(missing: str) -> None:
    assert parse(**{missing: ...}).id == "517310"


@pytest.mark.parametrize("missing", sorted(set(FULL) - {"id"}))
def test_any_value_but_the_id_may_be_null(missing: str) -> None:
    assert parse(**{missing: None}).id == "517310"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ...),
        ("id", "abc"),
        ("clobTokenIds", '["1e20"]'),
        ("clobTokenIds", "not json"),
        ("clobTokenIds", f"[{TOKENS[0]}.0]"),
        ("clobTokenIds", '["0", "5"]'),
        ("clobTokenIds", 5),
    ],
)
def test_a_broken_id_or_token_makes_a_dead_letter_that_names_it(field: str, value: object) -> None:
    raw = json.dumps({name: old for name, old in (FULL | {field: value}).items() if old is not ...}).encode()
    offer, market = offer_market(raw)
    assert market is None
    assert offer.fault.startswith(field)
    assert offer.data == raw


def test_the_same_fault_again_is_the_same_version_though_the_market_moves_on() -> None:
    first, second = (
        offer_market(json.dumps(FULL | {"clobTokenIds": "5", "volume": volume}).encode()).offer for volume in "12"
    )
    assert (first.identity, first.version) == (second.identity, second.version)


ODD: dict[str, tuple[str, list[object]]] = {
    "question": ("question", [5, [], {}]),
    "slug": ("slug", [5, False]),
    "conditionId": ("condition_id", [7, ["0x"]]),
    "outcomes": ("outcomes", ['["Yes", "No', 5, "Yes", [1, 2], {"0": "Yes"}]),
    "outcomePrices": ("outcome_prices", ['["abc", "1"]', "0.5", '["NaN", "1"]', ["1e999", "0"], 5]),
    "active": ("active", [1, "maybe", []]),
    "closed": ("closed", [1, "yes", 0, {}]),
    "negRisk": ("neg_risk", [1, "yes"]),
    "volume": ("volume", ["NaN", "1e999", "Infinity", "12,5", [], True]),
    "liquidity": ("liquidity", ["NaN", "-Infinity", {}]),
    "negRiskMarketID": ("neg_risk_market_id", [5]),
    "createdAt": ("created_at", ["yesterday", 5, "2025-13-01", True]),
    "startDate": ("start_date", ["November 4, 2020", 1604448000, "04.11.2020"]),
    "endDate": ("end_date", ["November 4, 2020", "2020-11-04T25:00:00Z", []]),
    "closedTime": ("closed_time", ["November 4, 2020", 5]),
    "events": ("event_id", [[5], "none", 5, {}]),
    "tags": ("tags", [[[]], 5, "Weather", [{"label": 5}]]),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, (_, odd) in ODD.items() for value in odd])
def test_an_optional_field_that_cannot_be_read_is_absent_and_counted(field: str, value: object) -> None:
    offer, market = offer_market(json.dumps(FULL | {"volumeNum": None, field: value}).encode())
    assert market is not None
    assert (offer.fault, offer.unreadable) == ("", field)
    assert not getattr(market, ODD[field][0])
    assert (market.id, market.token_ids) == ("517310", TOKENS)


@given(st.data())
def test_any_odd_fields_together_cost_nothing_but_themselves(data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from(sorted(ODD)), min_size=1))
    changes = {field: data.draw(st.sampled_from(ODD[field][1])) for field in sorted(chosen)}
    offer, market = offer_market(json.dumps(FULL | {"volumeNum": None} | changes).encode())
    assert market is not None
    assert set(offer.unreadable.split()) == chosen
    odd = {ODD[field][0] for field in chosen} | ({"event_slug", "event_title"} if "events" in chosen else set())
    whole = offer_market(json.dumps(FULL | {"volumeNum": None}).encode()).market
    for name in set(market.__struct_fields__) - odd - {"winning_outcome"}:
        assert getattr(market, name) == getattr(whole, name), name
    assert market.winning_outcome is None


def test_an_updated_at_that_cannot_be_read_falls_back_to_created_at() -> None:
    offer, market = offer_market(json.dumps(FULL | {"updatedAt": "yesterday"}).encode())
    assert market is not None
    assert (market.updated_at, offer.unreadable) == (market.created_at, "updatedAt")


def test_a_flag_that_cannot_be_read_resolves_no_market() -> None:
    assert parse(closed=1, outcomePrices='["1", "0"]').winning_outcome is None
    assert parse(closed=True, outcomes=5, outcomePrices='["1", "0"]').winning_outcome is None


@pytest.mark.parametrize("text", ['"\\ud83d"', "NaN", '"\t"', "Infinity", '{"a": NaN}'])
def test_what_is_no_json_costs_its_own_field_alone(text: str) -> None:
    raw = json.dumps(FULL | {"endDate": "HERE"}).replace('"HERE"', text).encode()
    offer, market = offer_market(raw)
    assert market is not None
    assert offer.unreadable in {"endDate", ""}
    assert market.end_date is None
    assert (market.token_ids, market.question) == (TOKENS, "Will it rain?")


def test_one_market_of_an_event_that_is_no_json_costs_none_of_the_others() -> None:
    markets = [FULL | {"id": str(number), "endDate": "HERE" if number == 2 else None} for number in range(1, 4)]
    event = json.dumps({"id": 7, "title": "T", "tags": [{"label": "A"}], "markets": markets})
    records = nested_markets([event.replace('"HERE"', "NaN").encode()])
    offers = [offer_market(record.raw, record.event) for record in records]
    assert [(offer.identity, offer.fault, offer.unreadable) for offer, _ in offers] == [
        ("1", "", ""),
        ("2", "", "endDate"),
        ("3", "", ""),
    ]
    assert {market.event_title for _, market in offers if market is not None} == {"T"}
    (record,) = nested_markets([b'{"id": 7, "markets": 5}'])
    assert record.fault


def listed(at: int, **changes: object) -> tuple[str, Market]:
    """The version and the market as it is listed at a moment."""
    offer, market = offer_market(json.dumps(FULL | changes).encode(), listed_at=at)
    assert market is not None
    return offer.version, market


def test_an_open_market_has_another_version_once_in_six_hours_and_a_closed_one_has_not() -> None:
    hours = range(0, 24 * 3600, 600)
    assert len({listed(1_800_000_000 + at)[0] for at in hours}) in {4, 5}
    assert len({listed(1_800_000_000 + at, closed=True)[0] for at in hours}) == 1
    assert listed(1_800_000_000)[1].last_seen_at == datetime.fromtimestamp(1_800_000_000, UTC)


def test_the_periods_of_different_markets_begin_at_different_times() -> None:
    def changes_at(number: int) -> int:
        versions = [listed(1_800_000_000 + at, id=str(number))[0] for at in range(0, SEEN_PERIOD_S, 600)]
        return next((place for place, version in enumerate(versions) if version != versions[0]), 0)

    assert len({changes_at(number) for number in range(517_310, 517_350)}) > 15


def test_position_ids_stand_in_for_token_ids() -> None:
    assert parse(clobTokenIds=..., positionIds=TOKENS, version="v2").token_ids == TOKENS
    assert parse(clobTokenIds="[]", positionIds=TOKENS).token_ids == TOKENS


def test_prices_of_34_digits_are_rounded_to_18_places() -> None:
    market = parse(outcomePrices='["0.9993191802510073485445526019164008", "0.0006808197489926514554473980835992"]')
    assert list(map(str, market.outcome_prices)) == ["0.999319180251007349", "0.000680819748992651"]


def test_volume_falls_back_to_the_number_as_it_is_written() -> None:
    raw = b'{"id": "1", "volume": "", "volumeNum": 8837.7451190000001}'
    assert str(parse_market(raw).volume) == "8837.745119"


def test_dates_fall_back_to_the_day() -> None:
    assert parse(endDate=..., endDateIso="2025-12-31").end_date == datetime(2025, 12, 31, tzinfo=UTC)


def test_updated_at_falls_back_to_created_at() -> None:
    market = parse(updatedAt=...)
    assert market.updated_at == market.created_at


def test_the_nesting_event_brings_tags_and_title() -> None:
    event = {"id": 77, "slug": "s", "title": "T", "tags": [{"label": "A"}]}
    market = parse_market({"id": "1"}, event)
    assert (market.event_id, market.event_slug, market.event_title, market.tags) == ("77", "s", "T", ["A"])


@pytest.mark.parametrize(
    ("prices", "winner"),
    [
        (["1", "0"], "Yes"),
        (["0", "1"], "No"),
        (["0", "0"], None),
        (["1", "1"], None),
        (["0.5", "0.5"], None),
        (["1"], None),
        ([], None),
        (["0.99999999999999999999999999", "0"], None),
    ],
)
def test_only_one_price_of_1_beside_zeros_is_a_resolution(prices: list[str], winner: str | None) -> None:
    assert winning_outcome(["Yes", "No"], [Decimal(price) for price in prices]) == winner
    assert parse(closed=True, outcomePrices=json.dumps(prices)).winning_outcome == winner
    assert parse(closed=False, outcomePrices=json.dumps(prices)).winning_outcome is None


def test_the_version_follows_what_changed_and_not_updated_at() -> None:
    before = parse()
    assert version_of(before) == version_of(parse(updatedAt="2026-02-08T00:00:00Z"))
    assert version_of(before) != version_of(parse(volume="1067832.95"))
    assert version_of(before) == version_of(parse(tags=list(reversed(FULL["tags"]))))


def test_a_market_survives_its_own_stream() -> None:
    market = parse()
    assert decode_market(encode(market)) == market


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), VALUES, max_size=4))
def test_whatever_the_fields_hold_it_is_a_market_or_a_dead_letter(changes: dict[str, Any]) -> None:
    raw = json.dumps(FULL | changes).encode()
    offer, market = offer_market(raw)
    assert (market is None) == bool(offer.fault)
    assert offer.identity


@given(st.binary(max_size=60))
def test_whatever_the_bytes_it_is_a_market_or_a_dead_letter(raw: bytes) -> None:
    offer, market = offer_market(raw)
    assert (market is None) == bool(offer.fault)
    assert offer.identity == identity_of(raw)


def sample_markets() -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Every Gamma market of the samples, with the event that it was nested in."""
    for market in json.loads((SAMPLES / "gamma_markets_2026-02-07.json").read_bytes()):
        yield market, None
    with gzip.open(SAMPLES / "gamma_markets_v2_era_2026-07-24.jsonl.gz") as lines:
        for line in lines:
            yield json.loads(line)["raw"], None
    yield json.loads((SAMPLES / "gamma_market_three_tokens.json").read_bytes()), None
    for event in json.loads((SAMPLES / "gamma_events_with_tags_2025-06.json").read_bytes()):
        for market in event["markets"]:
            yield market, event


@needs_samples
def test_every_real_market_parses() -> None:
    parsed = [offer_market(json.dumps(market).encode(), event) for market, event in sample_markets()]
    assert len(parsed) == 1084
    assert [offer.fault for offer, _ in parsed if offer.fault] == []
    markets = [market for _, market in parsed if market is not None]
    assert sum(market.winning_outcome is not None for market in markets) > 200
    assert all(len(market.token_ids) == len(market.outcomes) for market in markets)
    assert sum(bool(market.tags) for market in markets) == 291


@needs_samples
def test_every_real_token_id_keeps_its_digits() -> None:
    events = json.loads((SAMPLES / "events_with_markets_and_tokens.json").read_bytes())
    tokens = [
        value
        for event in events
        for market in event["markets"].values()
        for name, value in market.items()
        if not name.startswith("final_")
    ]
    assert len(tokens) == 13_258
    assert [token_id(token, "token") for token in tokens] == tokens


@needs_samples
def test_what_is_no_gamma_market_is_invalid() -> None:
    events = json.loads((SAMPLES / "events_with_markets_and_tokens.json").read_bytes())
    for market in events[0]["markets"].values():
        with pytest.raises(InvalidRecord, match="id: missing"):
            parse_market(market)
