"""The decisions about a source: when to ask again, and how often."""

import threading
from datetime import UTC, datetime

import pytest

from common.http import RateLimit, retry_after_s


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Fri, 21 Nov 2025 18:00:30 GMT", 30.0),
        ("Fri, 21 Nov 2025 17:00:00 GMT", 0.0),
        ("Fri, 21 Nov 2031 17:00:00 GMT", 300.0),
        ("1.5", 1.5),
        ("soon", 3.0),
        ("", 3.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(told: str, expected: float) -> None:
    assert retry_after_s(told, datetime(2025, 11, 21, 18, tzinfo=UTC), 3.0) == expected


def test_any_ten_seconds_hold_no_more_requests_than_allowed() -> None:
    limit, sent, now = RateLimit(5), [], 0.0
    for _ in range(200):
        now += limit.wait_s(now) + 0.3
        limit.note(now)
        sent.append(now)
    assert all(sent[i + 5] - sent[i] >= 10 for i in range(len(sent) - 5))


def test_threads_that_share_a_limit_never_exceed_it_together() -> None:
    limit, taken, gate = RateLimit(50), [], threading.Barrier(8)

    def take() -> None:
        gate.wait()
        taken.extend([limit.take_s(100.0) for _ in range(20)])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(0.0) == 50
    assert set(taken) == {0.0, 10.0}


def test_what_is_spared_is_left_for_those_who_need_it_at_once() -> None:
    limit = RateLimit(10)
    assert [limit.take_s(0.0, spare=2) for _ in range(9)] == [0.0] * 8 + [10.0]
    assert [limit.take_s(1.0) for _ in range(3)] == [0.0, 0.0, 9.0]


def test_a_pause_that_a_server_asked_for_holds_everybody_up() -> None:
    limit = RateLimit(10)
    limit.hold(7.0)
    limit.hold(3.0)
    assert limit.take_s(2.0) == limit.wait_s(2.0) == 5.0
    assert limit.take_s(7.0) == 0.0
