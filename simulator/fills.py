"""Fills, block by block: each block is a pure function of its number, so none has to be kept."""

import math
from bisect import bisect
from itertools import accumulate
from random import Random
from typing import NamedTuple

from simulator import chain
from simulator.catalogue import Catalogue
from simulator.chance import generator, hex_digest, mix
from simulator.markets import Market, on_tick, outcome_price, price_of

WALLETS = 6_000
_SERIES_SHARE = 0.55
_MINT_SHARE = 0.3
_TWIN_SHARE = 0.03
_RESTING_SHARE = 0.2
_FEE_SHARE = 0.04
_MOST_MAKERS = 25
_BURST_BLOCKS = 30
_BURST_EVERY = 20
_ROUND_SIZES = (5, 5, 5, 6, 10, 10, 15, 16, 20, 32, 50, 100, 250)
_UNIT = 1_000_000


class Fill(NamedTuple):
    id: str  # V1: transaction and order, as the subgraph has it; later: transaction and place in the log
    transaction_hash: str
    order_hash: str
    timestamp: int
    maker: str
    taker: str
    maker_asset_id: str
    taker_asset_id: str
    maker_amount_filled: int  # base units, 6 decimals
    taker_amount_filled: int
    fee: int
    exchange: str
    block_number: int
    log_index: int
    market: Market
    token_id: str
    kind: str  # normal, mint or merge
    ordinal: int  # its place in the block, in the order of the log

    @property
    def is_v1(self) -> bool:
        """Whether the subgraph has it."""
        return self.exchange in chain.V1_EXCHANGES


class Block(NamedTuple):
    number: int
    timestamp: int
    fills: tuple[Fill, ...]  # in the order of their ids


class Order(NamedTuple):
    """What a match takes from one maker."""

    wallet: str
    hash: str
    tokens: int  # base units
    price: int  # of the taker's token, thousandths


class Match(NamedTuple):
    """What all rows of a match have in common."""

    market: Market
    transaction: str
    exchange: str
    kind: str


class Rates(NamedTuple):
    birth: int
    history: float  # fills a second before birth
    live: float

    def at(self, time_s: int) -> float:
        return self.live if time_s >= self.birth else self.history


class FillMaker:
    def __init__(self, seed: int, catalogue: Catalogue, rates: Rates, cutover: int | None) -> None:
        self._seed = seed
        self._catalogue = catalogue
        self._rates = rates
        self._cutover = None if cutover is None else chain.first_block_at(cutover)
        self._first_live_block = chain.first_block_at(rates.birth)
        self._fillable = catalogue.fillable(rates.birth)
        self._weights = list(accumulate(market.weight for market in self._fillable))
        self._wallets = [hex_digest(seed, "wallet", number, size=20) for number in range(WALLETS)]

    def block(self, number: int) -> Block:
        """Chance counts blocks from birth: worlds of one seed trade alike, but for what the hour decides."""
        time_s, age = chain.time_of(number), number - self._first_live_block
        draft = _Draft(self, number, generator(self._seed, 105, age))
        wanted = self._wanted(time_s, age, draft.rng)
        most_makers = max(1, wanted // 2)  # a match takes about half of a block at most
        while (missing := wanted - len(draft.fills)) > 0:
            if missing == 1 and draft.rng.random() < 0.5:  # noqa: PLR2004 - a match has two rows at least
                break
            draft.add_match(min(max(1, missing - 1), most_makers), is_v1=self.is_v1(number, len(draft.fills) / wanted))
        return Block(number, time_s, tuple(sorted(draft.fills)))

    def _wanted(self, time_s: int, age: int, rng: Random) -> int:
        mean = self._rates.at(time_s) * chain.BLOCK_S
        if mix(self._seed, 106, age // _BURST_BLOCKS) % _BURST_EVERY == 0:
            mean *= 2
        return _poisson(mean, rng)

    def market_at(self, time_s: int, series: list[Market], rng: Random) -> Market:
        if series and (rng.random() < _SERIES_SHARE or not self._fillable):
            return series[int(len(series) * rng.random() ** 2)]
        market = self._fillable[bisect(self._weights, rng.random() * self._weights[-1])]
        return self._still_open(time_s) if market.is_closed(time_s) else market

    def _still_open(self, time_s: int) -> Market:
        return next(market for market in self._fillable if not market.is_closed(time_s))

    def series_at(self, time_s: int) -> list[Market]:
        return self._catalogue.trading_series(time_s)

    def price(self, market: Market, time_s: int) -> int:
        return price_of(market, self._seed, time_s)

    def wallet(self, rng: Random) -> str:
        """Few wallets trade most: the busiest has about four fills in a hundred, as in the public trades."""
        return self._wallets[int(WALLETS * rng.random() ** 2.7)]

    def is_v1(self, number: int, share: float) -> bool:
        """Whether V1 still matches in this block, once this share of the block is made.

        As on the real chain, the last fills of V1 and the first of V2 are in the same block.
        """
        if self._cutover is None or number < self._cutover:
            return True
        return number == self._cutover and share < 0.5  # noqa: PLR2004 - the first half of that block

    def exchange(self, market: Market, *, is_v1: bool) -> str:
        if is_v1:
            return chain.NEG_RISK_V1 if market.event.neg_risk else chain.EXCHANGE_V1
        if market.oddity == "v2":
            return chain.EXCHANGE_V3
        return chain.NEG_RISK_V2 if market.event.neg_risk else chain.EXCHANGE_V2

    def fee(self, tokens: int, collateral: int, rng: Random, *, receives_tokens: bool, is_v1: bool) -> int:
        """V1 charges in the asset that the order receives, V2 always in collateral; mostly nothing."""
        if rng.random() >= _FEE_SHARE:
            return 0
        return (tokens if receives_tokens and is_v1 else collateral) // 50


class _Draft:
    """One block in the making."""

    def __init__(self, maker: FillMaker, number: int, rng: Random) -> None:
        self.rng = rng
        self.fills: list[Fill] = []
        self._world = maker
        self._number = number
        self._time = chain.time_of(number)
        self._series = maker.series_at(self._time)
        self._prices: dict[int, int] = {}
        self._resting: dict[tuple[int, int, bool, bool], tuple[str, str]] = {}
        self._log_index = rng.randrange(300)

    def add_match(self, most_makers: int, *, is_v1: bool) -> None:
        """Adds the rows of one match in the order of the chain's log: the makers' first, then the taker's."""
        rng = self.rng
        market = self._world.market_at(self._time, self._series, rng)
        outcome = int(len(market.tokens) * rng.random())
        buys = rng.random() < 0.75  # noqa: PLR2004 - as in the public trades: four BUYs in five
        mints = len(market.tokens) == 2 and rng.random() < _MINT_SHARE  # noqa: PLR2004 - two complementary tokens
        orders = self._orders(market, outcome, most_makers, buys=buys, mints=mints)
        self._write(market, outcome, orders, buys=buys, mints=mints, is_v1=is_v1)

    def _orders(self, market: Market, outcome: int, most: int, *, buys: bool, mints: bool) -> list[Order]:
        """The makers' orders, best price first; sometimes two alike."""
        rng = self.rng
        key = (market.number, outcome, buys, mints)
        resting = self._resting.get(key) if rng.random() < _RESTING_SHARE else None
        wallet, order_hash = resting or (self._world.wallet(rng), _order_hash(rng))
        self._resting[key] = wallet, order_hash
        price = self._price(market, outcome)
        step = -market.tick if buys else market.tick
        count = min(int(rng.paretovariate(1.4)), most, _MOST_MAKERS)
        orders = [Order(wallet, order_hash, _size(rng), price)]
        for place in range(1, count):
            worse = on_tick(price - step * (place // 2), market.tick)
            orders.append(Order(self._world.wallet(rng), _order_hash(rng), _size(rng), worse))
        if count < most and rng.random() < _TWIN_SHARE:
            orders.append(orders[-1]._replace(hash=_order_hash(rng)))
        return orders

    def _price(self, market: Market, outcome: int) -> int:
        first = self._prices.get(market.number)
        if first is None:
            first = self._prices[market.number] = self._world.price(market, self._time)
        return outcome_price(market, outcome, first)

    def _write(
        self, market: Market, outcome: int, orders: list[Order], *, buys: bool, mints: bool, is_v1: bool
    ) -> None:
        """A mint or merge pairs the taker's token with its complement: makers stand on the taker's side of it."""
        rng, taker = self.rng, self._world.wallet(self.rng)
        match = self._match(market, ("mint" if buys else "merge") if mints else "normal", is_v1=is_v1)
        token = market.tokens[1 - outcome] if mints else market.tokens[outcome]
        maker_buys = buys if mints else not buys
        tokens = collateral = 0
        for order in orders:
            paid = (1000 - order.price if mints else order.price) * order.tokens // 1000
            tokens += order.tokens
            collateral += order.tokens - paid if mints else paid
            self._add(match, order.wallet, order.hash, taker, token, tokens=order.tokens, paid=paid, buys=maker_buys)
        fee = self._world.fee(tokens, collateral, rng, receives_tokens=buys, is_v1=is_v1)
        own, order_hash = market.tokens[outcome], _order_hash(rng)
        self._add(match, taker, order_hash, match.exchange, own, tokens=tokens, paid=collateral, buys=buys, fee=fee)
        self._log_index += int(rng.random() * 12)

    def _match(self, market: Market, kind: str, *, is_v1: bool) -> Match:
        transaction = chain.transaction_hash(self.rng.getrandbits(224), self._number)
        return Match(market, transaction, self._world.exchange(market, is_v1=is_v1), kind)

    def _add(
        self,
        match: Match,
        maker: str,
        order: str,
        taker: str,
        token: str,
        *,
        tokens: int,
        paid: int,
        buys: bool,
        fee: int = 0,
    ) -> None:
        self._log_index += 2
        give, get = ("0", token) if buys else (token, "0")
        gave, got = (paid, tokens) if buys else (tokens, paid)
        market, transaction, exchange, kind = match
        identity = f"{transaction}_{order if exchange in chain.V1_EXCHANGES else self._log_index}"
        self.fills.append(
            Fill(identity, transaction, order, self._time, maker, taker, give, get, gave, got, fee,
                 exchange, self._number, self._log_index, market, token, kind, len(self.fills))
        )  # fmt: skip


def _order_hash(rng: Random) -> str:
    return f"0x{rng.getrandbits(256):064x}"


def _size(rng: Random) -> int:
    """Tokens in base units: round numbers or a long tail with a median of 10, in steps of 0.01 (a few of 0.000001)."""
    draw = rng.random()
    if draw < 0.45:  # noqa: PLR2004 - shares as in the public trades
        return _ROUND_SIZES[int(len(_ROUND_SIZES) * rng.random())] * _UNIT
    tokens = math.exp(rng.gauss(2.3, 1.8))
    if draw < 0.95:  # noqa: PLR2004
        return max(50, round(tokens * 100)) * 10_000
    return max(500_000, round(tokens * _UNIT))


def _poisson(mean: float, rng: Random) -> int:
    """Knuth's method while it is quick, the normal approximation above."""
    if mean > 30:  # noqa: PLR2004
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count
