"""All markets read by several requests at once: none is missed, the limit holds, and what is urgent does not wait."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from common.state import read_state
from ingesters.gamma import MarketListing
from ingesters.polymarket_ingester import build
from tests.integration.ingesting import Asked, Reply, as_json, run_until, upstream
from tests.integration.test_polymarket_ingester import (
    Gamma,
    context_of,
    ids,
    is_swept,
    keep_limits_from_moving_on,
    newest,
    sweep,
)
from tests.servers import ROOT, RedisServer
from tests.waiting import wait_until


def mostly_closed(count: int, opened: int = 250) -> Gamma:
    """The newest ones are open, some of the oldest as well, and every seventh id is missing."""
    gamma = Gamma()
    for number in range(1, count + 1):
        if number % 7:
            is_closed = 30 < number <= count - opened
            gamma.add(number, closed=is_closed, outcomePrices='["0", "1"]' if is_closed else '["0.5", "0.5"]')
    return gamma


def delayed(answer: Callable[[Asked], Reply], delay_s: float) -> Callable[[Asked], Reply]:
    """The same answers, each after a while; requests overlap."""
    pause = threading.Event()

    def late(request: Asked) -> Reply:
        pause.wait(delay_s)
        return answer(request)

    return late


def is_round_two(stage: object) -> bool:
    return "sweep 2" in str(stage.report()["detail"])  # type: ignore[attr-defined]  # a stage


@pytest.mark.parametrize("workers", [1, 2, 3, 12])
def test_every_market_arrives_once(redis_server: RedisServer, workers: int) -> None:
    gamma = mostly_closed(3000)
    with upstream(delayed(gamma, 0.02)) as url:
        context = context_of(redis_server, url, polymarket_sweep_workers=workers)
        stage = build(context)
        assert sweep(stage) == []
        assert sorted(map(int, ids(context))) == sorted(gamma.markets)
        stage.close()
    by_id = [request for request in gamma.asked if len(request.params.get("id", ())) > 1]
    assert bool(by_id) is (workers > 2)


def test_a_restart_takes_up_the_list_and_the_ids_where_they_were(redis_server: RedisServer) -> None:
    gamma = mostly_closed(6000)
    with upstream(delayed(gamma, 0.02)) as url:
        context = context_of(redis_server, url, polymarket_sweep_workers=4)
        for _ in range(3):
            stage = build(context)
            before = len(ids(context))
            run_until(stage, lambda before=before: len(ids(context)) > before + 700, "some pages are read")  # type: ignore[misc]
            stage.close()
        cursor = read_state(context.queue, "polymarket_cursor") or ""
        floor, top = map(int, cursor.rpartition(" ids=")[2].split("-"))
        assert top == 5750
        asked = len(gamma.asked)
        stage = build(context)
        sweep(stage)
        stage.close()
        assert sorted(map(int, ids(context))) == sorted(gamma.markets)
        later = [int(number) for request in gamma.asked[asked:] for number in request.params.get("id", ())]
        assert max(later) < floor


def test_a_market_that_closes_between_the_lists_comes_with_the_second_round(redis_server: RedisServer) -> None:
    gamma = mostly_closed(2000)

    def answer(request: Asked) -> Reply:
        # The open ones are only listed once the closed ones have been, and number 5 closes in between.
        if request.path.endswith("keyset") and request.params["closed"] == ["false"]:
            listed_closed.wait(60)
            gamma.resolve(5)
        reply = gamma(request)
        if request.path.endswith("keyset") and request.params["closed"] == ["true"]:
            listed_closed.set()
        return reply

    listed_closed = threading.Event()
    gamma.hidden.add(1999)
    with upstream(answer) as url:
        context = context_of(redis_server, url, polymarket_sweep_workers=2, polymarket_poll_interval=60)
        stage = build(context)
        run_until(stage, lambda: "5" in newest(context), "the market arrives without waiting for its ration")
        assert is_round_two(stage)
        assert newest(context)["5"]["winning_outcome"] == "No"
        stage.close()


@pytest.mark.parametrize("reply", [None, Reply(b"{}", 422)])
def test_where_ids_are_ignored_or_refused_the_list_is_read_to_its_end(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, reply: Reply | None
) -> None:
    gamma = mostly_closed(2000)

    def answer(request: Asked) -> Reply:
        if "id" not in request.params:
            return gamma(request)
        return reply or gamma(request._replace(params={**request.params, "id": [str(n) for n in range(31, 131)]}))

    with upstream(answer) as url, caplog.at_level(logging.WARNING):
        context = context_of(redis_server, url, polymarket_sweep_workers=4)
        stage = build(context)
        sweep(stage)
        stage.close()
        assert sorted(map(int, ids(context))) == sorted(gamma.markets)
    assert [record for record in caplog.records if "can't be read by id" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_all_threads_keep_to_one_limit_and_tokens_find_room_in_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_limits_from_moving_on(monkeypatch)
    gamma = mostly_closed(20_000)
    with upstream(gamma) as url:
        context = context_of(
            redis_server, url, polymarket_sweep_workers=12, polymarket_requests_per_10s=40, polymarket_poll_interval=60
        )
        stage = build(context)
        run_until(stage, lambda: len(gamma.asked) >= 37, "all that is not spared is asked")
        context.queue.ask_for_tokens(["300001"])
        run_until(stage, lambda: not context.queue.unknown_tokens(1), "the token is found within the limit")
        assert len(gamma.asked) <= 40
        assert not is_swept(stage)
        stage.close()


def test_a_pause_that_the_source_asks_for_is_kept_by_all(redis_server: RedisServer) -> None:
    gamma, times = mostly_closed(20_000), [0.0]
    busy = iter([Reply(b"", 429, (("Retry-After", "5"),))])

    def answer(request: Asked) -> Reply:
        times.append(time.monotonic())
        if len(times) > 30 and (reply := next(busy, None)):
            return reply
        return gamma(request)

    with upstream(delayed(answer, 0.02)) as url:
        stage = build(context_of(redis_server, url, polymarket_sweep_workers=8))
        failures = run_until(stage, lambda: len(times) > 80, "it goes on afterwards")
        stage.close()
    assert [failure.retry_after_s for failure in failures] == [5]
    # What was under way arrives within the pause, and not at once on a busy machine.
    assert max(later - earlier for earlier, later in pairwise(times[1:])) > 2.5


def test_an_error_in_a_thread_crashes_the_stage(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: MarketListing, _after: str, *, closed: bool) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MarketListing, "page", broken)
    with upstream(Gamma(10)) as url:
        stage = build(context_of(redis_server, url))
        with pytest.raises(ZeroDivisionError):
            run_until(stage, lambda: False, "it crashes")
        stage.close()


def test_a_stop_does_not_wait_for_answers_that_hang(redis_server: RedisServer, tmp_path: Path) -> None:
    release, asked = threading.Event(), []

    def hang(request: Asked) -> Reply:
        if not request.path.endswith("keyset"):
            return as_json([])
        asked.append(request)
        release.wait(300)
        return Reply()

    with upstream(hang) as url:
        context = context_of(redis_server, url, drain_s=2, http_read_timeout_s=300)
        values = context.settings.model_dump().items()
        settings = {name.upper(): str(value) for name, value in values if isinstance(value, str | int | float)}
        with (tmp_path / "log").open("wb") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", "ingesters.polymarket_ingester"],
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
            )
        with running:
            wait_until(lambda: len(asked) == 2, "both lists are asked for")
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0, (tmp_path / "log").read_text()
        release.set()
    assert "hangs, it is left behind" in (tmp_path / "log").read_text()
