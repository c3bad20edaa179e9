"""Foreign values become exact ones, or an InvalidRecord that names the field; nothing else is ever raised."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import parsing
from common.errors import ConfigError, InvalidRecord

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TOKENS = st.integers(min_value=0, max_value=2**256 - 1)


@given(TOKENS)
def test_a_token_id_keeps_every_digit(token: int) -> None:
    assert parsing.token_id(str(token), "token") == str(token)


@given(TOKENS, st.integers(min_value=0, max_value=20))
def test_leading_zeros_of_a_token_id_go(token: int, zeros: int) -> None:
    assert parsing.token_id("0" * zeros + str(token), "token") == str(token)


@pytest.mark.parametrize(
    "value",
    ["", " 1", "1 ", "-1", "+1", "1_0", "1e20", "0x1f", "1.0", "\u0661", "9" * 101, str(2**256), None, True, 1.0, []],
)
def test_what_is_no_token_id_is_invalid(value: object) -> None:
    with pytest.raises(InvalidRecord, match="makerAssetId: expected a token id"):
        parsing.token_id(value, "makerAssetId")


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("205000", 205_000), (7, 7), (str(2**64 - 1), 2**64 - 1)])
def test_an_amount_is_an_integer_of_base_units(value: object, number: int) -> None:
    assert parsing.amount(value, "fee") == number


@pytest.mark.parametrize("value", ["abc", "-5", "1.5", str(2**64), None, {}, "9" * 10_000])
def test_a_wrong_amount_is_shown_shortened(value: object) -> None:
    with pytest.raises(InvalidRecord) as caught:
        parsing.amount(value, "fee")
    assert str(caught.value).startswith("fee: expected an amount")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["0", "4294967296", "-1", "yesterday", None])
def test_a_time_of_an_event_lies_between_0_and_2_to_the_32(value: object) -> None:
    with pytest.raises(InvalidRecord, match="timestamp: expected Unix seconds"):
        parsing.timestamp(value, "timestamp")


@given(
    ANYTHING,
    st.sampled_from(
        [
            parsing.token_id,
            parsing.amount,
            parsing.timestamp,
            parsing.time,
            parsing.text,
            parsing.flag,
            parsing.address,
            parsing.hash32,
            parsing.identity,
            parsing.json_list,
            parsing.exact,
            lambda value, field: parsing.decimal(value, field, 6),
        ]
    ),
)
def test_anything_is_understood_or_invalid(value: object, parse: object) -> None:
    assert callable(parse)
    reason = ""
    try:
        parse(value, "field")
    except InvalidRecord as error:
        reason = str(error)
    assert not reason or reason.startswith("field: expected")


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**19), max_value=10**19, places=30))
def test_a_decimal_is_rounded_half_even_once(number: Decimal) -> None:
    rounded = parsing.decimal(str(number), "volume", 6)
    assert rounded is not None
    assert abs(rounded - number) <= Decimal("5e-7")
    assert rounded.as_tuple().exponent == -6


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8837.745119", "8837.745119"),
        ("0.0000005", "0.000000"),
        ("0.0000015", "0.000002"),
        (3, "3.000000"),
        ("1e-400", "0.000000"),
        ("0e999999", "0.000000"),
        (Decimal("1E+3"), "1000.000000"),
        (8837.75, "8837.750000"),
    ],
)
def test_a_decimal_comes_in_several_types(value: object, expected: str) -> None:
    assert str(parsing.decimal(value, "volume", 6)) == expected


@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", "1e400", "1e999999999", "1_000", "\u0663", "12,5", True, [], 10**20]
)
def test_what_is_no_decimal_for_a_column_is_invalid(value: object) -> None:
    with pytest.raises(InvalidRecord):
        parsing.decimal(value, "volume", 6)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_absent_decimal_is_none_and_not_zero(value: object) -> None:
    assert parsing.decimal(value, "volume", 6) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-05T00:51:12.215249Z", datetime(2025, 1, 5, 0, 51, 12, 215_249, UTC)),
        ("2025-01-05T00:51:12.2Z", datetime(2025, 1, 5, 0, 51, 12, 200_000, UTC)),
        ("2025-01-05T00:51:12.1234567899Z", datetime(2025, 1, 5, 0, 51, 12, 123_456, UTC)),
        ("2025-12-31T12:00:00Z", datetime(2025, 12, 31, 12, tzinfo=UTC)),
        ("2021-06-17 15:11:42+00", datetime(2021, 6, 17, 15, 11, 42, tzinfo=UTC)),
        ("2023-11-02 21:32:11.207+00", datetime(2023, 11, 2, 21, 32, 11, 207_000, UTC)),
        ("2023-11-02T21:32:11+00:00:00", datetime(2023, 11, 2, 21, 32, 11, tzinfo=UTC)),
        ("2023-11-02T21:32:11-05:30", datetime(2023, 11, 3, 3, 2, 11, tzinfo=UTC)),
        ("2023-11-02T21:32:11+0200", datetime(2023, 11, 2, 19, 32, 11, tzinfo=UTC)),
        ("2023-11-02T21:32:11", datetime(2023, 11, 2, 21, 32, 11, tzinfo=UTC)),
        ("2025-12-31", datetime(2025, 12, 31, tzinfo=UTC)),
        (" 2025-12-31\n", datetime(2025, 12, 31, tzinfo=UTC)),
    ],
)
def test_times_come_in_many_forms(text: str, expected: datetime) -> None:
    assert parsing.time(text, "endDate") == expected


@pytest.mark.parametrize(
    "value", [None, "", "0024-12-31T12:00:00Z", "2500-12-31", "1970-01-01T00:00:00+05", "2105-12-31T23:00:00-05"]
)
def test_a_time_that_clickhouse_cannot_hold_is_absent(value: object) -> None:
    assert parsing.time(value, "endDate") is None


@pytest.mark.parametrize(
    "value", ["yesterday", "2025-13-01", "2025-02-30", "2025-01-01T25:00:00Z", "2025-01-01T00:00:00+99", 5, "20250101"]
)
def test_a_garbled_time_is_invalid(value: object) -> None:
    with pytest.raises(InvalidRecord, match="endDate: expected a time"):
        parsing.time(value, "endDate")


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2105, 12, 31)))  # noqa: DTZ001 - Hypothesis wants naive ones
def test_every_iso_time_within_range_is_read_back(moment: datetime) -> None:
    assert parsing.time(moment.isoformat() + "Z", "createdAt") == moment.replace(tzinfo=UTC)


NOW = 1_763_751_000.0


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("90s", 1_763_750_910),
        ("30m", 1_763_749_200),
        ("1h", 1_763_747_400),
        ("7d", 1_763_146_200),
        ("2025-11-01", 1_761_955_200),
        ("2025-11-01T12:00:00Z", 1_761_998_400),
        ("1668988800", 1_668_988_800),
        ("0", 0),
        ("99999d", 0),
    ],
)
def test_a_start_is_an_age_or_a_date_or_unix_seconds(text: str, start: int) -> None:
    assert parsing.start_time(text, NOW) == start


@pytest.mark.parametrize("text", ["", "soon", "1w", "-1h", "2999-01-01", "1763751001", "2025-13-01", "9" * 400])
def test_a_wrong_start_is_a_configuration_error_that_names_the_variable(text: str) -> None:
    with pytest.raises(ConfigError, match="ORDER_EVENTS_START: expected 90s"):
        parsing.start_time(text, NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [('["Yes", "No"]', ["Yes", "No"]), (["a"], ["a"]), (None, []), ("", []), ("null", []), ("[]", [])],
)
def test_a_list_may_be_json_inside_a_string(value: object, expected: list[str]) -> None:
    assert parsing.json_list(value, "outcomes") == expected


@pytest.mark.parametrize("value", ['["Yes", "No', "not json", '{"a": 1}', 5, "[" * 100_000])
def test_a_broken_list_is_invalid(value: object) -> None:
    with pytest.raises(InvalidRecord, match="outcomes: expected"):
        parsing.json_list(value, "outcomes")


def test_numbers_in_json_do_not_pass_through_a_float() -> None:
    fields = parsing.json_object(b'{"volumeNum": 1067832.941120000000000001, "token": 115792089237316195}')
    assert fields["volumeNum"] == Decimal("1067832.941120000000000001")
    assert fields["token"] == 115_792_089_237_316_195


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": NaN}', b"[" * 100_000]
)
def test_a_record_that_is_no_json_object_is_invalid(raw: bytes) -> None:
    with pytest.raises(InvalidRecord, match="record: expected"):
        parsing.json_object(raw)


def test_addresses_and_hashes_are_lower_case() -> None:
    assert parsing.address("0x" + "Ab" * 20, "maker") == "0x" + "ab" * 20
    assert parsing.hash32("0x" + "Ab" * 32, "orderHash") == "0x" + "ab" * 32


@pytest.mark.parametrize("value", ["", "0x", "0x" + "a" * 39, "0x" + "g" * 40, "0x" + "a" * 40 + "\n", None, 5])
def test_what_is_no_address_is_invalid(value: object) -> None:
    with pytest.raises(InvalidRecord, match="maker: expected 0x and 40 hex digits"):
        parsing.address(value, "maker")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=5), st.booleans(), st.sampled_from(["markets", ""]))
def test_a_body_comes_apart_into_its_records(records: list[object], ascii_only: bool, key: str) -> None:  # noqa: FBT001 - Hypothesis'
    texts = [json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for record in records]
    array = b"[" + b" , ".join(texts) + b"]"
    body = b'{"next_cursor": "x", "markets" : ' + array + b', "count": 1}' if key else array
    found, rest = parsing.split_records(body, key)
    assert found == texts
    assert json.loads(rest) == ({"next_cursor": "x", "markets": [], "count": 1} if key else [])


def test_a_truncated_body_does_not_come_apart() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        parsing.split_records(b'{"markets": [{"id": "1"}, {"id": "2"', "markets")


def test_one_element_that_no_strict_reader_takes_comes_apart_in_its_own_bytes() -> None:
    body = (
        b'{"markets": [{"q": "\\ud83d"}, {"q": "\xff"}, {"n": NaN}, {"q": "a\x01"}, {"id": "5"}], "next_cursor": "z"}'
    )
    found, rest = parsing.split_records(body, "markets")
    assert found == [b'{"q": "\\ud83d"}', b'{"q": "\xff"}', b'{"n": NaN}', b'{"q": "a\x01"}', b'{"id": "5"}']
    assert rest == b'{"markets": [], "next_cursor": "z"}'
