"""Where a sweep through all markets is: what it tells, what it takes up again, and where its two ends meet."""

from concurrent.futures import Future
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Unavailable
from ingesters.gamma import Gamma, Page, Record
from ingesters.market_lanes import Descent, IdsIgnored, ListLane
from ingesters.market_sweep import Place, Round, Span, restored
from ingesters.readers import Read, Readers
from tests.builders import make_market

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

    def offset(self, _limit: int, _offset: int, *, closed: bool) -> list[bytes]:
        assert closed
        return [raw(max(self.ids))] if self.ids else []

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
    with pytest.raises(IdsIgnored, match="no newest closed market"):
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


def test_a_listing_that_ignores_ids_ends_the_descent() -> None:
    class Ignoring(Desk):
        def in_range(self, first: int, last: int, *, closed: bool) -> list[bytes]:
            return super().in_range(first - 500, last - 500, closed=closed)

    with pytest.raises(IdsIgnored):
        descend(Descent(None, 100), Ignoring(set(CLOSED_IDS)))


def lane_at(*pages: list[int]) -> ListLane:
    """A lane of closed markets after these pages."""
    lane = ListLane(lambda _: pytest.fail("nothing is asked here"), Place(), closed=True)
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
