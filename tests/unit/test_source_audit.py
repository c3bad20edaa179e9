"""Which ranges are read again, and how two sides' fills are compared."""

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.helper_process import RangeRequest
from common.records import OrderFilled
from ingesters.reread import Candidate, in_turn
from monitoring.source_differences import differences, of_either
from monitoring.source_report import SourceAudit, is_complete, source_problems, source_text
from monitoring.source_samples import WIDTHS, Covered, Sample, draw
from tests.builders import make_fill

if TYPE_CHECKING:
    from ingesters.backfill_source import Station

CHAIN = Covered("polygon", 1000, 5000, 10_000, 18_000)
HISTORY = Covered("goldsky", 2000, 9000, 2000, 9000)
BELOW = Covered("goldsky", 100, 200, 100, 200)


def drawn(*covered: Covered, count: int = 40, seed: int = 1, near: int | None = None) -> list[Sample]:
    return draw(covered, count, Random(seed), lambda _covered, _moment: near)


class TestSamples:
    """Only what was read, the same with the same seed."""

    @given(st.integers(0, 1000))
    def test_each_lies_within_what_was_read(self, seed: int) -> None:
        for sample in drawn(CHAIN, HISTORY, BELOW, seed=seed):
            assert sample.end - sample.begin == WIDTHS[sample.source]
            assert any(
                each.source == sample.source and each.begin <= sample.begin < sample.end <= each.end
                for each in (CHAIN, HISTORY, BELOW)
            )

    def test_both_sources_have_as_many(self) -> None:
        assert Counter(sample.source for sample in drawn(CHAIN, HISTORY)) == {"polygon": 20, "goldsky": 20}
        assert {sample.source for sample in drawn(CHAIN)} == {"polygon"}
        assert drawn() == []

    def test_a_seed_draws_the_same_again_and_another_one_others(self) -> None:
        assert drawn(CHAIN, HISTORY) == drawn(CHAIN, HISTORY)
        assert drawn(CHAIN, HISTORY) != drawn(CHAIN, HISTORY, seed=2)

    def test_every_second_one_of_a_source_holds_a_stored_fill(self) -> None:
        held = [sample.begin <= 3333 < sample.end for sample in drawn(CHAIN, near=3333)]
        assert held[1::2] == [True] * 20
        assert sum(held[::2]) < 5

    def test_a_range_shorter_than_a_sample_is_taken_whole(self) -> None:
        assert set(drawn(Covered("polygon", 7, 9, 100, 104))) == {Sample("polygon", 7, 9)}

    def test_what_is_too_fresh_is_left_out(self) -> None:
        assert HISTORY.settled(8000) == Covered("goldsky", 2000, 8000, 2000, 8000)
        assert HISTORY.settled(20_000) == HISTORY
        assert CHAIN.settled(17_000).end == 4000  # of blocks of two seconds 500 would do
        assert CHAIN.settled(10_000).is_empty


def numbered(count: int, *, first: int = 0, content: int = 1) -> list[OrderFilled]:
    """Return equal fills of one transaction, as a provider numbers them."""
    return [make_fill(content, id=f"0x{content}_{i}", log_index=i) for i in range(first, first + count)]


class TestDifferences:
    """By content, and by how many are equal."""

    @pytest.mark.parametrize("shift", [0, 1, 1000])
    def test_another_numbering_is_no_difference(self, shift: int) -> None:
        read = [*numbered(3, first=shift), *numbered(1, first=shift, content=2)]
        assert differences(read, [*numbered(1, content=2), *numbered(3)]) == ([], [])

    def test_of_equal_ones_the_number_counts(self) -> None:
        [missing], surplus = differences(numbered(3), numbered(2))
        assert (missing.id, surplus) == ("0x1_2", [])
        missing_none, [more] = differences(numbered(2), numbered(3))
        assert (missing_none, more.id) == ([], "0x1_2")

    def test_a_fill_that_says_something_else_is_both(self) -> None:
        told, changed = make_fill(1), make_fill(1, fee=99)
        assert differences([told], [changed]) == ([told], [changed])

    @given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))
    def test_two_answers_show_together_as_many_as_the_longer_one(self, one: int, other: int, shift: int) -> None:
        assert len(of_either(numbered(one), numbered(other, first=shift))) == max(one, other)


class TestTurns:
    """Which of several providers is asked first."""

    def order(self, count: int = 3, **changes: object) -> list[int]:
        providers = [Candidate(number, f"host{number}", cast("Station", None)) for number in range(count)]
        request = RangeRequest("polygon", 1, 2, **changes)  # type: ignore[arg-type]  # its own fields
        return [each.number for each in in_turn(providers, request)]

    def test_they_take_turns_and_the_one_that_is_read_from_comes_last(self) -> None:
        assert [self.order(turn=turn) for turn in range(3)] == [[1, 2, 0], [1, 2, 0], [2, 1, 0]]
        assert self.order(read_by="host2", turn=1) == [1, 0, 2]

    def test_those_that_have_answered_come_after_all_others(self) -> None:
        assert self.order(asked=[1]) == [2, 0, 1]
        assert self.order(asked=[1, 2]) == [0, 1, 2]

    def test_one_alone_is_asked_whatever_it_is(self) -> None:
        assert self.order(1, turn=5, asked=[0]) == [0]


def test_without_any_sample_nothing_is_all_right() -> None:
    nothing = SourceAudit(1, [], [], [], [], [])
    assert (source_problems(nothing), is_complete(nothing)) == ([], False)
    assert "All right" not in source_text(nothing)
