"""One fill as an order book subgraph tells it, to an OrderFilled. On the wire every value is a string. Pure.

v1 is the public subgraph of the first exchange. v2 is what the community's subgraphs of the later ones serve: the
outcome token and the maker's side in place of what each of the two gave.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common import parsing
from common.records import OrderFilled

Parse = Callable[[Mapping[str, Any]], OrderFilled]

COLLATERAL = "0"
_BLOCK_LIMIT = 2**63
_INDEX_LIMIT = 2**32  # ClickHouse UInt32
_V2_ID = re.compile(r"(0x[0-9a-fA-F]{64})[-_](\d{1,10})", re.ASCII)
_SIDES = {"BUY": True, "0": True, "SELL": False, "1": False}  # whether the maker buys the token


class Schema(NamedTuple):
    """What to ask a subgraph for, and how to read it."""

    name: str  # as in GOLDSKY_SCHEMA
    fields: tuple[str, ...]
    parse: Parse


class _Swap(NamedTuple):
    """What the maker gave and what the taker gave."""

    maker_asset_id: str
    taker_asset_id: str
    maker_amount_filled: int
    taker_amount_filled: int


def parse_fill(fields: Mapping[str, Any]) -> OrderFilled:
    """The fill of v1. Raises InvalidRecord with the field's name: dead-letter the record.

    Every field is checked on its own; whether they make sense together (exactly one asset is collateral) is for
    whoever makes a trade of them.
    """
    return OrderFilled(
        id=parsing.identity(parsing.required(fields, "id"), "id"),
        transaction_hash=parsing.hash32(parsing.required(fields, "transactionHash"), "transactionHash"),
        order_hash=parsing.hash32(parsing.required(fields, "orderHash"), "orderHash"),
        timestamp=parsing.timestamp(parsing.required(fields, "timestamp"), "timestamp"),
        maker=parsing.address(parsing.required(fields, "maker"), "maker"),
        taker=parsing.address(parsing.required(fields, "taker"), "taker"),
        maker_asset_id=parsing.token_id(parsing.required(fields, "makerAssetId"), "makerAssetId"),
        taker_asset_id=parsing.token_id(parsing.required(fields, "takerAssetId"), "takerAssetId"),
        maker_amount_filled=parsing.amount(parsing.required(fields, "makerAmountFilled"), "makerAmountFilled"),
        taker_amount_filled=parsing.amount(parsing.required(fields, "takerAmountFilled"), "takerAmountFilled"),
        fee=parsing.amount(parsing.required(fields, "fee"), "fee"),
    )


def parse_fill_v2(fields: Mapping[str, Any]) -> OrderFilled:
    """The same of v2, in the shape of v1 and under the id that the fill has when it is read from the chain."""
    identity = parsing.identity(parsing.required(fields, "id"), "id")
    transaction = parsing.hash32(parsing.required(fields, "transactionHash"), "transactionHash")
    place = _log_index(identity, transaction)
    swap = _swap(fields)
    return OrderFilled(
        id=identity if place is None else f"{transaction}_{place}",
        transaction_hash=transaction,
        order_hash=parsing.hash32(parsing.required(fields, "orderHash"), "orderHash"),
        timestamp=parsing.timestamp(parsing.required(fields, "timestamp"), "timestamp"),
        maker=parsing.address(parsing.required(fields, "maker"), "maker"),
        taker=parsing.address(parsing.required(fields, "taker"), "taker"),
        maker_asset_id=swap.maker_asset_id,
        taker_asset_id=swap.taker_asset_id,
        maker_amount_filled=swap.maker_amount_filled,
        taker_amount_filled=swap.taker_amount_filled,
        fee=parsing.amount(parsing.required(fields, "fee"), "fee"),
        exchange=parsing.address(parsing.required(fields, "exchange"), "exchange"),
        block_number=parsing.whole(parsing.required(fields, "blockNumber"), "blockNumber", "a block", _BLOCK_LIMIT),
        log_index=place,
    )


def _log_index(identity: str, transaction: str) -> int | None:
    """The place in the log that an id of the form transactionHash-logIndex tells; None for any other id."""
    match = _V2_ID.fullmatch(identity)
    if match is None or match[1].lower() != transaction:
        return None
    return parsing.whole(match[2], "id", "a log index below 2**32", _INDEX_LIMIT)


def _swap(fields: Mapping[str, Any]) -> _Swap:
    token = parsing.token_id(parsing.required(fields, "tokenId"), "tokenId")
    collateral = parsing.amount(parsing.required(fields, "collateralAmount"), "collateralAmount")
    tokens = parsing.amount(parsing.required(fields, "tokenAmount"), "tokenAmount")
    if _maker_buys(parsing.required(fields, "side")):
        return _Swap(COLLATERAL, token, collateral, tokens)
    return _Swap(token, COLLATERAL, tokens, collateral)


def _maker_buys(side: object) -> bool:
    """The side by its name, or by its number in the contract's event."""
    is_number = isinstance(side, int) and not isinstance(side, bool)
    buys = _SIDES.get(str(side).upper()) if is_number or isinstance(side, str) else None
    if buys is None:
        raise parsing.invalid("side", "BUY (0) or SELL (1)", side)
    return buys


_COMMON = ("id", "transactionHash", "timestamp", "orderHash", "maker", "taker", "fee")
_V1 = ("makerAssetId", "takerAssetId", "makerAmountFilled", "takerAmountFilled")
_V2 = ("side", "tokenId", "collateralAmount", "tokenAmount", "exchange", "blockNumber")
V1 = Schema("v1", (*_COMMON, *_V1), parse_fill)
V2 = Schema("v2", (*_COMMON, *_V2), parse_fill_v2)
SCHEMAS = {schema.name: schema for schema in (V1, V2)}
