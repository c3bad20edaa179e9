"""Numbers, times and foreign text as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import formatting


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"), (0.04, "0 s"), (float("inf"), "an unknown time"),
        (0.4, "0.4 s"), (9.94, "9.9 s"), (12.3, "12 s"),
        (59.6, "1 min"), (185, "3 min 5 s"),
        (3600, "1 h"), (7800, "2 h 10 min"), (86_400 * 207.4, "207 d"), (86_400 * 2 + 7200, "2 d 2 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert formatting.duration(seconds).replace(formatting.GAP, " ") == shown


@pytest.mark.parametrize(
    ("per_second", "shown"),
    [(0, "0/s"), (0.05, "3/min"), (0.01, "0.6/min"), (3.26, "3.3/s"), (40.24, "40.2/s"), (1234.5, "1,234/s")],
)
def test_rates(per_second: float, shown: str) -> None:
    assert formatting.rate(per_second) == shown


@pytest.mark.parametrize(("age_s", "shown"), [(0.2, "now"), (3.1, "3 s ago"), (-5, "in 5 s"), (-0.4, "now")])
def test_ages(age_s: float, shown: str) -> None:
    assert formatting.ago(age_s).replace(formatting.GAP, " ") == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3.2e12, "3.2 TB")])
def test_sizes(count: float, shown: str) -> None:
    assert formatting.size(count).replace(formatting.GAP, " ") == shown


def test_numbers_carry_separators() -> None:
    assert formatting.number(1_234_567) == "1,234,567"


def test_times_are_utc() -> None:
    assert formatting.utc(1_763_749_211) == "2025-11-21 18:20:11 UTC"
    assert formatting.iso(1_763_749_211.9) == "2025-11-21T18:20:11Z"


@pytest.mark.parametrize("timestamp", [1e300, -1e300, float("inf"), float("nan")])
def test_a_time_outside_the_calendar_is_shown_as_it_is(timestamp: float) -> None:
    assert formatting.utc(timestamp) == f"{timestamp:g}"
    assert formatting.ago(timestamp)


def test_foreign_bytes_are_shown_without_steering_signs() -> None:
    assert formatting.printable(b"a\x1b[31m\xff\n\xe2\x80\xaeb") == r"a\x1b[31m\xff\n\u202eb"


def test_long_text_is_shortened() -> None:
    assert formatting.printable("x" * 500, limit=10) == "x" * 10 + "…"
    assert formatting.printable("x" * 10, limit=10) == "x" * 10


@given(st.binary(max_size=2000) | st.text(max_size=2000))
def test_whatever_comes_in_is_short_and_printable(data: bytes | str) -> None:
    shown = formatting.printable(data)
    assert len(shown) <= formatting.SHORTENED + 1
    assert shown.isprintable()


@given(st.floats())
def test_any_number_can_be_shown_as_an_age(value: float) -> None:
    assert formatting.ago(value)
