"""The three records that travel through the streams, as they are written there in JSON.

Every field name is a column name of the table that the record ends up in, so that the writer passes the bytes on
without looking into them. Absent optional fields are left out of the JSON and become NULL.
"""

from datetime import datetime
from decimal import Decimal

import msgspec


class OrderFilled(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One fill as the exchange contract emitted it."""

    id: str  # the source's own identity: transactionHash_orderHash (subgraph) or transactionHash_logIndex (chain)
    transaction_hash: str  # 0x and 64 hex digits, lower case
    order_hash: str
    timestamp: int  # Unix seconds, UTC: the block's time
    maker: str  # 0x and 40 hex digits, lower case
    taker: str  # the exchange contract itself in the row of the taker's order
    maker_asset_id: str  # decimal digits; "0" is collateral
    taker_asset_id: str
    maker_amount_filled: int  # base units, 6 decimals
    taker_amount_filled: int  # base units, 6 decimals
    fee: int  # base units; V1: of the asset that the maker receives, V2: of collateral
    exchange: str | None = None  # emitting contract; the V1 subgraph does not tell
    block_number: int | None = None
    log_index: int | None = None


class Trade(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One fill, enriched with its market and read as a trade of outcome tokens against collateral."""

    timestamp: int  # Unix seconds, UTC: the block's time
    market_id: str
    maker: str
    taker: str
    nonusdc_side: str  # "token1" | "token2" | …: the outcome token's place in the market
    maker_direction: str  # "BUY" | "SELL" of the outcome token
    taker_direction: str
    price: Decimal  # collateral per token, rounded half-even to 12 decimals; the contract does not bound it by 1
    usd_amount: Decimal  # collateral, 6 decimals
    token_amount: Decimal  # outcome tokens, 6 decimals
    transactionHash: str  # noqa: N815 - the name analysts' queries already use
    id: str  # the fill's id
    token_id: str
    condition_id: str
    outcome: str
    fee: Decimal  # 6 decimals; see OrderFilled.fee for the asset
    is_taker_side: bool  # the row of the taker's order: sum either these rows or the others, never both
    exchange: str | None = None
    block_number: int | None = None
    log_index: int | None = None


class Market(msgspec.Struct, frozen=True, omit_defaults=True):
    """One market as Gamma lists it, reduced to what analysts query. Absent is None or empty, never 0."""

    id: str
    updated_at: datetime  # UTC: Gamma's updatedAt; the version that ReplacingMergeTree keeps
    question: str
    slug: str
    condition_id: str  # "" where Gamma has none yet
    token_ids: list[str]  # decimal digits, in the order of outcomes; empty where Gamma has none
    outcomes: list[str]
    outcome_prices: list[Decimal]  # rounded to 18 decimals; empty where unknown
    active: bool
    closed: bool
    neg_risk: bool
    tags: list[str] = []  # labels
    winning_outcome: str | None = None  # only when closed with exactly one price 1 and the rest 0
    volume: Decimal | None = None  # collateral, 6 decimals
    liquidity: Decimal | None = None  # collateral, 6 decimals
    event_id: str | None = None
    event_slug: str | None = None
    event_title: str | None = None
    neg_risk_market_id: str | None = None
    created_at: datetime | None = None  # UTC, like the three below; out of ClickHouse's range (1970 to 2105) is absent
    start_date: datetime | None = None
    end_date: datetime | None = None
    closed_time: datetime | None = None
    last_seen_at: datetime | None = (
        None  # UTC: when Gamma listed it last, as far as published; entries of before lack it
    )


class Token(msgspec.Struct, frozen=True, gc=False):
    """What a trade needs to know of the outcome token that was traded."""

    market_id: str
    condition_id: str
    outcome: str
    side: str  # "token1" | "token2" | …


_encoder = msgspec.json.Encoder()  # Decimal as a JSON string: exact for every reader


def encode(record: OrderFilled | Trade | Market) -> bytes:
    """The record as one line of JSON: an entry's `data`, and a row of JSONEachRow."""
    return _encoder.encode(record)


decode_order_filled = msgspec.json.Decoder(OrderFilled).decode
decode_market = msgspec.json.Decoder(Market).decode


def tokens_of(market: Market) -> dict[str, Token]:
    """Token id to what is known of it, for every outcome token of the market."""
    return {
        token_id: Token(
            market_id=market.id,
            condition_id=market.condition_id,
            outcome=market.outcomes[place] if place < len(market.outcomes) else "",
            side=f"token{place + 1}",
        )
        for place, token_id in enumerate(market.token_ids)
    }
