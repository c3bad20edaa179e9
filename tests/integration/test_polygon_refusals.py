"""Ranges and batches that a provider refuses in any words, code or status: every fill arrives, once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.integration.scripted_chain import FIRST, Chain, Follower, Refusal, error_of, following
from tests.servers import ROOT, RedisServer

CASES = next((each / "shared" / "cases" for each in ROOT.parents if (each / "shared" / "cases").is_dir()), Path())
has_cases = pytest.mark.skipif(Path() == CASES, reason="no ../shared/cases beside the project")
LIMIT_S = 300.0


def cases(name: str) -> list[Any]:
    return list(json.loads((CASES / name).read_text())) if Path() != CASES else [None]


def read_all(follower: Follower, chain: Chain, limit_s: float = LIMIT_S) -> float:
    """Seconds until all of it has arrived, each once."""
    took = follower.until(lambda: follower.count() >= len(chain.ids), limit_s)
    assert follower.counted() == dict.fromkeys(chain.ids, 1)
    return took


def grow(follower: Follower, chain: Chain, seconds: float) -> None:
    """A block every two seconds, until the clock has advanced so far."""
    began, head = follower.clock.now, chain.head
    while follower.clock.now < began + seconds:
        follower.turn()
        chain.head = head + int(follower.clock.now - began) // 2


# --- ranges ----------------------------------------------------------------------------------------------------------


@has_cases
@pytest.mark.parametrize("refusal", cases("range_refusals.json"))
def test_a_refused_range_is_halved_in_whatever_words(redis_server: RedisServer, refusal: dict[str, Any]) -> None:
    chain = Chain(200)
    chain.range_limit, chain.range_refusal = 20, refusal
    with following(redis_server, chain) as follower:
        assert read_all(follower, chain) < 30
        assert max(last - first + 1 for first, last in chain.ranges[-3:]) <= 20


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40) | st.sampled_from(
    ["", "no", "429 too many requests", "rate limit", "please retry", "20 blocks", "1 of 7", "limit 0x14", "not found"]
)
codes = st.integers(-33000, 1000) | st.sampled_from([-32602, -32005, -32000, 429, 0])


@st.composite
def refusals(draw: st.DrawFn) -> Refusal:
    """An error object, a bare message, a list of one, an empty list; with a good or a bad status."""
    message, code = draw(words), draw(codes)
    bodies = [error_of(code, message), {"message": message}, {"error": message}, message, [], [error_of(code, message)]]
    return Refusal(draw(st.sampled_from([200, 400, 403, 405, 413, 422, 429, 500, 503])), draw(st.sampled_from(bodies)))


quick = settings(max_examples=25, phases=[Phase.generate])  # shrinking would take minutes


@quick
@given(limit=st.integers(1, 40), code=codes, message=words, batches=st.sampled_from([1, 2, 3, 100]), refused=refusals())
def test_every_fill_arrives_once_whatever_is_refused_how(
    redis_server: RedisServer, limit: int, code: int, message: str, batches: int, refused: Refusal
) -> None:
    chain = Chain(60)
    chain.range_limit, chain.range_refusal = limit, {"code": code, "message": message}
    chain.batch_limit, chain.batch_refusal = batches, refused
    chain.has_times = False
    with following(redis_server, chain, polygon_max_blocks=60) as follower:
        read_all(follower, chain, 3000)


@quick
@given(limit=st.integers(1, 40), refusal=refusals())
def test_a_range_may_be_refused_with_the_whole_request(redis_server: RedisServer, limit: int, refusal: Refusal) -> None:
    chain = Chain(60)
    chain.range_limit, chain.range_refusal = limit, refusal
    with following(redis_server, chain, polygon_max_blocks=60) as follower:
        read_all(follower, chain, 3000)


def test_a_single_error_makes_no_range_smaller(redis_server: RedisServer) -> None:
    chain, denied = Chain(200), [{"code": -32000, "message": "internal error"}]
    chain.deny = lambda call: denied.pop() if call["method"] == "eth_getLogs" and denied else None
    with following(redis_server, chain) as follower:
        assert read_all(follower, chain) < 5
        assert "blocks a request" not in str(follower.stage.report()["detail"])


def test_after_an_outage_the_chunk_is_what_it_was(redis_server: RedisServer) -> None:
    chain = Chain(100)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        chain.head += 500
        chain.deny = lambda call: {"code": -1, "message": "?"} if call["method"] == "eth_getLogs" else None
        asked = len(chain.ranges)
        follower.run(120)
        assert len(chain.ranges) - asked < 30  # one block each time, longer and longer apart
        assert "answers an error: ?; left for" in str(follower.stage.report()["detail"])
        chain.deny = lambda _: None
        assert read_all(follower, chain) < 70  # the longest pause, then one block, then all of them
        assert max(last - first + 1 for first, last in chain.ranges[-4:]) == 200


def test_a_limit_that_an_error_has_taught_is_forgotten(redis_server: RedisServer) -> None:
    chain = Chain(200)
    chain.range_limit, chain.range_refusal = 20, {"code": -1, "message": "?"}
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        assert "blocks a request" in str(follower.stage.report()["detail"])
        chain.range_limit = 10_000
        follower.run(120)
        chain.head += 400
        read_all(follower, chain)
        assert max(last - first + 1 for first, last in chain.ranges[-3:]) == 200
        assert "blocks a request" not in str(follower.stage.report()["detail"])


def test_a_provider_that_refuses_ranges_is_asked_after_one_that_does_not(redis_server: RedisServer) -> None:
    small, large = Chain(200), Chain(200)
    small.range_limit, small.range_refusal = 5, {"code": -1, "message": "?"}
    with following(redis_server, small, large) as follower:
        read_all(follower, large)
        assert len(small.ranges) <= 3


# --- batches ---------------------------------------------------------------------------------------------------------


@has_cases
@pytest.mark.parametrize("limit", [1, 2, 3, 10, 20])
@pytest.mark.parametrize("refusal", cases("batch_refusals.json"))
def test_a_refused_batch_gets_smaller(redis_server: RedisServer, refusal: dict[str, Any], limit: int) -> None:
    chain = Chain(100)
    chain.has_times = False  # fifty look-ups a page
    chain.batch_limit, chain.batch_refusal = limit, Refusal(refusal["status"], refusal["body"])
    with following(redis_server, chain) as follower:
        assert read_all(follower, chain) < 30
        assert max(chain.batches[-5:]) == min(limit, {1: 1, 2: 2, 3: 3, 10: 6, 20: 12}[limit])


def test_batches_are_tried_again_after_a_while(redis_server: RedisServer) -> None:
    chain = Chain(50)
    chain.batch_limit = 1
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        assert "smaller batches of calls: more than 1 at once refused" in str(follower.stage.report()["detail"])
        chain.batch_limit = 100
        chain.batches.clear()
        grow(follower, chain, 60)
        assert chain.batches.count(2) > 5
        assert follower.stage.report()["detail"] == ""


def test_one_refused_batch_does_not_end_the_check_of_the_node_s_place(redis_server: RedisServer) -> None:
    chain = Chain(50)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        chain.batch_limit = 1
        follower.until(lambda: chain.batches[-1] == 2, 10)  # refused just now; it passes by
        chain.batch_limit = 100
        chain.head += 1
        chain.batches.clear()
        read_all(follower, chain)
        assert 2 in chain.batches
        assert "smaller batches" not in str(follower.stage.report()["detail"])


@pytest.mark.parametrize("limit", [3, 2])
def test_nothing_is_lost_where_a_node_behind_a_balancer_lags(redis_server: RedisServer, limit: int) -> None:
    """Batches above the limit are refused, and half of the requests meet a node that is 20 blocks behind."""
    chain = Chain(40)
    chain.has_times, chain.batch_limit = False, limit
    with following(redis_server, chain, polygon_overlap_blocks=0, polygon_second_look_s=0) as follower:
        read_all(follower, chain)
        chain.behind = 20
        for _ in range(20):
            chain.head += 2
            follower.clock.now += 4
            follower.until(lambda: follower.count() >= len(chain.ids), 600)
        read_all(follower, chain)


def test_what_a_lagging_node_hides_from_single_calls_is_found_by_the_second_look(redis_server: RedisServer) -> None:
    chain = Chain(40)
    chain.batch_limit, chain.behind = 1, 0
    with following(redis_server, chain, polygon_overlap_blocks=0) as follower:
        read_all(follower, chain)
        chain.head += 2
        chain.hidden = {chain.head}  # the first call met a node that has it, the second one did not
        follower.clock.now += 4
        follower.run(20)
        chain.hidden = set()
        assert follower.count() == len(chain.ids) - 1
        read_all(follower, chain, 400)


def test_a_node_that_is_down_has_not_refused_a_batch(redis_server: RedisServer) -> None:
    chain = Chain(50)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        chain.is_down = True
        follower.run(30)
        chain.is_down = False
        chain.head += 5
        chain.batches.clear()
        read_all(follower, chain)
        assert 2 in chain.batches
        assert "smaller batches" not in str(follower.stage.report()["detail"])


def test_calls_beyond_a_batch_s_limit_may_be_answered_with_errors_of_their_own(redis_server: RedisServer) -> None:
    chain = Chain(60)
    chain.has_times = False
    chain.deny = lambda call: {"code": -1, "message": "?"} if call["id"] >= 3 else None
    with following(redis_server, chain) as follower:
        assert read_all(follower, chain) < 60


# --- the newest final block ------------------------------------------------------------------------------------------


def final_denied(call: dict[str, Any]) -> dict[str, Any] | None:
    is_final = call["method"] == "eth_getBlockByNumber" and call["params"][0] == "finalized"
    return {"code": -32000, "message": "unknown block tag"} if is_final else None


def test_one_error_on_the_final_block_costs_one_request(redis_server: RedisServer) -> None:
    chain, denied = Chain(200), [True]
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        chain.deny = lambda call: final_denied(call) if final_denied(call) and denied and denied.pop() else None
        grow(follower, chain, 10)
        assert not denied
        report = follower.stage.report()
        assert report["degraded"] == ""
        assert float(str(report["lag_s"])) < 15


def test_errors_on_the_final_block_are_forgotten_and_seen_meanwhile(redis_server: RedisServer) -> None:
    chain = Chain(200)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        chain.deny = final_denied
        grow(follower, chain, 14)
        report = follower.stage.report()
        assert str(report["degraded"]).startswith("fills arrive about 128 s late: ")
        assert "unknown block tag" in str(report["detail"])
        chain.deny = lambda _: None
        grow(follower, chain, 30)
        report = follower.stage.report()
        assert (report["degraded"], report["detail"]) == ("", "")
        assert float(str(report["lag_s"])) < 15
        read_all(follower, chain)


def test_a_provider_that_never_knew_final_blocks_works(redis_server: RedisServer) -> None:
    chain = Chain(200)
    chain.deny = final_denied
    with following(redis_server, chain, polygon_confirmations=7) as follower:
        follower.run(10)
        assert follower.count() == 200 + 3 - 7
        assert "fills arrive about 14 s late" in str(follower.stage.report()["degraded"])


def test_one_that_tells_final_blocks_is_asked_before_one_that_does_not(redis_server: RedisServer) -> None:
    counting, telling = Chain(200), Chain(200)
    counting.deny = final_denied
    with following(redis_server, counting, telling) as follower:
        read_all(follower, telling)
        assert follower.stage.report()["degraded"] == ""


# --- keys ------------------------------------------------------------------------------------------------------------


def test_one_403_of_a_key_that_works_is_a_failure_like_any_other(redis_server: RedisServer) -> None:
    chain = Chain(50)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        chain.range_limit, chain.range_refusal = 0, Refusal(403, "forbidden")
        chain.head += 5
        follower.until(lambda: chain.ranges[-1][1] == chain.head, 10)
        chain.range_limit = 10_000
        assert read_all(follower, chain) < 10
        assert chain.ranges[0][0] == FIRST
