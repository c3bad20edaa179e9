"""Fills in bulk as the exchanges make them: the simulator's, with its long tails of sizes, wallets and markets."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from common.records import Market, OrderFilled, Token, encode, tokens_of
from ingesters.market_parser import parse_market
from processors.trades import outcome_token, trade_of
from simulator.fills import Fill
from simulator.listing import Listing
from simulator.world import Settings, World

MARKETS = 2000
FILLS_A_SECOND = 100.0
SPARE_S = 600.0  # of history, since the number of fills a second varies
ON_CHAIN = ("exchange", "block_number", "log_index")  # what the subgraph of V1 does not tell


def world_of(count: int, *, is_v1: bool = True) -> World:
    """A finished world with at least `count` fills, all of V1 (as the subgraph tells them) or all from the chain."""
    settings = Settings(
        seed=7,
        history_hours=(1.1 * count / FILLS_A_SECOND + SPARE_S) / 3600,
        history_rate=FILLS_A_SECOND,
        markets=MARKETS,
        cutover=None if is_v1 else 1_600_000_000,
    )
    return World(settings, lambda: settings.birth)


def fills_of(world: World, count: int) -> Iterator[OrderFilled]:
    """The first `count` fills, by time."""
    return map(_record, islice(world.fills(), count))


def markets_of(world: World) -> list[Market]:
    """Every market that the fills may belong to, also those that Gamma lists late."""
    listing, now = Listing(world.settings.seed), world.now()
    markets = (parse_market(listing.market(market, now)) for market in world.catalogue.known(now))
    return [market for market in markets if market.token_ids]


def fill_rows(world: World, count: int) -> Iterator[bytes]:
    """The fills as stream entries, and as rows of order_filled."""
    return map(encode, fills_of(world, count))


def trade_rows(world: World, count: int) -> Iterator[bytes]:
    """The same fills as trades."""
    tokens: dict[str, Token] = {}
    for market in markets_of(world):
        tokens.update(tokens_of(market))
    return (encode(trade_of(fill, tokens[outcome_token(fill)])) for fill in fills_of(world, count))


def _record(fill: Fill) -> OrderFilled:
    on_chain: dict[str, Any] = {} if fill.is_v1 else {name: getattr(fill, name) for name in ON_CHAIN}
    return OrderFilled(
        id=fill.id,
        transaction_hash=fill.transaction_hash,
        order_hash=fill.order_hash,
        timestamp=fill.timestamp,
        maker=fill.maker,
        taker=fill.taker,
        maker_asset_id=fill.maker_asset_id,
        taker_asset_id=fill.taker_asset_id,
        maker_amount_filled=fill.maker_amount_filled,
        taker_amount_filled=fill.taker_amount_filled,
        fee=fill.fee,
        **on_chain,
    )
