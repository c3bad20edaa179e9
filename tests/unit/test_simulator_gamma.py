"""Simulated Gamma: paging, filters, refusals, and every oddity that a parser of markets meets."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from simulator.faults import FaultBook
from simulator.gamma import Gamma, Refusal
from simulator.world import World
from tests.simulator import Clock, small_world

Item = dict[str, Any]


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(age_s=900)[0]


@pytest.fixture(scope="module")
def gamma(world: World) -> Gamma:
    return Gamma(world, FaultBook())


@pytest.fixture(scope="module")
def markets(gamma: Gamma) -> list[Item]:
    return sweep(gamma)


def sweep(gamma: Gamma, noun: str = "markets") -> list[Item]:
    return [item for closed in ("false", "true") for page in pages(gamma, noun, closed=closed) for item in page]


def pages(gamma: Gamma, noun: str = "markets", **params: str) -> list[list[Item]]:
    """All pages of a keyset sweep."""
    found: list[list[Item]] = []
    cursor = ""
    while True:
        body = gamma.keyset(noun, QueryParams({"limit": "100", **params, "after_cursor": cursor})).body
        found.append(body[noun])
        if "next_cursor" not in body:
            return found
        cursor = body["next_cursor"]


def page(gamma: Gamma, noun: str = "markets", **params: str) -> list[Item]:
    return list(gamma.page(noun, QueryParams(params)).body)


def refusal(gamma: Gamma, noun: str = "markets", **params: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        page(gamma, noun, **params)
    return caught.value


def odd(world: World, markets: list[Item], oddity: str) -> Item:
    """The first market that was born with this oddity, as served."""
    ids = {market.id for market in world.catalogue.standing if market.oddity == oddity}
    return next(item for item in markets if item["id"] in ids)


def test_a_keyset_sweep_sees_every_market(world: World, markets: list[Item]) -> None:
    assert {item["id"] for item in markets} == {market.id for market in world.listed_markets()}


def test_a_keyset_sweep_sees_every_event(world: World, gamma: Gamma) -> None:
    events = sweep(gamma, "events")
    assert {event["id"] for event in events} == {market.event.id for market in world.listed_markets()}
    assert all(isinstance(event["volume"], int | float) for event in events)
    assert all(tag["slug"] for event in events for tag in event["tags"])


def test_the_same_id_comes_again_on_a_later_page(gamma: Gamma) -> None:
    found = pages(gamma, limit="10")
    repeated = [later[0]["id"] for earlier, later in pairwise(found) if earlier[-1] == later[0]]
    assert 0 < len(repeated) < len(found) / 2


def test_a_repeated_item_never_stops_a_sweep_of_pages_of_one(gamma: Gamma) -> None:
    assert max(Counter(item["id"] for found in pages(gamma, limit="1") for item in found).values()) == 1


def test_a_keyset_list_by_descending_id_brings_the_newest_first_and_every_market(gamma: Gamma) -> None:
    found = [int(item["id"]) for page in pages(gamma, order="id", ascending="false", limit="50") for item in page]
    assert found == sorted({int(item["id"]) for page in pages(gamma) for item in page}, reverse=True)


def test_a_keyset_list_takes_filters(gamma: Gamma, markets: list[Item]) -> None:
    wanted = [item["id"] for item in markets if not item["closed"]][5:200:40]
    body = gamma.keyset("markets", QueryParams([("id", number) for number in wanted])).body
    assert [item["id"] for item in body["markets"]] == wanted
    assert "next_cursor" not in body


def test_tokens_of_the_new_protocol_are_found_by_position_ids_alone(
    world: World, gamma: Gamma, markets: list[Item]
) -> None:
    newer, older = odd(world, markets, "v2"), next(item for item in markets if item.get("clobTokenIds"))
    for item, token, name, other in (
        (newer, newer["positionIds"][0], "position_ids", "clob_token_ids"),
        (older, json.loads(older["clobTokenIds"])[0], "clob_token_ids", "position_ids"),
    ):
        closed = "true" if item["closed"] else "false"
        assert [found["id"] for found in page(gamma, **{name: token, "closed": closed})] == [item["id"]]
        assert page(gamma, **{other: token, "closed": closed}) == []


def test_the_older_list_may_be_gone_while_keyset_works(world: World) -> None:
    faults = FaultBook()
    gamma = Gamma(world, faults)
    faults.add({"target": "gamma", "kind": "markets_gone"}, now=0)
    assert [refusal(gamma, limit="1").status for _ in range(3)] == [410] * 3
    assert page(gamma, "events", limit="1")
    assert pages(gamma)[0]
    faults.clear()
    assert page(gamma, limit="1")


def test_other_names_for_the_cursor_are_ignored(gamma: Gamma) -> None:
    first = gamma.keyset("markets", QueryParams()).body
    for name in ("cursor", "next_cursor"):
        assert gamma.keyset("markets", QueryParams({name: first["next_cursor"]})).body == first


def test_a_keyset_list_refuses_an_offset(gamma: Gamma) -> None:
    with pytest.raises(Refusal) as caught:
        gamma.keyset("markets", QueryParams({"offset": "0"}))
    assert caught.value.status == 422


@pytest.mark.parametrize("cursor", ["?", "AAAA", "e30="])
def test_a_cursor_of_other_origin_is_refused(gamma: Gamma, cursor: str) -> None:
    with pytest.raises(Refusal):
        gamma.keyset("markets", QueryParams({"after_cursor": cursor}))


def test_an_offset_above_2000_is_refused_with_the_documented_body(gamma: Gamma) -> None:
    assert page(gamma, offset="2000") == []
    refused = refusal(gamma, offset="2001")
    assert refused.status == 422
    assert refused.body == {
        "type": "validation error",
        "error": "offset too large, use /markets/keyset for deeper pagination",
    }


def test_a_large_limit_is_clamped_silently(gamma: Gamma) -> None:
    assert len(page(gamma, limit="500")) == 100


def test_offset_pages_continue_one_another(gamma: Gamma) -> None:
    assert page(gamma, limit="20", offset="20") == page(gamma, limit="40")[20:]


def test_an_order_in_snake_case_is_refused(gamma: Gamma) -> None:
    assert refusal(gamma, order="created_at").status == 422


@pytest.mark.parametrize("order", ["volumeNum", "liquidityNum", "volume24hr", "createdAt", "startDate", "endDate"])
def test_orders_sort(gamma: Gamma, order: str) -> None:
    values = [item[order] for item in page(gamma, order=order, ascending="false", limit="100") if order in item]
    assert values == sorted(values, reverse=True)


def test_closed_markets_are_left_out_by_default(gamma: Gamma) -> None:
    assert not any(item["closed"] for item in page(gamma, limit="100"))
    assert all(item["closed"] for item in page(gamma, limit="100", closed="true"))


def test_a_closed_market_is_looked_up_by_token_only_with_closed_true(gamma: Gamma, markets: list[Item]) -> None:
    closed = next(item for item in markets if item["closed"] and "clobTokenIds" in item)
    token = json.loads(closed["clobTokenIds"])[1]
    assert page(gamma, clob_token_ids=token) == []
    assert [item["id"] for item in page(gamma, clob_token_ids=token, closed="true")] == [closed["id"]]


def test_filters_by_several_values_and_unknown_ones(gamma: Gamma, markets: list[Item]) -> None:
    chosen = [item for item in markets if not item["closed"] and item["conditionId"]][5:8]
    for name, key in (("id", "id"), ("slug", "slug"), ("condition_ids", "conditionId")):
        params = QueryParams([*((name, item[key]) for item in chosen), ("nonsense", "1")])
        assert gamma.page("markets", params).body == chosen
    assert refusal(gamma, closed="yes").status == 422


def test_a_tag_filters_markets_and_events(gamma: Gamma) -> None:
    tagged = page(gamma, tag_id="102127", include_tag="true", limit="100")
    assert 10 < len(tagged) < 100
    assert all("102127" in {tag["id"] for tag in item["tags"]} for item in tagged)
    events = page(gamma, "events", tag_id="102127", limit="100")
    assert {market["id"] for event in events for market in event["markets"] if not market["closed"]} == {
        item["id"] for item in tagged
    }


def test_too_many_condition_ids_are_refused(gamma: Gamma) -> None:
    with pytest.raises(Refusal):
        gamma.page("markets", QueryParams([("condition_ids", "0x1")] * 101))


def test_tags_come_on_demand_and_never_inside_the_nested_events(gamma: Gamma) -> None:
    plain, tagged = page(gamma)[0], page(gamma, include_tag="true")[0]
    assert "tags" not in plain
    assert {"id", "label", "slug"} <= tagged["tags"][0].keys()
    assert not any("tags" in event for item in page(gamma, limit="100") for event in item.get("events", ()))


def test_a_single_market_is_found_open_or_closed(gamma: Gamma, markets: list[Item]) -> None:
    for item in (markets[0], markets[-1]):
        assert gamma.single(item["id"]).body == item
    with pytest.raises(Refusal):
        gamma.single("1")


def test_lists_live_in_strings_and_volumes_too(markets: list[Item]) -> None:
    ordinary = [item for item in markets if "volume" in item]
    assert all(isinstance(item["volume"], str) and isinstance(json.loads(item["outcomes"]), list) for item in ordinary)
    assert {type(item["volumeNum"]) for item in ordinary} == {int, float}


def test_most_markets_are_binary_with_tokens_of_75_digits_and_more(markets: list[Item]) -> None:
    tokens = [json.loads(item["clobTokenIds"]) for item in markets if "clobTokenIds" in item]
    assert sum(len(pair) == 2 for pair in tokens) > 0.95 * len(tokens)
    assert all(token.isdecimal() and 73 <= len(token) <= 78 for pair in tokens for token in pair)


def test_every_oddity_of_the_real_lists_occurs(world: World, markets: list[Item]) -> None:
    assert "clobTokenIds" not in odd(world, markets, "no_tokens")
    assert odd(world, markets, "no_condition")["conditionId"] == ""
    assert not {"volume", "volumeNum"} & odd(world, markets, "no_volume").keys()
    assert "<script>" in odd(world, markets, "html")["question"]
    assert not odd(world, markets, "non_ascii")["question"].isascii()
    assert odd(world, markets, "trailing_newline")["question"].endswith("\n")
    assert len(json.loads(odd(world, markets, "three_outcomes")["clobTokenIds"])) == 3
    assert "events" not in odd(world, markets, "no_events")
    assert odd(world, markets, "empty_events")["events"] == []
    assert len(json.loads(odd(world, markets, "long_prices")["outcomePrices"])[0]) == 36
    assert len(odd(world, markets, "date_only")["endDate"]) == 10
    assert "endDate" not in odd(world, markets, "no_dates")
    assert odd(world, markets, "far_reward")["clobRewards"][0]["endDate"] == "2500-12-31"
    assert "outcomePrices" not in odd(world, markets, "no_prices")
    assert odd(world, markets, "long_fraction")["startDate"].endswith(".123456789Z")
    assert odd(world, markets, "offset_seconds")["startDate"].endswith("+00:00:00")
    assert odd(world, markets, "game")["gameStartTime"].endswith("+00")
    v2 = odd(world, markets, "v2")
    assert v2["version"] == "v2"
    assert "clobTokenIds" not in v2
    assert all(position.isdecimal() for position in v2["positionIds"])


def test_some_events_end_in_the_year_24_or_2500_or_never(gamma: Gamma) -> None:
    ends = {event.get("endDate", "none")[:4] for event in sweep(gamma, "events")}
    assert {"0024", "2500", "none"} <= ends


def test_times_have_zero_to_six_digits_of_fraction(markets: list[Item]) -> None:
    digits = {len(item["createdAt"].rstrip("Z").partition(".")[2]) for item in markets}
    assert {0, 3, 5, 6} <= digits
    assert all(item["closedTime"].endswith("+00") for item in markets if "closedTime" in item)


def test_neg_risk_markets_name_their_group(markets: list[Item]) -> None:
    neg_risk = [item for item in markets if item["negRisk"] and item.get("negRiskMarketID")]
    assert len(neg_risk) > 5


def test_closed_markets_are_resolved_or_nobody_knows(world: World, markets: list[Item]) -> None:
    closed = [json.loads(item["outcomePrices"]) for item in markets if item["closed"] and "outcomePrices" in item]
    assert all(set(prices) <= {"0", "1"} and prices.count("1") <= 1 for prices in closed)
    assert ["0", "0"] in closed
    assert json.loads(odd(world, markets, "closed_unknown")["outcomePrices"]) == ["0", "0"]


def test_volume_only_grows_and_updated_at_tells() -> None:
    world, clock = small_world()
    gamma, seen = Gamma(world, FaultBook()), dict[str, Item]()
    changed = 0
    for _ in range(8):
        for item in sweep(gamma):
            before = seen.get(item["id"], item)
            assert item.get("volumeNum", 0) >= before.get("volumeNum", 0)
            if item.get("volumeNum") != before.get("volumeNum"):
                changed += 1
                assert item["updatedAt"] > before["updatedAt"]
            seen[item["id"]] = item
        clock.now += 45
    assert changed > 100


def test_five_minute_markets_appear_close_and_resolve() -> None:
    world, clock = small_world(age_s=0)
    gamma = Gamma(world, FaultBook())
    before = {item["id"] for item in sweep(gamma)}
    clock.now += 200
    new = {item["id"] for item in sweep(gamma)} - before
    assert 8 <= len(new) <= 12
    clock.now += 600
    states = [gamma.single(identity).body for identity in new]
    assert all(state["closed"] and sorted(json.loads(state["outcomePrices"])) == ["0", "1"] for state in states)


def test_a_late_listed_market_is_filled_before_gamma_knows_it_in_any_way() -> None:
    world, clock = small_world(age_s=600)
    world.listed_markets()
    new = [market for market in world.catalogue.series if market.opens_at > world.settings.birth]
    late = [market for market in new if market.listed_at > market.opens_at]
    assert len(new) / 6 < len(late) < len(new) / 2
    first = late[0]
    assert 20 <= first.listed_at - first.opens_at <= 40
    gamma = Gamma(world, FaultBook())
    for clock.now, is_there in ((first.listed_at - 1, False), (first.listed_at, True)):
        assert bool(page(gamma, clob_token_ids=first.tokens[0])) is is_there
        assert bool(page(gamma, id=first.id)) is is_there
        assert (first.id in {item["id"] for item in sweep(gamma)}) is is_there
    early = {fill.market.id for fill in world.fills() if fill.timestamp < fill.market.listed_at}
    assert first.id in early


def listed_tokens(items: list[Item]) -> set[str]:
    return {token for item in items for token in item.get("positionIds") or json.loads(item.get("clobTokenIds", "[]"))}


def test_every_token_of_every_fill_ends_up_listed_even_while_the_fills_are_frozen() -> None:
    world, clock = small_world(age_s=600)
    world.freeze()
    clock.now += 41
    tokens = {fill.token_id for fill in world.fills()}
    assert tokens <= listed_tokens(sweep(Gamma(world, FaultBook())))


def test_no_market_is_listed_that_frozen_fills_did_not_reach() -> None:
    world, clock = small_world(age_s=600)
    world.freeze()
    clock.now += 41
    settled: list[str] = [market.id for market in world.listed_markets()]
    clock.now += 1000
    assert [market.id for market in world.listed_markets()] == settled


def test_the_clock_of_a_test_decides() -> None:
    world, clock = small_world()
    assert isinstance(clock, Clock)
    assert world.now() == clock.now
