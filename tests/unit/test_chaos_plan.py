"""The schedule of a chaos run depends on its seed alone and leaves nothing out."""

from hypothesis import given
from hypothesis import strategies as st

from simulator.faults import KINDS, FaultBook
from tests.faults.plan import SERVERS, SOURCE_FAULTS, STAGES, Event, plan

seeds = st.integers(0, 10_000)


def long_plan(seed: int, *, loses: bool = False) -> list[Event]:
    return plan(seed, 120, 30, lease_s=3, loses=loses)


@given(seeds)
def test_the_same_seed_gives_the_same_schedule_and_another_seed_another_one(seed: int) -> None:
    assert long_plan(seed) == long_plan(seed)
    assert long_plan(seed) != long_plan(seed + 1)


@given(seeds)
def test_a_schedule_kills_so_many_times_and_every_process_at_least_once(seed: int) -> None:
    kills = [event.target for event in long_plan(seed) if event.kind == "kill"]
    assert len(kills) == 30
    assert set(kills) == {*STAGES, *SERVERS}


@given(seeds)
def test_a_long_schedule_has_every_kind_of_fault_in_the_order_of_time(seed: int) -> None:
    events = long_plan(seed, loses=True)
    kinds = {event.kind for event in events}
    source = [event for event in events if event.kind == "source"]
    assert {event.what for event in source} == set(SOURCE_FAULTS)
    assert {event.target for event in source} >= {"goldsky", "polygon"}
    assert kinds == {"kill", "pause", "terminate", "lose", "away", "cut", "stall", "refuse", "source"}
    assert events == sorted(events, key=lambda event: event.at_s)
    assert all(0 < event.at_s <= 120 for event in events)


@given(seeds)
def test_redis_loses_data_only_where_it_is_asked_for(seed: int) -> None:
    assert not [event for event in long_plan(seed) if event.kind == "lose"]


@given(seeds)
def test_a_pause_outlasts_the_lease(seed: int) -> None:
    assert all(event.seconds > 3 for event in long_plan(seed) if event.kind == "pause")


def test_whatever_the_simulator_can_get_wrong_it_is_told_to() -> None:
    assert {*SOURCE_FAULTS, "late_rows"} == set().union(*KINDS.values())


@given(seeds)
def test_the_simulator_understands_every_fault_of_the_source(seed: int) -> None:
    book = FaultBook()
    for event in long_plan(seed):
        if event.kind == "source":
            book.add({"target": event.target, "kind": event.what, **dict(event.details)}, now=0)
            assert event.what in KINDS[event.target]
