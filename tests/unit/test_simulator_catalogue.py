"""Simulated markets by the million: each is found by any of its names, and none is made that nobody asked for."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from simulator.catalogue import Catalogue
from simulator.codes import code_of_condition, code_of_token, condition_of, tokens_of
from simulator.faults import FaultBook
from simulator.gamma import Gamma
from simulator.standing import Life
from tests.simulator import small_world

COUNT = 200_000
BIRTH = 1_767_600_000


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    catalogue = Catalogue(Life(1, COUNT, BIRTH - 3600, BIRTH, open_markets=6_000))
    catalogue.grow(BIRTH + 600)
    return catalogue


@given(st.integers(0, COUNT - 1) | st.integers(COUNT, COUNT + 60))
def test_every_market_is_found_by_each_of_its_names(catalogue: Catalogue, place: int) -> None:
    market = catalogue[place]
    assert catalogue.place_of_id(market.id) == place
    assert catalogue.place_of_slug(market.slug) == place
    assert all(catalogue.place_of_token(token) == place for token in market.tokens)
    assert not market.condition_id or catalogue.place_of_condition(market.condition_id) == place
    assert catalogue.place_after(int(market.id) - 1) == place
    assert place in catalogue.members(int(catalogue.event_after(int(market.event.id) - 1)))


@pytest.mark.parametrize("name", ["", "x", "-1", "1", "99999999999", "market-99999999", "0x12", f"0x{1:064x}"])
def test_names_of_nothing_find_nothing(catalogue: Catalogue, name: str) -> None:
    for find in (catalogue.place_of_id, catalogue.place_of_token, catalogue.place_of_condition):
        assert find(name) is None
    assert name == "-1" or catalogue.place_of_slug(name) is None or name == "1"


@given(st.integers(0, 2**20), st.integers(0, 2**28 + 2**20), st.integers(1, 4))
def test_ids_tell_the_code_of_their_market_to_who_knows_the_seed(seed: int, code: int, outcomes: int) -> None:
    tokens = tokens_of(seed, code, outcomes)
    assert len(set(tokens)) == outcomes
    assert {code_of_token(seed, token) for token in tokens} == {code}
    assert code_of_condition(seed, condition_of(seed, code)) == code
    assert code_of_token(seed + 1, tokens[0]) is None


def test_ids_ascend_and_every_market_has_its_own(catalogue: Catalogue) -> None:
    ids = [catalogue.id_of(place) for place in range(len(catalogue))]
    assert ids == sorted(set(ids))


def test_whether_one_is_closed_is_known_without_making_it(catalogue: Catalogue) -> None:
    for place in range(0, len(catalogue), 97):
        for now in (BIRTH, BIRTH + 500, BIRTH + 10**6):
            assert catalogue.is_closed(place, now) == catalogue[place].is_closed(now)


def test_as_few_markets_stay_open_as_are_ordered(catalogue: Catalogue) -> None:
    still_open = sum(not catalogue.is_closed(place, BIRTH + 10**8) for place in range(COUNT))
    assert 2_000 < still_open <= 6_000


def test_a_page_makes_its_own_markets_and_no_others() -> None:
    world, _ = small_world(markets=COUNT, open_markets=6_000)
    made, gamma = world.catalogue.standing._market.cache_info, Gamma(world, FaultBook())
    before = made().misses
    some = list(islice((market.tokens[0] for market in world.catalogue.standing[500:600] if market.tokens), 40))
    page = gamma.keyset("markets", QueryParams({"limit": "100", "closed": "true"})).body
    gamma.keyset("markets", QueryParams({"limit": "100", "after_cursor": page["next_cursor"]}))
    gamma.page("markets", QueryParams({"order": "id", "ascending": "false", "limit": "100"}))
    gamma.page("markets", QueryParams([("clob_token_ids", token) for token in some]))
    assert made().misses - before < 500


def test_a_world_is_the_same_every_time() -> None:
    first, again = (Catalogue(Life(5, 1000, BIRTH - 3600, BIRTH)) for _ in range(2))
    for number in range(0, 1000, 37):
        one, other = first[number], again[number]
        assert (one.question, one.tokens, one.event.id, one.closes_at) == (
            other.question,
            other.tokens,
            other.event.id,
            other.closes_at,
        )
