"""What an error teaches is forgotten after a while, and logged once."""

import logging

import pytest

from common.fallback import FIRST_S, LONGEST_S, Fallback


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fallback(clock: Clock) -> Fallback:
    return Fallback("single calls instead of batches", logging.getLogger("test_fallback"), clock)


def test_the_usual_way_is_tried_again_after_a_while(fallback: Fallback, clock: Clock) -> None:
    on = [fallback.is_on]
    fallback.begin("refused")
    for seconds in (0, FIRST_S - 1, 1):
        clock.now += seconds
        on.append(fallback.is_on)
    assert on == [False, True, True, False]


def test_the_pause_doubles_up_to_a_limit_while_the_usual_way_keeps_failing(fallback: Fallback, clock: Clock) -> None:
    pauses = []
    for _ in range(12):
        fallback.begin("refused")
        began = clock.now
        while fallback.is_on:
            clock.now += 1
        pauses.append(clock.now - began)
    assert pauses[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert pauses[-1] == LONGEST_S


def test_a_success_starts_the_pauses_over(fallback: Fallback, clock: Clock) -> None:
    for _ in range(5):
        fallback.begin("refused")
    fallback.end()
    fallback.begin("refused")
    clock.now += FIRST_S
    assert not fallback.is_on


def test_it_is_logged_once_when_it_begins_and_once_when_it_ends(
    fallback: Fallback, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            fallback.begin("refused")
        for _ in range(3):
            fallback.end()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_it_is_described_with_its_reason_until_the_usual_way_works_again(fallback: Fallback, clock: Clock) -> None:
    assert fallback.describe() == ""
    fallback.begin("refused")
    clock.now += 5
    assert fallback.describe() == "single calls instead of batches: refused; tried again in 10 s"
    fallback.end()
    assert fallback.describe() == ""
