"""A chaos run knows which of the dead letters the source had as good fills."""

import json

import pytest

from simulator.faults import BREAKS, FaultBook
from simulator.fills import Fill
from simulator.polygon import log_of
from tests.faults.verdict import is_good_fill, is_of_chain
from tests.simulator import small_world

SEED = 1


@pytest.fixture(scope="module")
def fills() -> list[Fill]:
    """Of both sides of the cut-over."""
    world, _ = small_world(age_s=10, seed=SEED, cutover=small_world()[0].settings.birth - 60)
    return list(world.fills())


def test_the_id_tells_the_side_of_the_cut_over(fills: list[Fill]) -> None:
    assert {is_of_chain(fill.id) == (not fill.is_v1) for fill in fills} == {True}
    assert {fill.is_v1 for fill in fills} == {True, False}


def test_a_good_fill_is_known_as_a_log_and_as_a_row(fills: list[Fill]) -> None:
    ids = {fill.id for fill in fills}
    for fill in fills:
        assert is_good_fill(json.dumps(log_of(fill, SEED)).encode(), ids)
        assert is_good_fill(json.dumps({"id": fill.id}).encode(), ids)


def test_a_log_that_was_broken_on_order_is_no_good_fill(fills: list[Fill]) -> None:
    ids, book = {fill.id for fill in fills}, FaultBook()
    book.add({"target": "polygon", "kind": "malformed_record", "count": len(BREAKS["polygon"])}, now=0)
    for fill in fills[-len(BREAKS["polygon"]) :]:
        good, broken = book.spoil_logs([log_of(fill, SEED)], now=0)
        assert is_good_fill(json.dumps(good).encode(), ids)
        assert not is_good_fill(json.dumps(broken).encode(), ids)


def test_what_is_no_record_is_no_good_fill() -> None:
    assert not is_good_fill(b"<html>", set())
    assert not is_good_fill(b"[]", set())
    assert not is_good_fill(b'{"topics": [], "logIndex": "?"}', set())
