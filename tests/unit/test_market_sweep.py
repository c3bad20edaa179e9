"""Where a sweep through all markets is: what it tells, what it takes up again, and where its two ends meet."""

import logging
from concurrent.futures import Future
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Unavailable
from ingesters.gamma import Gamma, Page, Record
from ingesters.market_lanes import Descent, ListLane, NoneClosed
from ingesters.market_sweep import REFUSALS, Place, Refusals, Round, Span, restored
from ingesters.readers import Read, Readers
from tests.builders import make_market
from tests.simulator import Clock

CLOSED_IDS = range(1000, 2000)


class Desk:
    """Readers whose answers are there at once, out of the ids of closed markets; what was asked is noted."""

    count = 2

    def __init__(self, ids: set[int]) -> None:
        self.ids = ids
        self.asked: list[tuple[int, int]] = []

    def submit(self, read: Read, _spare: int) -> Future[Page]:
        future: Future[Page] = Future()
        try:
            future.set_result(read(cast("Gamma", self)))
        except Unavailable as error:
            future.set_exception(error)
        return future

    def newest(self, _limit: int, *, closed: bool) -> Page:
        assert closed
        return Page([], frozenset({str(max(self.ids))} if self.ids else ()), None)

    def in_range(self, first: int, last: int, *, closed: bool) -> list[bytes]:
        assert closed
        self.asked.append((first, last))
        return [raw(number) for number in sorted(self.ids) if first <= number <= last][:100]


def raw(number: int) -> bytes:
    return f'{{"id": "{number}"}}'.encode()


def descend(descent: Descent, desk: Desk, lowest: int = 1) -> list[str]:
    """The ids in the order in which they are published, down to the lowest."""
    found: list[str] = []
    readers = cast("Readers", desk)
    descent.ask(readers, 0, lowest)
    while descent.awaited():
        page = descent.take()
        if page is not None:
            found += page.identities
            descent.move(page)
        descent.ask(readers, 0, lowest)
    return found


@given(st.sets(st.integers(1, 3000), min_size=1, max_size=600), st.integers(1, 3000))
def test_a_descent_reads_every_id_from_the_highest_down(ids: set[int], lowest: int) -> None:
    desk, descent = Desk(ids), Descent(None, 100)
    found = descend(descent, desk, lowest)
    assert {int(identity) for identity in found} == {number for number in ids if number >= lowest}
    assert len(found) == len(set(found))
    assert all(last - first < 400 for first, last in desk.asked)


def test_without_a_newest_closed_market_there_is_no_descent() -> None:
    """An empty answer would otherwise pass for a list that has been read to its end."""
    with pytest.raises(NoneClosed, match="lists no closed market"):
        descend(Descent(None, 100), Desk(set()))


def test_a_descent_goes_on_where_another_was() -> None:
    first, desk = Descent(None, 100), Desk(set(CLOSED_IDS))
    descend(first, desk, 1500)
    assert first.span == Span(1500, 1999)
    assert {int(identity) for identity in descend(Descent(first.span, 100), desk)} == set(range(1000, 1500))


def test_a_page_that_may_be_cut_off_is_asked_for_again_in_parts() -> None:
    sparse_above_dense = {*range(1, 900), 1000, 1300, 1600, 1900, 2200}
    desk = Desk(sparse_above_dense)
    assert {int(identity) for identity in descend(Descent(None, 100), desk)} == sparse_above_dense
    assert any(last - first >= 300 for first, last in desk.asked)


def refusals_at(clock: Clock) -> Refusals:
    return Refusals("closed markets", logging.getLogger("refusals"), clock)


def refused_for(refusals: Refusals, clock: Clock, place: Place, seconds: float) -> list[Place]:
    """Every request of a list at that place is refused for so long; from where it asked."""
    asked, until = [], clock.now + seconds
    while clock.now < until:
        if not refusals.is_on:
            asked.append(refusals.place(place))
            refusals.refused(asked[-1], place, "403")
        clock.now += 1
    return asked


def test_one_refusal_is_passed_over_like_any_other_failure() -> None:
    clock, place = Clock(0), Place("abc")
    refusals = refusals_at(clock)
    refusals.refused(place, place, "403")
    paused = refusals.is_on
    clock.now += 15
    assert paused > refusals.is_on
    assert refusals.place(place) == place
    assert not refusals.passed(place, place)
    assert refusals.describe() == ""


def test_a_cursor_is_given_up_only_once_the_first_page_passes_where_it_does_not() -> None:
    clock, place = Clock(0), Place("abc")
    refusals = refusals_at(clock)
    assert refused_for(refusals, clock, place, 120) == [place] * REFUSALS  # after 0, 15, 45 and 105 s
    assert refusals.place(place) == Place()
    assert refusals.passed(Place(), place)
    assert refusals.place(place) == place


def test_where_the_first_page_is_refused_as_well_it_is_not_the_cursor() -> None:
    clock, place = Clock(0), Place("abc")
    asked = refused_for(refusals_at(clock), clock, place, 1200)
    assert asked[: REFUSALS + 2] == [*[place] * REFUSALS, Place(), place]
    assert len(asked) > 15


def lane_at(*pages: list[int]) -> ListLane:
    """A lane of closed markets after these pages."""
    lane = ListLane(lambda _: pytest.fail("nothing is asked here"), Place(), refusals_at(Clock(0)), closed=True)
    for numbers in pages:
        page = Page([Record(raw(number)) for number in numbers], frozenset(map(str, numbers)), str(numbers[-1]))
        lane.move(page, [make_market(number, id=str(number)) for number in numbers])
    return lane


def test_list_and_descent_meet_where_no_id_is_left_between_them() -> None:
    descent = Descent(Span(1500, 1999), 100)
    assert not descent.meets(lane_at([1000, 1200], [1498]))
    assert descent.meets(lane_at([1000, 1200], [1200, 1499]))


def test_a_list_that_is_not_in_the_order_of_ids_meets_nothing() -> None:
    descent = Descent(Span(1500, 1999), 100)
    assert not descent.meets(lane_at([1000, 1800], [1100, 1600]))
    assert not descent.meets(lane_at([1800, 1100]))


CURSORS = st.text("abcXYZ019=_-", max_size=12)
PLACES = CURSORS.map(Place) | st.just(Place(is_done=True))
SPANS = st.none() | st.builds(Span, st.integers(0, 10**9), st.integers(0, 10**9))


@given(st.integers(1, 999), st.integers(0, 10**9), PLACES, PLACES, SPANS)
def test_what_the_state_tells_is_taken_up_again(
    number: int, read: int, opened: Place, closed: Place, span: Span | None
) -> None:
    place = Round("markets/keyset", number, read, opened, closed, None if closed.is_done else span)
    state = place.state()
    assert restored("markets/keyset", state["polymarket_cursor"], state["polymarket_offset"]) == place
    assert restored("events/keyset", state["polymarket_cursor"], state["polymarket_offset"]) == Round("events/keyset")


@pytest.mark.parametrize("cursor", [None, "", "nonsense", "listing=markets/keyset sweep=x", "listing=markets/keyset"])
def test_a_state_that_tells_no_place_is_the_beginning(cursor: str | None) -> None:
    assert restored("markets/keyset", cursor, "12") == Round("markets/keyset")
