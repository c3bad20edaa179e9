"""Batches: their tokens, their manifests, and when one is due."""

from hypothesis import given
from hypothesis import strategies as st

from common.redis_queue import Entry
from processors.batches import Buffer, Manifest, is_row, token_of

IDS = st.lists(st.tuples(st.integers(1, 2**42), st.integers(0, 99)), min_size=1, unique=True).map(
    lambda pairs: [f"{ms}-{sequence}".encode() for ms, sequence in pairs]
)


def entries(count: int, start: int = 0) -> list[Entry]:
    return [Entry(f"{i}-0".encode(), b"{}") for i in range(start, start + count)]


@given(IDS)
def test_the_same_entries_in_the_same_order_give_the_same_token(ids: list[bytes]) -> None:
    assert token_of("s", "t", ids) == token_of("s", "t", list(ids))


@given(IDS)
def test_anything_else_gives_another_token(ids: list[bytes]) -> None:
    others = [
        token_of("s", "t", [*ids, b"0-1"]),
        token_of("s", "t", ids[1:]),
        token_of("other", "t", ids),
        token_of("s", "other", ids),
    ]
    if len(ids) > 1:
        others.append(token_of("s", "t", ids[::-1]))
    assert token_of("s", "t", ids) not in others


@given(IDS)
def test_a_manifest_survives_redis(ids: list[bytes]) -> None:
    manifest = Manifest.of("s", "trades", ids)
    assert Manifest.decode(manifest.token.encode(), manifest.encode()) == manifest


@given(IDS.filter(lambda ids: len(ids) > 1))
def test_halves_are_the_whole_and_each_is_smaller(ids: list[bytes]) -> None:
    manifest = Manifest.of("s", "trades", ids)
    first, second = manifest.halves("s")
    assert first.entry_ids + second.entry_ids == manifest.entry_ids
    assert first.entry_ids
    assert second.entry_ids
    assert len({manifest.token, first.token, second.token}) == 3
    assert first == Manifest.of("s", "trades", first.entry_ids)


def test_a_batch_is_due_when_it_has_enough_rows() -> None:
    buffer = Buffer(batch_size=10, max_batch_size=100, max_wait_s=2)
    buffer.add(entries(9), now=0)
    assert not buffer.is_due(now=0)
    buffer.add(entries(1, 9), now=0)
    assert buffer.is_due(now=0)


def test_a_batch_is_due_when_its_oldest_row_has_waited_long_enough() -> None:
    buffer = Buffer(batch_size=10, max_batch_size=100, max_wait_s=2)
    buffer.add(entries(1), now=100)
    buffer.add(entries(1, 1), now=101.9)
    assert not buffer.is_due(now=101.99)
    assert buffer.is_due(now=102)


def test_soon_after_a_batch_the_next_one_grows_as_far_as_it_may() -> None:
    buffer = Buffer(batch_size=10, max_batch_size=100, max_wait_s=2)
    buffer.add(entries(10), now=0)
    assert buffer.take(now=0) == entries(10)
    buffer.add(entries(99, 10), now=0)
    assert not buffer.is_due(now=1.99)
    assert buffer.is_due(now=2)
    buffer.add(entries(1, 109), now=0.5)
    assert buffer.is_due(now=0.5)


def test_an_empty_buffer_is_never_due() -> None:
    assert not Buffer(batch_size=1, max_batch_size=1, max_wait_s=0.1).is_due(now=1e9)


def test_a_full_buffer_is_due_even_when_batches_are_meant_to_be_larger() -> None:
    buffer = Buffer(batch_size=100, max_batch_size=10, max_wait_s=30)
    buffer.add(entries(10), now=0)
    assert buffer.room() == 0
    assert buffer.is_due(now=0)


def test_a_backlog_is_taken_in_one_batch_up_to_the_limit() -> None:
    buffer = Buffer(batch_size=2, max_batch_size=5, max_wait_s=2)
    buffer.add(entries(7), now=0)
    assert buffer.room() == 0
    assert buffer.take(now=1) == entries(5)
    assert buffer.take(now=1) == entries(2, 5)
    assert len(buffer) == 0


def test_what_is_left_over_begins_to_wait_when_the_rest_went() -> None:
    buffer = Buffer(batch_size=10, max_batch_size=5, max_wait_s=2)
    buffer.add(entries(6), now=0)
    buffer.take(now=10)
    assert not buffer.is_due(now=11)
    assert buffer.is_due(now=12)


def test_a_cleared_buffer_starts_its_clock_anew() -> None:
    buffer = Buffer(batch_size=10, max_batch_size=10, max_wait_s=2)
    buffer.add(entries(1), now=0)
    buffer.clear()
    buffer.add(entries(1), now=100)
    assert not buffer.is_due(now=101)


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 30))
def test_what_goes_in_comes_out_once_and_in_order(sizes: list[int], most: int) -> None:
    buffer = Buffer(batch_size=5, max_batch_size=most, max_wait_s=1)
    put: list[Entry] = []
    taken: list[Entry] = []
    for size in sizes:
        new = entries(size, len(put))
        put += new
        buffer.add(new, now=0)
        taken += buffer.take(now=0)
    while len(buffer):
        taken += buffer.take(now=0)
    assert taken == put


def test_only_objects_are_rows() -> None:
    assert is_row(b"{}")
    assert not any(map(is_row, [b"", b" ", b"[]", b"null", b"1", b'{"a":1', b"a}"]))
