"""Another endpoint is used while the usual one fails, and only while the other one answers."""

import logging

import pytest

from common.errors import Unavailable
from common.fallback import FIRST_S
from ingesters.detours import Detours
from tests.simulator import Clock

LOG = logging.getLogger("detours")


class Endpoint:
    """Answers with its name until it is told to fail."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: Unavailable | None = None
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.name


class Question:
    def __init__(self) -> None:
        self.clock, self.usual, self.other = Clock(1000), Endpoint("usual"), Endpoint("other")
        self.detours = Detours(LOG, self.clock)

    def __call__(self) -> str:
        return self.detours.ask("look-ups", self.usual, self.other)


@pytest.fixture
def ask() -> Question:
    return Question()


def test_the_other_endpoint_answers_while_the_usual_one_fails_and_is_left_when_that_works(
    ask: Question, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[str] = [ask()]
    ask.usual.error = Unavailable("410")
    with caplog.at_level(logging.INFO):
        answers += [ask(), ask()]
        assert ask.detours.describe() == ["look-ups go another way: 410; tried again in 15 s"]
        ask.clock.now += FIRST_S
        answers += [ask()]
        ask.usual.error = None
        ask.clock.now += 2 * FIRST_S
        answers += [ask()]
    assert answers == ["usual", "other", "other", "other", "usual"]
    assert ask.usual.asked == 4
    assert ask.detours.describe() == []
    assert len(caplog.records) == 2


def test_nothing_is_learnt_where_both_fail_and_the_first_failure_is_the_reason(ask: Question) -> None:
    ask.usual.error, ask.other.error = Unavailable("403"), Unavailable("404")
    for _ in range(2):
        with pytest.raises(Unavailable, match="403"):
            ask()
    assert ask.detours.describe() == []
    ask.usual.error = None
    assert ask() == "usual"


def test_where_the_detour_fails_in_turn_the_usual_endpoint_is_asked_at_once(ask: Question) -> None:
    ask.usual.error = Unavailable("410")
    ask()
    ask.usual.error, ask.other.error = None, Unavailable("500")
    assert ask() == "usual"
    assert ask.detours.describe() == []


def test_a_pause_that_is_asked_for_is_no_reason_to_ask_elsewhere(ask: Question) -> None:
    ask.usual.error = Unavailable("429", retry_after_s=5)
    with pytest.raises(Unavailable, match="429"):
        ask()
    assert ask.other.asked == 0


def test_what_one_kind_of_question_finds_out_does_not_hold_for_another(ask: Question) -> None:
    ask.usual.error = Unavailable("410")
    ask()
    working = Endpoint("usual")
    assert ask.detours.ask("newest", working, ask.other) == "usual"
