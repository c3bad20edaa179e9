"""The truth: everything that exists and everything that was served, for tests that compare to the last row."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import StreamingResponse

from simulator.fills import Fill
from simulator.markets import Market, is_listed
from simulator.service import Service, as_json
from simulator.world import World

_BLOCKS_A_TURN = 20  # other requests get their turn in between
_MARKETS_A_TURN = 200


async def count_fills(world: World, since: float | None = None, until: float | None = None) -> int:
    total = 0
    for place, number in enumerate(world.numbers(since, until)):
        total += world.count(number)
        if place % _BLOCKS_A_TURN == 0:
            await asyncio.sleep(0)
    return total


async def _lines(world: World, numbers: Iterable[int], keep: Callable[[Fill], bool]) -> AsyncIterator[bytes]:
    lines: list[str] = []
    for place, number in enumerate(numbers):
        lines += [f"{fill.id}\n" for fill in world.peek(number).fills if keep(fill)]
        if place % _BLOCKS_A_TURN == 0:
            yield "".join(lines).encode()
            lines.clear()
            await asyncio.sleep(0)
    yield "".join(lines).encode()


def _ids(ids: Iterable[str], *, count: bool) -> Response:
    listed = sorted(ids)
    return _number(len(listed)) if count else Response("".join(f"{line}\n" for line in listed), media_type="text/plain")


def _number(count: int) -> Response:
    return Response(f"{count}\n", media_type="text/plain")


def router(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/truth")
    _add_fills(routes, service)
    _add_markets(routes, service)
    return routes


def _add_fills(routes: APIRouter, service: Service) -> None:
    world = service.world

    @routes.get("/fills")
    async def fills(since: float | None = None, until: float | None = None, *, count: bool = False) -> Response:
        """Ids of the fills with since <= timestamp < until, by time and id."""
        if count:
            return _number(await count_fills(world, since, until))
        numbers = world.numbers(since, until)
        return StreamingResponse(_lines(world, numbers, lambda _fill: True), media_type="text/plain")

    @routes.get("/served/fills")
    async def served_fills(*, count: bool = False) -> Response:
        if count:
            return _number(service.served.count_fills())
        numbers = list(service.served.blocks())
        return StreamingResponse(_lines(world, numbers, service.served.has), media_type="text/plain")

    @routes.get("/malformed")
    async def malformed(*, count: bool = False) -> Response:
        """Ids of the broken records that were served → what is wrong with them."""
        return _number(len(service.faults.malformed)) if count else as_json(service.faults.malformed)

    @routes.get("/fill/{identity}")
    async def fill(identity: str) -> Response:
        found = world.fill(identity)
        if found is None:
            raise HTTPException(404, "no such fill")
        return as_json(describe(found))


def _add_markets(routes: APIRouter, service: Service) -> None:
    world = service.world

    @routes.get("/markets")
    async def markets(*, count: bool = False) -> Response:
        return _ids((str(world.catalogue.id_of(place)) for place in world.listed_places()), count=count)

    @routes.get("/served/markets")
    async def served_markets(*, count: bool = False) -> Response:
        return _ids(service.served.markets, count=count)

    @routes.get("/tokens")
    async def tokens(*, count: bool = False) -> Response:
        """Every token that is listed or already filled → its market and outcome."""
        if count:
            return _number(sum(len(market.tokens) for market in world.catalogue.known(world.fills_now())))
        return StreamingResponse(_token_table(world), media_type="application/json")


async def _token_table(world: World) -> AsyncIterator[bytes]:
    now, fills_now = world.now(), world.fills_now()
    begun = False
    for markets in _chunks(world.catalogue.known(fills_now), _MARKETS_A_TURN):
        rows = {
            token: _outcome(market, outcome)
            | {"listed": is_listed(market, now, fills_now), "listed_at": market.listed_at}
            for market in markets
            for outcome, token in enumerate(market.tokens)
        }
        text = msgspec.json.encode(rows)[1:-1]
        yield (b"," if begun and text else b"" if begun else b"{") + text
        begun = begun or bool(text)
        await asyncio.sleep(0)
    yield b"}" if begun else b"{}"


def _chunks(markets: Iterator[Market], size: int) -> Iterator[list[Market]]:
    while chunk := list(islice(markets, size)):
        yield chunk


def _outcome(market: Market, outcome: int) -> dict[str, Any]:
    return {
        "market_id": market.id,
        "condition_id": market.condition_id,
        "outcome": market.outcomes[outcome],
        "outcome_index": outcome,
    }


def describe(fill: Fill) -> dict[str, Any]:
    """A fill with all amounts, in base units, and what follows from them."""
    maker_buys = fill.maker_asset_id == "0"
    collateral, tokens = fill.maker_amount_filled, fill.taker_amount_filled
    if not maker_buys:
        collateral, tokens = tokens, collateral
    return {
        "id": fill.id,
        "transactionHash": fill.transaction_hash,
        "orderHash": fill.order_hash,
        "timestamp": fill.timestamp,
        "blockNumber": fill.block_number,
        "logIndex": fill.log_index,
        "exchange": fill.exchange,
        "maker": fill.maker,
        "taker": fill.taker,
        "makerAssetId": fill.maker_asset_id,
        "takerAssetId": fill.taker_asset_id,
        "makerAmountFilled": str(fill.maker_amount_filled),
        "takerAmountFilled": str(fill.taker_amount_filled),
        "fee": str(fill.fee),
        "token_id": fill.token_id,
        "maker_direction": "BUY" if maker_buys else "SELL",
        "usd_amount": str(collateral),
        "token_amount": str(tokens),
        "is_taker_side": fill.taker == fill.exchange,
        "kind": fill.kind,
        **_outcome(fill.market, fill.market.tokens.index(fill.token_id)),
    }
