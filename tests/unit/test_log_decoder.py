"""A log of the chain becomes the OrderFilled that an independent ABI reader sees in it, or is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRecord
from common.records import OrderFilled
from common.tables import ORDER_FILLED
from ingesters.log_decoder import V1_TOPIC, V2_TOPIC, block_of, decode_log, has_time, is_removed, is_v1
from processors.trades import outcome_token, price_of

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "eth_getLogs_orderfilled_v1_v2.json"
V1_TYPES = ["uint256"] * 5
V2_TYPES = ["uint8", *["uint256"] * 4, "bytes32", "bytes32"]

AMOUNTS = st.integers(min_value=0, max_value=2**64 - 1)
TOKENS = st.integers(min_value=0, max_value=2**256 - 1)
WALLETS = st.binary(min_size=20, max_size=20)
HASHES = st.binary(min_size=32, max_size=32)
TIMES = st.integers(min_value=1, max_value=2**32 - 1)


def text(raw: bytes) -> str:
    return f"0x{raw.hex()}"


def log(topic: str, types: list[str], values: list[Any], **changes: Any) -> dict[str, Any]:
    """A log with these values in its data; ... as a change leaves the field out."""
    wallets = [text(encode(["address"], [f"0x{number:040x}"])) for number in (0xA1, 0xB2)]
    fields = {
        "address": "0xE111180000d2663C0091e4f400237545B87B996B",
        "topics": [topic, f"0x{'0c' * 32}", *wallets],
        "data": text(encode(types, values)),
        "blockNumber": "0x5224b96",
        "transactionHash": f"0x{'Ab' * 32}",
        "transactionIndex": "0x3",
        "blockHash": f"0x{'ef' * 32}",
        "blockTimestamp": "0x69f09b58",
        "logIndex": "0x1f",
        "removed": False,
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def v1(**changes: Any) -> dict[str, Any]:
    return log(V1_TOPIC, V1_TYPES, [0, 77, 205_000, 5_000_000, 9], **changes)


def v2(side: int = 0, token: int = 77, **changes: Any) -> dict[str, Any]:
    return log(V2_TOPIC, V2_TYPES, [side, token, 205_000, 5_000_000, 9, b"", b""], **changes)


@given(TOKENS, TOKENS, AMOUNTS, AMOUNTS, AMOUNTS, WALLETS, WALLETS, HASHES)
def test_a_v1_log_reads_as_eth_abi_reads_it(
    maker_asset: int, taker_asset: int, gave: int, got: int, fee: int, maker: bytes, taker: bytes, order: bytes
) -> None:
    topics = [V1_TOPIC, text(order), *(text(encode(["address"], [text(wallet)])) for wallet in (maker, taker))]
    fields = log(V1_TOPIC, V1_TYPES, [maker_asset, taker_asset, gave, got, fee], topics=topics)
    fill = decode_log(fields)
    words = decode(V1_TYPES, bytes.fromhex(fields["data"][2:]))
    assert (int(fill.maker_asset_id), int(fill.taker_asset_id)) == words[:2]
    assert (fill.maker_amount_filled, fill.taker_amount_filled, fill.fee) == words[2:]
    assert (fill.maker,) == decode(["address"], bytes.fromhex(topics[2][2:]))
    assert (fill.taker,) == decode(["address"], bytes.fromhex(topics[3][2:]))
    assert fill.order_hash == text(order)


@given(st.sampled_from([0, 1]), TOKENS, AMOUNTS, AMOUNTS, AMOUNTS, HASHES, HASHES)
def test_a_v2_log_reads_as_eth_abi_reads_it(
    side: int, token: int, gave: int, got: int, fee: int, builder: bytes, metadata: bytes
) -> None:
    fields = log(V2_TOPIC, V2_TYPES, [side, token, gave, got, fee, builder, metadata])
    fill = decode_log(fields)
    words = decode(V2_TYPES, bytes.fromhex(fields["data"][2:]))
    assets = ["0", str(words[1])] if words[0] == 0 else [str(words[1]), "0"]
    assert [fill.maker_asset_id, fill.taker_asset_id] == assets
    assert (fill.maker_amount_filled, fill.taker_amount_filled, fill.fee) == words[2:5]


@given(TIMES, st.integers(min_value=0, max_value=2**32 - 1), st.integers(min_value=0, max_value=2**63 - 1))
def test_numbers_of_the_log_itself_are_hexadecimal(time: int, index: int, block: int) -> None:
    fill = decode_log(v1(blockTimestamp=hex(time), logIndex=hex(index), blockNumber=hex(block)))
    assert (fill.timestamp, fill.log_index, fill.block_number) == (time, index, block)
    assert fill.id == f"0x{'ab' * 32}_{index}"


@pytest.mark.skipif(not SAMPLE.exists(), reason="the real samples are not on this machine")
def test_two_real_logs_have_their_known_values() -> None:
    logs = json.loads(SAMPLE.read_text())
    first, second = (decode_log(fields) for fields in logs)
    for fields, types, fill in zip(logs, (V1_TYPES, V2_TYPES), (first, second), strict=True):
        words = decode(types, bytes.fromhex(fields["data"][2:]))
        assert (fill.maker_amount_filled, fill.taker_amount_filled, fill.fee) == words[2:5]
    assert first.exchange == "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e"
    assert first.maker_asset_id == "0"
    assert (first.maker_amount_filled, first.taker_amount_filled) == (0x716F10, 0x10E14A0)
    assert (first.block_number, first.log_index, first.timestamp) == (0x4D93911, 0x54D, 0x695E9F3D)
    assert second.maker_asset_id == outcome_token(second) != "0"
    # 4.18 tokens at 0.94; one hex digit fewer of each amount would be 0.26125 tokens at the same price.
    assert (second.maker_amount_filled, second.taker_amount_filled) == (4_180_000, 3_929_200)
    assert str(price_of(second.taker_amount_filled, second.maker_amount_filled)) == "0.940000000000"


def test_addresses_and_hashes_are_lower_case() -> None:
    fill = decode_log(v2())
    assert fill.exchange == "0xe111180000d2663c0091e4f400237545b87b996b"
    assert fill.transaction_hash == f"0x{'ab' * 32}"
    assert fill.maker == f"0x{0xA1:040x}"


def test_a_block_s_time_from_elsewhere_wins() -> None:
    assert decode_log(v2(blockTimestamp=...), timestamp=1_777_374_040).timestamp == 1_777_374_040
    assert has_time(v2())
    assert not has_time(v2(blockTimestamp=None))


def test_a_log_that_was_taken_back_is_told() -> None:
    assert is_removed(v1(removed=True))
    assert not is_removed(v1())
    assert not is_removed(v1(removed=...))


def test_the_eras_are_told_apart() -> None:
    assert is_v1(v1())
    assert not is_v1(v2())


@pytest.mark.parametrize("missing", ["address", "topics", "data", "blockNumber", "transactionHash", "logIndex"])
def test_a_missing_field_is_named(missing: str) -> None:
    fields = {name: value for name, value in v2().items() if name != missing}
    with pytest.raises(InvalidRecord, match=f"^{missing}: missing$"):
        decode_log(fields)


HALF = f"0x{'00' * 100}"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (v1(data="0x"), r"^data: expected 0x and 5 words"),
        (v1(data=HALF), r"^data: expected 0x and 5 words"),
        (v1(data=f"0x{'zz' * 160}"), r"^data: expected 0x and 5 words"),
        (v1(data=f"0x{'00' * 224}"), r"^data: expected 0x and 5 words"),
        (v2(data=f"0x{'00' * 160}"), r"^data: expected 0x and 7 words"),
        (v2(data=7), r"^data: expected 0x and 7 words"),
        (v2(data=f"+0{'00' * 224}"), r"^data: expected 0x and 7 words"),
        (v2(topics=[]), r"^topics: expected 4 topics"),
        (v2(topics=None), r"^topics: expected 4 topics"),
        (v2(topics=[V2_TOPIC] * 5), r"^topics: expected 4 topics"),
        (v2(topics=[f"0x{'11' * 32}"] * 4), r"^topics\[0\]: expected the topic of an OrderFilled event"),
        (v2(topics=[V2_TOPIC, "0x12", V2_TOPIC, V2_TOPIC]), r"^topics\[1\]: expected 0x and 64 hex digits"),
        (v2(topics=[V2_TOPIC] * 4), r"^maker: expected an address in 32 bytes"),
        (v2(side=2), r"^side: expected 0 \(BUY\) or 1 \(SELL\), got 2"),
        (log(V1_TOPIC, V1_TYPES, [0, 1, 2**64, 1, 1]), r"^makerAmountFilled: expected an amount"),
        (log(V1_TOPIC, V1_TYPES, [0, 1, 1, 2**255, 1]), r"^takerAmountFilled: expected an amount"),
        (log(V1_TOPIC, V1_TYPES, [0, 1, 1, 1, 2**64]), r"^fee: expected an amount"),
        (v1(logIndex="31"), r"^logIndex: expected a hexadecimal number"),
        (v1(logIndex=31), r"^logIndex: expected a hexadecimal number"),
        (v1(logIndex="0x100000000"), r"^logIndex: expected a hexadecimal number"),
        (v1(blockNumber="0x"), r"^blockNumber: expected a hexadecimal number"),
        (v1(blockNumber="0x-1"), r"^blockNumber: expected a hexadecimal number"),
        (v1(blockNumber=None), r"^blockNumber: expected a hexadecimal number"),
        (v1(blockTimestamp="1777374040"), r"^blockTimestamp: expected a hexadecimal number"),
        (v1(blockTimestamp="0x0"), r"^blockTimestamp: expected Unix seconds above 0"),
        (v1(blockTimestamp=...), r"^blockTimestamp: missing"),
        (v1(address="0x12"), r"^address: expected 0x and 40 hex digits"),
        (v1(transactionHash=None), r"^transactionHash: expected 0x and 64 hex digits"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason):
        decode_log(fields)


@given(st.dictionaries(st.sampled_from(sorted(v2())), st.none() | st.text() | st.integers() | st.lists(st.text())))
def test_nonsense_raises_nothing_but_invalid_record(changes: dict[str, Any]) -> None:
    try:
        fill = decode_log(v2() | changes)
    except InvalidRecord:
        return
    assert isinstance(fill, OrderFilled)


def test_a_fill_has_every_column_that_the_subgraph_leaves_open() -> None:
    fill = decode_log(v2())
    assert None not in [getattr(fill, column) for column in ORDER_FILLED.inserted_columns()]
    assert block_of(v2()) == fill.block_number == 0x5224B96
