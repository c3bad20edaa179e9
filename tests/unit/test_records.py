"""The records and their JSON."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.records import Market, OrderFilled, Token, decode_market, decode_order_filled, encode, tokens_of
from processors.token_index import UNREADABLE
from tests.builders import make_fill, make_market, token_id

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
AMOUNTS = st.integers(0, 2**64 - 1)


@given(TEXT, AMOUNTS, AMOUNTS, st.none() | TEXT, st.none() | st.integers(0, 2**64 - 1))
def test_a_fill_survives_its_json(
    maker: str, maker_amount: int, fee: int, exchange: str | None, block_number: int | None
) -> None:
    fill = make_fill(
        1, maker=maker, maker_amount_filled=maker_amount, fee=fee, exchange=exchange, block_number=block_number
    )
    assert decode_order_filled(encode(fill)) == fill


@given(TEXT, st.none() | st.decimals(allow_nan=False, allow_infinity=False), st.lists(TEXT))
def test_a_market_survives_its_json(question: str, volume: Decimal | None, tags: list[str]) -> None:
    market = make_market(1, question=question, volume=volume, tags=tags)
    assert decode_market(encode(market)) == market


def test_a_record_is_one_line_of_json_whatever_its_text() -> None:
    market = make_market(1, question='a "quote"\nand a line, é and \u2028')
    assert b"\n" not in encode(market)
    assert json.loads(encode(market))["question"] == market.question


def test_what_is_absent_is_left_out() -> None:
    written = json.loads(encode(make_fill(1)))
    assert not {"exchange", "block_number", "log_index"} & set(written)


def test_decimals_are_written_as_strings_and_amounts_as_whole_numbers() -> None:
    assert json.loads(encode(make_market(1, volume=Decimal("0.1"))))["volume"] == "0.1"
    assert b'"maker_amount_filled":18446744073709551615' in encode(make_fill(1, maker_amount_filled=2**64 - 1))


def test_times_keep_their_microseconds_and_their_zone() -> None:
    at = datetime(2025, 1, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    assert json.loads(encode(make_market(1, updated_at=at)))["updated_at"] == "2025-01-01T23:59:59.999999Z"
    assert decode_market(encode(make_market(1, updated_at=at))).updated_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("record", [make_fill(1), make_market(1)])
def test_records_are_immutable(record: OrderFilled | Market) -> None:
    with pytest.raises(AttributeError):
        record.id = "other"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("field", ["id", "timestamp", "maker_asset_id", "maker_amount_filled", "fee"])
def test_a_fill_without_a_needed_field_is_refused(field: str) -> None:
    fields: dict[str, Any] = json.loads(encode(make_fill(1)))
    del fields[field]
    with pytest.raises(msgspec.ValidationError, match=field):
        decode_order_filled(json.dumps(fields))


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"id":"\xff"}', b'{"id":1}', b'{"a":' + b"[" * 9999, b"\x00"],
    ids=repr,
)
def test_what_is_no_record_raises_nothing_but_what_its_readers_expect(data: bytes) -> None:
    for decode in (decode_order_filled, decode_market):
        with pytest.raises(UNREADABLE):
            decode(data)


def test_a_market_tells_its_tokens() -> None:
    assert tokens_of(make_market(3)) == {
        token_id(3, 0): Token("1003", f"0x{3:064x}", "Yes", "token1"),
        token_id(3, 1): Token("1003", f"0x{3:064x}", "No", "token2"),
    }


def test_a_market_may_have_three_tokens_none_or_more_tokens_than_outcomes() -> None:
    three = tokens_of(make_market(1, token_ids=["1", "2", "3"]))
    assert [token.side for token in three.values()] == ["token1", "token2", "token3"]
    assert tokens_of(make_market(1, token_ids=[])) == {}
    assert tokens_of(make_market(1, token_ids=["1", "2"], outcomes=["Yes"]))["2"].outcome == ""
