"""An OrderFilled log of the exchange contracts, as eth_getLogs tells it, to an OrderFilled. Pure.

Topics are the event's hash and its three indexed fields (order hash, maker, taker); the other fields lie in `data`
as words of 32 bytes. Source: the contracts' `OrderFilled` events and the contract ABI specification,
https://docs.soliditylang.org/en/latest/abi-spec.html#events.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from common import parsing
from common.errors import InvalidRecord
from common.records import OrderFilled

V1_TOPIC = "0xd0a08e8c493f9c94f29311604c9de1b4e8c8d4c06bd0c789af57f2d65bfec0f6"
V2_TOPIC = "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee"  # of V3 as well
TOPICS = (V1_TOPIC, V2_TOPIC)

_COLLATERAL = "0"
_WORD = 64  # hex digits
_WORDS = {  # what lies in `data`, in order
    V1_TOPIC: ("makerAssetId", "takerAssetId", "makerAmountFilled", "takerAmountFilled", "fee"),
    V2_TOPIC: ("side", "tokenId", "makerAmountFilled", "takerAmountFilled", "fee", "builder", "metadata"),
}
_INDEXED = 4  # topics
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)
_DATA = re.compile(r"0x[0-9a-fA-F]*", re.ASCII)
_PADDING = "0x" + 24 * "0"  # fills an address of 20 bytes up to a word
_INDEX_LIMIT = 2**32  # ClickHouse UInt32
_BLOCK_LIMIT = 2**63  # far beyond any block, and exact in ClickHouse and Redis alike


class _Assets(NamedTuple):
    maker: str
    taker: str


def decode_log(fields: Mapping[str, Any], timestamp: int | None = None) -> OrderFilled:
    """The fill. `timestamp`: of its block, for a node that does not put blockTimestamp into its logs.

    Raises InvalidRecord with the field's name: dead-letter the record. Ask `is_removed` first.
    """
    topics = _topics(fields)
    words = _words(fields, topics[0])
    assets = _assets(words)
    transaction = parsing.hash32(parsing.required(fields, "transactionHash"), "transactionHash")
    log_index = quantity(parsing.required(fields, "logIndex"), "logIndex", _INDEX_LIMIT)
    return OrderFilled(
        id=f"{transaction}_{log_index}",
        transaction_hash=transaction,
        order_hash=parsing.hash32(topics[1], "orderHash"),
        timestamp=timestamp if timestamp is not None else _own_time(fields),
        maker=_address(topics[2], "maker"),
        taker=_address(topics[3], "taker"),
        maker_asset_id=assets.maker,
        taker_asset_id=assets.taker,
        maker_amount_filled=parsing.amount(words["makerAmountFilled"], "makerAmountFilled"),
        taker_amount_filled=parsing.amount(words["takerAmountFilled"], "takerAmountFilled"),
        fee=parsing.amount(words["fee"], "fee"),
        exchange=parsing.address(parsing.required(fields, "address"), "address"),
        block_number=block_of(fields),
        log_index=log_index,
    )


def is_removed(fields: Mapping[str, Any]) -> bool:
    """Whether a reorganisation took the log back: then it tells of no event."""
    return parsing.flag(fields.get("removed"), "removed")


def is_v1(fields: Mapping[str, Any]) -> bool:
    """Whether a log that was decoded comes from a V1 exchange, whose fills the subgraph has as well."""
    return _topics(fields)[0] == V1_TOPIC


def block_of(fields: Mapping[str, Any]) -> int:
    """The number of the log's block. Raises InvalidRecord."""
    return quantity(parsing.required(fields, "blockNumber"), "blockNumber", _BLOCK_LIMIT)


def has_time(fields: Mapping[str, Any], field: str = "blockTimestamp") -> bool:
    """Whether a time can be read: of its block in a log. Nodes put 0x0, a JSON number or an empty text there, too."""
    try:
        block_time(fields.get(field), field)
    except InvalidRecord:
        return False
    return True


def quantity(value: object, field: str, limit: int) -> int:
    """A number as JSON-RPC writes it, 0x1a4, from 0 to below the limit. Raises InvalidRecord."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value) or (number := int(value, 16)) >= limit:
        raise parsing.invalid(field, f"a hexadecimal number below {limit}", value)
    return number


def block_time(value: object, field: str) -> int:
    """Unix seconds of a block as JSON-RPC writes them. Raises InvalidRecord."""
    return parsing.timestamp(quantity(value, field, parsing.TIME_LIMIT), field)


def _own_time(fields: Mapping[str, Any]) -> int:
    return block_time(parsing.required(fields, "blockTimestamp"), "blockTimestamp")


def _topics(fields: Mapping[str, Any]) -> list[str]:
    topics = parsing.required(fields, "topics")
    if not isinstance(topics, list) or len(topics) != _INDEXED:
        raise parsing.invalid("topics", f"{_INDEXED} topics", topics)
    return [parsing.hash32(topic, f"topics[{place}]") for place, topic in enumerate(topics)]


def _words(fields: Mapping[str, Any], topic: str) -> dict[str, int]:
    names = _WORDS.get(topic)
    if names is None:
        raise parsing.invalid("topics[0]", "the topic of an OrderFilled event", topic)
    data = parsing.required(fields, "data")
    if not isinstance(data, str) or len(data) != len("0x") + _WORD * len(names) or not _DATA.fullmatch(data):
        raise parsing.invalid("data", f"0x and {len(names)} words of {_WORD} hex digits", data)
    words = data.removeprefix("0x")
    return {name: int(words[place * _WORD : (place + 1) * _WORD], 16) for place, name in enumerate(names)}


def _assets(words: Mapping[str, int]) -> _Assets:
    """What changed hands, in the shape of V1: V2 names the token and the maker's side, 0 to buy it and 1 to sell."""
    if "side" not in words:
        return _Assets(str(words["makerAssetId"]), str(words["takerAssetId"]))
    token = str(words["tokenId"])
    if words["side"] == 0:
        return _Assets(_COLLATERAL, token)
    if words["side"] == 1:
        return _Assets(token, _COLLATERAL)
    raise parsing.invalid("side", "0 (BUY) or 1 (SELL)", words["side"])


def _address(topic: str, field: str) -> str:
    if not topic.startswith(_PADDING):
        raise parsing.invalid(field, "an address in 32 bytes", topic)
    return parsing.address("0x" + topic[len(_PADDING) :], field)
