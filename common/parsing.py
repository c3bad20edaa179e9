"""Foreign values to ints, times, Decimals, addresses, hashes and token ids: the one place where that happens.

Every function takes the value and the name of its field, and raises InvalidRecord with that name and the value,
shortened, when it can't be understood: dead-letter the record. Absent (None or an empty string) is None, "" or [],
as the result's type says; it is never 0.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any

import msgspec

from common.errors import ConfigError, InvalidRecord

TOKEN_LIMIT = 2**256
AMOUNT_LIMIT = 2**64  # ClickHouse UInt64
TIME_LIMIT = 2**32  # ClickHouse DateTime
YEARS = range(1970, 2106)  # what ClickHouse DateTime holds in full; DateTime64 holds more
UNIX_DIGITS = 10  # of a time below 2**32; more or fewer digits than a date's eight
MOST_DIGITS = 100  # a longer number is nonsense; it bounds the work of reading it
MOST_INTEGER_DIGITS = 20  # ClickHouse Decimal(38, 18)

_SHOWN = 80  # characters of a value that a reason repeats
_EXACT = Context(prec=MOST_DIGITS)
_decode = msgspec.json.Decoder(float_hook=Decimal).decode  # numbers as they are written, never through a float

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HASH = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_IDENTITY = re.compile(r"[!-~]{1,200}", re.ASCII)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?"
    r"\s?(?:[Zz]|([+-])(\d\d)(?::?(\d\d)(?::?(\d\d))?)?)?)?",
    re.ASCII,
)
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def shown(value: object) -> str:
    """The value as a reason repeats it: its repr, shortened."""
    text = repr(value[: 2 * _SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def invalid(field: str, expected: str, value: object) -> InvalidRecord:
    """The error that says what a field holds instead of what was expected."""
    return InvalidRecord(f"{field}: expected {expected}, got {shown(value)}")


# --- JSON --------------------------------------------------------------------------------------------------------


def json_value(text: str | bytes, field: str) -> Any:
    """What the JSON text says; numbers with a fraction or an exponent as Decimal."""
    try:
        return _decode(text)
    except (ValueError, RecursionError):  # malformed, bad UTF-8, lone surrogates, an endless integer; too deep
        raise invalid(field, "JSON", text) from None


def json_object(text: bytes) -> dict[str, Any]:
    """A record's fields."""
    value = json_value(text, "record")
    if not isinstance(value, dict):
        raise invalid("record", "a JSON object", text)
    return value


def lenient_object(text: bytes) -> dict[str, Any]:
    """A record's fields where JSON's rules are broken inside one of them: NaN, a control character, a lone surrogate.

    Numbers are as in `json_value`, NaN and its like text, and text that can't be written as UTF-8 is UNREADABLE.
    """
    try:
        value = _lenient.decode(text.decode())
    except (ValueError, RecursionError):
        raise invalid("record", "JSON", text) from None
    if not isinstance(value, dict):
        raise invalid("record", "a JSON object", text)
    return {name: _readable(each) for name, each in value.items()}


UNREADABLE = b""  # nothing that JSON holds, so that every reader of a field refuses it
_lenient = json.JSONDecoder(strict=False, parse_float=Decimal, parse_constant=str)


def _readable(value: Any) -> Any:
    """The value; UNREADABLE where some of it can't be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError):
        return UNREADABLE
    return value


def json_list(value: object, field: str) -> list[Any]:
    """A list that may be written as JSON inside a string, as Gamma does; [] when absent."""
    found = json_value(value, field) if isinstance(value, str) and value.strip() else value
    if found is None or (isinstance(found, str) and not found.strip()):
        return []
    if not isinstance(found, list):
        raise invalid(field, "a list", value)
    return found


def split_records(body: bytes, key: str) -> tuple[list[bytes], bytes]:
    """The elements of the first array called `key`, each in its own bytes, and the body with that array emptied.

    For a body that holds an element which no strict reader takes (a lone surrogate, NaN, a control character), so
    that this element alone is refused. An empty key stands for a body that is itself an array. Raises ValueError
    or RecursionError when the body can't be taken apart.
    """
    text = body.decode("utf-8", "surrogateescape")
    opening = re.search(rf'"{re.escape(key)}"\s*:\s*\[' if key else r"\[", text)
    if opening is None:
        raise ValueError(f"no array {key!r}")
    records, end = _elements(text, opening.end())
    return records, (text[: opening.end()] + text[end:]).encode("utf-8", "surrogateescape")


_tolerant = json.JSONDecoder(strict=False, parse_float=str, parse_int=str, parse_constant=str)
_SEPARATOR = re.compile(r"\s*,?\s*")


def _elements(text: str, start: int) -> tuple[list[bytes], int]:
    found, place = [], _after_separator(text, start)
    while not text.startswith("]", place):
        _, end = _tolerant.raw_decode(text, place)
        found.append(text[place:end].encode("utf-8", "surrogateescape"))
        place = _after_separator(text, end)
    return found, place


def _after_separator(text: str, place: int) -> int:
    separator = _SEPARATOR.match(text, place)
    assert separator is not None  # the pattern matches the empty string
    return separator.end()


# --- numbers -----------------------------------------------------------------------------------------------------


def whole(value: object, field: str, expected: str, limit: int) -> int:
    """An integer from 0 to below the limit, written in decimal digits or as a JSON integer."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise invalid(field, expected, value)
    if not 0 <= number < limit:
        raise invalid(field, expected, value)
    return number


def token_id(value: object, field: str) -> str:
    """An asset id as decimal digits without leading zeros, up to 78 of them; "0" is collateral."""
    return str(whole(value, field, "a token id below 2**256 in decimal digits", TOKEN_LIMIT))


def amount(value: object, field: str) -> int:
    """An amount in base units."""
    return whole(value, field, "an amount from 0 to 2**64 - 1 in decimal digits", AMOUNT_LIMIT)


def timestamp(value: object, field: str) -> int:
    """Unix seconds of an event; 0 is no time."""
    seconds = whole(value, field, "Unix seconds below 2**32", TIME_LIMIT)
    if seconds == 0:
        raise invalid(field, "Unix seconds above 0", value)
    return seconds


def decimal(value: object, field: str, places: int) -> Decimal | None:
    """A decimal number rounded half-even to `places`; None when absent. Twenty digits before the point at most."""
    number = exact(value, field)
    if number is None:
        return None
    if number and number.adjusted() >= MOST_INTEGER_DIGITS:
        raise invalid(field, f"at most {MOST_INTEGER_DIGITS} digits before the point", value)
    if not number or number.adjusted() < -places - 1:
        return Decimal(0).scaleb(-places)
    return number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _EXACT)


def exact(value: object, field: str) -> Decimal | None:
    """A decimal number as it is written; None when absent."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = _as_decimal(value, field)
    if not number.is_finite() or len(number.as_tuple().digits) > MOST_DIGITS:
        raise invalid(field, "a decimal number", value)
    return number


def _as_decimal(value: object, field: str) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        return Decimal(repr(value))  # from a caller that has decoded JSON with floats: its digits, not its bits
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise invalid(field, "a decimal number", value)
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        raise invalid(field, "a decimal number", value)
    try:
        return Decimal(value)
    except InvalidOperation:
        raise invalid(field, "a decimal number", value) from None


# --- times -------------------------------------------------------------------------------------------------------


def time(value: object, field: str) -> datetime | None:
    """A time in UTC; None when absent or outside ClickHouse's DateTime (1970 to 2105).

    Takes every form that Gamma writes: `2025-01-05T00:51:12.215249Z` with any number of digits in the fraction
    (beyond six they are cut), `2021-06-17 15:11:42.5+00`, offsets up to `+00:00:00`, and a date alone. Without an
    offset it is UTC.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(field, "a time", value)
    text = value.strip()
    if not text:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise invalid(field, "a time", value)
    if int(match[1]) not in YEARS:
        return None
    moment = _moment(match)
    if moment is None:
        raise invalid(field, "a time", value)
    return moment if moment.year in YEARS else None


def _moment(match: re.Match[str]) -> datetime | None:
    year, month, day, hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3, 4, 5, 6))
    microsecond = int((match[7] or "")[:6].ljust(6, "0"))
    hours, minutes, seconds = (int(part or 0) for part in match.group(9, 10, 11))
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if hours >= 24 or minutes >= 60 or seconds >= 60:  # noqa: PLR2004 - a clock's
        return None
    try:
        moment = datetime(year, month, day, hour, minute, second, microsecond, UTC)
    except ValueError:
        return None
    return moment + offset if match[8] == "-" else moment - offset


def moment(text: str, field: str) -> int:
    """Unix seconds of a UTC date or time, or of Unix seconds, as commands take them."""
    if text.isascii() and text.isdigit() and len(text) <= UNIX_DIGITS and int(text) < TIME_LIMIT:
        return int(text)
    try:
        found = time(text, field)
    except InvalidRecord:
        found = None
    if found is None:
        raise invalid(field, "a UTC date or time, or Unix seconds", text)
    return int(found.timestamp())


def start_time(text: str, now: float) -> int:
    """Where reading starts, in Unix seconds: '90s', '30m', '1h', '7d' before now, a UTC time, or Unix seconds.

    Raises ConfigError when it is neither, or lies in the future.
    """
    start = _start(text.strip(), now)
    if start is None or not 0 <= start <= now:
        expected = "90s, 30m, 1h or 7d before now, a UTC date or time, Unix seconds or a block, not in the future"
        raise ConfigError(f"ORDER_EVENTS_START: expected {expected}, got {text!r}")
    return start


def _start(text: str, now: float) -> int | None:
    if duration := _DURATION.fullmatch(text):
        return max(0, int(now) - int(duration[1]) * _SECONDS[duration[2]])
    if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS:
        return int(text)
    try:
        moment = time(text, "start")
    except InvalidRecord:
        return None
    return None if moment is None else int(moment.timestamp())


# --- text --------------------------------------------------------------------------------------------------------


def text(value: object, field: str) -> str:
    """Text without the spaces and line ends around it; "" when absent."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(field, "text", value)
    return value.strip()


def flag(value: object, field: str) -> bool:
    """A truth value; False when absent."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if value not in ("true", "false"):
        raise invalid(field, "true or false", value)
    return value == "true"


def address(value: object, field: str) -> str:
    """An address: 0x and 40 hex digits, lower case."""
    return _hex(value, field, _ADDRESS, "0x and 40 hex digits")


def hash32(value: object, field: str) -> str:
    """A hash of 32 bytes: 0x and 64 hex digits, lower case."""
    return _hex(value, field, _HASH, "0x and 64 hex digits")


def _hex(value: object, field: str, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise invalid(field, expected, value)
    return value.lower()


def identity(value: object, field: str) -> str:
    """A source's own id of a record: up to 200 visible ASCII characters, kept as they are."""
    if not isinstance(value, str) or not _IDENTITY.fullmatch(value):
        raise invalid(field, "an id", value)
    return value


def required(fields: Mapping[str, Any], field: str) -> Any:
    """The field's value; InvalidRecord names a missing one."""
    try:
        return fields[field]
    except KeyError:
        raise InvalidRecord(f"{field}: missing") from None


def identity_of_bytes(raw: bytes) -> str:
    """What a record without a usable id of its own is known by."""
    return f"fault:{blake2b(raw, digest_size=16).hexdigest()}"
