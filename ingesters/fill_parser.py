"""One fill as the order book subgraph tells it, to an OrderFilled. On the wire every value is a string."""

from collections.abc import Mapping
from typing import Any

from common import parsing
from common.records import OrderFilled


def parse_fill(fields: Mapping[str, Any]) -> OrderFilled:
    """The fill. Raises InvalidRecord with the field's name: dead-letter the record.

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
