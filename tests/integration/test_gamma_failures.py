"""A passing failure of Gamma leaves no lasting harm, and one bad token or endpoint holds up nothing else."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from common.fallback import FIRST_S
from ingesters.market_lanes import AHEAD
from ingesters.polymarket_ingester import build
from tests.integration.ingesting import Asked, Reply, as_json, published, run_until, upstream
from tests.integration.test_parallel_sweep import mostly_closed
from tests.integration.test_polymarket_ingester import IN_ORDER, Gamma, context_of, ids, newest, sweep
from tests.servers import RedisServer
from tests.simulator import Clock, SimulatorServer


class Ticking:
    """A clock that moves on with every look at it, so that a minute does not take one."""

    def __init__(self, step_s: float = 0.05) -> None:
        self.now = 1_000_000.0
        self._step_s = step_s
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self.now += self._step_s
            return self.now


def refusing(gamma: Gamma, status: int, is_refused: Callable[[Asked], bool]) -> Callable[[Asked], Reply]:
    return lambda request: as_json({}, status=status) if is_refused(request) else gamma(request)


# --- one refusal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 410, 422])
def test_new_ids_are_found_within_a_minute_of_a_refusal(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    gamma, clock, is_refused = Gamma(150), Clock(1_000_000), [True]
    answer = refusing(gamma, status, lambda request: is_refused[0] and "order" in request.params)
    with upstream(answer) as url, caplog.at_level(logging.WARNING):
        context = context_of(redis_server, url, polymarket_poll_interval=20)
        stage = build(context, clock)
        run_until(stage, lambda: "new markets come" in str(stage.report()["degraded"]), "the search is refused")
        sweep(stage)
        is_refused[0] = False
        asked = len(gamma.asked)
        gamma.add(151)
        clock.now += 20
        run_until(
            stage, lambda: any("order" in request.params for request in gamma.asked[asked:]), "it is searched again"
        )
        run_until(stage, lambda: "151" in ids(context) and not stage.report()["degraded"], "the new market is found")
        stage.close()
    assert len([record for record in caplog.records if "new markets come minutes later" in record.getMessage()]) == 1


def test_the_descent_by_ids_goes_on_after_a_refusal(redis_server: RedisServer) -> None:
    gamma, refusals = mostly_closed(6000), iter([True] * 4)  # of both endpoints
    answer = refusing(gamma, 403, lambda request: len(request.params.get("id", ())) > 1 and next(refusals, False))
    with upstream(answer) as url:
        context = context_of(redis_server, url, polymarket_sweep_workers=4)
        stage = build(context, Ticking(1.0))
        run_until(stage, lambda: "can't be read by id" in str(stage.report()["degraded"]), "a block of ids is refused")
        lowest = lowest_in_a_range(gamma)
        sweep(stage)
        stage.close()
        assert set(map(int, ids(context))) == set(gamma.markets)  # some twice: hours of this clock go by meanwhile
    assert lowest_in_a_range(gamma) < lowest - 100 * AHEAD * 4


def lowest_in_a_range(gamma: Gamma) -> int:
    return min(int(min(block, key=int)) for block in gamma.lookups("id") if len(block) > 1)


def test_a_refused_page_of_the_refresh_is_asked_for_again_where_it_was(redis_server: RedisServer) -> None:
    gamma, clock, refused = Gamma(350), Clock(1_000_000), [False]

    def is_refused(request: Asked) -> bool:
        if refused[0] and request.params.get("after_cursor") == ["200"]:
            refused[0] = False
            return True
        return False

    with upstream(refusing(gamma, 403, is_refused)) as url:
        context = context_of(redis_server, url, polymarket_poll_interval=30, **IN_ORDER)
        stage = build(context, clock)
        sweep(stage)
        refused[0], gamma.asked[:] = True, []
        clock.now += 30
        run_until(stage, lambda: "open markets stand still" in str(stage.report()["degraded"]), "the page is refused")
        gamma.change(320, volume="7")
        clock.now += FIRST_S
        run_until(stage, lambda: newest(context)["320"]["volume"] == "7.000000", "the rest of the list is read")
        pages = [
            request.params.get("after_cursor", [""])[0]
            for request in gamma.asked
            if request.path.endswith("keyset") and request.params["closed"] == ["false"] and "id" not in request.params
        ]
        assert pages[:4] == ["", "100", "200", "300"]
        stage.close()


# --- /markets is gone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [410, 301, 500])
def test_without_the_older_endpoint_everything_goes_by_keyset(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    gamma = mostly_closed(3000)
    answer = refusing(gamma, status, lambda request: request.path == "/markets")
    with upstream(answer) as url, caplog.at_level(logging.WARNING):
        context = context_of(redis_server, url, polymarket_sweep_workers=4)
        context.queue.ask_for_tokens(["290001", "200002"])
        stage = build(context)
        run_until(stage, lambda: not context.queue.unknown_tokens(2), "both tokens are found")
        sweep(stage)
        gamma.add(3001)
        run_until(stage, lambda: "3001" in ids(context), "the new market is found")
        gamma.resolve(2999)
        run_until(stage, lambda: newest(context)["2999"]["closed"], "the closing arrives")
        assert stage.report()["degraded"] == ""
        assert "newest markets go another way" in str(stage.report()["detail"])
        stage.close()
    assert sorted(set(map(int, ids(context)))) == sorted(gamma.markets)
    assert len([record for record in caplog.records if "look-ups by clob_token_ids" in record.getMessage()]) == 1


def test_a_keyset_list_that_passes_over_the_order_does_not_hide_new_ids_silently(redis_server: RedisServer) -> None:
    gamma = Gamma(150)

    def answer(request: Asked) -> Reply:
        if request.path == "/markets":
            return as_json({}, status=410)
        kept = {name: values for name, values in request.params.items() if name not in {"order", "ascending"}}
        return gamma(request._replace(params=kept))

    with upstream(answer) as url:
        stage = build(context_of(redis_server, url))
        run_until(stage, lambda: "new markets come minutes" in str(stage.report()["degraded"]), "it is reported")
        stage.close()


# --- look-ups of tokens ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    folder = tmp_path_factory.mktemp("simulator")
    with SimulatorServer(folder, rate_limits=False, history_hours=0.02, live_rate=1, markets=300) as server:
        yield server


@pytest.fixture
def simulator(shared: SimulatorServer) -> Iterator[SimulatorServer]:
    yield shared
    shared.clear_faults()


def test_the_simulators_refusals_in_the_middle_of_everything_leave_no_harm(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    listed = set(simulator.truth_markets())
    context = context_of(redis_server, simulator.gamma_url)
    stage = build(context, Ticking())
    simulator.add_fault("gamma", "http_403", count=6)
    sweep(stage)
    simulator.add_fault("gamma", "http_403", count=6)
    run_until(stage, lambda: not simulator.faults(), "all are dealt")
    run_until(stage, lambda: not stage.report()["degraded"], "everything works again")
    assert set(ids(context)) >= listed
    stage.close()


def test_with_markets_gone_at_the_simulator_all_are_read_and_tokens_of_both_protocols_found(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    simulator.add_fault("gamma", "markets_gone")
    context = context_of(redis_server, simulator.gamma_url)
    listed, tokens = set(simulator.truth_markets()), set(simulator.truth_tokens())
    context.queue.ask_for_tokens(tokens)
    stage = build(context, Ticking())
    run_until(stage, lambda: not tokens & set(context.queue.unknown_tokens(1000)), "all tokens are found")
    sweep(stage)
    assert set(ids(context)) >= listed
    assert "look-ups by position_ids go another way" in str(stage.report()["detail"])
    stage.close()


@pytest.mark.parametrize("kind", ["timeout", "http_500", "http_403", "garbage"])
def test_one_token_whose_look_up_fails_holds_up_no_other(
    redis_server: RedisServer, simulator: SimulatorServer, kind: str
) -> None:
    tokens = sorted(simulator.truth_tokens())
    bad, others = tokens[7], tokens[:7] + tokens[8:40]
    simulator.add_fault("gamma", kind, token=bad, **({"seconds": 30.0} if kind == "timeout" else {}))
    context = context_of(redis_server, simulator.gamma_url, http_read_timeout_s=0.5, **IN_ORDER)
    context.queue.ask_for_tokens([bad, *others])
    stage = build(context, Ticking())
    run_until(stage, lambda: context.queue.unknown_tokens(50) == [bad], "all others are found", 20)
    sweep(stage)
    simulator.clear_faults()
    run_until(stage, lambda: not context.queue.unknown_tokens(50), "the bad one is found when its look-up works", 30)
    stage.close()


def test_a_look_up_that_hangs_holds_up_no_other_job(redis_server: RedisServer) -> None:
    gamma, release = Gamma(450), threading.Event()

    def answer(request: Asked) -> Reply:
        if "99901" in request.params.get("clob_token_ids", ()):
            release.wait(60)
        return gamma(request)

    with upstream(answer) as url:
        context = context_of(redis_server, url, http_read_timeout_s=60)
        context.queue.ask_for_tokens(["99901"])
        stage = build(context)
        assert sweep(stage) == []
        gamma.add(451)
        run_until(stage, lambda: "451" in ids(context), "the new market is found")
        gamma.change(7, volume="9")
        run_until(stage, lambda: newest(context)["7"]["volume"] == "9.000000", "the change is found")
        context.queue.ask_for_tokens(["99801"])
        gamma.add(998)
        run_until(stage, lambda: context.queue.unknown_tokens(5) == ["99901"], "another token is found")
        release.set()
        stage.close()


def test_a_look_up_that_keeps_failing_is_reported_with_its_token(redis_server: RedisServer) -> None:
    gamma, clock = Gamma(10), Ticking()
    answer = refusing(gamma, 500, lambda request: "99901" in request.params.get("clob_token_ids", ()))
    with upstream(answer) as url:
        context = context_of(redis_server, url)
        context.queue.ask_for_tokens(["99901"])
        stage = build(context, clock)
        run_until(stage, lambda: "token 99901 keeps failing" in str(stage.report()["degraded"]), "it is reported")
        stage.close()


def test_a_token_that_only_a_position_id_names_is_found_by_it(redis_server: RedisServer) -> None:
    gamma = Gamma(50)
    gamma.add(900, version="v2", positionIds=["777", "778"], clobTokenIds=None)

    def answer(request: Asked) -> Reply:
        wanted = request.params.get("position_ids")
        if wanted:
            gamma.asked.append(request)
            found = [gamma.markets[900]] if "777" in wanted and request.params["closed"] == ["false"] else []
            return as_json(found if request.path == "/markets" else {"markets": found})
        hidden = gamma.markets.pop(900)
        try:
            return gamma(request)
        finally:
            gamma.markets[900] = hidden

    with upstream(answer) as url:
        context = context_of(redis_server, url)
        context.queue.ask_for_tokens(["777"])
        stage = build(context)
        run_until(stage, lambda: not context.queue.unknown_tokens(5), "the token is found")
        assert newest(context)["900"]["token_ids"] == ["777", "778"]
        stage.close()


def test_a_filter_that_gamma_passes_over_finds_nothing_and_is_tried_again_later(redis_server: RedisServer) -> None:
    """It answers its first hundred markets then, as if they were what was asked for."""
    gamma = Gamma(250)
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_poll_interval=60)
        stage = build(context, Ticking())
        context.queue.ask_for_tokens(["99901"])
        run_until(stage, lambda: "not looked up by position id" in str(stage.report()["detail"]), "it is noticed")
        before = len(gamma.lookups("position_ids"))
        run_until(stage, lambda: len(gamma.lookups("position_ids")) > before, "it is tried again")
        gamma.add(999)
        run_until(stage, lambda: not context.queue.unknown_tokens(5), "the token is found by the usual filter")
        stage.close()


# --- what is listed no more ------------------------------------------------------------------------------------------


def test_an_open_market_is_published_again_every_six_hours_while_it_is_listed(redis_server: RedisServer) -> None:
    gamma, clock = Gamma(120), Clock(1_800_000_000)
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_poll_interval=60)
        stage = build(context, clock)
        sweep(stage)
        gamma.hidden.add(7)
        for hour in range(1, 8):
            clock.now = 1_800_000_000 + hour * 3600
            asked = len(gamma.asked)
            run_until(stage, partial(is_listed_again, gamma, asked), "the open ones are read again")
            run_until(stage, lambda: stage.step() > 0, "all answers are published")
        published_at = {market["id"]: market["last_seen_at"] for market in published(context, "stream:markets")}
        assert min(published_at, key=published_at.__getitem__) == "7"
        assert sorted(published_at.values())[1] > published_at["7"]
        assert 240 - 1 <= len(ids(context)) <= 360
        stage.close()


def is_listed_again(gamma: Gamma, asked: int) -> bool:
    """Whether the last page of the open ones was asked for once more."""
    return any(request.params.get("after_cursor") == ["101"] for request in gamma.asked[asked:])


# --- Redis' state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["in the middle", "afterwards"])
def test_a_sweep_whose_state_is_gone_begins_again_and_publishes_everything(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    gamma = mostly_closed(1500)
    with upstream(gamma) as url:
        context = context_of(redis_server, url, polymarket_sweep_workers=3)
        stage = build(context)
        run_until(stage, lambda: len(ids(context)) > 600, "some are read")
        if when == "afterwards":
            sweep(stage)
        keys = context.queue.keys
        forgotten = [*context.queue.scan(keys.seen("polymarket:")), keys.state("polymarket_cursor")]
        before = len(ids(context))
        context.queue.call("UNLINK", *forgotten, keys.state("polymarket_offset"))
        run_until(stage, lambda: {*map(int, ids(context)[before:])} >= set(gamma.markets), "all are published again")
        stage.close()
    assert "state:polymarket_cursor in Redis is not what was written last; the sweep goes on" in caplog.text
