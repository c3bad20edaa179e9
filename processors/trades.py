"""A fill read as a trade: which token, which way, at what price. Pure."""

from decimal import Context, Decimal

from common.errors import InvalidRecord
from common.records import OrderFilled, Token, Trade

COLLATERAL = "0"  # the asset id of USDC (V1) and pUSD (V2)
AMOUNT_UNIT = Decimal("1E-6")  # collateral and outcome tokens alike
PRICE_UNIT = Decimal("1E-12")
PRICES_IN_ONE = 10**12

# The contracts whose address stands as `taker` in the row of the taker's own order. Source: the exchanges' sources
# (`OrderFilled` of the taker order is emitted with `address(this)`); addresses as Polymarket documents them.
EXCHANGES = frozenset(
    {
        "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e",  # CTF Exchange, V1
        "0xc5d563a36ae78145c45a50134d48a1215220f80a",  # NegRisk CTF Exchange, V1
        "0xe111180000d2663c0091e4f400237545b87b996b",  # CTF Exchange, V2
        "0xe2222d279d744050d28e00520010520000310f59",  # NegRisk CTF Exchange, V2
        "0xe3333700ca9d93003f00f0f71f8515005f6c00aa",  # Exchange, V3
    }
)

_EXACT = Context(prec=60)  # above the 20 + 12 digits of the largest price, so that multiplying never rounds


def outcome_token(fill: OrderFilled) -> str:
    """Id of the token that changed hands. Raises InvalidRecord unless exactly one side of the fill is collateral."""
    if (fill.maker_asset_id == COLLATERAL) == (fill.taker_asset_id == COLLATERAL):
        raise InvalidRecord("exactly one of maker_asset_id and taker_asset_id must be 0, the collateral")
    return fill.taker_asset_id if fill.maker_asset_id == COLLATERAL else fill.maker_asset_id


def trade_of(fill: OrderFilled, token: Token) -> Trade:
    """The trade that a fill is, in the market that its token belongs to. Raises InvalidRecord."""
    token_id = outcome_token(fill)
    maker_buys = fill.maker_asset_id == COLLATERAL
    collateral, tokens = fill.taker_amount_filled, fill.maker_amount_filled
    if maker_buys:
        collateral, tokens = tokens, collateral
    return Trade(  # in the order of its fields: by name, twenty of them cost another 0.5 µs
        fill.timestamp,
        token.market_id,
        fill.maker,
        fill.taker,
        token.side,
        "BUY" if maker_buys else "SELL",
        "SELL" if maker_buys else "BUY",
        price_of(collateral, tokens),
        _exactly(collateral, AMOUNT_UNIT),
        _exactly(tokens, AMOUNT_UNIT),
        fill.transaction_hash,
        fill.id,
        token_id,
        token.condition_id,
        token.outcome,
        _exactly(fill.fee, AMOUNT_UNIT),
        fill.taker == fill.exchange or fill.taker in EXCHANGES,
        fill.exchange,
        fill.block_number,
        fill.log_index,
    )


def price_of(collateral: int, tokens: int) -> Decimal:
    """Collateral per token, both in base units, rounded half-even. Raises InvalidRecord when there are no tokens."""
    if tokens == 0:
        raise InvalidRecord("a fill without outcome tokens has no price")
    quotient, remainder = divmod(collateral * PRICES_IN_ONE, tokens)
    if 2 * remainder > tokens or (2 * remainder == tokens and quotient % 2):
        quotient += 1
    return _exactly(quotient, PRICE_UNIT)


def _exactly(count: int, unit: Decimal) -> Decimal:
    """So many units, with all of the unit's decimals."""
    return _EXACT.multiply(count, unit)
