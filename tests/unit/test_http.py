"""The decisions about a source: when to ask again, and how often."""

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
