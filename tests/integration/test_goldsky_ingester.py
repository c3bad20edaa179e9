"""Fills from a simulated subgraph to a real stream: each once, none lost, whatever the source does."""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, Unavailable
from common.freshness import UNREACHABLE_S
from common.http import HttpSource
from common.redis_queue import Position, RedisQueue
from common.runtime import Context, Runner, Signals
from common.state import read_position, read_state
from ingesters.goldsky_ingester import GoldskyIngester, build
from tests.integration.ingesting import (
    Asked,
    Reply,
    as_json,
    context_for,
    dead_letters,
    process,
    published,
    run_until,
    upstream,
)
from tests.servers import RedisServer
from tests.simulator import SimulatorServer
from tests.waiting import wait_until

STREAM = "stream:order_events"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    folder = tmp_path_factory.mktemp("simulator")
    with SimulatorServer(folder, rate_limits=False, history_hours=0.05, live_rate=10) as server:
        yield server


def context_of(redis: RedisServer, simulator: SimulatorServer, **settings: object) -> Context:
    return context_for(
        redis,
        **{
            "goldsky_url": simulator.goldsky_url,
            "goldsky_page_size": 100,
            "goldsky_poll_interval": 0.1,
            "goldsky_requests_per_10s": 10_000,
            "order_events_start": "2h",
        }
        | settings,
    )


def state_of(stage: GoldskyIngester) -> object:
    return stage.report()["source_state"]


def run_to_the_end(stage: GoldskyIngester) -> list[Unavailable]:
    return run_until(stage, lambda: state_of(stage) in {"live", "idle"}, "the ingester has caught up")


def assert_complete(context: Context, simulator: SimulatorServer) -> None:
    """Each fill that exists is in the stream, once."""
    counted = Counter(fill["id"] for fill in published(context, STREAM))
    assert set(counted) == set(simulator.truth_fills())
    assert set(counted.values()) == {1}


def test_every_fill_arrives_once_and_in_order(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    stage = build(context)
    assert run_to_the_end(stage) == []
    assert_complete(context, simulator)
    fills = published(context, STREAM)
    assert [fill["id"] for fill in fills] == simulator.truth_fills()
    last = Position(fills[-1]["timestamp"], fills[-1]["id"])
    assert read_position(context.queue, "goldsky") == last
    assert read_state(context.queue, "goldsky_last_timestamp") == str(last.timestamp)
    assert stage.report()["newest_event_at"] == last.timestamp


def test_values_arrive_as_the_source_tells_them(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    run_to_the_end(build(context))
    fill = published(context, STREAM)[100]
    truth = simulator.truth_fill(fill["id"])
    where = {"where": {"id": fill["id"]}}
    query = (
        "query ($where: OrderFilledEvent_filter) { orderFilledEvents(where: $where) { makerAssetId takerAssetId fee } }"
    )
    row = simulator.query(query, **where)["data"]["orderFilledEvents"][0]
    assert (fill["maker_asset_id"], fill["taker_asset_id"], str(fill["fee"])) == tuple(row.values())
    assert str(truth["timestamp"]) == str(fill["timestamp"])


def test_new_fills_arrive_after_the_ingester_has_caught_up(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator)
    stage = build(context)
    run_to_the_end(stage)
    before = len(published(context, STREAM))
    run_until(stage, lambda: len(published(context, STREAM)) > before + 20, "new fills arrive")
    simulator.freeze()
    run_until(stage, lambda: len(published(context, STREAM)) == len(simulator.truth_fills()), "the last fills arrive")
    assert_complete(context, simulator)


@pytest.mark.parametrize("pages", [1, 3, 8])
def test_a_restart_goes_on_from_the_cursor(redis_server: RedisServer, simulator: SimulatorServer, pages: int) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    stage = build(context)
    for _ in range(pages):
        stage.step()
    reached, before = read_position(context.queue, "goldsky"), len(published(context, STREAM))
    again = build(context)
    again.step()
    assert reached is not None
    assert published(context, STREAM)[0]["timestamp"] < reached.timestamp
    run_to_the_end(again)
    assert again.report()["records_out"] == len(simulator.truth_fills()) - before
    assert_complete(context, simulator)


def test_two_ingesters_of_one_source_publish_each_fill_once(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    one, other = (
        build(context),
        build(context._replace(settings=context.settings.model_copy(update={"goldsky_page_size": 70}))),
    )
    while state_of(one) == "catching up":
        one.step()
        other.step()
    run_to_the_end(other)
    assert_complete(context, simulator)


def test_an_error_in_a_200_is_not_the_end(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    stage = build(context)
    simulator.add_fault("goldsky", "graphql_errors", count=2)
    stage.step()
    stage.step()
    assert state_of(stage) == "catching up"
    assert stage.report()["detail"] == "pages of 25: larger ones time out"
    run_to_the_end(stage)
    assert_complete(context, simulator)


def test_an_error_on_the_smallest_page_is_unavailable(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    stage = build(context_of(redis_server, simulator, goldsky_page_size=25))
    simulator.add_fault("goldsky", "graphql_errors", count=1)
    with pytest.raises(Unavailable, match="even for 25 fills: statement timeout"):
        stage.step()


def test_a_rate_limit_says_how_long_to_wait(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    stage = build(context_of(redis_server, simulator))
    simulator.add_fault("goldsky", "http_429", count=1, retry_after_s=4)
    with pytest.raises(Unavailable, match="answers 429") as caught:
        stage.step()
    assert caught.value.retry_after_s == 4


def test_our_own_limit_is_a_wait_and_not_a_failure(
    redis_server: RedisServer, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingesters.goldsky_ingester.HttpSource", partial(HttpSource, clock=lambda: 5.0))
    stage = build(context_of(redis_server, simulator, goldsky_requests_per_10s=3))
    assert [stage.step() for _ in range(3)] == [0, 0, 0]
    assert stage.step() == 10


@pytest.mark.parametrize("kind", ["truncated_json", "http_500", "garbage"])
def test_a_broken_answer_is_unavailable_and_nothing_moves(
    redis_server: RedisServer, simulator: SimulatorServer, kind: str
) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    stage = build(context)
    simulator.add_fault("goldsky", kind, count=1)
    with pytest.raises(Unavailable):
        stage.step()
    assert published(context, STREAM) == []
    assert run_to_the_end(stage) == []
    assert_complete(context, simulator)


def test_faults_of_every_kind_lose_and_double_nothing(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    for kind in ("short_page", "duplicate_rows", "malformed_record", "graphql_errors", "truncated_json", "http_429"):
        simulator.add_fault("goldsky", kind, probability=0.15)
    simulator.add_fault("goldsky", "late_rows", seconds=2)
    context = context_of(redis_server, simulator)
    stage = build(context)
    run_until(stage, lambda: len(published(context, STREAM)) > 2200, "the history and some live fills arrive")
    simulator.freeze()
    simulator.clear_faults()
    run_until(stage, lambda: len(published(context, STREAM)) >= len(simulator.truth_fills()), "the last fills arrive")
    assert_complete(context, simulator)


def test_a_malformed_row_is_a_dead_letter_and_the_rest_goes_on(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    simulator.freeze()
    context = context_of(redis_server, simulator)
    stage = build(context)
    known = set(simulator.truth_malformed())
    simulator.add_fault("goldsky", "malformed_record", count=5)
    run_to_the_end(stage)
    assert_complete(context, simulator)
    letters = dead_letters(context, STREAM)
    assert {json.loads(letter.data)["id"] for letter in letters} == set(simulator.truth_malformed()) - known
    assert len(letters) == 5
    assert all(letter.reason and letter.source_stream == "goldsky" for letter in letters)
    assert stage.report()["dead_letters"] == 5


def test_a_full_stream_makes_the_ingester_wait(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    stage = build(context_of(redis_server, simulator, stream_backlog_limit=150))
    waits = [stage.step() for _ in range(4)]
    assert waits == [0, 0, 1, 1]
    assert stage.report()["detail"] == "waiting: stream is full"


def test_a_start_that_makes_no_sense_is_a_configuration_error(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    with pytest.raises(ConfigError, match="ORDER_EVENTS_START"):
        build(context_of(redis_server, simulator, order_events_start="soon"))


# --- a subgraph that says what the simulator never would -----------------------------------------------------------

NOW = 1_762_854_600


def row(number: int, **changes: object) -> dict[str, Any]:
    fields = {
        "id": f"0x{number:064x}_0x{'b2' * 32}",
        "timestamp": str(NOW - 100 + number // 10),
        "transactionHash": f"0x{number:064x}",
        "orderHash": f"0x{'b2' * 32}",
        "maker": f"0x{'d4' * 20}",
        "taker": f"0x{'47' * 20}",
        "makerAssetId": "0",
        "takerAssetId": "123",
        "makerAmountFilled": "205000",
        "takerAmountFilled": "5000000",
        "fee": "0",
    }
    return fields | changes


def fills(rows: list[dict[str, Any]]) -> Reply:
    return as_json({"data": {"orderFilledEvents": rows}})


def asked_for(request: Asked) -> dict[str, Any]:
    return dict(json.loads(request.body).get("variables", {}))


def scripted(redis: RedisServer, url: str, **settings: object) -> tuple[Context, GoldskyIngester]:
    settings = {"goldsky_url": url, "order_events_start": str(NOW - 1000), "goldsky_page_size": 50} | settings
    context = context_for(redis, **settings)
    return context, build(context)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (as_json({"errors": [{"message": "indexing stopped"}]}), "answers an error: indexing stopped"),
        (as_json({"errors": ["odd"], "data": {"orderFilledEvents": []}}), "answers an error: odd"),
        (as_json({"data": None}), "neither data nor errors"),
        (as_json({}), "neither data nor errors"),
        (as_json({"data": {"orderFilledEvents": None}}), "without fills"),
        (as_json({"data": {"orderFilledEvents": "x"}}), "no GraphQL"),
        (as_json([]), "no GraphQL"),
        (Reply(b"<html>"), "no GraphQL"),
        (Reply(b""), "no GraphQL"),
        (Reply(b'{"data": ' + b"[" * 100_000), "no GraphQL"),
        (Reply(b"no such subgraph", 404), "answers 404: no such subgraph"),
    ],
)
def test_nonsense_is_never_no_new_data(redis_server: RedisServer, reply: Reply, reason: str) -> None:
    with upstream(lambda _: reply) as url:
        _, stage = scripted(redis_server, url)
        with pytest.raises(Unavailable, match=reason):
            stage.step()
        assert state_of(stage) == "unreachable"


def test_a_row_that_breaks_the_page_s_json_is_a_dead_letter_alone(redis_server: RedisServer) -> None:
    good, bad = row(1), row(2)
    body = json.dumps({"data": {"orderFilledEvents": [good, bad]}}).replace('"205000"', '"\\ud800"', 2)
    body = body.replace('"\\ud800"', '"205000"', 1)
    with upstream(lambda _: Reply(body.encode())) as url:
        context, stage = scripted(redis_server, url)
        stage.step()
        assert [fill["id"] for fill in published(context, STREAM)] == [good["id"]]
        assert [letter.data for letter in dead_letters(context, STREAM)] == [
            json.dumps(bad).replace("205000", "\\ud800").encode()
        ]


def test_a_full_page_without_a_usable_place_is_buried_once_and_reported(redis_server: RedisServer) -> None:
    junk = [row(number, timestamp=None) for number in range(50)]
    with upstream(lambda _: fills(junk)) as url:
        context, stage = scripted(redis_server, url)
        for _ in range(2):
            with pytest.raises(Unavailable, match="do not advance"):
                stage.step()
            assert "do not advance" in str(stage.report()["source_reason"])
        assert len(dead_letters(context, STREAM)) == 50


def test_a_row_from_the_future_hides_nothing_that_comes_later(redis_server: RedisServer) -> None:
    rows = [row(1), row(2, timestamp="4294967295")]

    def answer(request: Asked) -> Reply:
        where = asked_for(request).get("where", {})
        bound = int(where.get("timestamp_gt", where.get("timestamp_gte", where.get("timestamp", 0))))
        exact = "timestamp" in where
        above = "timestamp_gt" in where
        return fills(
            [
                item
                for item in rows
                if (int(item["timestamp"]) == bound and item["id"] > where["id_gt"] if exact else True)
                and int(item["timestamp"]) >= bound + above
            ]
        )

    with upstream(answer) as url:
        context, stage = scripted(redis_server, url, goldsky_poll_interval=0.01)
        run_until(stage, lambda: state_of(stage) == "stale", "the end is reached")
        rows.insert(1, row(30))
        run_until(stage, lambda: len(published(context, STREAM)) == 2, "the later fill arrives")
        assert len(dead_letters(context, STREAM)) == 1


def test_a_mended_row_is_published(redis_server: RedisServer) -> None:
    rows = [row(1), row(2, fee="x"), row(3)]
    with upstream(lambda _: fills(rows)) as url:
        context, stage = scripted(redis_server, url)
        stage.step()
        rows[1] = row(2)
        build(context).step()
        assert {fill["id"] for fill in published(context, STREAM)} == {item["id"] for item in rows}


def test_a_frozen_source_is_idle_and_its_own_doubts_are_told(redis_server: RedisServer) -> None:
    asked = []

    def answer(request: Asked) -> Reply:
        query = json.loads(request.body)["query"]
        asked.append(query)
        if "_meta" in query:
            return as_json({"data": {"_meta": {"block": {"number": 1, "timestamp": None}, "hasIndexingErrors": True}}})
        return fills([row(1)] if "timestamp_gte" in asked_for(request)["where"] else [])

    now = [float(NOW)]
    with upstream(answer) as url:
        context, _ = scripted(redis_server, url)
        stage = build(context, lambda: now[0])
        run_until(stage, lambda: state_of(stage) in {"live", "idle"}, "the end is reached")
        assert state_of(stage) == "live"
        now[0] += 1000
        run_until(stage, lambda: state_of(stage) == "idle", "the source counts as idle")
        stage.step()
        assert stage.report()["detail"] == "the subgraph reports indexing errors"
        assert stage.report()["newest_event_at"] == NOW - 100


def meta(number: int, timestamp: int | None) -> Reply:
    block = {"number": number, "timestamp": timestamp}
    return as_json({"data": {"_meta": {"block": block, "hasIndexingErrors": False}}})


class Subgraph:
    """A subgraph with one fill, a head and a clock of the test's own."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.head: tuple[int, int | None] = (1, NOW)

    def clock(self) -> float:
        return self.now

    def answer(self, request: Asked) -> Reply:
        if "_meta" in json.loads(request.body)["query"]:
            return meta(*self.head)
        return fills([row(1)] if "timestamp_gte" in asked_for(request)["where"] else [])


def look(stage: GoldskyIngester, source: Subgraph, *, after_s: float) -> Any:
    """The state and the rest of the report, once a look and a question for the head have passed."""
    source.now += after_s
    for _ in range(4):
        stage.step()
    return stage.report()


def test_a_quiet_subgraph_is_idle_and_one_whose_head_stands_still_is_stale(redis_server: RedisServer) -> None:
    source = Subgraph()
    with upstream(source.answer) as url:
        context, _ = scripted(redis_server, url)
        stage = build(context, source.clock)
        report = look(stage, source, after_s=0)
        assert (report["source_state"], report["head_at"], report["head_block"], report["lag_s"]) == (
            "live", NOW, 1, "0.0",
        )  # fmt: skip
        source.head = (2, NOW + 1000)
        assert look(stage, source, after_s=1000)["source_state"] == "idle"
        assert look(stage, source, after_s=100)["source_state"] == "idle"
        report = look(stage, source, after_s=100)
        assert (report["source_state"], report["source_since"]) == ("stale", str(NOW + 1000))
        source.head = (3, None)
        assert look(stage, source, after_s=100)["source_state"] == "idle"
        assert look(stage, source, after_s=3000)["source_state"] == "stale"


def test_a_subgraph_that_knows_no_meta_is_read_all_the_same(redis_server: RedisServer) -> None:
    source = Subgraph()

    def answer(request: Asked) -> Reply:
        if "_meta" in json.loads(request.body)["query"]:
            return as_json({"errors": [{"message": "Cannot query field '_meta' on type 'Query'."}]})
        return source.answer(request)

    with upstream(answer) as url:
        context, _ = scripted(redis_server, url)
        report = look(build(context, source.clock), source, after_s=0)
        assert (report["source_state"], report["head_at"], report["head_block"]) == ("live", "", "")


def test_a_subgraph_that_tells_its_head_and_no_fills_is_unreachable(redis_server: RedisServer) -> None:
    source = Subgraph()
    broken = [False]

    def answer(request: Asked) -> Reply:
        is_meta = "_meta" in json.loads(request.body)["query"]
        return Reply(b"", 500) if broken[0] and not is_meta else source.answer(request)

    with upstream(answer) as url:
        context, _ = scripted(redis_server, url)
        stage = build(context, source.clock)
        assert look(stage, source, after_s=0)["source_state"] == "live"
        broken[0] = True
        for _ in range(2):
            source.now += 20
            with pytest.raises(Unavailable, match="answers 500"):
                stage.step()
        assert stage.report()["source_state"] == "unreachable"


def test_an_outage_is_told_while_it_is_waited_out(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    """The heartbeat of a process in its back-off says that the source is away and why, not how it was before."""
    context = context_of(redis_server, simulator, goldsky_poll_interval=1, backoff_initial_s=0.1, backoff_max_s=1.0)
    start, later_s = time.time(), [0.0]
    with running(context, lambda: time.time() + later_s[0]) as beats:
        wait_until(lambda: beats()["source_state"] == "live", "the ingester has caught up")
        simulator.add_fault("goldsky", "http_500", probability=1.0)
        wait_until(lambda: beats()["state"] == "waiting", "the first question fails")
        later_s[0] += UNREACHABLE_S
        wait_until(lambda: beats()["source_state"] == "unreachable", "the outage is told")
        told = beats()
        assert told["state"] == "waiting"
        assert told["source_reason"].endswith("answers 500")
        assert float(told["source_since"]) > start
        simulator.clear_faults()
        wait_until(lambda: beats()["source_state"] == "live", "the source is back")


def test_a_request_that_hangs_is_cut_off_and_told(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator, http_read_timeout_s=1.0, backoff_initial_s=0.05, backoff_max_s=0.2)
    simulator.add_fault("goldsky", "timeout", probability=1.0, seconds=5)
    with running(context, time.time) as beats:
        wait_until(lambda: beats().get("source_state") == "unreachable", "the outage is told")
        assert beats()["source_reason"].endswith("is silent for 1 s")
        simulator.clear_faults()
        wait_until(lambda: beats()["source_state"] == "live", "the source is back")
    assert_no_double(context)


def assert_no_double(context: Context) -> None:
    counted = Counter(fill["id"] for fill in published(context, STREAM))
    assert set(counted.values()) == {1}


class Stop(Signals):
    """Waits that another thread can end."""

    def __init__(self) -> None:
        super().__init__()
        self._told = threading.Event()

    def wait(self, seconds: float) -> None:
        self._told.wait(max(0.0, seconds))
        self.stopping = self._told.is_set()

    def tell(self) -> None:
        self._told.set()


@contextmanager
def running(context: Context, clock: Callable[[], float]) -> Iterator[Callable[[], dict[str, str]]]:
    """The ingester with its heartbeat, in a thread; yields how to read the heartbeat."""
    signals = Stop()
    queue = RedisQueue(context.settings)
    inner = context._replace(queue=queue, stopping=lambda: signals.stopping)
    runner = Runner("goldsky_ingester", inner, signals, longest_wait_s=context.settings.backoff_max_s)
    thread = threading.Thread(target=lambda: runner.run(lambda given: build(given, clock)))
    thread.start()
    try:
        yield lambda: next(iter(context.queue.heartbeats()), {"source_state": ""})
    finally:
        signals.tell()
        thread.join(60)
        queue.close()


def test_a_start_before_the_first_one_is_said_with_the_command_that_fetches_the_rest(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    source = Subgraph()
    with upstream(source.answer) as url:
        context, stage = scripted(redis_server, url)
        stage.step()
        build(context)
        assert "ORDER_EVENTS_START" not in caplog.text
        earlier = context.settings.model_copy(update={"order_events_start": "2022-11-21"})
        build(context._replace(settings=earlier))
        assert caplog.messages[-1].endswith(
            ".venv/bin/python3 -m ingesters.backfill --from 2022-11-21T00:00:00Z --to 2025-11-11T09:33:20Z "
            "--source goldsky"
        )
        build(context._replace(settings=earlier))
        assert len([message for message in caplog.messages if "ORDER_EVENTS_START" in message]) == 2


def test_what_is_read_again_and_known_is_not_reported_as_published(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = Subgraph()
    with upstream(source.answer) as url:
        context, _ = scripted(redis_server, url)
        stage = build(context, source.clock)
        for _ in range(5):
            look(stage, source, after_s=61)
        assert len([message for message in caplog.messages if message.startswith("published: ")]) == 1


# --- the process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["ingesters/goldsky_ingester.py"], ["-m", "ingesters.goldsky_ingester"]])
def test_the_process_fetches_at_once_and_ends_cleanly(
    redis_server: RedisServer, simulator: SimulatorServer, tmp_path: Path, command: list[str]
) -> None:
    context = context_of(redis_server, simulator)
    with process(command, context, tmp_path) as running:
        wait_until(lambda: published(context, STREAM), "fills arrive")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, (tmp_path / "log").read_text()


def test_the_process_refuses_a_wrong_start_with_status_2(
    redis_server: RedisServer, simulator: SimulatorServer, tmp_path: Path
) -> None:
    context = context_of(redis_server, simulator, order_events_start="soon")
    with process(["-m", "ingesters.goldsky_ingester"], context, tmp_path) as running:
        assert running.wait(60) == 2
    assert "ORDER_EVENTS_START: expected" in (tmp_path / "log").read_text()
