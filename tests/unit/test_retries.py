"""What is looked up together after failures: the one to blame ends up alone, and the others do not wait for it."""

from hypothesis import given
from hypothesis import strategies as st

from ingesters.retries import FIRST_S, LONGEST_S, Retries

KEYS = [f"token {number:02}" for number in range(40)]


def rounds_until_found(bad: set[str], retries: Retries, most_rounds: int = 60) -> tuple[set[str], int]:
    """Look everything up at one moment; requests that name a bad one fail. What is left, and the number of requests."""
    left = set(KEYS)
    for asked in range(most_rounds):
        group = retries.group(left, 40, now=0)
        if not group:
            return left, asked
        if bad & set(group):
            retries.failed(group, 0, "500")
        else:
            retries.passed(group)
            left -= set(group)
    raise AssertionError(f"never without something to ask for: {left}")


@given(st.sets(st.sampled_from(KEYS), max_size=4))
def test_all_but_the_bad_ones_are_found_at_once(bad: set[str]) -> None:
    left, asked = rounds_until_found(bad, Retries())
    assert left == bad
    assert asked <= 1 + 14 * len(bad) + (not bad)


def test_where_everything_fails_each_is_asked_for_once_before_a_pause() -> None:
    left, asked = rounds_until_found(set(KEYS), Retries())
    assert left == set(KEYS)
    assert asked < 60


def test_one_that_fails_alone_waits_longer_each_time_and_only_until_it_passes() -> None:
    retries, pauses, now = Retries(), [], 0.0
    for _ in range(8):
        retries.failed(["a"], now, "500")
        failed_at = now
        while not retries.group(["a"], 40, now):
            now += 1
        pauses.append(now - failed_at)
    assert pauses[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert pauses[-1] == LONGEST_S
    assert retries.failing() == {"a": "500"}
    retries.passed(["a"])
    assert (retries.group(["a", "b"], 40, now), retries.failing()) == (["a", "b"], {})


def test_what_never_failed_is_not_asked_for_together_with_what_did() -> None:
    retries = Retries()
    retries.failed(["a", "b"], 0, "500")
    assert retries.group(["a", "b", "c"], 40, 0) == ["c"]
    assert retries.group(["a", "b"], 40, 0) == ["a"]


def test_a_failure_that_nobody_asks_about_any_more_is_forgotten() -> None:
    retries = Retries()
    retries.failed(["a"], 0, "500")
    retries.failed(["b"], 4000, "500")
    assert [retries.is_doubtful(key) for key in "ab"] == [False, True]
