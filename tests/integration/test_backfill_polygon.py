"""A range of blocks, and the seam between the two sources: all of it, each fill once."""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from common.config import Settings
from common.errors import Unavailable
from common.runtime import Context
from ingesters import polygon_ingester
from ingesters.backfill_polygon import Chain
from ingesters.polygon import AskAgain
from tests.builders import LOG, Pipeline
from tests.integration.backfilling import (
    assert_each_once,
    assert_live_has_the_rest,
    backfill,
    backfilling,
    published,
    step_beside,
    stopped_at,
    truth,
    write_all,
)
from tests.simulator import SimulatorServer
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    folder = tmp_path_factory.mktemp("simulator")
    options: dict[str, float | str] = {"history_hours": 0.25, "history_rate": 10, "live_rate": 5, "cutover": "-400s"}
    with SimulatorServer(folder, rate_limits=False, **options) as server:
        birth = server.get_json("/health")["birth"]
        wait_until(lambda: _final_time(server) > birth, "the history is final")
        yield server


def _final_time(server: SimulatorServer) -> int:
    return int(server.rpc("eth_getBlockByNumber", "finalized", False)["timestamp"], 16)  # noqa: FBT003 - the protocol's


def test_a_range_over_the_cut_over_is_read_from_both_sources(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    # The first source's fills have to be in ClickHouse before the second one begins.
    with backfilling(own, *span) as running:
        told = step_beside(running, pipeline.writer())
    assert "goldsky: " in told
    assert "polygon: " in told
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))


def test_each_source_can_be_asked_for_alone(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    backfill(own, *span, source="polygon")
    first = set(published(pipeline))
    write_all(pipeline)
    assert "polygon: nothing to read" in backfill(own, span[0], span[0] + 100, source="polygon")
    assert "goldsky: nothing to read" in backfill(own, span[1] - 50, span[1], source="goldsky")
    backfill(own, *span, source="goldsky")
    assert first < truth(simulator, *span)
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))


def test_blocks_that_were_read_before_are_left_out(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    begin = span[1] - 300
    for first, last in ((begin + 50, begin + 150), (begin, begin + 200), (begin, span[1])):
        backfill(own, first, last, source="polygon")
        write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, begin, span[1]))


def test_blocks_whose_logs_another_provider_numbers_differently_are_left_out_as_well(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    begin = span[1] - 300
    backfill(own, begin + 50, begin + 200, source="polygon")
    write_all(pipeline)
    before = set(pipeline.ids("order_filled"))
    other = own.model_copy(update={"polygon_rpc_url": f"{simulator.polygon_url}/renumbered"})
    for _ in range(2):
        backfill(other, begin, span[1] - 60, source="polygon")
        write_all(pipeline)
    stored = pipeline.ids("order_filled")
    assert before < set(stored)
    assert len(set(stored)) == len(stored) == len(truth(simulator, begin, span[1] - 60))


def test_a_backfill_reaches_to_where_a_live_ingester_has_just_begun(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    """What it publishes late lies behind its cursor, but not before its first block."""
    begin = span[1] - 300
    live = polygon_ingester.build(Context(own, pipeline.queue, LOG, lambda: False))
    wait_until(lambda: live.step() >= 0 and bool(published(pipeline)), "the live ingester has begun")
    live.close()
    write_all(pipeline)
    backfill(own, begin, span[1] + 86_400, source="polygon")
    assert_live_has_the_rest(polygon_ingester.build, pipeline, simulator, own, begin)


@pytest.mark.parametrize("habits", [("cap10",), ("notime",), ("lagging",), ("down", "cap1000")])
def test_providers_with_habits_cost_nothing(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int], habits: tuple[str]
) -> None:
    urls = ",".join(f"{simulator.polygon_url}/{name}" for name in habits)
    begin, end = span[1] - 300, span[1] - 60
    backfill(own.model_copy(update={"polygon_rpc_url": urls}), begin, end, source="polygon")
    assert_each_once(pipeline, truth(simulator, begin, end))


def test_faulty_logs_become_dead_letters(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    simulator.add_fault("polygon", "malformed_record", probability=0.5)
    simulator.add_fault("polygon", "duplicate_rows", probability=0.5)
    simulator.add_fault("polygon", "removed_logs", probability=0.5)
    begin = span[1] - 300
    backfill(own.model_copy(update={"polygon_max_blocks": 5}), begin, span[1], source="polygon")
    assert_each_once(pipeline, truth(simulator, begin, span[1]))
    letters = [letter.entry_id for letter in pipeline.dead(pipeline.events)]
    assert letters
    assert len(letters) == len(set(letters))


def test_an_interrupted_run_goes_on(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    few = own.model_copy(update={"polygon_max_blocks": 2, "stream_backlog_limit": 600})
    begin = span[1] - 380
    stopped_at(few, begin, span[1], lambda: len(published(pipeline)) > 300, source="polygon")
    assert len(published(pipeline)) < len(truth(simulator, begin, span[1]))
    write_all(pipeline)
    assert "going on where" in backfill(own, begin, span[1], source="polygon")
    assert_each_once(pipeline, truth(simulator, begin, span[1]))


def test_the_live_ingester_and_a_backfill_share_what_there_is(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    begin = span[1] - 300
    live = polygon_ingester.build(Context(own, pipeline.queue, LOG, lambda: False))
    with backfilling(own, begin, span[1] + 86_400, source="polygon") as running:
        assert "polygon_ingester's" in step_beside(running, live, pipeline.writer())
    assert_live_has_the_rest(polygon_ingester.build, pipeline, simulator, own, begin)


@pytest.mark.parametrize("start", ["2h", "1s"])
def test_a_live_ingester_that_starts_later_begins_where_the_backfill_left_it(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int], start: str
) -> None:
    begin = span[1] - 300
    own = own.model_copy(update={"polygon_overlap_blocks": 0})
    backfill(own, begin, span[1], source="polygon")
    later = own.model_copy(update={"order_events_start": start})  # which no longer counts
    assert_live_has_the_rest(polygon_ingester.build, pipeline, simulator, later, begin)


def has_claimed(chain: Chain, now: int) -> bool:
    try:
        chain.bounds(now - 390, now - 200)
    except (AskAgain, Unavailable):
        return False
    return True


def test_a_live_ingester_that_waits_for_its_source_keeps_its_start(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings
) -> None:
    own = own.model_copy(update={"order_events_start": "120s"})
    live = polygon_ingester.build(Context(own, pipeline.queue, LOG, lambda: False))
    started_at = time.time()
    with closing(Chain(own, pipeline.queue, lambda: started_at + 60)) as later:
        wait_until(partial(has_claimed, later, int(started_at)), "a backfill has claimed the live ingester's start")
    frozen_at = int(simulator.freeze())
    expected = truth(simulator, int(started_at) - 118, frozen_at + 1)

    def has_all() -> bool:
        live.step()
        return set(published(pipeline)) >= expected

    wait_until(has_all, "everything since its own start is published")
    live.close()
