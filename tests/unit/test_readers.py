"""Threads that read ahead: how many, when they end, and what becomes of errors."""

import threading
from concurrent.futures import CancelledError
from typing import cast

import pytest

from ingesters import readers
from ingesters.gamma import Gamma, Page
from ingesters.readers import Readers
from tests.waiting import LIMIT_S, wait_until

PAGE = Page([], frozenset(), None)


class Source:
    """Stands for the connections of one thread."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.is_closed = threading.Event()

    def take_turn_s(self, _spare: int) -> float:
        return self.wait_s

    def close(self) -> None:
        self.is_closed.set()


class Office:
    """Readers, and the sources that they opened."""

    def __init__(self, count: int, wait_s: float = 0.0) -> None:
        self.opened: list[Source] = []
        self._wait_s = wait_s
        self.readers = Readers(count, self._open)

    def _open(self) -> Gamma:
        source = Source()
        source.wait_s = self._wait_s
        self.opened.append(source)
        return cast("Gamma", source)


def test_requests_overlap_and_never_more_than_allowed() -> None:
    office, gate = Office(3), threading.Barrier(4)
    inside, most, lock = [0], [0], threading.Lock()

    def read(_: Gamma) -> Page:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        gate.wait(LIMIT_S)
        with lock:
            inside[0] -= 1
        return PAGE

    pages = [office.readers.submit(read, 0) for _ in range(6)]
    gate.wait(LIMIT_S)
    gate.wait(LIMIT_S)
    assert [page.result(LIMIT_S) for page in pages] == [PAGE] * 6
    assert most == [3]
    assert len(office.opened) == 3
    assert office.readers.close(LIMIT_S)


def test_what_goes_wrong_in_a_thread_is_raised_where_the_page_is_awaited() -> None:
    def fail(_: Gamma) -> Page:
        raise ZeroDivisionError

    office = Office(1)
    with pytest.raises(ZeroDivisionError):
        office.readers.submit(fail, 0).result(LIMIT_S)
    assert office.readers.submit(lambda _: PAGE, 0).result(LIMIT_S) == PAGE
    assert office.readers.close(LIMIT_S)


def test_a_thread_that_nobody_needs_ends_and_another_begins_when_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "IDLE_S", 0.01)
    office = Office(2)
    for _ in range(2):
        assert office.readers.submit(lambda _: PAGE, 0).result(LIMIT_S) == PAGE
        wait_until(office.opened[-1].is_closed.is_set, "its connections are closed")
    assert len(office.opened) == 2


def test_a_stop_ends_those_that_wait_for_their_turn_and_drops_what_is_not_begun() -> None:
    office = Office(1, wait_s=3600)
    begun = office.readers.submit(lambda _: PAGE, 0)
    wait_until(begun.running, "the first is begun")
    waiting = office.readers.submit(lambda _: PAGE, 0)
    assert office.readers.close(LIMIT_S)
    with pytest.raises(CancelledError):
        waiting.result(0)
    assert begun.exception(0) is not None


def test_a_request_that_hangs_does_not_hold_a_stop_up() -> None:
    office, release = Office(1), threading.Event()

    def hang(_: Gamma) -> Page:
        release.wait(LIMIT_S)
        return PAGE

    hanging = office.readers.submit(hang, 0)
    wait_until(hanging.running, "it is begun")
    assert not office.readers.close(0.05)
    release.set()
    assert office.readers.close(LIMIT_S)
