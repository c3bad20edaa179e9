"""A backfill's arithmetic and words: slices, rows to skip, the command line, the summary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.progress import Hour, Run
from common.redis_queue import Offer, Position
from ingesters.backfill import order_of
from ingesters.backfill_book import Snapshot
from ingesters.backfill_goldsky import rows_before, rows_to_skip
from ingesters.backfill_plan import CATCH_UP, GROWTH, LEAST_PAGES, SLICE_PAGES, Spacing, Widths, share_done
from ingesters.backfill_text import Gap, Pace, days, duration, gaps, place_text, summary
from ingesters.goldsky_ingester import ParsedFill

MIDNIGHT = 1_763_078_400  # 2025-11-14
HOUR = 3600
DAY = 86_400
NOW = 1_800_000_000.0


class TestWidths:
    def test_the_first_slices_are_of_a_given_width(self) -> None:
        assert Widths(600, 10**6, workers=4).next(10**6) == 600

    def test_a_short_range_is_shared_from_the_start(self) -> None:
        assert Widths(600, 10**6, workers=4).next(400) == 100

    def test_a_slice_is_as_wide_as_some_pages_of_late(self) -> None:
        widths = Widths(600, 10**9, workers=1)
        for _ in range(100):
            widths.note_page(100)
        assert widths.next(10**6) == SLICE_PAGES * 100

    def test_widths_follow_the_density(self) -> None:
        widths = Widths(600, 10**9, workers=1)
        for units in [1000] * 100 + [10] * 1000:
            widths.note_page(units)
        assert widths.next(10**6) == SLICE_PAGES * 10

    def test_silence_makes_slices_grow_but_not_at_once(self) -> None:
        widths = Widths(600, 10**9, workers=1)
        seen = [widths.next(10**9)]
        for _ in range(3):
            widths.note_page(10**6)
            seen.append(widths.next(10**9))
        assert seen == [600, 600 * GROWTH, 600 * GROWTH**2, 600 * GROWTH**3]

    def test_towards_the_end_slices_shrink_to_a_few_pages(self) -> None:
        widths = Widths(600, 10**9, workers=4)
        for _ in range(100):
            widths.note_page(100)
        assert widths.next(40 * 100) == 10 * 100
        assert widths.next(8 * 100) == LEAST_PAGES * 100
        assert widths.next(70) == 70

    @given(st.integers(1, 10**9), st.integers(1, 64), st.lists(st.integers(0, 10**8), max_size=20))
    def test_a_width_lies_within_what_is_left(self, left: int, workers: int, pages: list[int]) -> None:
        widths = Widths(600, 10**6, workers)
        for units in pages:
            widths.note_page(units)
        assert 1 <= widths.next(left) <= min(left, 10**6)


class TestSpacing:
    def test_turns_come_evenly(self) -> None:
        spacing = Spacing(50)
        assert spacing.take_s(100.0) == 0
        spacing.take_s(100.0)
        spacing.take_s(100.0)
        assert spacing.take_s(100.0) == pytest.approx(0.2)
        assert spacing.take_s(100.25) == 0
        assert spacing.take_s(100.25) == pytest.approx(0.15)

    @given(st.lists(st.floats(0, 3), max_size=200))
    def test_no_ten_seconds_have_more_than_so_many_and_those_caught_up_with(self, pauses: list[float]) -> None:
        spacing, now, taken = Spacing(50), 100.0, []
        for pause in pauses:
            now += pause / 10
            if not spacing.take_s(now):
                taken.append(now)
        assert all(sum(first <= at < first + 10 for at in taken) <= 50 + CATCH_UP + 1 for first in taken)


def test_the_share_counts_what_open_slices_have_left() -> None:
    assert share_done(0, 100, 50, [(10, 20), (45, 50)]) == pytest.approx(0.35)
    assert share_done(0, 100, 100, []) == 1
    assert share_done(5, 5, 5, []) == 1


class TestRows:
    def test_rows_beyond_the_end_are_cut_off_from_the_first_one_on(self) -> None:
        rows = [_row(5, "a"), ParsedFill(Offer("x", b"", fault="?"), None), _row(7, "a"), _row(6, "b")]
        assert rows_before(rows, 7) == rows[:2]
        assert rows_before(rows, 8) == rows

    def test_the_rows_of_the_last_second_before_the_last_one_are_skipped(self) -> None:
        places = [Position(5, "a"), Position(6, "a"), None, Position(6, "b"), Position(6, "c")]
        assert rows_to_skip(places, Position(6, "c"), skipped=9) == 3

    def test_a_second_that_goes_on_counts_what_was_skipped(self) -> None:
        places = [Position(6, "b"), Position(6, "c"), Position(6, "d")]
        assert rows_to_skip(places, Position(6, "d"), skipped=1) == 3

    def test_a_row_that_came_twice_counts_twice(self) -> None:
        places = [Position(6, "a"), Position(6, "a"), Position(6, "b"), Position(6, "b")]
        assert rows_to_skip(places, Position(6, "b"), skipped=0) == 3


def _row(timestamp: int, identity: str) -> ParsedFill:
    return ParsedFill(Offer(identity, b"", timestamp), Position(timestamp, identity))


class TestTheCommandLine:
    def test_times_are_dates_times_or_unix_seconds(self) -> None:
        order = order_of(["--from", "2025-11-14", "--to", "2025-11-14T12:15:00Z"], NOW)
        assert (order.begin, order.end) == (MIDNIGHT, MIDNIGHT + 44_100)
        assert (order.source, order.workers) == (None, None)
        order = order_of(["--from", "1763078400", "--to", "1763078401", "--source", "polygon", "--workers", "3"], NOW)
        assert order == (MIDNIGHT, MIDNIGHT + 1, "polygon", 3)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--from", "2025-11-14"], "required: --to"),
            (["--from", "yesterday", "--to", "2025-11-14"], "a UTC date or time, or Unix seconds, got 'yesterday'"),
            (["--from", "20251114", "--to", "2025-11-15"], "dates are written 2024-10-01"),
            (["--from", "2025-11-14", "--to", "2025-11-14"], "--from must be before --to"),
            (["--from", "2099-01-01", "--to", "2099-01-02"], "--from lies in the future"),
            (["--from", "2025-11-14", "--to", "2025-11-15", "--workers", "0"], "a number from 1 to 64, got '0'"),
            (["--from", "2025-11-14", "--to", "2025-11-15", "--source", "gamma"], "invalid choice: 'gamma'"),
        ],
    )
    def test_what_makes_no_sense_is_refused_in_words(
        self, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            order_of(arguments, NOW)
        assert ended.value.code == 2
        assert complaint in capsys.readouterr().err


def _run(since: int, until: int, hours: dict[int, Hour]) -> Run:
    return Run(since, until, since, until, until, [], hours, is_complete=True)


class TestTheSummary:
    def test_days_are_sums_of_their_hours_and_empty_ones_are_shown(self) -> None:
        hours = {
            MIDNIGHT: Hour(1, 2, 3, MIDNIGHT, MIDNIGHT + 9),
            MIDNIGHT + HOUR: Hour(10, 20, 30, MIDNIGHT + HOUR, MIDNIGHT + HOUR),
            MIDNIGHT + 2 * DAY: Hour(5, 0, 0, MIDNIGHT + 2 * DAY, MIDNIGHT + 2 * DAY),
        }
        assert days(_run(MIDNIGHT, MIDNIGHT + 2 * DAY + 1, hours)) == {
            MIDNIGHT: Hour(11, 22, 33),
            MIDNIGHT + DAY: Hour(),
            MIDNIGHT + 2 * DAY: Hour(5, 0, 0),
        }

    def test_a_gap_is_an_hour_or_more_between_fills_or_ends_of_the_range(self) -> None:
        hours = {
            MIDNIGHT + HOUR: Hour(2, 0, 0, MIDNIGHT + HOUR, MIDNIGHT + HOUR + 60),
            MIDNIGHT + 2 * HOUR: Hour(2, 0, 0, MIDNIGHT + 2 * HOUR + 59, MIDNIGHT + 2 * HOUR + 1000),
            MIDNIGHT + 3 * HOUR: Hour(2, 0, 0, MIDNIGHT + 3 * HOUR + 1000, MIDNIGHT + 3 * HOUR + 1000),
        }
        assert list(gaps(_run(MIDNIGHT, MIDNIGHT + 4 * HOUR, hours))) == [
            Gap(MIDNIGHT, MIDNIGHT + HOUR),
            Gap(MIDNIGHT + 2 * HOUR + 1000, MIDNIGHT + 3 * HOUR + 1000),
        ]

    def test_a_range_without_fills_is_one_gap(self) -> None:
        assert list(gaps(_run(MIDNIGHT, MIDNIGHT + DAY, {}))) == [Gap(MIDNIGHT, MIDNIGHT + DAY)]

    def test_an_hour_of_dead_letters_alone_is_no_fill(self) -> None:
        run = _run(MIDNIGHT, MIDNIGHT + 2 * HOUR, {MIDNIGHT: Hour(0, 0, 3)})
        assert list(gaps(run)) == [Gap(MIDNIGHT, MIDNIGHT + 2 * HOUR)]

    def test_it_is_a_table_with_a_line_for_each_gap(self) -> None:
        hours = {MIDNIGHT: Hour(1000, 2, 3, MIDNIGHT, MIDNIGHT + 9)}
        table, lines = summary("goldsky", _run(MIDNIGHT, MIDNIGHT + DAY, hours))
        cells = [list(column.cells) for column in table.columns]
        assert cells == [["2025-11-14"], ["1,000"], ["2"], ["3"]]
        assert lines == ["no fill for 23 h 59 min: 2025-11-14 00:00:09 to 2025-11-15 00:00:00"]


class TestPace:
    def test_rate_and_time_left_come_from_the_last_half_minute(self) -> None:
        pace = Pace()
        pace.note(0.0, Snapshot(0.0, 0, 0, 0, 0))
        pace.note(100.0, Snapshot(0.5, 0, 100, 0, 0))
        pace.note(120.0, Snapshot(0.6, 0, 100, 500, 0))
        pace.note(130.0, Snapshot(0.7, 0, 400, 500, 100))
        assert pace.per_second() == pytest.approx(900 / 30)
        assert pace.left_s() == pytest.approx(45.0)

    def test_one_look_tells_nothing(self) -> None:
        pace = Pace()
        pace.note(0.0, Snapshot(0.0, 0, 0, 0, 0))
        assert (pace.per_second(), pace.left_s()) == (0.0, None)


def test_durations_and_places_are_words() -> None:
    told = [duration(seconds) for seconds in (40, 720, 11_100, 187_200)]
    assert told == ["40 s", "12 min", "3 h 05 min", "2 d 4 h"]
    assert place_text("blocks", 86_126_998) == "block 86126998"
    assert place_text("seconds", MIDNIGHT) == "2025-11-14 00:00:00"
