"""The queue on a real server."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import exceptions

from common.config import Settings
from common.dead_letters import newest_dead_letters
from common.errors import ConfigError, CursorLost, Unavailable
from common.keys import Route
from common.leases import take_lease
from common.redis_queue import Entry, Held, Offer, Position, RedisQueue, Result
from common.state import read_position, read_state
from tests.builders import make_settings, times_executed
from tests.servers import RedisServer
from tests.waiting import wait_until

SOURCE = "goldsky"
_numbers = itertools.count()


@pytest.fixture
def stream(queue: RedisQueue) -> str:
    return queue.keys("stream:s")


@pytest.fixture
def route(queue: RedisQueue, stream: str) -> Route:
    route = Route(stream, "g")
    queue.ensure_group(route)
    return route


def offer(identity: str, timestamp: int, fault: str = "") -> Offer:
    return Offer(identity, f"data of {identity}".encode(), timestamp, fault=fault)


def push(queue: RedisQueue, stream: str, position: tuple[int, str], *offers: Offer, window_s: int = 60) -> Any:
    return queue.push_batch(stream, offers, source=SOURCE, position=Position(*position), window_s=window_s)


def data_of(queue: RedisQueue, stream: str) -> list[str]:
    return [entry.data.decode() for entry in queue.read_simple(stream, b"0", 10_000)]


def add(queue: RedisQueue, stream: str, count: int) -> list[bytes]:
    return [queue.call("XADD", stream, "*", "data", b"%d" % i) for i in range(count)]


def read_all(queue: RedisQueue, route: Route, consumer: str, count: int = 100) -> list[Entry]:
    found: list[Entry] = []
    while entries := queue.read_from_stream(route, consumer, count):
        found += entries
    return found


class TestPushBatch:
    """Source to stream, for fills."""

    def test_what_is_new_goes_out_in_order_and_the_cursor_moves(self, queue: RedisQueue, stream: str) -> None:
        pushed = push(queue, stream, (100, "b"), offer("a", 100), offer("b", 100))
        assert pushed == (2, 0, 0)
        assert data_of(queue, stream) == ["data of a", "data of b"]
        assert read_position(queue, SOURCE) == Position(100, "b")
        assert read_state(queue, "goldsky_last_timestamp") == "100"

    def test_before_the_first_page_there_is_no_position(self, queue: RedisQueue) -> None:
        assert read_position(queue, SOURCE) is None
        assert read_state(queue, "anything") is None

    def test_ties_over_two_pages_all_arrive_once(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (100, "b"), offer("a", 100), offer("b", 100))
        assert push(queue, stream, (100, "c"), offer("b", 100), offer("c", 100)) == (1, 0, 1)
        assert data_of(queue, stream) == ["data of a", "data of b", "data of c"]
        assert read_position(queue, SOURCE) == Position(100, "c")

    def test_a_page_pushed_twice_changes_nothing_the_second_time(self, queue: RedisQueue, stream: str) -> None:
        page = [offer(str(i), 100 + i) for i in range(10)]
        push(queue, stream, (109, "9"), *page)
        assert push(queue, stream, (109, "9"), *page) == (0, 0, 10)
        assert len(data_of(queue, stream)) == 10

    def test_a_row_twice_on_one_page_arrives_once(self, queue: RedisQueue, stream: str) -> None:
        assert push(queue, stream, (100, "a"), offer("a", 100), offer("a", 100)) == (1, 0, 1)

    def test_a_late_row_inside_the_window_arrives(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (1000, "z"), offer("z", 1000))
        assert push(queue, stream, (1000, "z"), offer("late", 940), offer("z", 1000)) == (1, 0, 1)
        assert data_of(queue, stream)[-1] == "data of late"

    def test_what_is_older_than_the_window_counts_as_known(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (1000, "z"), offer("z", 1000))
        assert push(queue, stream, (1000, "z"), offer("old", 939)) == (0, 0, 1)

    def test_a_second_ingester_that_is_behind_does_no_harm(self, queue: RedisQueue, stream: str) -> None:
        pages = [[offer(f"{t:05d}", t) for t in range(start, start + 10)] for start in range(1000, 2000, 10)]
        for page in pages:
            push(queue, stream, (page[-1].timestamp, page[-1].identity), *page)
        for page in pages:
            assert push(queue, stream, (page[-1].timestamp, page[-1].identity), *page).added == 0
        assert read_position(queue, SOURCE) == Position(1999, "01999")

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
    )
    @given(st.data())
    def test_two_ingesters_however_interleaved_publish_every_fill_once(self, queue: RedisQueue, data: Any) -> None:
        stream = queue.keys(f"stream:{next(_numbers)}")  # every example, and every repetition of one, has its own
        source = stream
        times = sorted(data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=60), label="times"))
        fills = [Offer(f"{i:03d}", f"{i:03d}".encode(), t) for i, t in enumerate(times)]
        places = [0, 0]
        turns = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 7)), max_size=20), label="turns")
        for who, size in [*turns, (0, len(fills)), (1, len(fills))]:
            page = fills[max(0, places[who] - 3) : places[who] + size]
            places[who] += size
            if page:
                position = Position(page[-1].timestamp, page[-1].identity)
                queue.push_batch(stream, page, source=source, position=position, window_s=1000)
        assert sorted(data_of(queue, stream)) == [fill.identity for fill in fills]
        assert read_position(queue, source) == Position(fills[-1].timestamp, fills[-1].identity)

    def test_the_cursor_never_moves_back(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (100, "m"))
        for position in [(99, "z"), (100, "l"), (100, "m")]:
            push(queue, stream, position)
            assert read_position(queue, SOURCE) == Position(100, "m")
        push(queue, stream, (100, "n"))
        assert read_position(queue, SOURCE) == Position(100, "n")
        push(queue, stream, (101, "a"))
        assert read_position(queue, SOURCE) == Position(101, "a")

    def test_a_faulty_record_goes_to_the_dead_letters_once_with_its_bytes(self, queue: RedisQueue, stream: str) -> None:
        bad = Offer("fault:1", b'{"id": \xff', 100, fault="no id")
        assert push(queue, stream, (100, "a"), bad, offer("a", 100)) == (1, 1, 0)
        assert push(queue, stream, (100, "a"), bad, offer("a", 100)) == (0, 0, 2)
        count, [letter] = newest_dead_letters(queue, stream, 10)
        assert count == 1
        assert (letter.data, letter.reason, letter.source_stream) == (b'{"id": \xff', "no id", SOURCE)
        assert (letter.entry_id, letter.attempts) == ("fault:1", 1)
        assert letter.at.endswith("+00:00")

    def test_each_fault_of_a_page_keeps_its_own_identity_and_reason(self, queue: RedisQueue, stream: str) -> None:
        faults = [Offer(f"fault:{place}", b"?%d" % place, 100, fault=f"reason {place}") for place in range(3)]
        page = [offer("a", 100), faults[0], faults[1], offer("b", 100), faults[0], faults[2]]
        assert push(queue, stream, (100, "b"), *page) == (2, 3, 1)
        assert data_of(queue, stream) == ["data of a", "data of b"]
        _, letters = newest_dead_letters(queue, stream, 10)
        told = sorted((letter.entry_id, letter.data, letter.reason) for letter in letters)
        assert told == [(f"fault:{place}", b"?%d" % place, f"reason {place}") for place in range(3)]

    def test_faults_are_found_wherever_they_are_on_a_large_page(self, queue: RedisQueue, stream: str) -> None:
        bad = [0, 999, 1000, 2000]
        page = [offer(f"{i:04d}", 100, "bad" if i in bad else "") for i in range(2001)]
        assert push(queue, stream, (100, "z"), *page) == (1997, 4, 0)
        _, letters = newest_dead_letters(queue, stream, 10)
        assert sorted(letter.entry_id for letter in letters) == ["0000", "0999", "1000", "2000"]

    @pytest.mark.parametrize("identity", ["", "a b", "a\nb", "é" * 5000])
    def test_an_id_of_any_shape_is_one_id_and_takes_32_bytes(
        self, queue: RedisQueue, stream: str, identity: str
    ) -> None:
        page = [offer(f"{identity}{tail}", 100) for tail in ("", "1", "2")]
        assert push(queue, stream, (100, "a"), *page) == (3, 0, 0)
        assert push(queue, stream, (100, "a"), *reversed(page)) == (0, 0, 3)
        assert [len(member) for member in queue.call("ZRANGE", queue.keys.seen(SOURCE), 0, -1)] == [32] * 3

    def test_a_faulty_record_without_a_time_stays_known_as_long_as_it_is_read_again(
        self, queue: RedisQueue, stream: str
    ) -> None:
        bad = Offer("fault:1", b"?", 0, fault="no time")
        push(queue, stream, (1000, "a"), bad)
        push(queue, stream, (1059, "b"), bad)
        assert push(queue, stream, (1060, "c"), bad) == (0, 0, 1)
        assert newest_dead_letters(queue, stream, 10)[0] == 1

    def test_a_window_that_is_made_longer_brings_nothing_back(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (1000, "b"), offer("a", 500), offer("b", 1000), window_s=60)
        assert push(queue, stream, (1000, "b"), offer("a", 500), window_s=600) == (0, 0, 1)
        assert push(queue, stream, (1001, "c"), offer("a", 500), offer("c", 1001), window_s=600) == (1, 0, 1)

    def test_what_leaves_the_window_is_forgotten(self, queue: RedisQueue, stream: str) -> None:
        for t in range(100, 1000, 10):
            push(queue, stream, (t, "a"), offer(str(t), t))
        assert queue.call("ZCARD", queue.keys.seen(SOURCE)) <= 7 + 1

    def test_sources_do_not_mix(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (100, "a"), offer("a", 100))
        other = queue.push_batch(stream, [offer("a", 5)], source="polygon", position=Position(5, "a"), window_s=60)
        assert other.added == 1
        assert read_position(queue, SOURCE) == Position(100, "a")

    def test_an_empty_page_moves_the_cursor(self, queue: RedisQueue, stream: str) -> None:
        assert push(queue, stream, (100, "a")) == (0, 0, 0)
        assert read_position(queue, SOURCE) == Position(100, "a")

    def test_a_page_of_a_thousand_goes_out(self, queue: RedisQueue, stream: str) -> None:
        assert push(queue, stream, (100, "a"), *(offer(f"{i}", 100) for i in range(1000))).added == 1000


class TestPushChanged:
    """Source to stream, for markets."""

    def push(self, queue: RedisQueue, stream: str, *offers: Offer, **state: str) -> Any:
        return queue.push_changed(stream, offers, source="markets", state=state)

    def test_a_market_goes_out_when_it_is_new_and_whenever_it_changed(self, queue: RedisQueue, stream: str) -> None:
        first, second = Offer("7", b"1", version="aa"), Offer("7", b"2", version="bb")
        assert self.push(queue, stream, first) == (1, 0, 0)
        assert self.push(queue, stream, first) == (0, 0, 1)
        assert self.push(queue, stream, second) == (1, 0, 0)
        assert self.push(queue, stream, first) == (1, 0, 0)
        assert data_of(queue, stream) == ["1", "2", "1"]

    def test_its_state_is_written_in_the_same_step(self, queue: RedisQueue, stream: str) -> None:
        self.push(queue, stream, Offer("7", b"1", version="aa"), polymarket_offset="100", polymarket_cursor="abc=")
        assert read_state(queue, "polymarket_offset") == "100"
        assert read_state(queue, "polymarket_cursor") == "abc="

    @pytest.mark.parametrize("held", [None, "page 1", "page 3"])
    def test_nothing_happens_where_the_state_is_not_the_one_that_was_written_last(
        self, queue: RedisQueue, stream: str, held: str | None
    ) -> None:
        if held is not None:
            queue.call("SET", queue.keys.state("cursor"), held)
        offer, state = Offer("7", b"1", version="aa"), {"cursor": "page 3"}
        with pytest.raises(CursorLost, match="state:cursor"):
            queue.push_changed(stream, [offer], source="markets", state=state, expected=("cursor", "page 2"))
        assert (read_state(queue, "cursor"), queue.stream_info(stream).length) == (held, 0)
        pushed = queue.push_changed(stream, [offer], source="markets", state=state, expected=("cursor", held or ""))
        assert (pushed.added, read_state(queue, "cursor")) == (1, "page 3")

    def test_fields_that_could_not_be_read_are_counted_with_what_is_published(
        self, queue: RedisQueue, stream: str
    ) -> None:
        offers = [Offer("7", b"1", version="aa", unreadable="endDate volume"), Offer("8", b"1", unreadable="volume")]
        for _ in range(2):
            queue.push_changed(stream, offers, source="markets", state={})
        assert queue.read_hash(queue.keys.unreadable("markets")) == {"endDate": "1", "volume": "2"}

    def test_a_faulty_market_is_a_dead_letter_once_a_version(self, queue: RedisQueue, stream: str) -> None:
        bad = Offer("fault:12", b"bytes", version="aa", fault="no question")
        assert self.push(queue, stream, bad, offset="1") == (0, 1, 0)
        assert self.push(queue, stream, bad, offset="2") == (0, 0, 1)
        assert newest_dead_letters(queue, stream, 9)[1][0].data == b"bytes"
        assert read_state(queue, "offset") == "2"

    @pytest.mark.parametrize("identity", ["0", "99", "100", "123456789012", "not-a-number", "7²"])
    def test_any_identity_has_a_version(self, queue: RedisQueue, stream: str, identity: str) -> None:
        assert self.push(queue, stream, Offer(identity, b"1", version="aa")).added == 1
        assert self.push(queue, stream, Offer(identity, b"1", version="aa")).known == 1

    def test_versions_of_many_markets_stay_small_hashes(self, queue: RedisQueue, stream: str) -> None:
        self.push(queue, stream, *(Offer(str(i), b"1", version="0123456789abcdef") for i in range(1000)))
        keys = queue.call("KEYS", queue.keys.seen("markets") + ":*")
        assert len(keys) == 10
        assert {queue.call("OBJECT", "ENCODING", key) for key in keys} == {b"listpack"}


class TestReading:
    """A consumer's way through a stream."""

    def test_a_group_reads_from_the_very_beginning(self, queue: RedisQueue, stream: str) -> None:
        add(queue, stream, 3)
        route = Route(stream, "late")
        queue.ensure_group(route)
        assert [entry.data for entry in read_all(queue, route, "c")] == [b"0", b"1", b"2"]

    def test_making_a_group_again_changes_nothing(self, queue: RedisQueue, route: Route) -> None:
        add(queue, route.stream, 3)
        read_all(queue, route, "c")
        queue.ensure_group(route)
        assert read_all(queue, route, "c") == []

    def test_own_pending_entries_come_first_each_once_then_new_ones(
        self, queue: RedisQueue, queue_settings: Settings, route: Route
    ) -> None:
        old = add(queue, route.stream, 5)
        read_all(queue, route, "c")
        again = RedisQueue(queue_settings)
        new = add(queue, route.stream, 2)
        pages = [[entry.id for entry in again.read_from_stream(route, "c", 2)] for _ in range(5)]
        again.close()
        assert pages == [old[:2], old[2:4], old[4:], new, []]

    def test_the_backlog_is_not_repeated_while_it_is_unacknowledged(self, queue: RedisQueue, route: Route) -> None:
        """An ancestor read from 0 every turn: 3 messages became 15 rows."""
        add(queue, route.stream, 3)
        assert len(read_all(queue, route, "c", count=1)) == 3
        for _ in range(5):
            assert queue.read_from_stream(route, "c", 10) == []

    def test_reread_pending_starts_over(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "c")
        assert queue.has_read_backlog(route, "c")
        queue.ack(route, ids[:1])
        queue.reread_pending(route, "c")
        assert not queue.has_read_backlog(route, "c")
        assert [entry.id for entry in read_all(queue, route, "c")] == ids[1:]

    def test_consumers_share_what_is_new(self, queue: RedisQueue, route: Route) -> None:
        add(queue, route.stream, 10)
        first = queue.read_from_stream(route, "a", 6)
        second = queue.read_from_stream(route, "b", 6)
        assert [len(first), len(second)] == [6, 4]
        assert not set(first) & set(second)

    def test_a_read_waits_for_new_entries_as_long_as_told(
        self, queue: RedisQueue, queue_settings: Settings, route: Route
    ) -> None:
        other = RedisQueue(queue_settings)
        thread = threading.Thread(target=lambda: waits_for_reader(other) and add(other, route.stream, 1))
        thread.start()
        assert len(queue.read_from_stream(route, "c", 10, block_ms=30_000)) == 1
        thread.join()
        other.close()

    def test_a_missing_group_is_made_again_from_the_start_and_said(self, queue: RedisQueue, route: Route) -> None:
        add(queue, route.stream, 3)
        read_all(queue, route, "c")
        queue.call("XGROUP", "DESTROY", route.stream, route.group)
        with pytest.raises(Unavailable, match="group g was missing"):
            queue.read_from_stream(route, "c", 10)
        assert len(read_all(queue, route, "c")) == 3

    def test_a_missing_stream_is_made_again_with_its_group(self, queue: RedisQueue, route: Route) -> None:
        queue.call("DEL", route.stream)
        with pytest.raises(Unavailable):
            queue.read_from_stream(route, "c", 10)
        assert queue.read_from_stream(route, "c", 10) == []

    def test_a_stream_that_goes_while_it_is_waited_for_is_waited_for_again(
        self, queue: RedisQueue, queue_settings: Settings, route: Route
    ) -> None:
        other = RedisQueue(queue_settings)
        thread = threading.Thread(target=lambda: waits_for_reader(other) and other.call("DEL", route.stream))
        thread.start()
        with pytest.raises(Unavailable):
            queue.read_from_stream(route, "c", 10, block_ms=30_000)
        thread.join()
        other.close()

    def test_pending_entries_that_left_the_stream_are_counted_as_lost_and_acknowledged(
        self, queue: RedisQueue, route: Route
    ) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "c")
        queue.call("XDEL", route.stream, ids[0], ids[1])
        queue.reread_pending(route, "c")
        assert [entry.id for entry in read_all(queue, route, "c")] == [ids[2]]
        assert queue.lost_entries() == 2
        assert queue.stream_info(route.stream).groups[0].pending == 1

    def test_a_foreign_entry_comes_out_whole(self, queue: RedisQueue, route: Route) -> None:
        queue.call("XADD", route.stream, "*", "foo", "bar", "baz", "qux")
        [entry] = queue.read_from_stream(route, "c", 10)
        assert entry.data == b"foo bar baz qux"

    def test_read_simple_shows_everything_to_everybody(self, queue: RedisQueue, stream: str) -> None:
        assert queue.read_simple(stream, b"0", 10) == []
        ids = add(queue, stream, 5)
        assert [entry.id for entry in queue.read_simple(stream, b"0", 3)] == ids[:3]
        assert [entry.id for entry in queue.read_simple(stream, ids[2], 10)] == ids[3:]


def taken(queue: RedisQueue, consumer: str) -> str:
    """Take a consumer's lease; who holds it then."""
    lease = take_lease(queue, consumer, 60)
    assert lease
    return lease.holder


def waits_for_reader(queue: RedisQueue) -> bool:
    """Return once some client is blocked, which the test is about."""
    wait_until(lambda: b"blocked_clients:0" not in queue.call("INFO", "clients"), "a reader is blocked")
    return True


class TestComplete:
    """Stream to stream."""

    def exchange(self, queue: RedisQueue, route: Route, ids: list[bytes], held: Held) -> tuple[int, int]:
        """Completed as under load."""
        results = self.results(ids)
        exchange = queue.start_exchange(route, queue.keys("target"), results, held, consumer=held.consumer, count=0)
        return queue.finish_exchange(route, exchange)[:2]

    def results(self, ids: list[bytes], fault: str = "") -> list[Result]:
        return [Result(entry_id, b"result of " + entry_id, fault) for entry_id in ids]

    def test_each_entry_is_acknowledged_and_its_result_written(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "c")
        target = queue.keys("target")
        assert queue.complete(route, target, self.results(ids)) == (3, 0)
        assert len(data_of(queue, target)) == 3
        assert queue.stream_info(route.stream).groups[0].pending == 0

    def test_two_who_hold_the_same_entry_write_one_result(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "c")
        target = queue.keys("target")
        queue.complete(route, target, self.results(ids[:2]))
        assert queue.complete(route, target, self.results(ids)) == (1, 0)
        assert queue.complete(route, target, self.results(ids, "bad")) == (0, 0)
        assert len(data_of(queue, target)) == 3
        assert newest_dead_letters(queue, route.stream, 9)[0] == 0

    def test_new_entries_are_acknowledged_together(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 2500)
        read_all(queue, route, "c")
        holder = taken(queue, "c")
        before = times_executed(queue, "xack")
        assert self.exchange(queue, route, ids[:2100], Held("c", holder, 2500)) == (2100, 0)
        assert times_executed(queue, "xack") - before == 5  # five hundred each
        expected = [result.data.decode() for result in self.results(ids[:2100])]
        assert data_of(queue, queue.keys("target")) == expected
        assert queue.stream_info(route.stream).groups[0].pending == 400

    def test_what_another_has_taken_or_finished_is_written_once(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 6)
        read_all(queue, route, "c")
        c, d = taken(queue, "c"), taken(queue, "d")
        target = queue.keys("target")
        queue.complete(route, target, self.results(ids[1:2]))
        queue.fetch_pending(route, "d", ids[2:4])
        assert self.exchange(queue, route, ids[:3], Held("c", c, 6)) == (2, 0)
        assert self.exchange(queue, route, ids[2:5], Held("d", d, 2)) == (2, 0)
        assert self.exchange(queue, route, ids, Held("c", c, 6)) == (1, 0)
        assert sorted(data_of(queue, target)) == [result.data.decode() for result in self.results(ids)]

    def test_equal_numbers_say_nothing_once_the_lease_is_lost(self, queue: RedisQueue, route: Route) -> None:
        """A successor of the same name has finished one entry and read another since."""
        ids = add(queue, route.stream, 3)
        queue.read_from_stream(route, "c", 2)
        former = taken(queue, "c")
        queue.call("DEL", queue.keys.lease("c"))
        taken(queue, "c")
        queue.complete(route, queue.keys("target"), self.results(ids[:1]))
        read_all(queue, route, "c")
        assert self.exchange(queue, route, ids[:2], Held("c", former, 2)) == (1, 0)
        assert self.exchange(queue, route, ids[2:], Held("c", former, 1)) == (1, 0)

    def test_a_group_that_was_made_again_gets_its_results_once(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "c")
        held = Held("c", taken(queue, "c"), 3)
        queue.call("XGROUP", "DESTROY", route.stream, route.group)
        assert self.exchange(queue, route, ids, held) == (0, 0)
        assert queue.complete(route, queue.keys("target"), self.results(ids, "bad")) == (0, 0)
        queue.ensure_group(route)
        assert self.exchange(queue, route, ids, held) == (0, 0)
        read_all(queue, route, "d")
        queue.complete(route, queue.keys("target"), self.results(ids[:2]))
        assert self.exchange(queue, route, ids, held) == (1, 0)

    def test_an_entry_that_was_never_delivered_has_no_result(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 1)
        assert queue.complete(route, queue.keys("target"), self.results(ids)) == (0, 0)

    def test_poison_is_a_dead_letter_with_its_bytes_and_attempts(self, queue: RedisQueue, route: Route) -> None:
        [entry_id] = add(queue, route.stream, 1)
        read_all(queue, route, "c")
        for _ in range(2):
            queue.fetch_pending(route, "c", [entry_id])
        assert queue.complete(route, "", [Result(entry_id, b"\x00\xff", "not JSON")]) == (0, 1)
        count, [letter] = newest_dead_letters(queue, route.stream, 9)
        assert count == 1
        assert (letter.data, letter.reason, letter.attempts) == (b"\x00\xff", "not JSON", 3)
        assert (letter.source_stream, letter.entry_id) == (route.stream, entry_id.decode())


class TestClaim:
    """Taking over from the dead."""

    def test_entries_of_a_consumer_without_a_lease_are_taken_over(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "dead")
        claimed = queue.claim(route, "dead", "alive")
        assert ([entry.id for entry in claimed.entries], claimed.lost) == (ids, 0)
        assert queue.consumers(route)["alive"] == 3

    def test_nothing_is_taken_from_the_living(self, queue: RedisQueue, route: Route) -> None:
        add(queue, route.stream, 3)
        read_all(queue, route, "slow")
        queue.call("SET", queue.keys.lease("slow"), "somebody")
        assert queue.claim(route, "slow", "alive") == ([], 0)
        queue.call("DEL", queue.keys.lease("slow"))
        assert len(queue.claim(route, "slow", "alive").entries) == 3

    def test_nothing_is_taken_while_there_are_manifests_to_adopt(self, queue: RedisQueue, route: Route) -> None:
        add(queue, route.stream, 3)
        read_all(queue, route, "dead")
        queue.call("HSET", queue.keys.manifests("dead"), "token", "batch")
        assert queue.claim(route, "dead", "alive") == ([], 0)

    def test_a_dead_consumer_without_entries_is_forgotten(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "dead")
        queue.ack(route, ids)
        queue.claim(route, "dead", "alive")
        assert "dead" not in queue.consumers(route)

    def test_many_entries_are_taken_over_piece_by_piece(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 2500)
        read_all(queue, route, "dead", 2500)
        taken = []
        while claimed := queue.claim(route, "dead", "alive").entries:
            taken += [entry.id for entry in claimed]
        assert taken == ids

    def test_entries_that_are_gone_are_counted_as_lost(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        read_all(queue, route, "dead")
        queue.call("XDEL", route.stream, ids[1])
        claimed = queue.claim(route, "dead", "alive")
        assert ([entry.id for entry in claimed.entries], claimed.lost) == ([ids[0], ids[2]], 1)
        assert queue.lost_entries() == 1

    def test_pending_entries_are_fetched_in_the_order_asked_for_without_the_finished(
        self, queue: RedisQueue, route: Route
    ) -> None:
        ids = add(queue, route.stream, 4)
        read_all(queue, route, "dead")
        queue.ack(route, [ids[1]])
        fetched = queue.fetch_pending(route, "alive", [ids[3], ids[1], ids[0]])
        assert [entry.id for entry in fetched] == [ids[3], ids[0]]
        assert queue.fetch_pending(route, "alive", []) == []


class TestTrim:
    """Room is made only of what nobody needs."""

    def test_what_all_groups_have_finished_goes(self, queue: RedisQueue, stream: str) -> None:
        routes = [Route(stream, "a"), Route(stream, "b")]
        for route in routes:
            queue.ensure_group(route)
        ids = add(queue, stream, 10)
        for route in routes:
            read_all(queue, route, "c")
            queue.ack(route, ids[:6])
        queue.ack(routes[0], ids[6:])
        assert queue.trim(stream, ["a", "b"]) == 6
        assert [entry.id for entry in queue.read_simple(stream, b"0", 99)] == ids[6:]

    def test_what_a_group_has_not_read_stays_however_old(self, queue: RedisQueue, stream: str) -> None:
        """An ancestor trimmed by length: of 50,000 unread entries 20,000 were left."""
        fast, slow = Route(stream, "fast"), Route(stream, "slow")
        queue.ensure_group(fast)
        queue.ensure_group(slow)
        ids = add(queue, stream, 500)
        queue.ack(fast, [entry.id for entry in read_all(queue, fast, "c")])
        assert queue.trim(stream, ["fast", "slow"]) == 0
        assert [entry.id for entry in read_all(queue, slow, "c")] == ids

    def test_a_missing_group_stops_it(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 5)
        read_all(queue, route, "c")
        queue.ack(route, ids)
        assert queue.trim(route.stream, [route.group, "not-made-yet"]) == 0
        assert queue.trim(route.stream, [route.group]) == 4

    def test_a_group_that_is_not_ours_is_respected(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 5)
        queue.ensure_group(Route(route.stream, "somebody"))
        read_all(queue, route, "c")
        queue.ack(route, ids)
        assert queue.trim(route.stream, [route.group]) == 0

    def test_a_stream_that_does_not_exist_has_nothing_to_trim(self, queue: RedisQueue, stream: str) -> None:
        assert queue.trim(stream, ["a"]) == 0

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
    )
    @given(st.data())
    def test_whatever_some_group_still_needs_is_never_removed(self, queue: RedisQueue, data: Any) -> None:
        stream = queue.keys(f"stream:{next(_numbers)}")  # every example, and every repetition of one, has its own
        routes = [Route(stream, f"g{i}") for i in range(data.draw(st.integers(1, 3), label="groups"))]
        for route in routes:
            queue.ensure_group(route)
        pending: dict[Route, set[bytes]] = {route: set() for route in routes}
        unread: dict[Route, list[bytes]] = {route: [] for route in routes}
        for _ in range(data.draw(st.integers(1, 25), label="steps")):
            route = data.draw(st.sampled_from(routes))
            match data.draw(st.sampled_from(["add", "read", "ack", "trim"])):
                case "add":
                    for entry_id in add(queue, stream, data.draw(st.integers(1, 5))):
                        for each in routes:
                            unread[each].append(entry_id)
                case "read":
                    read = queue.read_from_stream(route, "c", data.draw(st.integers(1, 5)))
                    assert [entry.id for entry in read] == unread[route][: len(read)]
                    unread[route] = unread[route][len(read) :]
                    pending[route] |= {entry.id for entry in read}
                case "ack" if pending[route]:
                    done = data.draw(st.sets(st.sampled_from(sorted(pending[route]))))
                    assert queue.ack(route, sorted(done)) == len(done)
                    pending[route] -= done
                case _:
                    queue.trim(stream, [route.group for route in routes])
            held = {entry.id for entry in queue.read_simple(stream, b"0", 1000)}
            for each in routes:
                assert pending[each] | set(unread[each]) <= held


class TestMonitoring:
    """What the operator sees."""

    def test_a_backlog_is_what_the_slowest_group_has_to_do(self, queue: RedisQueue, route: Route) -> None:
        other = Route(route.stream, "other")
        queue.ensure_group(other)
        ids = add(queue, route.stream, 10)
        assert queue.backlog(route.stream) == 10
        read_all(queue, route, "c")
        queue.ack(route, ids)
        assert queue.backlog(route.stream) == 10
        queue.read_from_stream(other, "c", 4)
        assert queue.backlog(route.stream) == 10
        queue.ack(other, ids[:4])
        assert queue.backlog(route.stream) == 6

    def test_a_stream_without_groups_is_all_backlog(self, queue: RedisQueue, stream: str) -> None:
        assert queue.backlog(stream) == 0
        add(queue, stream, 3)
        assert queue.backlog(stream) == 3

    def test_a_lag_that_the_server_can_not_tell_is_unknown_and_not_zero(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 5)
        queue.read_from_stream(route, "c", 1)
        queue.call("XDEL", route.stream, ids[3])
        [group] = queue.stream_info(route.stream).groups
        assert group.lag is None
        assert queue.backlog(route.stream) is None

    def test_the_lag_stays_known_after_a_trim(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 10)
        read = queue.read_from_stream(route, "c", 6)
        queue.ack(route, [entry.id for entry in read])
        assert queue.trim(route.stream, [route.group]) == 5
        assert queue.backlog(route.stream) == 4
        assert queue.stream_info(route.stream).first_id == ids[5].decode()

    def test_a_stream_tells_its_groups(self, queue: RedisQueue, route: Route) -> None:
        ids = add(queue, route.stream, 3)
        queue.read_from_stream(route, "c", 2)
        info = queue.stream_info(route.stream)
        assert (info.length, info.first_id, info.last_id) == (3, ids[0].decode(), ids[2].decode())
        [group] = info.groups
        assert (group.name, group.consumers, group.pending, group.lag) == ("g", 1, 2, 1)
        assert (group.last_delivered_id, group.oldest_pending_id) == (ids[1].decode(), ids[0].decode())

    def test_a_stream_that_does_not_exist_yet_is_empty(self, queue: RedisQueue, stream: str) -> None:
        assert queue.stream_info(stream) == (0, None, None, 0, [])
        assert newest_dead_letters(queue, stream, 5) == (0, [])

    def test_heartbeats_come_back_and_expire(self, queue: RedisQueue) -> None:
        queue.beat("writer-1", {"component": "writer", "state": "running"}, 100)
        queue.beat("writer-1", {"component": "writer", "state": "draining"}, 100)
        queue.beat("a", {"component": "a"}, 100)
        queue.count_start("a")
        assert queue.heartbeats() == [{"component": "a"}, {"component": "writer", "state": "draining"}]
        assert 0 < queue.call("TTL", queue.keys.heartbeat("a")) <= 100

    def test_starts_are_counted_for_ever(self, queue: RedisQueue) -> None:
        assert [queue.count_start("a"), queue.count_start("a"), queue.count_start("b")] == [1, 2, 1]

    def test_tokens_are_asked_for_once_and_forgotten(self, queue: RedisQueue) -> None:
        queue.ask_for_tokens(["1", "2", "3"])
        queue.ask_for_tokens(["3"])
        queue.ask_for_tokens([])
        assert sorted(queue.unknown_tokens(10)) == ["1", "2", "3"]
        assert len(queue.unknown_tokens(2)) == 2
        queue.forget_unknown_tokens(["1", "9"])
        queue.forget_unknown_tokens([])
        assert sorted(queue.unknown_tokens(10)) == ["2", "3"]


def connections_in_use(queue: RedisQueue) -> int:
    return len(queue._redis.connection_pool._in_use_connections)


class TestTrouble:
    """A server that is away, full, read-only or locked."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[RedisServer]:
        with RedisServer(tmp_path) as server:
            yield server

    def open(self, server: RedisServer, **changes: Any) -> RedisQueue:
        return RedisQueue(make_settings(redis_host=server.host, redis_port=server.port, **changes))

    def test_a_server_that_is_away_is_unavailable_and_usable_once_it_is_back(self, server: RedisServer) -> None:
        queue = self.open(server)
        push(queue, "s", (100, "a"), offer("a", 100))
        server.stop()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{server.port}"):
            push(queue, "s", (101, "b"), offer("b", 101))
        server.start()
        assert push(queue, "s", (101, "b"), offer("a", 100), offer("b", 101)) == (1, 0, 1)
        assert data_of(queue, "s") == ["data of a", "data of b"]

    def test_nobody_there_is_unavailable(self) -> None:
        queue = RedisQueue(make_settings(redis_host="127.0.0.1", redis_port=1))
        with pytest.raises(Unavailable, match=r"127.0.0.1:1.*refused"):
            queue.call("PING")

    def test_a_wrong_password_and_a_missing_one_are_configuration(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path, env={"REDIS_PASSWORD": "right"}) as server:
            assert self.open(server, redis_password="right").call("PING")
            for password in ["wrong", None]:
                with pytest.raises(ConfigError, match="REDIS_PASSWORD"):
                    self.open(server, redis_password=password).call("PING")

    def test_a_password_that_nobody_asked_for_is_configuration(self, server: RedisServer) -> None:
        with pytest.raises(ConfigError, match="REDIS_PASSWORD"):
            self.open(server, redis_password="extra").call("PING")

    def test_a_database_that_the_server_lacks_is_configuration(self, server: RedisServer) -> None:
        with pytest.raises(ConfigError, match="REDIS_DB"):
            self.open(server, redis_db=99).call("PING")

    def test_a_user_without_rights_is_configuration(self, server: RedisServer) -> None:
        admin = self.open(server)
        admin.call("ACL", "SETUSER", "default", "-xadd")
        with pytest.raises(ConfigError, match="denies"):
            admin.call("XADD", "s", "*", "data", "1")

    def test_a_replica_is_waited_for(self, server: RedisServer) -> None:
        queue = self.open(server)
        queue.call("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(Unavailable, match="read only"):
            queue.call("SET", "a", "1")
        with pytest.raises(Unavailable, match="read only"):
            push(queue, "s", (100, "a"), offer("a", 100))
        queue.call("CONFIG", "SET", "replica-serve-stale-data", "no")
        with pytest.raises(Unavailable, match="MASTER"):
            queue.call("GET", "a")

    def test_a_full_server_is_unavailable_and_nothing_is_half_done(self, server: RedisServer) -> None:
        queue = self.open(server)
        push(queue, "s", (100, "a"), offer("a", 100))
        queue.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable):
            push(queue, "s", (101, "b"), offer("b", 101), Offer("c", b"?", 101, fault="bad"))
        with pytest.raises(Unavailable):
            queue.push_changed("m", [Offer("7", b"1", version="aa")], source="markets", state={"offset": "1"})
        with pytest.raises(Unavailable):
            queue.beat("a", {"state": "running"}, 10)
        assert data_of(queue, "s") == ["data of a"]
        assert read_position(queue, SOURCE) == Position(100, "a")
        assert queue.call("ZCARD", queue.keys.seen(SOURCE)) == 1
        assert newest_dead_letters(queue, "s", 1)[0] == queue.stream_info("m").length == 0
        assert read_state(queue, "offset") is None
        queue.call("CONFIG", "SET", "maxmemory", "0")
        assert push(queue, "s", (101, "b"), offer("b", 101)).added == 1

    def test_a_full_server_still_lets_entries_be_finished_and_removed(self, server: RedisServer) -> None:
        """Else it would stay full for ever."""
        queue = self.open(server)
        route = Route("s", "g")
        queue.ensure_group(route)
        ids = add(queue, "s", 3)
        queue.call("CONFIG", "SET", "maxmemory", "1")
        queue.ensure_group(route)
        entries = read_all(queue, route, "c")
        queue.ask_for_tokens(["1"])
        assert queue.complete(route, "target", [Result(e.id, b"r", "") for e in entries[:2]]) == (2, 0)
        assert queue.complete(route, "target", [Result(ids[2], b"r", "bad")]) == (0, 1)
        assert queue.trim("s", ["g"]) == 2
        assert len(data_of(queue, "target")) == 2

    def test_scripts_survive_a_server_that_forgot_them(self, queue: RedisQueue, stream: str) -> None:
        push(queue, stream, (100, "a"), offer("a", 100))
        queue.call("SCRIPT", "FLUSH")
        assert push(queue, stream, (101, "b"), offer("b", 101)).added == 1

    def test_a_name_without_prefix_is_not_touched(self, queue: RedisQueue, queue_settings: Settings) -> None:
        assert queue.keys("x") == f"{queue_settings.key_prefix}x"
        assert queue.keys.lease("w-1").startswith(queue_settings.key_prefix)

    def test_replies_after_a_failed_one_reach_nobody_else(self, queue: RedisQueue) -> None:
        question = queue.ask(("HGET", "wrong"), ("BLPOP", queue.keys("nothing"), 1))  # the second answers late
        with pytest.raises(exceptions.ResponseError):
            question.answer()
        assert connections_in_use(queue) == 0
        assert queue.call("ECHO", "mine") == b"mine"
        assert queue.ask(("ECHO", "mine")).answer() == b"mine"

    def test_a_command_that_can_not_be_packed_leaves_nothing_behind(self, queue: RedisQueue, stream: str) -> None:
        """It is half sent by then."""
        rest: tuple[Any, ...] = ("data", "x") * 1000
        with pytest.raises(TypeError):
            queue.ask(("XADD", stream, "*", *rest, "odd", None))  # type: ignore[arg-type]
        assert connections_in_use(queue) == 0
        assert queue.call("ECHO", "mine") == b"mine"
        assert not queue.call("EXISTS", stream)
