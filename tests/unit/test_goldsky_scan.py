"""However pages are cut, a scan reads every fill once it exists; none is lost among equal seconds."""

from collections.abc import Callable, Iterator, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.redis_queue import Position
from ingesters.fill_scan import Phase, Scan, advance, begin

MOST_STEPS = 2000


class Source:
    """A subgraph as a sorted list, with the source's habit of cutting pages short, and of mixing up their rows."""

    def __init__(self, fills: list[Position], cuts: Iterator[int], mixer: Random | None = None) -> None:
        self.fills = sorted(set(fills))
        self.asked = 0
        self._cuts = cuts
        self._mixer = mixer

    def page(self, where: Mapping[str, str], first: int) -> list[Position]:
        self.asked += 1
        matching = [fill for fill in self.fills if _matches(fill, where)]
        page = matching[: max(1, first - next(self._cuts, 0))]
        if self._mixer:
            self._mixer.shuffle(page)
        return page


def _matches(fill: Position, where: Mapping[str, str]) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "timestamp": lambda value: fill.timestamp == int(value),
        "timestamp_gt": lambda value: fill.timestamp > int(value),
        "timestamp_gte": lambda value: fill.timestamp >= int(value),
        "timestamp_lte": lambda value: fill.timestamp <= int(value),
        "id_gt": lambda value: fill.id > value,
    }
    return all(tests[name](value) for name, value in where.items())


def read_all(source: Source, scan: Scan | None, first: int) -> list[Position]:
    """Everything a scan comes by until it says that this is the end."""
    read: list[Position] = []
    for _ in range(MOST_STEPS):
        if scan is None:
            return read
        rows = source.page(scan.where(), first)
        read += rows
        position = scan.position
        scan = advance(scan, [row for row in rows if row > position], is_full=len(rows) >= first)
    raise AssertionError("the scan does not end")


# Few seconds and few ids, so that ties and seconds that fill several pages are the rule.
FILLS = st.lists(
    st.builds(Position, st.integers(min_value=1, max_value=6), st.sampled_from([f"{n:02x}" for n in range(40)])),
    max_size=120,
)
CUTS = st.lists(st.integers(min_value=0, max_value=8), max_size=60)


@given(FILLS, st.integers(min_value=1, max_value=9), CUTS, st.randoms(use_true_random=False))
def test_every_fill_is_read_wherever_pages_end_however_short_they_are_and_in_whatever_order(
    fills: list[Position], first: int, cuts: list[int], mixer: Random
) -> None:
    source = Source(fills, iter(cuts), mixer)
    assert set(read_all(source, begin(1), first)) == set(fills)


@given(FILLS, FILLS, st.integers(min_value=1, max_value=9), st.integers(min_value=1, max_value=6))
def test_a_second_look_from_the_overlap_reads_what_came_late(
    early: list[Position], late: list[Position], first: int, overlap: int
) -> None:
    source = Source(early, iter(()))
    read = set(read_all(source, begin(1), first))
    source.fills = sorted(set(early + late))
    cursor = max(read, default=Position(1, ""))
    start = max(0, cursor.timestamp - overlap)
    read |= set(read_all(source, begin(start), first))
    assert read >= {fill for fill in late if fill.timestamp >= start}


@given(FILLS, st.integers(min_value=1, max_value=9), CUTS, st.integers(min_value=0, max_value=30))
def test_a_scan_that_starts_again_at_its_cursor_loses_nothing(
    fills: list[Position], first: int, cuts: list[int], stop_after: int
) -> None:
    source = Source(fills, iter(cuts))
    scan: Scan | None = begin(1)
    read: list[Position] = []
    while scan is not None and source.asked < stop_after:
        position = scan.position
        rows = source.page(scan.where(), first)
        read += rows
        scan = advance(scan, [row for row in rows if row > position], is_full=len(rows) >= first)
    cursor = max(read, default=Position(1, ""))
    assert set(read) | set(read_all(source, begin(cursor.timestamp), first)) == set(fills)


@given(FILLS, st.integers(min_value=1, max_value=9), CUTS, st.integers(min_value=1, max_value=7))
def test_a_scan_with_an_end_reads_up_to_and_including_it(
    fills: list[Position], first: int, cuts: list[int], until: int
) -> None:
    source = Source(fills, iter(cuts))
    assert set(read_all(source, begin(1, until), first)) == {fill for fill in fills if fill.timestamp <= until}


def test_a_long_history_costs_one_request_a_page() -> None:
    fills = [Position(second, f"{n:03x}") for second in range(1, 101) for n in range(40)]
    source = Source(fills, iter(()))
    assert set(read_all(source, begin(1), 1000)) == set(fills)
    assert source.asked <= 4000 // 960 + 3  # pages that repeat up to a second, and two questions that end it


@pytest.mark.parametrize(
    ("phase", "where"),
    [
        (Phase.FROM, {"timestamp_gte": "7"}),
        (Phase.TIES, {"timestamp": "7", "id_gt": "a"}),
        (Phase.LATER, {"timestamp_gt": "7"}),
    ],
)
def test_each_phase_is_one_simple_filter(phase: Phase, where: dict[str, str]) -> None:
    assert Scan(Position(7, "a"), phase).where() == where


def test_only_an_empty_answer_to_the_last_question_is_the_end() -> None:
    here = Position(7, "a")
    ties = advance(Scan(here), [], is_full=False)
    assert ties == Scan(here, Phase.TIES)
    assert ties is not None
    later = advance(ties, [], is_full=False)
    assert later == Scan(here, Phase.LATER)
    assert later is not None
    assert advance(later, [], is_full=False) is None
    assert advance(later, [Position(9, "b")], is_full=False) == Scan(Position(9, "b"), Phase.TIES)
