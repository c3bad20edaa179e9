"""How fresh a source is: each state from the facts that make it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CursorLost, Unavailable
from common.freshness import (
    FRESH_S,
    OLD_HEAD_S,
    SILENT_S,
    UNREACHABLE_S,
    Facts,
    Freshness,
    judge,
    lag_s,
)

NOW = 1_777_374_040.0
LIVE = Facts(
    NOW - 9000,
    answered_at=NOW - 1,
    newest_event_at=NOW - 4,
    head=86_126_998,
    head_at=NOW - 5,
    head_told_at=NOW - 1,
    head_moved_at=NOW - 1,
    read_to=NOW - 5,
    at_end_at=NOW - 1,
)


def told(**changes: Any) -> tuple[str, str]:
    verdict = judge(LIVE._replace(**changes), NOW)
    return verdict.state, verdict.reason


def test_a_source_read_to_a_fresh_head_with_fresh_events_is_live() -> None:
    assert told() == ("live", "")


def test_a_quiet_source_whose_head_advances_is_idle() -> None:
    quiet: dict[str, Any] = {"newest_event_at": NOW - FRESH_S - 1}
    assert told(**quiet) == ("idle", "nothing new, though it has been read to its head")
    assert judge(LIVE._replace(**quiet), NOW).since == NOW - FRESH_S - 1
    assert told(newest_event_at=NOW - 90 * 86_400)[0] == "idle"
    assert told(newest_event_at=None)[0] == "idle"


def test_a_source_that_answers_with_an_old_head_is_stale() -> None:
    old = NOW - 1 - OLD_HEAD_S
    assert told(head_at=old) == ("stale", "its newest block (86126998) is of 2026-04-28 10:58:39 UTC")
    assert judge(LIVE._replace(head_at=old), NOW).since == old
    assert told(head_at=old + 1)[0] == "live"


def test_a_source_whose_head_without_a_time_does_not_advance_is_stale() -> None:
    unmoved = {"head_at": None, "head_moved_at": NOW - 1 - OLD_HEAD_S}
    assert told(**unmoved) == ("stale", "its newest block (86126998) has been the same since 2026-04-28 10:58:39 UTC")
    assert told(head_at=None)[0] == "live"


def test_without_a_head_s_time_a_long_silence_means_a_dead_source() -> None:
    """The public subgraph's block number went on for weeks after its last event."""
    assert told(head_at=None, newest_event_at=NOW - SILENT_S)[0] == "idle"
    assert told(head_at=None, newest_event_at=NOW - 1 - SILENT_S)[0] == "stale"
    assert told(head=None, head_at=None, head_told_at=None, newest_event_at=None)[0] == "stale"
    assert told(head=None, head_at=None, head_told_at=None, newest_event_at=None, began_at=NOW - 60)[0] == "idle"


def test_a_source_that_is_not_asked_for_a_while_does_not_grow_old() -> None:
    assert judge(LIVE, NOW + 86_400).state == "live"


def test_more_to_read_is_catching_up_whatever_the_head() -> None:
    assert told(at_end_at=None, head_at=NOW - 86_400, newest_event_at=NOW - 86_400) == ("catching up", "")


def test_one_failed_attempt_is_told_and_is_no_outage() -> None:
    assert told(failing_since=NOW - 1, failure="answers 503") == ("live", "answers 503")


def test_a_source_without_a_good_answer_for_a_while_is_unreachable_since_the_first_failure() -> None:
    verdict = judge(LIVE._replace(failing_since=NOW - UNREACHABLE_S, failure="answers 503"), NOW)
    assert verdict == ("unreachable", "answers 503", NOW - UNREACHABLE_S)


def test_a_source_that_never_answered_is_unreachable_at_once() -> None:
    assert judge(Facts(NOW, failing_since=NOW, failure="refused"), NOW).state == "unreachable"


def test_a_source_that_has_ended_is_neither_quiet_nor_away() -> None:
    assert told(has_ended=True, failing_since=NOW - 900, newest_event_at=NOW - 10**7)[0] == "ended"


def test_the_lag_is_how_long_ago_the_moment_lies_up_to_which_all_is_read() -> None:
    assert lag_s(LIVE, NOW) == 5
    assert lag_s(LIVE, NOW + 60) == 65
    assert lag_s(LIVE._replace(at_end_at=None, read_to=NOW - 3600), NOW) == 3600
    assert lag_s(LIVE._replace(has_ended=True), NOW) is None
    assert lag_s(Facts(NOW), NOW) is None


times = st.none() | st.floats(NOW - 10**6, NOW + 10**6)


heads = st.none() | st.integers()
odd_times = times | st.floats(0, 1e18)


@given(
    st.builds(
        Facts,
        *(st.floats(NOW - 10**6, NOW), times, st.text(), times, times, heads, odd_times),
        *(times, times, st.floats(0, 1000), times, times, st.booleans()),
    )
)
def test_any_facts_make_a_state(facts: Facts) -> None:
    verdict = judge(facts, NOW)
    assert verdict.state in {"catching up", "live", "idle", "stale", "unreachable", "ended"}
    assert verdict.reason or verdict.state in {"catching up", "live", "idle", "unreachable"}


# --- as the facts come in --------------------------------------------------------------------------------------------


class Source:
    """A source that is followed, on a clock of its own."""

    def __init__(self) -> None:
        self.now = NOW
        self.freshness = Freshness(self.now)

    def clock(self) -> float:
        return self.now

    def answer(self) -> None:
        with self.freshness.asking(self.clock):
            pass

    def fail(self, reason: str, lasts_s: float = 0.0) -> None:
        def wait_in_vain() -> None:
            with self.freshness.asking(self.clock):
                self.now += lasts_s
                raise Unavailable(reason)

        with pytest.raises(Unavailable):
            wait_in_vain()

    def read(self) -> None:
        """An answer with everything up to now."""
        self.answer()
        self.freshness.note_head(self.now, int(self.now), self.now)
        self.freshness.note_read(self.now, self.now, self.now, is_at_end=True)

    def told(self, *names: str) -> tuple[str | int | float, ...]:
        report = self.freshness.report(self.now)
        return tuple(report[f"source_{name}"] for name in names)


def test_an_outage_is_told_while_it_lasts_with_its_beginning_and_its_newest_reason() -> None:
    source = Source()
    source.read()
    began = source.now = NOW + 30
    source.fail("answers 503")
    assert source.told("state", "reason") == ("live", "answers 503")
    source.now += 8
    source.fail("refused")
    source.now += 4
    assert source.told("state", "reason", "since") == ("unreachable", "refused", f"{began:.0f}")
    source.read()
    assert source.told("state", "reason", "since") == ("live", "", f"{source.now:.0f}")


def test_an_answer_that_proves_nothing_ends_no_outage() -> None:
    source = Source()
    source.read()
    source.fail("answers 500")
    source.now += 11
    with source.freshness.asking(source.clock, proves=False):
        pass
    assert source.told("state") == ("unreachable",)


def test_a_request_that_hangs_counts_from_when_it_was_asked() -> None:
    source = Source()
    source.read()
    source.fail("silent for 15 s", lasts_s=15)
    assert source.told("state", "since") == ("unreachable", f"{NOW:.0f}")


def test_what_is_no_outage_leaves_the_facts_alone() -> None:
    source = Source()
    before = source.freshness.facts
    with pytest.raises(CursorLost), source.freshness.asking(source.clock):
        raise CursorLost
    assert source.freshness.facts == before


def test_a_head_that_stands_still_is_noticed_and_one_that_moves_again_too() -> None:
    source = Source()
    for waited_s in (0, 60, 60, 1):
        source.now += waited_s
        source.answer()
        source.freshness.note_head(source.now, 7, None)
        source.freshness.note_read(source.now, source.now, source.now, is_at_end=True)
    assert source.told("state", "since") == ("stale", f"{NOW:.0f}")
    source.freshness.note_head(source.now, 8, None)
    assert source.told("state") == ("live",)


def test_the_state_s_beginning_is_kept_while_it_lasts() -> None:
    source = Source()
    for _ in range(3):
        source.now += 2
        source.read()
        assert source.told("state", "since") == ("live", f"{NOW + 2:.0f}")


def test_the_report_is_empty_where_nothing_is_known() -> None:
    report = Freshness(NOW).report(NOW)
    assert {name for name, value in report.items() if value == ""} == {
        "source_reason",
        "newest_event_at",
        "head_at",
        "head_block",
        "lag_s",
    }
