"""A backfill's record in Redis: every step once, and only by whoever holds the lease."""

from collections.abc import Sequence

import pytest

from common.dead_letters import newest_dead_letters
from common.errors import LeaseLost
from common.keys import Route
from common.leases import Lease, holder_of, take_lease
from common.progress import DONE, Hour, Portion, Progress, Slice
from common.redis_queue import Offer, RedisQueue
from ingesters.backfill_known import Barrier, remember_letters
from tests.builders import make_fill

HOUR = 1_763_002_800  # 2025-11-13T03:00:00Z
STREAM = "events"
FIRST = Slice(100, 200, "100")


@pytest.fixture
def lease(queue: RedisQueue) -> Lease:
    lease = take_lease(queue, "backfill_test", 60)
    assert lease is not None
    return lease


@pytest.fixture
def progress(queue: RedisQueue, lease: Lease) -> Progress:
    progress = of(queue, lease)
    progress.begin(100, 1000, HOUR, HOUR + 9000)
    return progress


def of(queue: RedisQueue, lease: Lease) -> Progress:
    return Progress(queue, lease, source="test", name="run", stream=queue.keys(STREAM))


def offers(*numbers: int, at: int = HOUR) -> Sequence[Offer]:
    return [Offer(make_fill(number).id, str(number).encode(), at + number) for number in numbers]


def faulty(text: str) -> Offer:
    return Offer(text, text.encode(), HOUR, fault="no fill")


def stream(queue: RedisQueue) -> list[bytes]:
    return [entry.data for entry in queue.read_simple(queue.keys(STREAM), b"0", 100)]


def letters(queue: RedisQueue) -> list[str]:
    return [letter.entry_id for letter in newest_dead_letters(queue, queue.keys(STREAM), 100)[1]]


def test_a_portion_is_published_counted_and_its_cursor_moved(queue: RedisQueue, progress: Progress) -> None:
    assert progress.take(FIRST)
    assert progress.publish(FIRST, Portion(offers(1, 5), offers(3, 4000), [faulty("x")], "150 id"))
    run = progress.read()
    assert run is not None
    assert (run.frontier, run.slices) == (200, [Slice(100, 200, "150 id")])
    assert run.hours == {HOUR: Hour(2, 1, 1, HOUR + 1, HOUR + 5), HOUR + 3600: Hour(0, 1, 0, HOUR + 4000, HOUR + 4000)}
    assert stream(queue) == [b"1", b"5"]
    assert letters(queue) == ["x"]


def test_a_slice_that_is_done_is_closed(progress: Progress) -> None:
    progress.take(FIRST)
    progress.publish(FIRST, Portion(offers(1), [], [], DONE))
    run = progress.read()
    assert run is not None
    assert run.slices == []


def test_a_portion_that_is_sent_twice_is_published_once(queue: RedisQueue, progress: Progress) -> None:
    progress.take(FIRST)
    for cursor in ("150 id", DONE):
        portion = Portion(offers(1), [], [faulty(cursor)], cursor)
        place = FIRST if cursor else FIRST._replace(cursor="150 id")
        assert [progress.publish(place, portion), progress.publish(place, portion)] == [True, False]
    assert stream(queue) == [b"1", b"1"]
    assert len(letters(queue)) == 2
    run = progress.read()
    assert run is not None
    assert run.hours[HOUR].published == 2


def test_a_slice_whose_cursor_somebody_else_has_moved_is_left_alone(queue: RedisQueue, progress: Progress) -> None:
    progress.take(FIRST)
    progress.publish(FIRST, Portion(offers(1), [], [], "150 id"))
    with pytest.raises(LeaseLost, match="moved by somebody else"):
        progress.publish(FIRST, Portion(offers(2), [], [], "160 id"))
    assert stream(queue) == [b"1"]


def test_who_has_lost_the_lease_changes_nothing(queue: RedisQueue, lease: Lease, progress: Progress) -> None:
    progress.take(FIRST)
    lease.release()
    other = take_lease(queue, "backfill_test", 60)
    assert other is not None
    with pytest.raises(LeaseLost, match="ran out"):
        progress.publish(FIRST, Portion(offers(1), [], [faulty("x")], DONE))
    with pytest.raises(LeaseLost):
        progress.take(Slice(200, 300, "200"))
    with pytest.raises(LeaseLost):
        progress.begin(0, 1, 0, 1)
    with pytest.raises(LeaseLost):
        progress.complete()
    run = of(queue, other).read()
    assert run is not None
    assert (run.slices, run.frontier, run.is_complete) == ([FIRST], 200, False)
    assert (stream(queue), letters(queue)) == ([], [])


def test_a_slice_is_taken_from_the_frontier_alone(progress: Progress) -> None:
    assert progress.take(FIRST)
    assert not progress.take(FIRST)
    assert not progress.take(Slice(300, 400, "300"))
    assert progress.take(Slice(200, 300, "200"))


def test_a_fault_is_a_dead_letter_once_also_when_the_live_ingester_wrote_it(
    queue: RedisQueue, progress: Progress
) -> None:
    source, reason = ("source_stream", "test"), ("reason", "no fill")
    queue.call("XADD", queue.keys.dead_letters(queue.keys(STREAM)), "*", "data", "y", *reason, *source, "entry_id", "y")
    remember_letters(queue, progress, queue.keys(STREAM), "test")
    progress.take(FIRST)
    progress.publish(FIRST, Portion([], [], [faulty("x"), faulty("y"), faulty("x")], "150 id"))
    assert sorted(letters(queue)) == ["x", "y"]


def test_a_run_that_is_complete_is_kept_for_a_while(queue: RedisQueue, progress: Progress) -> None:
    progress.complete()
    run = progress.read()
    assert run is not None
    assert run.is_complete
    assert queue.call("TTL", progress.key) > 86_400
    progress.begin(100, 1000, HOUR, HOUR)
    assert queue.call("TTL", progress.key) == -1


def test_there_is_no_run_before_it_begins(queue: RedisQueue, lease: Lease) -> None:
    assert of(queue, lease).read() is None


def test_a_lease_tells_who_holds_it(queue: RedisQueue, lease: Lease) -> None:
    holder = holder_of(queue, "backfill_test")
    assert holder is not None
    assert lease.holder == holder.name
    assert 0 < holder.left_s <= 60
    assert take_lease(queue, "backfill_test", 60) is None
    lease.release()
    assert holder_of(queue, "backfill_test") is None


class TestTheBarrier:
    def test_nothing_was_published(self, queue: RedisQueue) -> None:
        assert Barrier(queue, Route(queue.keys(STREAM), "writers")).obstacle() == ""

    def test_entries_have_to_be_read_and_acknowledged(self, queue: RedisQueue) -> None:
        route = Route(queue.keys(STREAM), "writers")
        queue.call("XADD", route.stream, "*", "data", "1")
        barrier = Barrier(queue, route)
        assert "writers does not read" in barrier.obstacle()
        queue.ensure_group(route)
        assert "on its way to ClickHouse, 1 fills" in barrier.obstacle()
        entries = queue.read_from_stream(route, "one", 10)
        assert "on its way to ClickHouse, 1 fills" in barrier.obstacle()
        queue.ack(route, [entry.id for entry in entries])
        assert barrier.obstacle() == ""

    def test_entries_that_come_later_do_not_count(self, queue: RedisQueue) -> None:
        route = Route(queue.keys(STREAM), "writers")
        queue.ensure_group(route)
        queue.call("XADD", route.stream, "*", "data", "1")
        barrier = Barrier(queue, route)
        queue.call("XADD", route.stream, "*", "data", "2")
        first, second = queue.read_from_stream(route, "one", 10)
        queue.ack(route, [second.id])
        assert barrier.obstacle()
        queue.ack(route, [first.id])
        queue.call("XADD", route.stream, "*", "data", "3")
        assert queue.read_from_stream(route, "one", 10)
        assert barrier.obstacle() == ""
