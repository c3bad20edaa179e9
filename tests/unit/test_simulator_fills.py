"""The fills of the simulated chain: valid, unique, repeatable, and as tied as the real ones."""

import json
import re
from collections import Counter, defaultdict

import pytest

from simulator import chain
from simulator.fills import Fill
from simulator.markets import outcome_price, price_of
from simulator.truth import describe
from simulator.world import World
from tests.simulator import small_world

_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_HASH = re.compile(r"0x[0-9a-f]{64}")


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(age_s=400)[0]


@pytest.fixture(scope="module")
def fills(world: World) -> list[Fill]:
    return list(world.fills())


def matches(fills: list[Fill]) -> list[list[Fill]]:
    """The rows of each match in the order of the log: makers, then the taker."""
    found = defaultdict(list)
    for fill in fills:
        found[fill.transaction_hash].append(fill)
    return [sorted(rows, key=lambda row: row.log_index) for rows in found.values()]


def as_bytes(world: World) -> bytes:
    return json.dumps([describe(fill) for fill in world.fills()]).encode()


def collateral_and_tokens(fill: Fill) -> tuple[int, int]:
    amounts = fill.maker_amount_filled, fill.taker_amount_filled
    return amounts if fill.maker_asset_id == "0" else amounts[::-1]


def test_the_same_seed_and_birth_give_the_same_bytes() -> None:
    assert as_bytes(small_world()[0]) == as_bytes(small_world()[0])


def test_another_seed_gives_other_fills() -> None:
    first, second = small_world()[0], small_world(seed=2)[0]
    assert {fill.id for fill in first.fills()}.isdisjoint(fill.id for fill in second.fills())


def test_a_world_that_grew_has_the_same_past_as_one_that_starts_late() -> None:
    grown, clock = small_world(age_s=0)
    list(grown.fills())
    clock.now += 60
    assert as_bytes(grown) == as_bytes(small_world(age_s=60)[0])


def test_ids_are_unique_and_made_of_transaction_and_order(fills: list[Fill]) -> None:
    assert len({fill.id for fill in fills}) == len(fills)
    assert all(fill.id == f"{fill.transaction_hash}_{fill.order_hash}" for fill in fills)


def test_every_fill_is_valid(fills: list[Fill]) -> None:
    for fill in fills:
        assert [fill.maker_asset_id, fill.taker_asset_id].count("0") == 1
        assert fill.token_id in {fill.maker_asset_id, fill.taker_asset_id}
        assert _HASH.fullmatch(fill.transaction_hash)
        assert _HASH.fullmatch(fill.order_hash)
        assert _ADDRESS.fullmatch(fill.maker)
        assert _ADDRESS.fullmatch(fill.taker)
        assert min(fill.maker_amount_filled, fill.taker_amount_filled) > 0
        assert fill.fee >= 0


def test_prices_lie_strictly_between_zero_and_one(fills: list[Fill]) -> None:
    for fill in fills:
        collateral, tokens = collateral_and_tokens(fill)
        assert 0 < collateral < tokens


def test_every_match_ends_with_one_taker_row_that_sums_up_the_makers(fills: list[Fill]) -> None:
    for *makers, taker in matches(fills):
        assert makers
        assert taker.taker == taker.exchange
        assert taker.exchange in chain.EXCHANGES
        assert all(maker.taker == taker.maker for maker in makers)
        assert sum(collateral_and_tokens(maker)[1] for maker in makers) == collateral_and_tokens(taker)[1]


def test_a_mint_splits_a_dollar_between_complementary_tokens(fills: list[Fill]) -> None:
    mints = [rows for rows in matches(fills) if rows[0].kind == "mint"]
    assert len(mints) > len(fills) / 40
    for *makers, taker in mints:
        assert {row.maker_asset_id for row in (*makers, taker)} == {"0"}
        assert {maker.token_id for maker in makers} == set(taker.market.tokens) - {taker.token_id}
        paid = sum(collateral_and_tokens(row)[0] for row in (*makers, taker))
        assert paid == collateral_and_tokens(taker)[1]


def test_the_best_maker_trades_at_the_price_of_the_market(world: World, fills: list[Fill]) -> None:
    for best, *_, taker in matches(fills):
        first_price = price_of(taker.market, world.settings.seed, taker.timestamp)
        price = outcome_price(taker.market, taker.market.tokens.index(taker.token_id), first_price)
        collateral, tokens = collateral_and_tokens(best)
        assert collateral == (price if best.kind == "normal" else 1000 - price) * tokens // 1000


def test_a_merge_has_sellers_on_both_sides(fills: list[Fill]) -> None:
    merges = [rows for rows in matches(fills) if rows[0].kind == "merge"]
    assert merges
    assert {row.taker_asset_id for rows in merges for row in rows} == {"0"}


def test_many_fills_share_a_second(fills: list[Fill]) -> None:
    ties = Counter(fill.timestamp for fill in fills)
    assert max(ties.values()) > 60
    assert all(time % chain.BLOCK_S == 0 for time in ties)


def test_some_fills_differ_in_nothing_but_their_identity(fills: list[Fill]) -> None:
    values = Counter(
        (fill.timestamp, fill.maker, fill.token_id, fill.maker_amount_filled, fill.taker_amount_filled)
        for fill in fills
        if fill.taker != fill.exchange
    )
    assert max(values.values()) > 1


def test_some_orders_are_filled_in_several_transactions(fills: list[Fill]) -> None:
    transactions = defaultdict(set)
    for fill in fills:
        transactions[fill.order_hash].add(fill.transaction_hash)
    assert max(map(len, transactions.values())) > 1


def test_few_wallets_trade_most(fills: list[Fill]) -> None:
    counts = Counter(fill.maker for fill in fills)
    assert 0.02 < counts.most_common(1)[0][1] / len(fills) < 0.1
    assert len(counts) > 1000


def test_fees_are_rare(fills: list[Fill]) -> None:
    assert 0 < sum(fill.fee > 0 for fill in fills) < len(fills) / 20


def test_log_indexes_are_unique_within_a_block(world: World) -> None:
    for number in world.numbers():
        indexes = [fill.log_index for fill in world.block(number).fills]
        assert len(set(indexes)) == len(indexes)


def test_the_rate_changes_at_birth() -> None:
    world, _ = small_world(age_s=1800, history_hours=0.5)
    birth = world.settings.birth
    before = sum(world.count(number) for number in world.numbers(until=birth)) / 1800
    after = sum(world.count(number) for number in world.numbers(since=birth)) / 1800
    assert 10 < before < 16
    assert 34 < after < 54


def test_no_fill_follows_the_closing_of_its_market(fills: list[Fill]) -> None:
    assert all(fill.market.opens_at <= fill.timestamp for fill in fills)
    assert not any(fill.market.is_closed(fill.timestamp) for fill in fills)


def test_a_fill_is_found_by_its_id(world: World, fills: list[Fill]) -> None:
    assert [world.fill(fill.id) for fill in fills[::97]] == fills[::97]


@pytest.mark.parametrize("foreign", ["", "0x", "nonsense", f"0x{'ab' * 32}_0x{'cd' * 32}"])
def test_a_foreign_id_finds_nothing(world: World, foreign: str) -> None:
    assert world.fill(foreign) is None


def test_blocks_fall_out_of_the_cache_and_come_back_the_same() -> None:
    world, _ = small_world(age_s=2400)
    first = world.numbers()[0]
    before = world.block(first)
    for number in world.numbers():
        world.block(number)
    assert first not in world._blocks
    assert [fill.id for fill in world.block(first).fills] == [fill.id for fill in before.fills]
    assert world._cached_fills == sum(len(block.fills) for block in world._blocks.values())


def test_a_frozen_world_grows_no_fill_and_resumes_with_all_it_missed() -> None:
    world, clock = small_world()
    world.freeze()
    before = list(world.fills())
    clock.now += 100
    assert list(world.fills()) == before
    world.resume()
    assert as_bytes(world) == as_bytes(small_world(age_s=160)[0])


def test_bounds_of_blocks_include_the_first_second_and_exclude_the_last(world: World) -> None:
    number = world.numbers()[10]
    time_s = chain.time_of(number)
    assert list(world.numbers(time_s, time_s + 1)) == [number]
    assert list(world.numbers(time_s + 1, time_s + 2)) == []
    assert number not in world.numbers(until=time_s)


def test_after_the_cut_over_other_exchanges_match() -> None:
    birth = small_world()[0].settings.birth
    world, _ = small_world(age_s=200, cutover=birth)
    v1, v2 = {chain.EXCHANGE_V1, chain.NEG_RISK_V1}, {chain.EXCHANGE_V2, chain.NEG_RISK_V2, chain.EXCHANGE_V3}
    for fill in world.fills():
        if fill.timestamp != birth:
            assert fill.exchange in (v2 if fill.timestamp > birth else v1)


@pytest.mark.parametrize("seed", range(1, 41))
def test_the_block_of_the_cut_over_has_fills_of_both_eras(seed: int) -> None:
    birth = small_world()[0].settings.birth
    world, _ = small_world(age_s=200, cutover=birth - 1, seed=seed, markets=20)
    assert world.cutover_block is not None
    block = world.block(world.cutover_block)
    assert block.timestamp == birth
    assert {fill.is_v1 for fill in block.fills} == {True, False}


@pytest.mark.parametrize("later_s", [10, 98_764, 12_345_678])
def test_when_a_world_is_born_hardly_changes_how_much_is_traded_when(later_s: int) -> None:
    """A test that starts a simulator sees about the same in every run."""
    first, second = small_world(markets=50)[0], small_world(markets=50, birth=1_767_600_000 + later_s)[0]
    counts = [[world.count(number) for number in world.numbers()] for world in (first, second)]
    assert len(counts[0]) == len(counts[1])
    assert sum(abs(one - other) for one, other in zip(*counts, strict=True)) <= len(counts[0]) // 20


def test_ids_after_the_cut_over_are_made_of_transaction_and_place_in_the_log() -> None:
    world, _ = small_world(age_s=60, cutover=small_world()[0].settings.birth)
    fills = list(world.fills())
    assert len({fill.id for fill in fills}) == len(fills)
    for fill in fills:
        assert fill.id == f"{fill.transaction_hash}_{fill.order_hash if fill.is_v1 else fill.log_index}"
    assert [world.fill(fill.id) for fill in fills[::50]] == fills[::50]


def test_a_cut_over_changes_identities_and_exchanges_but_nothing_else_of_the_trading() -> None:
    plain = {fill.order_hash: fill for fill in small_world(age_s=60)[0].fills()}
    birth = small_world()[0].settings.birth
    for fill in small_world(age_s=60, cutover=birth)[0].fills():
        same = plain[fill.order_hash]
        assert (fill.timestamp, fill.maker, fill.token_id) == (same.timestamp, same.maker, same.token_id)
