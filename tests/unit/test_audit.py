"""The audit's decisions: what is a gap, what is wrong, how it is told."""

import json
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.audit import (
    FIRST_FILL,
    GAP_S,
    SETTLE_S,
    WRONG_COMMAND,
    Question,
    main,
    moment,
    parser,
    question_of,
    show_progress,
)
from monitoring.audit_reading import CHAIN, DAY_S, SUBGRAPH, Day, Span, Volume, spans
from monitoring.audit_report import Audit, as_json, as_text, deviation, notes, problems, to_backfill
from monitoring.coverage import PACE_FILLS, Gap, Minute, find_gaps
from monitoring.reading import absent, known, unknown

MIDNIGHT = 1_762_992_000  # 2025-11-13T00:00:00Z
HOUR = 3600


def by_the_minute(times: Iterable[int], source: str = SUBGRAPH) -> list[Minute]:
    """Return fills at these times as the audit reads them."""
    minutes: dict[int, list[int]] = {}
    for time in sorted(times):
        minutes.setdefault(time // 60, []).append(time)
    return [Minute(source, held[0], held[-1], len(held)) for held in minutes.values()]


def gaps(times: Iterable[int], begin: int, end: int, longest_s: int = GAP_S) -> list[tuple[int, int]]:
    return [(gap.begin, gap.end) for gap in find_gaps(by_the_minute(times), begin, end, longest_s)]


class TestGaps:
    """Silence that the pace around it does not explain."""

    def test_silence_between_fills_is_a_gap_from_fill_to_fill(self) -> None:
        assert gaps([1000, 1001, 5000, 5001], 1000, 5002) == [(1001, 5000)]

    def test_silence_as_long_as_allowed_is_none(self) -> None:
        assert gaps([1000, 1900], 1000, 1901) == []
        assert gaps([1000, 1901], 1000, 1902) == [(1000, 1901)]

    def test_silence_at_either_end_of_the_range_is_a_gap(self) -> None:
        assert gaps([5000], 1000, 9000) == [(1000, 5000), (5000, 9000)]

    def test_without_any_fill_the_whole_range_is_one(self) -> None:
        assert gaps([], 1000, 9000) == [(1000, 9000)]
        assert gaps([], 9000, 9000) == []

    def test_an_hour_of_silence_is_a_gap_at_the_pace_of_today(self) -> None:
        times = [*range(1000), *range(4600, 5600)]
        assert gaps(times, 0, 5600) == [(999, 4600)]

    def test_an_hour_of_silence_is_none_where_fills_are_hours_apart_anyway(self) -> None:
        times = [hour * HOUR for hour in range(300)]
        assert gaps(times, 0, times[-1] + 1) == []

    def test_but_there_as_well_silence_is_a_gap_when_it_is_far_longer(self) -> None:
        before = [hour * HOUR for hour in range(PACE_FILLS)]
        resumed = before[-1] + 2 * PACE_FILLS * HOUR
        after = [resumed + hour * HOUR for hour in range(PACE_FILLS)]
        assert gaps([*before, *after], 0, after[-1] + 1) == [(before[-1], resumed)]

    def test_the_livelier_side_decides(self) -> None:
        """What a dead ingester leaves: dense fills, silence, and a few strays."""
        dense, sparse = list(range(1000)), [10_000 + hour * HOUR for hour in range(2 * PACE_FILLS)]
        assert gaps([*dense, *sparse], 0, sparse[-1] + 1) == [(999, 10_000)]
        mirrored = sorted(sparse[-1] - time for time in [*dense, *sparse])
        assert gaps(mirrored, 0, mirrored[-1] + 1) == [(sparse[-1] - 10_000, sparse[-1] - 999)]

    def test_the_end_of_a_sparse_time_is_no_gap(self) -> None:
        times = [hour * HOUR for hour in range(300)]
        assert gaps(times, 0, times[-1] + 5 * HOUR) == []

    def test_a_gap_tells_the_sources_around_it(self) -> None:
        minutes = [Minute(SUBGRAPH, 0, 10, 5), Minute(SUBGRAPH, 2000, 2010, 5), Minute(CHAIN, 4000, 4010, 5)]
        found = list(find_gaps(minutes, 0, 6000, GAP_S))
        assert [gap.source for gap in found] == [SUBGRAPH, "subgraph to chain", CHAIN]

    def test_two_sources_in_one_minute_leave_no_gap_between_them(self) -> None:
        minutes = [Minute(SUBGRAPH, 0, 58, 5), Minute(CHAIN, 1, 20, 5), Minute(CHAIN, 930, 940, 5)]
        assert list(find_gaps(minutes, 0, 941, GAP_S)) == []

    @given(st.lists(st.integers(0, 100_000), min_size=1, max_size=PACE_FILLS - 1), st.integers(60, 5000))
    def test_where_no_pace_is_known_every_long_silence_is_a_gap(self, times: list[int], longest_s: int) -> None:
        edges = [0, *sorted(times), 100_001]
        expected = [(before, after) for before, after in pairwise(edges) if after - before > longest_s]
        assert gaps(times, 0, 100_001, longest_s) == expected

    @given(st.lists(st.integers(0, 200_000), min_size=1, max_size=600), st.integers(60, 5000))
    def test_gaps_hold_no_fill_and_are_long_and_in_order(self, times: list[int], longest_s: int) -> None:
        found = gaps(times, 0, 200_001, longest_s)
        assert found == sorted(found)
        for begin, end in found:
            assert end - begin > longest_s
            assert not [time for time in times if begin < time < end]


class TestSpans:
    """The range, a UTC day at a time."""

    def test_days_are_cut_at_midnight_and_meet(self) -> None:
        assert spans(MIDNIGHT - 10, MIDNIGHT + DAY_S + 10) == [
            Span(MIDNIGHT - 10, MIDNIGHT),
            Span(MIDNIGHT, MIDNIGHT + DAY_S),
            Span(MIDNIGHT + DAY_S, MIDNIGHT + DAY_S + 10),
        ]

    def test_a_whole_day_is_one(self) -> None:
        assert spans(MIDNIGHT, MIDNIGHT + DAY_S) == [Span(MIDNIGHT, MIDNIGHT + DAY_S)]

    def test_nothing_is_none(self) -> None:
        assert spans(MIDNIGHT, MIDNIGHT) == []


def a_day(**changes: Any) -> Day:
    fields: dict[str, Any] = {
        "begin": MIDNIGHT,
        "source": SUBGRAPH,
        "fills": 10,
        "distinct_fills": 10,
        "trades": 10,
        "distinct_trades": 10,
        "fills_without_trade": 0,
        "trades_without_fill": 0,
        "on_their_way": 0,
        "trades_without_market": 0,
        "prices_outside": 0,
        "volume": Decimal("12345.678901"),
        "first_block": None,
        "last_block": None,
    }
    return Day(**{**fields, **changes})


def an_audit(*days: Day, **changes: Any) -> Audit:
    fields: dict[str, Any] = {
        "begin": MIDNIGHT,
        "end": MIDNIGHT + DAY_S // 2,
        "settle_s": SETTLE_S,
        "gap_s": GAP_S,
        "days": list(days),
        "gaps": [],
        "volume": Volume(),
        "polygon_last_block": absent("no fill from the chain"),
        "unread": known([]),
    }
    return Audit(**{**fields, **changes})


class TestVerdict:
    """What makes the audit fail, and the remedy."""

    def test_a_good_day_has_no_problem(self) -> None:
        assert problems(an_audit(a_day(), a_day(source=CHAIN))) == []

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"distinct_fills": 8}, "2 rows of order_filled repeat others: 2025-11-13"),
            ({"distinct_trades": 9}, "1 row of trades repeat others: 2025-11-13"),
            ({"fills_without_trade": 1}, "1 fill without a trade: 2025-11-13"),
            ({"trades_without_fill": 3}, "3 trades without a fill in order_filled: 2025-11-13"),
            ({"trades_without_market": 4}, "4 trades whose market is not in markets: 2025-11-13"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_each_kind_of_fault_is_a_problem(self, change: dict[str, int], text: str) -> None:
        [problem] = problems(an_audit(a_day(**change)))
        assert problem.text == text
        assert problem.remedy

    def test_markets_that_are_missing_come_with_the_command_that_fetches_them(self) -> None:
        [problem] = problems(an_audit(a_day(trades_without_market=4)))
        assert problem.remedy == ".venv/bin/python3 -m processors.rebuild_markets"

    def test_fields_that_markets_were_stored_without_are_worth_knowing_and_no_problem(self) -> None:
        found = an_audit(a_day(), unreadable=known({"endDate": 1200, "volume": 1}))
        assert problems(found) == []
        note = "fields that can't be read, and how many markets were stored without: endDate 1\u202f200, volume 1"
        assert note.replace("\u202f", ",") in as_text(found).replace("\u202f", ",")
        assert json.loads(as_json(found))["unreadable"]["value"] == {"endDate": 1200, "volume": 1}

    def test_a_gap_comes_with_the_range_to_backfill(self) -> None:
        gap = Gap(CHAIN, MIDNIGHT + 60, MIDNIGHT + 2 * HOUR)
        [problem] = problems(an_audit(a_day(), gaps=[gap]))
        assert problem.text == "no fill for 1 h 59 min: 2025-11-13 00:01:00 UTC to 2025-11-13 02:00:00 UTC (chain)"
        assert problem.remedy == (
            ".venv/bin/python3 -m ingesters.backfill --from 2025-11-13T00:01:00Z --to 2025-11-13T02:00:01Z"
        ), "both ends again: their seconds may be incomplete"

    def test_missing_fills_come_with_their_range(self) -> None:
        days = [a_day(trades_without_fill=1), a_day(source=CHAIN, trades_without_fill=2)]
        days += [a_day(begin=MIDNIGHT + DAY_S, trades_without_fill=1)]
        found = problems(an_audit(*days, end=MIDNIGHT + DAY_S + HOUR))
        assert [problem.remedy for problem in found] == [
            to_backfill(MIDNIGHT, MIDNIGHT + DAY_S),
            to_backfill(MIDNIGHT + DAY_S, MIDNIGHT + DAY_S + HOUR),
        ]
        assert found[0].text.startswith("3 trades")

    def test_what_is_on_its_way_and_odd_prices_are_told_but_not_wrong(self) -> None:
        audit = an_audit(a_day(on_their_way=2, prices_outside=1))
        assert problems(audit) == []
        assert list(notes(audit)) == [
            "2 on the way: written less than 120 s ago",
            "1 trade with a price outside [0, 1]: rare, and allowed by the contract",
        ]

    def test_many_days_are_named_in_short(self) -> None:
        days = [a_day(begin=MIDNIGHT + place * DAY_S, fills_without_trade=1) for place in range(5)]
        [problem] = problems(an_audit(*days, end=MIDNIGHT + 5 * DAY_S))
        assert problem.text == "5 fills without a trade: 2025-11-13, 2025-11-14, 2025-11-15 and 2 more days"

    def test_volume_is_told_with_its_tolerance_and_never_wrong(self) -> None:
        audit = an_audit(a_day(), volume=Volume(2, Decimal("98.5"), Decimal(100)))
        assert problems(audit) == []
        [note] = notes(audit)
        assert note.endswith("98.50 by their trades, 100.00 by Gamma, -1.50% (not within 1%)")
        assert "2 markets created and closed in this time" in note

    def test_a_volume_of_nothing_has_no_deviation(self) -> None:
        assert deviation(Volume(1, Decimal(0), Decimal(0))) is None
        assert deviation(Volume(1, Decimal("100.5"), Decimal(100))) == Decimal("0.005")

    def test_how_far_blocks_were_read_is_told_and_unknown_is_said(self) -> None:
        day = a_day(source=CHAIN, first_block=100, last_block=200)
        [told] = notes(an_audit(day, polygon_last_block=known("210")))
        assert "blocks with fills: 100 to 200; read up to 210" in told
        [untold] = notes(an_audit(day, polygon_last_block=unknown("cannot reach Redis")))
        assert "read up to an unknown one: cannot reach Redis" in untold


class TestReport:
    """The same as text and as JSON."""

    def test_columns_stand_below_their_headings(self) -> None:
        lines = as_text(an_audit(a_day(fills=1_234_567), a_day(source=CHAIN))).splitlines()
        header, first, second, total = lines[2:6]
        assert {len(header), len(first), len(second), len(total)} == {len(header)}
        assert first.split() == [
            "2025-11-13",
            "subgraph",
            "1,234,567",
            "10",
            "10",
            "10",
            "1,234,557",
            "0",
            "0",
            "0",
            "0",
            "0",
            "12,345.68",
        ]
        assert total.split() == [
            "all",
            "1,234,577",
            "20",
            "20",
            "20",
            "1,234,557",
            "0",
            "0",
            "0",
            "0",
            "0",
            "24,691.36",
        ]

    def test_a_single_day_has_no_total(self) -> None:
        assert "all " not in as_text(an_audit(a_day()))

    def test_all_right_is_said(self) -> None:
        assert "All right." in as_text(an_audit(a_day()))
        assert "Wrong:" not in as_text(an_audit(a_day()))

    def test_what_is_wrong_is_followed_by_its_remedy(self) -> None:
        audit = an_audit(a_day(fills_without_trade=1))
        [problem] = problems(audit)
        assert f"Wrong:\n  {problem.text}\n    -> {problem.remedy}" in as_text(audit)
        assert "All right." not in as_text(audit)

    def test_an_empty_database_is_said_to_be_empty(self) -> None:
        assert "No fills and no trades." in as_text(an_audit())

    def test_json_has_the_numbers_of_the_table(self) -> None:
        gap = Gap(SUBGRAPH, MIDNIGHT, MIDNIGHT + HOUR)
        audit = an_audit(a_day(distinct_trades=7), gaps=[gap], volume=Volume(1, Decimal(3), Decimal(4)))
        text = as_json(audit)
        assert "\n" not in text
        told = json.loads(text)
        day = msgspec.structs.asdict(a_day(distinct_trades=7))
        del day["begin"]
        assert told["days"] == [
            {**day, "day": "2025-11-13", "volume": "12345.678901", "repeated_fills": 0, "repeated_trades": 3}
        ]
        assert told["gaps"] == [
            {
                "from": "2025-11-13T00:00:00Z",
                "to": "2025-11-13T01:00:00Z",
                "seconds": HOUR,
                "source": SUBGRAPH,
                "remedy": to_backfill(MIDNIGHT, MIDNIGHT + HOUR + 1),
            }
        ]
        assert (told["ok"], told["from"], told["to"]) == (False, "2025-11-13T00:00:00Z", "2025-11-13T12:00:00Z")
        assert told["volume"]["deviation"] == "-0.250000"
        assert [problem["text"] for problem in told["problems"]] == [problem.text for problem in problems(audit)]


class TestCommand:
    """What is asked for."""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2025-11-13", MIDNIGHT),
            ("2025-11-13T01:00:00Z", MIDNIGHT + HOUR),
            ("2025-11-13 01:00", MIDNIGHT + HOUR),
            (str(MIDNIGHT), MIDNIGHT),
        ],
    )
    def test_a_time_is_a_date_a_time_or_seconds(self, text: str, seconds: int) -> None:
        assert moment(text) == seconds

    def test_without_options_everything_that_has_settled_is_asked_for(self) -> None:
        assert question_of(parser().parse_args([])) == Question()

    def test_nothing_is_missed_before_the_exchange_had_its_first_fills(self) -> None:
        assert moment("2022-11-21") == FIRST_FILL

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--against-source", "--from", "2024-10-01"],
            ["--against-source", "--samples", "0"],
            ["--against-source", "--seed", "-1"],
            ["--from", "yesterday"],
            ["--to", ""],
            ["--from", "99999999999"],
            ["--from", "2025-13-01"],
            ["--from", "2025-11-14", "--to", "2025-11-13"],
            ["--from", "2025-11-13", "--to", "2025-11-13"],
            ["--gap", "59"],
            ["--gap", "soon"],
            ["--settle", "-1"],
            ["--settle", "nan"],
            ["--what"],
        ],
        ids=" ".join,
    )
    def test_a_wrong_command_ends_with_2(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == WRONG_COMMAND
        assert "usage: .venv/bin/python3 -m monitoring.audit" in capsys.readouterr().err

    def test_a_wrong_setting_ends_with_2(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CLICKHOUSE_PORT", "abc")
        assert main([]) == WRONG_COMMAND
        assert "CLICKHOUSE_PORT: expected an integer, got 'abc'" in capsys.readouterr().err

    def test_progress_is_for_terminals_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        days = spans(MIDNIGHT, MIDNIGHT + 2 * DAY_S)
        assert list(show_progress(days, "counted")) == days
        assert capsys.readouterr().err == ""

    def test_a_terminal_is_told_how_far_it_is(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        days = spans(MIDNIGHT, MIDNIGHT + 2 * DAY_S)
        assert list(show_progress(days, "counted")) == days
        told = capsys.readouterr().err
        assert "2 of 2 days counted" in told
        assert told.endswith("\r\x1b[K"), "the line vanishes"
