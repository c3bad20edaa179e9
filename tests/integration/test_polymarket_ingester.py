"""Markets from Gamma to a real stream: all of them, then the new and the changed ones, and those fills wait for."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import Unavailable
from common.fallback import FIRST_S
from common.http import HttpSource
from common.runtime import Context
from common.state import read_state
from ingesters.market_jobs import TOKEN_AGAIN_S
from ingesters.market_sweep import REFUSALS
from ingesters.polymarket_ingester import PolymarketIngester, build
from tests.integration.ingesting import Asked, Reply, as_json, context_for, dead_letters, published, run_until, upstream
from tests.servers import ROOT, RedisServer
from tests.simulator import Clock, SimulatorServer
from tests.waiting import wait_until

STREAM = "stream:markets"
IN_ORDER = {"polymarket_sweep_workers": 1}  # one page after the other, none ahead: every request can be accounted for


def context_of(redis: RedisServer, url: str, **settings: object) -> Context:
    own = {"polymarket_api_url": url, "polymarket_poll_interval": 0.2, "polymarket_requests_per_10s": 10_000}
    return context_for(redis, **(own | settings))


def keep_limits_from_moving_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all requests count for the same ten seconds, however long they take."""
    monkeypatch.setattr("ingesters.polymarket_ingester.HttpSource", partial(HttpSource, clock=lambda: 5.0))


def is_swept(stage: PolymarketIngester) -> bool:
    return stage.report()["source_state"] in {"live", "idle", "stale"}  # by how old the upstream's markets are


def sweep(stage: PolymarketIngester) -> list[Unavailable]:
    return run_until(stage, lambda: is_swept(stage), "every market has been read")


def run_into(stage: PolymarketIngester) -> None:
    """Step until the stage raises."""
    wait_until(lambda: stage.step() < 0, "something is wrong")


def ids(context: Context) -> list[str]:
    return [market["id"] for market in published(context, STREAM)]


def newest(context: Context) -> dict[str, dict[str, Any]]:
    """The last that was published of each market."""
    return {market["id"]: market for market in published(context, STREAM)}


# --- the simulator: everything at once, with its oddities ----------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    folder = tmp_path_factory.mktemp("simulator")
    with SimulatorServer(folder, rate_limits=False, history_hours=0.02, live_rate=1, markets=300) as server:
        yield server


@pytest.fixture
def simulator(shared: SimulatorServer) -> Iterator[SimulatorServer]:
    yield shared
    shared.clear_faults()


def test_every_market_arrives_open_and_closed(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    listed = set(simulator.truth_markets())
    context = context_of(redis_server, simulator.gamma_url)
    stage = build(context)
    assert sweep(stage) == []
    markets = newest(context)
    assert set(markets) >= listed
    assert {market["closed"] for market in markets.values()} == {True, False}
    assert any(market.get("winning_outcome") for market in markets.values())
    assert sum(bool(market.get("tags")) for market in markets.values()) == len(markets)
    assert dead_letters(context, STREAM) == []


def test_tokens_arrive_as_the_source_tells_them(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator.gamma_url)
    sweep(build(context))
    truth = simulator.truth_tokens()  # a market may be listed meanwhile
    tokens = {token: market for market in published(context, STREAM) for token in market["token_ids"]}
    listed = set(ids(context))
    expected = {token: known for token, known in truth.items() if str(known["market_id"]) in listed}
    assert set(tokens) == set(expected)
    assert all(tokens[token]["id"] == str(known["market_id"]) for token, known in expected.items())


def test_tags_may_come_from_events(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator.gamma_url, polymarket_tags="events")
    listed = set(simulator.truth_markets())
    sweep(build(context))
    markets = newest(context)
    assert set(markets) >= listed
    assert all(market["tags"] and market["event_title"] for market in markets.values())


def test_the_state_can_be_followed_by_a_person(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator.gamma_url, polymarket_page_size=50, **IN_ORDER)
    stage = build(context)
    run_until(stage, lambda: read_state(context.queue, "polymarket_offset") == "100", "two pages are read")
    cursor = read_state(context.queue, "polymarket_cursor")
    assert cursor is not None
    assert cursor.startswith("listing=markets/keyset sweep=1 closed=false after=")
    sweep(stage)
    assert read_state(context.queue, "polymarket_cursor") == "listing=markets/keyset sweep=1 closed=true done"
    assert int(read_state(context.queue, "polymarket_offset") or 0) >= 300


@pytest.mark.parametrize("kind", ["truncated_json", "http_500", "garbage", "http_429"])
def test_a_broken_answer_is_unavailable_and_the_sweep_goes_on_afterwards(
    redis_server: RedisServer, simulator: SimulatorServer, kind: str
) -> None:
    listed = set(simulator.truth_markets())
    context = context_of(redis_server, simulator.gamma_url, **IN_ORDER)
    stage = build(context)
    simulator.add_fault("gamma", kind, count=2, retry_after_s=3)
    failures = sweep(stage)
    assert failures
    if kind == "http_429":
        assert {failure.retry_after_s for failure in failures} == {3}
    assert set(ids(context)) >= listed


def test_only_markets_with_broken_tokens_are_dead_letters_and_the_rest_goes_on(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    listed, known = set(simulator.truth_markets()), set(simulator.truth_malformed())
    context = context_of(redis_server, simulator.gamma_url, **IN_ORDER)
    simulator.add_fault("gamma", "malformed_record", count=4)
    stage = build(context)
    assert sweep(stage) == []
    broken = {number: what for number, what in simulator.truth_malformed().items() if number not in known}
    without_tokens = {number for number, what in broken.items() if what.startswith("clobTokenIds")}
    assert {json.loads(letter.data)["id"] for letter in dead_letters(context, STREAM)} == without_tokens
    assert set(ids(context)) >= listed | (set(broken) - without_tokens)
    odd = context.queue.read_hash(context.queue.keys.unreadable("polymarket"))
    assert set(odd) == {what.split()[0] for what in broken.values()} - {"clobTokenIds"}


@pytest.mark.parametrize("command", [["ingesters/polymarket_ingester.py"], ["-m", "ingesters.polymarket_ingester"]])
def test_the_process_fetches_at_once_and_ends_cleanly(
    redis_server: RedisServer, simulator: SimulatorServer, tmp_path: Path, command: list[str]
) -> None:
    context = context_of(redis_server, simulator.gamma_url)
    values = context.settings.model_dump().items()
    settings = {name.upper(): str(value) for name, value in values if isinstance(value, str | int | float)}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log
        )
    with running:
        wait_until(lambda: ids(context), "markets arrive")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0, (tmp_path / "log").read_text()


# --- a Gamma of a few lines, to change at will ---------------------------------------------------------------------


class Gamma:
    """Markets by id, listed the way Gamma does it; whatever is asked is noted."""

    def __init__(self, count: int = 0) -> None:
        self.markets: dict[int, dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.hidden: set[int] = set()  # not in any answer
        for number in range(1, count + 1):
            self.add(number)

    def add(self, number: int, **fields: object) -> None:
        self.markets[number] = {
            "id": str(number),
            "question": f"Question {number}",
            "outcomes": '["Yes", "No"]',
            "outcomePrices": '["0.5", "0.5"]',
            "clobTokenIds": json.dumps([f"{number}01", f"{number}02"]),
            "volume": "1.5",
            "active": True,
            "closed": False,
            "updatedAt": "2026-01-01T00:00:00Z",
            **fields,
        }

    def change(self, number: int, **fields: object) -> None:
        self.markets[number] = self.markets[number] | fields

    def resolve(self, number: int) -> None:
        self.change(number, closed=True, outcomePrices='["0", "1"]')

    def __call__(self, request: Asked) -> Reply:
        self.asked.append(request)
        params = {name: values[0] for name, values in request.params.items()}
        limit, offset = int(params["limit"]), int(params.get("offset", "0"))
        found = self._matching(request.params)
        if request.path == "/markets/keyset":
            return self._keyset(_beyond(found, params), limit)
        if offset > 2000:
            return as_json({"type": "validation error", "error": "offset too large"}, status=422)
        if params.get("ascending") == "false":
            found.reverse()
        return as_json(found[offset : offset + limit])

    def _matching(self, params: dict[str, list[str]]) -> list[dict[str, Any]]:
        closed = params.get("closed", ["false"])[0] == "true"
        wanted_ids, tokens = params.get("id"), set(params.get("clob_token_ids", ()))
        return [
            market
            for number, market in sorted(self.markets.items())
            if number not in self.hidden
            and market["closed"] == closed
            and (wanted_ids is None or market["id"] in wanted_ids)
            and (not tokens or tokens & set(json.loads(market["clobTokenIds"] or "[]")))
        ]

    def _keyset(self, found: list[dict[str, Any]], limit: int) -> Reply:
        page: dict[str, Any] = {"markets": found[:limit]}
        if len(found) > limit:
            page["next_cursor"] = page["markets"][-1]["id"]
        return as_json(page)

    def lookups(self, name: str) -> list[list[str]]:
        return [request.params[name] for request in self.asked if name in request.params]


def _beyond(found: list[dict[str, Any]], params: dict[str, str]) -> list[dict[str, Any]]:
    """What follows a cursor, in the order that is asked for."""
    if params.get("ascending") == "false":
        before = int(params.get("after_cursor", "999999"))
        return [market for market in reversed(found) if int(market["id"]) < before]
    return [market for market in found if int(market["id"]) > int(params.get("after_cursor", "0"))]


def test_a_new_market_arrives_after_the_first_sweep(redis_server: RedisServer) -> None:
    gamma = Gamma(250)
    with upstream(gamma) as url:
        context = context_of(redis_server, url)
        stage = build(context)
        sweep(stage)
        gamma.add(251)
        run_until(stage, lambda: "251" in ids(context), "the new market arrives")
        for number in range(252, 600):
            gamma.add(number)
        run_until(stage, lambda: len(set(ids(context))) == 599, "all new markets arrive")
        assert len(ids(context)) == 599


def test_a_changed_market_arrives_and_an_unchanged_one_does_not(redis_server: RedisServer) -> None:
    gamma = Gamma(250)
    with upstream(gamma) as url:
        context = context_of(redis_server, url)
        stage = build(context)
        sweep(stage)
        gamma.change(7, volume="2.5")
        gamma.change(8, outcomePrices='["0.6", "0.4"]')
        gamma.change(9, updatedAt="2026-02-02T00:00:00Z")
        run_until(stage, lambda: len(ids(context)) == 252, "both changes arrive")
        assert newest(context)["7"]["volume"] == "2.500000"
        assert newest(context)["8"]["outcome_prices"][0] == "0.600000000000000000"


def mostly_closed() -> Gamma:
    """So many closed markets that reading them takes longer than a look-up by id."""
    gamma = Gamma(1000)
    for number in range(1, 800):
        gamma.resolve(number)
    return gamma


def test_a_market_that_closes_is_looked_up_and_followed_to_its_resolution(redis_server: RedisServer) -> None:
    gamma = mostly_closed()
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_poll_interval=1)
        stage = build(context)
        sweep(stage)
        gamma.change(900, closed=True, outcomePrices='["0", "0"]')
        run_until(stage, lambda: newest(context)["900"]["closed"], "the closing arrives")
        assert "winning_outcome" not in newest(context)["900"]
        gamma.resolve(900)
        run_until(stage, lambda: newest(context)["900"].get("winning_outcome") == "No", "the resolution arrives")
        assert ["900"] in gamma.lookups("id")


def test_what_closes_while_the_ingester_is_away_is_noticed_afterwards(redis_server: RedisServer) -> None:
    gamma = mostly_closed()
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_poll_interval=2, **IN_ORDER)
        sweep(build(context))
        gamma.resolve(900)
        stage = build(context)
        assert is_swept(stage)
        run_until(stage, lambda: newest(context)["900"]["closed"], "the closing arrives")
        assert gamma.lookups("id") == [["900"]]


def test_a_market_that_vanishes_is_asked_for_and_then_forgotten(redis_server: RedisServer) -> None:
    gamma = Gamma(150)
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_poll_interval=0.01, **IN_ORDER)
        stage = build(context)
        sweep(stage)
        gamma.hidden.add(7)
        run_until(stage, lambda: gamma.lookups("id"), "the vanished market is looked up")
        asked = len(gamma.asked)
        run_until(stage, lambda: len(gamma.asked) > asked + 20, "some more refreshes happen")
        assert gamma.lookups("id") == [["7"]]


@pytest.mark.parametrize(("read", "left"), [("100", 3), ("131", 2), ("231", 1)])
def test_a_restart_in_the_middle_of_a_sweep_goes_on_there(redis_server: RedisServer, read: str, left: int) -> None:
    gamma = Gamma(250)
    for number in range(1, 120):
        gamma.resolve(number)
    with upstream(gamma) as url:
        context = context_of(redis_server, url, **IN_ORDER)
        stage = build(context)
        run_until(stage, lambda: read_state(context.queue, "polymarket_offset") == read, f"{read} markets are read")
        stage.close()
        before = len([request for request in gamma.asked if request.path.endswith("keyset")])
        sweep(build(context))
        swept = [request for request in gamma.asked if request.path.endswith("keyset")]
        assert len(swept) - before == left
        assert sorted(ids(context), key=int) == [str(number) for number in range(1, 251)]


def test_tokens_that_fills_wait_for_are_looked_up_before_the_sweep_gets_there(redis_server: RedisServer) -> None:
    gamma = Gamma(3000)
    gamma.resolve(2900)
    with upstream(gamma) as url:
        context = context_of(redis_server, url)
        context.queue.ask_for_tokens(["280001", "290002"])
        stage = build(context)
        run_until(stage, lambda: not context.queue.unknown_tokens(10), "both tokens are found")
        assert {"2800", "2900"} <= set(ids(context))
        assert not is_swept(stage)
        assert len([request for request in gamma.asked if request.path.endswith("keyset")]) < 5


def test_many_tokens_are_looked_up_in_short_addresses(redis_server: RedisServer) -> None:
    gamma = Gamma(300)
    with upstream(gamma) as url:
        context = context_of(redis_server, url)
        sweep(build(context))
        context.queue.ask_for_tokens(f"{number}01" for number in range(1, 301))
        stage = build(context)
        run_until(stage, lambda: not context.queue.unknown_tokens(10), "all tokens are found")
        assert all(len(tokens) <= 40 for tokens in gamma.lookups("clob_token_ids"))


def test_a_token_nobody_lists_yet_is_asked_for_again_but_not_all_the_time(redis_server: RedisServer) -> None:
    gamma, now = Gamma(10), [1_000_000.0]
    with upstream(gamma) as url:
        context = context_of(redis_server, url)
        stage = build(context, lambda: now[0])
        context.queue.ask_for_tokens(["99901"])
        sweep(stage)
        run_until(stage, lambda: len(gamma.lookups("clob_token_ids")) == 2, "open and closed ones are asked")
        for _ in range(20):
            now[0] += 0.2
            stage.step()
        assert len(gamma.lookups("clob_token_ids")) == 2
        assert context.queue.unknown_tokens(10) == ["99901"]
        gamma.add(999)
        now[0] += TOKEN_AGAIN_S
        run_until(stage, lambda: not context.queue.unknown_tokens(10), "the late market is found")
        periods = {request.params["_"][0] for request in gamma.asked if "clob_token_ids" in request.params}
        assert len(periods) == 2


def test_a_cursor_that_is_passed_over_is_an_error_and_not_an_endless_sweep(redis_server: RedisServer) -> None:
    def first_page_for_ever(request: Asked) -> Reply:
        page = [{"id": str(number)} for number in range(1, 101)]
        fresh = str(len(asked))
        asked.append(request)
        return as_json({"markets": page, "next_cursor": fresh} if request.path.endswith("keyset") else [])

    asked: list[Asked] = []
    with upstream(first_page_for_ever) as url:
        context = context_of(redis_server, url, **IN_ORDER)
        failures = run_until(build(context), lambda: len(asked) > 8, "some pages are read")
        assert failures
        assert all("does not advance" in failure.reason for failure in failures)
        assert read_state(context.queue, "polymarket_offset") == "100"


def test_a_cursor_that_stands_still_is_an_error(redis_server: RedisServer) -> None:
    numbers = iter(range(1, 10_000))

    def same_cursor(request: Asked) -> Reply:
        return as_json(
            {"markets": [{"id": str(next(numbers))}], "next_cursor": "x"} if "keyset" in request.path else []
        )

    with upstream(same_cursor) as url:
        stage = build(context_of(redis_server, url))
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"^Gamma's listing does not advance: the cursor comes round again$"):
                run_into(stage)


def cursors(gamma: Gamma, closed: str = "false") -> list[str]:
    """The cursors that a list was asked for with, in order."""
    asked = [
        request.params for request in gamma.asked if request.path.endswith("keyset") and "order" not in request.params
    ]
    return [params.get("after_cursor", [""])[0] for params in asked if params["closed"] == [closed]]


def test_one_refused_page_is_asked_for_again_and_the_sweep_goes_on_there(redis_server: RedisServer) -> None:
    gamma, clock = Gamma(350), Clock(1_000_000)
    refused = ["100"]

    def answer(request: Asked) -> Reply:
        if request.params.get("after_cursor", [""])[0] in refused:
            refused.clear()
            gamma.asked.append(request)
            return as_json({"error": "forbidden"}, status=403)
        return gamma(request)

    with upstream(answer) as url:
        context = context_of(redis_server, url, **IN_ORDER)
        stage = build(context, clock)
        run_until(stage, lambda: stage.report()["degraded"], "the list stands still")
        assert "the sweep's open markets stand still" in str(stage.report()["degraded"])
        clock.now += FIRST_S
        assert sweep(stage) == []
        assert stage.report()["degraded"] == ""
        assert cursors(gamma)[:5] == ["", "100", "100", "200", "300"]
        stage.close()


def test_a_cursor_that_is_refused_for_minutes_while_the_first_page_passes_starts_the_sweep_over(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    gamma, clock = Gamma(250), Clock(1_000_000)
    is_bad = [True]

    def answer(request: Asked) -> Reply:
        cursor = request.params.get("after_cursor", [""])[0]
        if cursor == "100" and is_bad[0]:
            gamma.asked.append(request)
            return as_json({"error": "invalid after_cursor"}, status=422)
        is_bad[0] = is_bad[0] and cursors(gamma).count("100") < REFUSALS
        return gamma(request)

    def later() -> bool:
        clock.now += 1
        return is_swept(stage)

    with upstream(answer) as url:
        context = context_of(redis_server, url, **IN_ORDER)
        stage = build(context, clock)
        run_until(stage, later, "every market has been read")
        assert cursors(gamma)[:7] == ["", *["100"] * REFUSALS, "", "100"]
        assert len(set(ids(context))) == 250
        stage.close()
    assert "start over" in caplog.text


def test_offset_paging_ends_at_2000_and_says_so_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    gamma = Gamma(2500)
    with upstream(gamma) as url, caplog.at_level(logging.INFO):
        context = context_of(redis_server, url, polymarket_paging="offset")
        stage = build(context)
        assert sweep(stage) == []
        assert len(set(ids(context))) == 2100
        assert "2500" in ids(context)
        gamma.add(2501)
        run_until(stage, lambda: "2501" in ids(context), "the new market arrives")
        asked = len(gamma.asked)
        run_until(stage, lambda: len(gamma.asked) > asked + 60, "the refresh goes round")
    assert [
        record.getMessage() for record in caplog.records if "offset paging ends at 2000" in record.getMessage()
    ] != []
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert gamma.lookups("id") == []


def test_what_is_no_json_inside_a_market_costs_that_field_alone(redis_server: RedisServer) -> None:
    gamma = Gamma(5)
    gamma.change(3, question="BROKEN")

    def answer(request: Asked) -> Reply:
        reply = gamma(request)
        return reply._replace(body=reply.body.replace(b"BROKEN", b"\\ud83d"))

    with upstream(answer) as url:
        context = context_of(redis_server, url)
        assert sweep(build(context)) == []
        assert sorted(ids(context)) == ["1", "2", "3", "4", "5"]
        assert [market["question"] for market in published(context, STREAM) if market["id"] == "3"] == [""]
        assert dead_letters(context, STREAM) == []
        assert context.queue.read_hash(context.queue.keys.unreadable("polymarket")) == {"question": "1"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>"),
        Reply(b""),
        as_json([]),
        as_json({"markets": None}),
        as_json({"markets": "x"}),
        as_json({"markets": [], "next_cursor": 5}),
    ],
)
def test_a_malformed_page_is_unavailable_and_never_the_end(redis_server: RedisServer, reply: Reply) -> None:
    with upstream(lambda request: reply if "keyset" in request.path else as_json([])) as url:
        context = context_of(redis_server, url)
        stage = build(context)
        with pytest.raises(Unavailable, match="Gamma at 127"):
            run_into(stage)
        assert not is_swept(stage)
        assert read_state(context.queue, "polymarket_cursor") is None


def test_lists_that_are_refused_are_never_read_to_their_end(redis_server: RedisServer) -> None:
    with upstream(lambda request: Reply(b"gone", 410) if "keyset" in request.path else as_json([])) as url:
        context = context_of(redis_server, url)
        stage = build(context)
        run_until(stage, lambda: "open markets" in str(stage.report()["degraded"]), "the open list stands still")
        run_until(stage, lambda: "closed markets stand" in str(stage.report()["degraded"]), "the closed one as well")
        assert not is_swept(stage)
        assert read_state(context.queue, "polymarket_cursor") is None
        stage.close()


def test_newest_listing_that_is_refused_leaves_the_rest_running(redis_server: RedisServer) -> None:
    gamma = Gamma(150)

    def answer(request: Asked) -> Reply:
        return as_json({}, status=410) if "order" in request.params else gamma(request)

    with upstream(answer) as url:
        context = context_of(redis_server, url)
        stage = build(context)
        assert sweep(stage) == []
        gamma.add(151)
        run_until(stage, lambda: "151" in ids(context), "the refresh finds the new market")
        assert "new markets come minutes later" in str(stage.report()["degraded"])


def test_a_full_stream_makes_the_ingester_wait(redis_server: RedisServer) -> None:
    with upstream(Gamma(250)) as url:
        stage = build(context_of(redis_server, url, stream_backlog_limit=50))
        run_until(stage, lambda: len(ids(stage._context)) > 50, "the stream is full")
        assert stage.step() == 1
        assert stage.report()["detail"] == "waiting: stream is full"


def test_our_own_limit_spares_some_requests_for_tokens(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_limits_from_moving_on(monkeypatch)
    gamma = Gamma(1500)
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_requests_per_10s=10, polymarket_poll_interval=60, **IN_ORDER)
        stage = build(context)
        run_until(stage, lambda: read_state(context.queue, "polymarket_offset") == "700", "all that may is published")
        assert len(gamma.asked) == 8
        assert stage.step() > 0
        context.queue.ask_for_tokens(["140001"])
        run_until(stage, lambda: not context.queue.unknown_tokens(1), "the token is found within the limit")
        assert len(gamma.asked) == 9
