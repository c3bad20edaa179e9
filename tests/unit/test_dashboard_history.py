"""History: rates are never negative, and a gap stays a gap."""

from hypothesis import given
from hypothesis import strategies as st

from monitoring.history import INTERVAL_S, LENGTH, SPAN_S, History, Sample

START = 1_763_749_200.0


def filled(*counts: float | None, name: str = "trades") -> History:
    """A sample an interval; None is a moment at which the counter was not known."""
    history = History()
    for place, count in enumerate(counts):
        history.add(Sample(START + place * INTERVAL_S, {} if count is None else {name: count}, {}))
    return history


def newest(values: list[float | None], count: int) -> list[float | None]:
    return values[-count:]


def at(count: int) -> float:
    """The time of the last of so many samples."""
    return START + (count - 1) * INTERVAL_S


def test_a_rate_is_growth_per_second() -> None:
    assert newest(filled(0, 50, 150).rates("trades", at(3)), 3) == [None, 10.0, 20.0]


def test_a_counter_that_fell_leaves_a_gap_and_no_negative_rate() -> None:
    assert newest(filled(0, 50, 10, 60).rates("trades", at(4)), 4) == [None, 10.0, None, 10.0]


def test_an_unknown_counter_leaves_a_gap_on_both_sides() -> None:
    assert newest(filled(0, 50, None, 150, 200).rates("trades", at(5)), 5) == [None, 10.0, None, None, 10.0]


def test_missing_samples_leave_a_gap_instead_of_one_low_point() -> None:
    history = filled(0, 50)
    history.add(Sample(at(6), {"trades": 250}, {}))
    assert newest(history.rates("trades", at(6)), 6) == [None, 10.0, None, None, None, None]


def test_time_that_passed_without_samples_shows_at_the_end() -> None:
    assert newest(filled(0, 50).rates("trades", at(4)), 3) == [10.0, None, None]


def test_the_recent_rate_is_the_mean_of_half_a_minute() -> None:
    assert filled(0, 0, 0, 300).recent_rate("trades", at(4)) == 20.0


def test_the_recent_rate_is_unknown_before_there_are_two_samples() -> None:
    assert filled(7).recent_rate("trades", at(1)) is None
    assert filled(0, 50).recent_rate("trades", at(2) + 60) is None
    assert filled(0, 50).recent_rate("other", at(2)) is None


def test_gauges_keep_their_place() -> None:
    history = History()
    history.add(Sample(START, {}, {"behind": 3.0}))
    history.add(Sample(START + 2 * INTERVAL_S, {}, {"behind": 5.0}))
    assert newest(history.gauges("behind", START + 2 * INTERVAL_S), 3) == [3.0, None, 5.0]


def test_samples_older_than_the_span_are_forgotten() -> None:
    history = filled(*range(3 * LENGTH))
    values = history.rates("trades", at(3 * LENGTH))
    assert values == [1 / INTERVAL_S] * LENGTH
    assert len(values) * INTERVAL_S == SPAN_S


def test_a_clock_that_was_set_back_starts_a_new_history() -> None:
    history = filled(0, 50, 100)
    history.add(Sample(START - 1000, {"trades": 110}, {}))
    assert history.recent_rate("trades", START - 1000) is None


@given(st.lists(st.none() | st.integers(0, 10**12), max_size=2 * LENGTH))
def test_no_rate_is_ever_negative(counts: list[int | None]) -> None:
    history = filled(*counts)
    now = at(len(counts))
    assert all(value is None or value >= 0 for value in history.rates("trades", now))
    recent = history.recent_rate("trades", now)
    assert recent is None or recent >= 0
