"""Tokens kept in memory, within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from common.records import Token
from processors.token_index import RecentTokens


def token(i: int) -> Token:
    return Token(str(i), "", "Yes", "token1")


def test_what_was_put_is_found() -> None:
    recent = RecentTokens(10)
    recent.put("1", token(1))
    assert recent.get("1") == token(1)
    assert recent.get("2") is None


def test_the_newer_version_of_a_token_wins() -> None:
    recent = RecentTokens(10)
    recent.put("1", token(1))
    for i in range(2, 8):
        recent.put(str(i), token(i))
    recent.put("1", token(99))
    assert recent.get("1") == token(99)


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    recent = RecentTokens(20)
    recent.put("used", token(0))
    recent.put("unused", token(1))
    for i in range(100):
        recent.put(str(i), token(i))
        assert recent.get("used") == token(0)
    assert recent.get("unused") is None


@given(st.integers(1, 50), st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=400))
def test_memory_is_bounded_and_what_is_found_is_what_was_put_last(capacity: int, steps: list[tuple[bool, int]]) -> None:
    recent = RecentTokens(capacity)
    put: dict[str, Token] = {}
    for number, (is_put, i) in enumerate(steps):
        if is_put:
            put[str(i)] = token(number)
            recent.put(str(i), put[str(i)])
        else:
            assert recent.get(str(i)) in (None, put.get(str(i)))
        assert len(recent) <= max(2, capacity)


@given(st.integers(2, 50), st.integers(1, 200))
def test_the_last_half_of_the_capacity_is_always_there(capacity: int, count: int) -> None:
    recent = RecentTokens(capacity)
    for i in range(count):
        recent.put(str(i), token(i))
    for i in range(max(0, count - capacity // 2), count):
        assert recent.get(str(i)) == token(i)
