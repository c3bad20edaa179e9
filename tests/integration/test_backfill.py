"""A range of the past, read in parallel: all of it, each fill once, whatever comes between."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from common.config import Settings
from common.errors import ConfigError
from common.progress import DONE, Portion, Progress, Slice
from common.runtime import Context
from ingesters import goldsky_ingester
from tests.builders import LOG, Pipeline
from tests.faults.tcp_proxy import TcpProxy
from tests.integration.backfilling import (
    Command,
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
from tests.servers import ROOT, ClickHouseServer, RedisServer
from tests.simulator import SimulatorServer
from tests.waiting import wait_until

HISTORY_S = 900


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    folder = tmp_path_factory.mktemp("simulator")
    options = {"history_hours": HISTORY_S / 3600, "history_rate": 10, "live_rate": 5}
    with SimulatorServer(folder, rate_limits=False, **options) as server:
        yield server


@contextmanager
def far_away(simulator: SimulatorServer) -> Iterator[str]:
    """The address of a subgraph whose answers take their time, so that there is a middle of a run."""
    with TcpProxy(int(simulator.url.rpartition(":")[2]), delay_s=0.05) as proxy:
        yield f"http://127.0.0.1:{proxy.port}/goldsky"


def has_published(pipeline: Pipeline, least: int) -> bool:
    return len(published(pipeline)) >= least


def test_the_whole_range_arrives_each_fill_once(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    told = backfill(own, *span)
    assert_each_once(pipeline, truth(simulator, *span))
    assert f"{len(truth(simulator, *span)):,}" in told


def test_only_the_range_that_was_asked_for_is_read(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    begin, end = span[0] + 101, span[0] + 301
    backfill(own, begin, end)
    assert_each_once(pipeline, truth(simulator, begin, end))


def test_a_range_that_is_read_twice_is_published_once(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    backfill(own, *span)
    write_all(pipeline)
    before = pipeline.queue.stream_info(pipeline.events).entries_added
    backfill(own, *span)
    backfill(own, span[0] + 100, span[1] - 100)
    assert pipeline.queue.stream_info(pipeline.events).entries_added == before
    assert set(pipeline.ids("order_filled")) == truth(simulator, *span)


def test_what_clickhouse_has_is_left_out_and_counted(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    middle = span[0] + 400
    backfill(own, span[0], middle)
    write_all(pipeline)
    told = backfill(own, *span)
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))
    known = len(truth(simulator, span[0], middle))
    assert f"{known:,}" in told
    assert f"{len(truth(simulator, middle, span[1])):,}" in told


def test_it_waits_until_what_was_published_before_has_arrived(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    backfill(own, span[0], span[0] + 200)
    with backfilling(own, span[0], span[0] + 300) as running:
        wait_until(lambda: "waiting: order_events_writers does not read" in running.output, "it says why it waits")
        write_all(pipeline)
        running.finish()
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, span[0], span[0] + 300))


def test_the_live_ingester_and_a_backfill_share_what_there_is(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    live = goldsky_ingester.build(Context(own, pipeline.queue, LOG, lambda: False))
    with backfilling(own, span[0], span[1] + 86_400) as running:
        assert "goldsky_ingester's" in step_beside(running, live, pipeline.writer())
    assert_live_has_the_rest(goldsky_ingester.build, pipeline, simulator, own, span[0])


@pytest.mark.parametrize("start", ["2h", "1s"])
def test_a_live_ingester_that_starts_later_begins_where_the_backfill_left_it(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int], start: str
) -> None:
    wait_until(lambda: truth(simulator, span[1], int(time.time()) - 2), "there is something to read before the start")
    own = own.model_copy(update={"goldsky_overlap_s": 0})  # or it would be read with that
    backfill(own, *span)
    later = own.model_copy(update={"order_events_start": start})  # which no longer counts
    assert_live_has_the_rest(goldsky_ingester.build, pipeline, simulator, later, span[0])


def test_an_interrupted_run_goes_on_where_it_was(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    with far_away(simulator) as url:
        slow = own.model_copy(update={"goldsky_url": url, "goldsky_page_size": 25, "stream_backlog_limit": 2000})
        stopped_at(slow, *span, partial(has_published, pipeline, 500))
    assert not has_published(pipeline, len(truth(simulator, *span)))
    write_all(pipeline)
    told = backfill(own, *span)
    assert "going on where an earlier run was" in told
    assert f"{len(truth(simulator, *span)):,}" in told, "the summary counts what was published before as well"
    assert_each_once(pipeline, truth(simulator, *span))


def test_a_second_backfill_of_a_source_is_refused(pipeline: Pipeline, own: Settings, span: tuple[int, int]) -> None:
    full = own.model_copy(update={"stream_backlog_limit": 20, "lease_s": 9.0})  # renewed every 3 s, and seen to be
    with backfilling(full, *span) as first:
        wait_until(lambda: "fills behind" in first.output, "the first one waits")
        with pytest.raises(ConfigError, match="a backfill of this source is running"):
            backfill(own, *span)
        assert not first.is_over()


def test_a_full_stream_pauses_it(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    few = own.model_copy(update={"stream_backlog_limit": 2000})
    with backfilling(few, *span) as running:
        wait_until(lambda: "more than 1,000 fills behind" in running.output, "it waits")
        most = 1000 + 100 + few.backfill_workers * 2 * few.goldsky_page_size
        assert len(published(pipeline)) <= most
        step_beside(running, pipeline.writer())
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))


def test_a_lost_reply_publishes_nothing_twice(
    pipeline: Pipeline, redis_server: RedisServer, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    with TcpProxy(redis_server.port) as proxy:
        far = own.model_copy(update={"redis_port": proxy.port})
        proxy.cut("reply", 0.0, times=6, marker=b"slice ")
        backfill(far, *span)
        assert proxy.pending_cuts() == 0
    assert_each_once(pipeline, truth(simulator, *span))


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("short_page", {"probability": 0.3}),
        ("duplicate_rows", {"probability": 0.3}),
        ("http_500", {"probability": 0.2}),
        ("truncated_json", {"probability": 0.2}),
        ("graphql_errors", {"count": 6}),
    ],
)
def test_a_faulty_source_costs_nothing(
    kind: str,
    details: dict[str, float],
    pipeline: Pipeline,
    simulator: SimulatorServer,
    own: Settings,
    span: tuple[int, int],
) -> None:
    simulator.add_fault("goldsky", kind, **details)
    backfill(own, *span)
    assert_each_once(pipeline, truth(simulator, *span))


def test_faulty_rows_become_dead_letters_once(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    simulator.add_fault("goldsky", "malformed_record", probability=0.5)
    backfill(own, *span)
    assert_each_once(pipeline, truth(simulator, *span))
    letters = [letter.entry_id for letter in pipeline.dead(pipeline.events)]
    assert letters
    assert len(letters) == len(set(letters))


def test_killed_at_random_moments_it_ends_complete(
    pipeline: Pipeline,
    simulator: SimulatorServer,
    own: Settings,
    span: tuple[int, int],
    tmp_path: Path,
) -> None:
    dice = random.Random(4)
    count = len(truth(simulator, *span))
    moments = sorted(dice.randrange(count // 20, count // 2) for _ in range(3))
    arguments = ("--from", str(span[0]), "--to", str(span[1]))
    with far_away(simulator) as url:
        slow = own.model_copy(update={"goldsky_url": url, "goldsky_page_size": 25})
        for moment in moments:
            command = Command(slow, tmp_path, *arguments)
            wait_until(partial(has_published, pipeline, moment), f"{moment} fills")
            assert command.end(signal.SIGKILL) == -signal.SIGKILL
            pipeline.expire_leases()
            write_all(pipeline)
        command = Command(slow, tmp_path, *arguments)
        assert command.end() == 0, command.output()
    assert command.output().count("going on where an earlier run was") == len(moments)
    assert_each_once(pipeline, truth(simulator, *span))


@pytest.mark.parametrize("how", [["-m", "ingesters.backfill"], ["ingesters/backfill.py"]])
def test_it_can_be_started_as_a_module_and_as_a_file(how: list[str]) -> None:
    arguments = ["--from", "2024-11-10", "--to", "2024-10-01"]
    ended = subprocess.run([sys.executable, *how, *arguments], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert b"--from must be before --to" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_a_word_on_how_to_go_on(
    number: signal.Signals, pipeline: Pipeline, own: Settings, span: tuple[int, int], tmp_path: Path
) -> None:
    full = own.model_copy(update={"stream_backlog_limit": 20})
    command = Command(full, tmp_path, "--from", str(span[0]), "--to", str(span[1]))
    wait_until(lambda: "fills behind" in command.output(), "it is under way")
    assert command.end(number) == 130
    assert "run the same command to go on" in command.output()


def test_a_paused_process_publishes_nothing_after_its_lease(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int], tmp_path: Path
) -> None:
    small = own.model_copy(update={"goldsky_page_size": 25})
    command = Command(small, tmp_path, "--from", str(span[0]), "--to", str(span[1]), "--workers", "8")
    wait_until(lambda: len(published(pipeline)) > 300, "it is under way")
    command.process.send_signal(signal.SIGSTOP)
    pipeline.expire_leases()
    write_all(pipeline)
    backfill(own, span[0] - 1, span[1])
    command.process.send_signal(signal.SIGCONT)
    write_all(pipeline)
    assert command.end() == 0, command.output()
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))


def test_progress_that_redis_has_lost_is_made_good_from_clickhouse(
    pipeline: Pipeline, simulator: SimulatorServer, own: Settings, span: tuple[int, int]
) -> None:
    with far_away(simulator) as url:
        slow = own.model_copy(update={"goldsky_url": url, "goldsky_page_size": 25, "stream_backlog_limit": 8000})
        with backfilling(slow, *span) as running:
            wait_until(partial(has_published, pipeline, 500), "it is under way")
            for key in pipeline.queue.call("KEYS", pipeline.queue.keys("backfill:*")):
                pipeline.queue.call("DEL", key)
            assert "starting again" in step_beside(running, pipeline.writer())
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))


def test_clickhouse_and_redis_may_be_away_for_a_while(
    pipeline: Pipeline,
    redis_server: RedisServer,
    clickhouse_server: ClickHouseServer,
    simulator: SimulatorServer,
    own: Settings,
    span: tuple[int, int],
) -> None:
    with TcpProxy(redis_server.port) as redis, TcpProxy(clickhouse_server.port) as clickhouse:
        far = own.model_copy(update={"redis_port": redis.port, "clickhouse_port": clickhouse.port})
        with backfilling(far.model_copy(update={"goldsky_page_size": 25}), *span) as running:
            wait_until(lambda: len(published(pipeline)) > 300, "it is under way")
            clickhouse.refuse(3600)
            wait_until(lambda: "waiting: ClickHouse" in running.output, "it waits for ClickHouse")
            clickhouse.clear()
            redis.refuse(3600)
            wait_until(lambda: "waiting: Redis" in running.output, "it waits for Redis")
            pipeline.expire_leases()
            redis.clear()
            step_beside(running, pipeline.writer())  # with a new lease it waits for what was published before
    write_all(pipeline)
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))


def test_a_page_that_redis_forgets_is_read_again(
    pipeline: Pipeline,
    simulator: SimulatorServer,
    own: Settings,
    span: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last page of a slice, with its progress, as a server that syncs every second may lose them."""
    publish = Progress.publish
    forgotten: list[bytes] = []

    def forgetful(progress: Progress, slice_: Slice, portion: Portion) -> bool:
        if forgotten or portion.cursor != DONE or not portion.new:
            return publish(progress, slice_, portion)
        before, last = pipeline.queue.call("DUMP", progress.key), pipeline.queue.stream_info(pipeline.events).last_id
        done = publish(progress, slice_, portion)
        entries = pipeline.queue.read_simple(pipeline.events, (last or "0").encode(), 10_000)
        pipeline.queue.call("XDEL", pipeline.events, *(entry.id for entry in entries))
        pipeline.queue.call("RESTORE", progress.key, 0, before, "REPLACE")
        forgotten.extend(entry.data for entry in entries)
        return done

    monkeypatch.setattr(Progress, "publish", forgetful)
    with backfilling(own.model_copy(update={"backfill_workers": 1}), *span) as running:
        told = step_beside(running, pipeline.writer())
    write_all(pipeline)
    assert forgotten
    assert "Redis has lost a part of the progress" in told
    assert sorted(pipeline.ids("order_filled")) == sorted(truth(simulator, *span))
