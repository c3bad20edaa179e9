"""A row of the subgraph becomes an OrderFilled or a dead letter, and only sound places move the cursor."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRecord
from common.records import decode_order_filled
from common.redis_queue import Position
from ingesters.fill_parser import parse_fill, parse_fill_v2
from ingesters.fill_scan import begin
from ingesters.goldsky_ingester import GROW_AFTER, SMALLEST_PAGE, PageSize, offer_fill, positions_ahead

NOW = 1_762_854_600.0
FILL: dict[str, Any] = {
    "id": f"0x{'b5' * 32}_0x{'b2' * 32}",
    "timestamp": "1762854517",
    "transactionHash": f"0x{'B5' * 32}",
    "orderHash": f"0x{'b2' * 32}",
    "maker": f"0x{'D4' * 20}",
    "taker": f"0x{'47' * 20}",
    "makerAssetId": "0",
    "takerAssetId": "59964717011473581387089048234239097005165234934041431203725679550377112731340",
    "makerAmountFilled": "205000",
    "takerAmountFilled": "5000000",
    "fee": "0",
}


def raw(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in (FILL | changes).items() if value is not ...}).encode()


def test_a_fill_keeps_its_values_exactly() -> None:
    fill = parse_fill(FILL)
    assert fill.id == FILL["id"]
    assert fill.taker_asset_id == FILL["takerAssetId"]
    assert (fill.maker_amount_filled, fill.taker_amount_filled, fill.fee) == (205_000, 5_000_000, 0)
    assert (fill.transaction_hash, fill.maker) == (f"0x{'b5' * 32}", f"0x{'d4' * 20}")
    assert fill.timestamp == 1_762_854_517


def test_an_offer_carries_the_record_under_the_source_s_id() -> None:
    offer, position = offer_fill(raw(), NOW)
    assert (offer.identity, offer.timestamp, offer.fault) == (FILL["id"], 1_762_854_517, "")
    assert decode_order_filled(offer.data) == parse_fill(FILL)
    assert position == Position(1_762_854_517, FILL["id"])


@pytest.mark.parametrize("missing", sorted(FILL))
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(InvalidRecord, match=f"^{missing}: missing$"):
        parse_fill({name: value for name, value in FILL.items() if name != missing})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("makerAmountFilled", "abc"),
        ("takerAmountFilled", None),
        ("takerAssetId", "1e20"),
        ("timestamp", "yesterday"),
        ("timestamp", "0"),
        ("maker", "0x12"),
        ("orderHash", ""),
        ("id", ""),
        ("id", "with space"),
        ("fee", "-1"),
        ("fee", 1.5),
    ],
)
def test_a_broken_row_is_a_dead_letter_in_its_own_bytes(field: str, value: object) -> None:
    offer, _ = offer_fill(raw(**{field: value}), NOW)
    assert offer.fault.startswith(f"{field}: ")
    assert offer.data == raw(**{field: value})
    assert offer.identity.startswith("fault:")


def test_a_mended_row_is_not_taken_for_the_broken_one() -> None:
    assert offer_fill(raw(fee="x"), NOW).offer.identity != offer_fill(raw(), NOW).offer.identity


def test_a_row_from_the_future_never_moves_the_cursor() -> None:
    offer, position = offer_fill(raw(timestamp=str(int(NOW) + 100_000)), NOW)
    assert "clock" in offer.fault
    assert position is None


def test_a_faulty_row_leads_on_only_where_no_good_one_does() -> None:
    good, faulty = offer_fill(raw(timestamp="1762854510"), NOW), offer_fill(raw(timestamp="1762854519", fee="x"), NOW)
    scan = begin(1_762_854_500)
    assert positions_ahead(scan, [good, faulty]) == [good.position]
    assert positions_ahead(scan, [faulty]) == [faulty.position]
    assert positions_ahead(begin(1_762_854_518), [good]) == []


@given(st.dictionaries(st.sampled_from(sorted(FILL)), st.none() | st.integers() | st.text() | st.floats(), max_size=3))
def test_whatever_a_row_holds_it_is_a_fill_or_a_dead_letter(changes: dict[str, object]) -> None:
    offer, position = offer_fill(raw(**changes), NOW)
    assert offer.fault or position is not None


@given(st.binary(max_size=60))
def test_bytes_that_are_no_row_are_dead_letters(noise: bytes) -> None:
    offer, position = offer_fill(noise, NOW)
    assert offer.fault
    assert position is None


def test_a_page_is_halved_down_to_the_smallest_and_grows_back_slowly() -> None:
    size = PageSize(1000)
    halved = []
    while size.shrink():
        halved.append(size.first)
    assert halved == [500, 250, 125, 62, 31, SMALLEST_PAGE]
    for _ in range(GROW_AFTER - 1):
        size.note_success()
    assert size.first == SMALLEST_PAGE
    for _ in range(10 * GROW_AFTER):
        size.note_success()
    assert size.first == 1000


def test_a_small_configured_page_is_never_made_larger() -> None:
    size = PageSize(10)
    assert not size.shrink()
    assert size.first == 10


# --- as the later exchanges' subgraphs tell it -----------------------------------------------------------------------

TOKEN = FILL["takerAssetId"]
FILL_V2: dict[str, Any] = {
    "id": f"0x{'B5' * 32}-912",
    "timestamp": "1777374100",
    "transactionHash": f"0x{'b5' * 32}",
    "orderHash": f"0x{'b2' * 32}",
    "maker": f"0x{'D4' * 20}",
    "taker": f"0x{'47' * 20}",
    "side": "BUY",
    "tokenId": TOKEN,
    "collateralAmount": "205000",
    "tokenAmount": "5000000",
    "fee": "11",
    "exchange": "0xE111180000d2663C0091e4f400237545B87B996B",
    "blockNumber": "86127028",
}


def raw_v2(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in (FILL_V2 | changes).items() if value is not ...}).encode()


@pytest.mark.parametrize("side", ["BUY", "buy", 0, "0"])
def test_a_maker_who_buys_gives_collateral_for_tokens(side: object) -> None:
    fill = parse_fill_v2(FILL_V2 | {"side": side})
    assert (fill.maker_asset_id, fill.maker_amount_filled) == ("0", 205_000)
    assert (fill.taker_asset_id, fill.taker_amount_filled) == (TOKEN, 5_000_000)


@pytest.mark.parametrize("side", ["SELL", "sell", 1, "1"])
def test_a_maker_who_sells_gives_tokens_for_collateral(side: object) -> None:
    fill = parse_fill_v2(FILL_V2 | {"side": side})
    assert (fill.maker_asset_id, fill.maker_amount_filled) == (TOKEN, 5_000_000)
    assert (fill.taker_asset_id, fill.taker_amount_filled) == ("0", 205_000)


def test_a_fill_of_v2_has_the_id_that_it_has_on_the_chain() -> None:
    fill = parse_fill_v2(FILL_V2)
    assert (fill.id, fill.log_index, fill.block_number) == (f"0x{'b5' * 32}_912", 912, 86_127_028)
    assert (fill.exchange, fill.fee, fill.timestamp) == (FILL_V2["exchange"].lower(), 11, 1_777_374_100)


@pytest.mark.parametrize("identity", ["7", f"0x{'aa' * 32}-912", f"0x{'b5' * 32}-x"])
def test_an_id_that_tells_no_place_in_the_log_is_kept(identity: str) -> None:
    fill = parse_fill_v2(FILL_V2 | {"id": identity})
    assert (fill.id, fill.log_index) == (identity, None)


def test_the_cursor_keeps_the_source_s_own_id() -> None:
    offer, position = offer_fill(raw_v2(), NOW + 10**8, parse_fill_v2)
    assert offer.identity == f"0x{'b5' * 32}_912"
    assert position == Position(1_777_374_100, FILL_V2["id"])


@pytest.mark.parametrize("missing", sorted(FILL_V2))
def test_a_missing_field_of_v2_is_named(missing: str) -> None:
    with pytest.raises(InvalidRecord, match=f"^{missing}: missing$"):
        parse_fill_v2({name: value for name, value in FILL_V2.items() if name != missing})


@pytest.mark.parametrize(
    ("field", "value"),
    [("side", "HOLD"), ("side", 2), ("side", True), ("side", None), ("tokenAmount", "1.5"), ("tokenId", "1e20"),
     ("id", f"0x{'b5' * 32}-4294967296"), ("exchange", "0x1"), ("blockNumber", "-1")],
)  # fmt: skip
def test_a_broken_row_of_v2_is_a_dead_letter(field: str, value: object) -> None:
    offer, _ = offer_fill(raw_v2(**{field: value}), NOW + 10**8, parse_fill_v2)
    assert offer.fault.startswith(f"{field}: ")


@given(
    st.dictionaries(st.sampled_from(sorted(FILL_V2)), st.none() | st.integers() | st.text() | st.floats(), max_size=3)
)
def test_whatever_a_row_of_v2_holds_it_is_a_fill_or_a_dead_letter(changes: dict[str, object]) -> None:
    offer, position = offer_fill(raw_v2(**changes), NOW + 10**8, parse_fill_v2)
    assert offer.fault or position is not None
