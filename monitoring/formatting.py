"""Numbers, times and foreign text as people read them on the page. Pure."""

import math
from datetime import UTC, datetime

GAP = "\u202f"  # narrow no-break space between a number and its unit
MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S
SHORTENED = 240  # characters shown of a dead letter
_UNITS = ((DAY_S, "d", HOUR_S, "h"), (HOUR_S, "h", MINUTE_S, "min"), (MINUTE_S, "min", 1, "s"))
_FINE_UP_TO = 10  # below it a duration shows a decimal
_DECIMALS_UP_TO = 100  # below it a rate does
_SLOW = 0.1  # per second; below it a rate is told per minute
_KILO = 1000


def number(value: float) -> str:
    """`1,234,567`; fractions are rounded away."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `207 d`."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < _FINE_UP_TO and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f}{GAP}s"
    whole = round(seconds)
    for size, unit, small_size, small_unit in _UNITS:
        if whole >= size:
            small = whole % size // small_size
            rest = f" {small}{GAP}{small_unit}" if small and whole < 10 * size else ""
            return f"{whole // size:,}{GAP}{unit}{rest}"
    return f"{whole}{GAP}s"


def ago(age_s: float) -> str:
    """`now`, `3 s ago`, `in 5 s`."""
    whole = round(age_s) if math.isfinite(age_s) else math.inf
    if whole == 0:
        return "now"
    return f"{duration(whole)} ago" if whole > 0 else f"in {duration(-whole)}"


def utc(timestamp: float) -> str:
    """`2026-11-21 18:20:11 UTC` for Unix seconds; the bare number when it is outside the calendar."""
    try:
        return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{timestamp:g}"


def iso(timestamp: float) -> str:
    """`2026-11-21T18:20:11Z`, for machines."""
    return utc(timestamp).replace(" UTC", "Z").replace(" ", "T")


def rate(per_second: float) -> str:
    """`1,234/s`, `40.2/s`, `3/min` where it is slow, `0/s`."""
    if per_second == 0:
        return "0/s"
    if per_second < _SLOW:
        return f"{per_second * MINUTE_S:.2g}/min"
    return f"{per_second:,.0f}/s" if per_second >= _DECIMALS_UP_TO else f"{per_second:.1f}/s"


def size(count: float) -> str:
    """Bytes as `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _KILO:
            return f"{count:.1f}{GAP}{unit}" if unit != "B" else f"{count:.0f}{GAP}B"
        count /= _KILO
    return f"{count:,.1f}{GAP}TB"


def printable(data: bytes | str, limit: int = SHORTENED) -> str:
    """Foreign text without anything that steers a terminal or reorders a line, shortened to `limit` characters."""
    text = data if isinstance(data, str) else data[: 4 * limit].decode(errors="backslashreplace")
    shown = "".join(sign if sign.isprintable() else _escaped(sign) for sign in text[: limit + 1])
    return shown if len(text) <= limit and len(shown) <= limit else f"{shown[:limit]}…"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode()
