"""Fills from a simulated chain to a real stream: each once, none lost, whatever the providers do."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.config import Settings
from common.errors import ConfigError, Unavailable
from common.redis_queue import Height
from common.runtime import Context, Stage
from common.state import read_height, read_state
from ingesters import goldsky_ingester
from ingesters.first_start import iso
from ingesters.polygon_ingester import PolygonIngester, build
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
from tests.integration.scripted_chain import block_of, log
from tests.servers import RedisServer
from tests.simulator import SimulatorServer
from tests.waiting import wait_until

STREAM = "stream:order_events"
CUTOVER_S = 90  # before birth; the history is 180 s long


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    folder = tmp_path_factory.mktemp("simulator")
    cutover = f"-{CUTOVER_S}s"
    with SimulatorServer(folder, rate_limits=False, history_hours=0.05, live_rate=10, cutover=cutover) as server:
        server.freeze()
        yield server


@pytest.fixture
def simulator(shared: SimulatorServer) -> Iterator[SimulatorServer]:
    """Frozen, so that all that exists is final."""
    yield shared
    shared.clear_faults()


@pytest.fixture
def live(shared: SimulatorServer) -> Iterator[SimulatorServer]:
    """Growing."""
    shared.resume()
    yield shared
    shared.freeze()


def context_of(
    redis: RedisServer, simulator: SimulatorServer, providers: Sequence[str] = ("",), **settings: object
) -> Context:
    """`providers`: paths below the simulator's address of the chain."""
    urls = ",".join(f"{simulator.polygon_url}/{provider}".rstrip("/") for provider in providers)
    defaults = {
        "goldsky_url": simulator.goldsky_url,
        "goldsky_page_size": 100,
        "goldsky_poll_interval": 0.1,
        "goldsky_requests_per_10s": 10_000,
        "polygon_rpc_url": urls,
        "polygon_poll_interval": 0.1,
        "polygon_requests_per_10s": 10_000,
        "polygon_max_blocks": 20,
        "order_events_start": "2h",
        **simulator.cutover_settings(),
    }
    return context_for(redis, **(defaults | settings))


def truth(simulator: SimulatorServer) -> set[str]:
    """Ids of the fills that belong to the chain's side of the seam."""
    return {identity for identity in simulator.truth_fills() if "_0x" not in identity}


def ids(context: Context) -> Counter[str]:
    return Counter(fill["id"] for fill in published(context, STREAM))


def is_complete(context: Context, simulator: SimulatorServer) -> bool:
    return set(ids(context)) >= truth(simulator)


def assert_complete(context: Context, simulator: SimulatorServer) -> None:
    """Each fill of the chain's side is in the stream once, and nothing else."""
    counted = ids(context)
    assert set(counted) == truth(simulator)
    assert set(counted.values()) == {1}


def run_to_the_end(stage: Stage, context: Context, simulator: SimulatorServer) -> list[Unavailable]:
    """Step until everything that exists has arrived; the last block becomes final some seconds after the freeze."""
    expected = truth(simulator)
    return run_until(stage, lambda: set(ids(context)) >= expected, "all fills arrive")


def quick_clock() -> Callable[[], float]:
    """A clock on which a provider's pause is over soon."""
    start = time.time()
    return lambda: start + 30 * (time.time() - start)


def test_every_fill_after_the_cut_over_arrives_once_and_in_order(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator)
    stage = build(context)
    assert run_to_the_end(stage, context, simulator) == []
    assert_complete(context, simulator)
    fills = published(context, STREAM)
    places = [(fill["block_number"], fill["log_index"]) for fill in fills]
    assert places == sorted(places)
    height = read_height(context.queue, "polygon")
    assert height is not None
    assert height.block >= places[-1][0]
    assert read_state(context.queue, "polygon_last_block") == str(height.block)
    assert read_state(context.queue, "polygon_last_timestamp") == str(height.timestamp)
    assert stage.report()["newest_event_at"] == fills[-1]["timestamp"]
    assert stage.report()["source_state"] == "live"


def test_values_arrive_as_the_chain_tells_them(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator)
    run_to_the_end(build(context), context, simulator)
    for fill in published(context, STREAM)[::40]:
        told = simulator.truth_fill(fill["id"])
        assert fill == {
            "id": f"{told['transactionHash']}_{told['logIndex']}",
            "transaction_hash": told["transactionHash"],
            "order_hash": told["orderHash"],
            "timestamp": told["timestamp"],
            "maker": told["maker"],
            "taker": told["taker"],
            "maker_asset_id": told["makerAssetId"],
            "taker_asset_id": told["takerAssetId"],
            "maker_amount_filled": int(told["makerAmountFilled"]),
            "taker_amount_filled": int(told["takerAmountFilled"]),
            "fee": int(told["fee"]),
            "exchange": told["exchange"],
            "block_number": told["blockNumber"],
            "log_index": told["logIndex"],
        }


def test_both_sources_together_have_every_fill_once(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    """The block of the cut-over has fills of V1 and of V2."""
    context = context_of(redis_server, simulator)
    chain, subgraph = build(context), goldsky_ingester.build(context)
    expected = set(simulator.truth_fills())

    def both() -> bool:
        subgraph.step()
        return set(ids(context)) >= expected

    run_until(chain, both, "all fills of both eras arrive")
    counted = ids(context)
    assert set(counted) == expected
    assert set(counted.values()) == {1}
    seam = context.settings.cutover_timestamp
    of_the_seam = [fill for fill in published(context, STREAM) if fill["timestamp"] == seam]
    assert {"block_number" in fill for fill in of_the_seam} == {True, False}


def test_the_subgraph_s_ingester_ends_at_the_cut_over(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator)
    stage = goldsky_ingester.build(context)
    run_until(stage, lambda: stage.report()["source_state"] == "ended", "the subgraph has been read")
    assert set(ids(context)) == set(simulator.truth_fills()) - truth(simulator)
    assert stage.step() > 10


def test_a_start_after_the_cut_over_asks_nothing_of_the_subgraph(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    start = int(time.time()) - 10
    context = context_of(redis_server, simulator, goldsky_url="http://127.0.0.1:9", order_events_start=str(start))
    stage = goldsky_ingester.build(context)
    assert stage.step() > 10
    assert stage.report()["source_state"] == "ended"


def test_a_start_within_the_chain_begins_with_its_first_block(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    start = int(simulator.get_json("/health")["birth"]) - 31
    context = context_of(redis_server, simulator, order_events_start=str(start))
    expected = set(simulator.truth_fills(since=start))
    run_until(build(context), lambda: set(ids(context)) >= expected, "the fills since the start arrive")
    assert set(ids(context)) == expected


def test_a_start_may_be_a_block(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    block = context_of(redis_server, simulator).settings.cutover_block + 20
    context = context_of(redis_server, simulator, order_events_start=str(block))
    stage = build(context)
    stage.step()
    assert published(context, STREAM)[0]["block_number"] >= block
    with pytest.raises(ConfigError, match="ORDER_EVENTS_START"):
        goldsky_ingester.build(context_of(redis_server, simulator, order_events_start="90"))


def test_new_fills_arrive_after_the_ingester_has_caught_up(redis_server: RedisServer, live: SimulatorServer) -> None:
    context = context_of(redis_server, live)
    stage = build(context)
    run_until(stage, lambda: stage.report()["source_state"] == "live", "the ingester has caught up")
    before = len(published(context, STREAM))
    run_until(stage, lambda: len(published(context, STREAM)) > before + 10, "new fills arrive")
    live.freeze()
    run_to_the_end(stage, context, live)
    assert_complete(context, live)


def test_passing_errors_leave_no_lasting_harm(redis_server: RedisServer, live: SimulatorServer) -> None:
    """The lag is back to normal within a minute, without a restart."""
    context = context_of(redis_server, live)
    stage = build(context)
    run_until(stage, lambda: stage.report()["source_state"] == "live", "the ingester has caught up")
    for kind in ("finalized_errors", "refused_batch", "rpc_errors"):
        live.add_fault("polygon", kind)
    run_until(stage, lambda: not live.faults(), "the errors are dealt")
    run_until(stage, lambda: stage.report()["detail"] == "", "nothing is left of them", 20)
    assert float(str(stage.report()["lag_s"])) < 20
    live.freeze()
    run_to_the_end(stage, context, live)
    assert_complete(context, live)


def test_logs_that_appear_late_are_found(redis_server: RedisServer, live: SimulatorServer) -> None:
    context = context_of(redis_server, live, polygon_overlap_blocks=0, polygon_second_look_s=3)
    stage = build(context)
    run_until(stage, lambda: stage.report()["source_state"] == "live", "the ingester has caught up")
    live.add_fault("polygon", "late_logs", count=2, seconds=6, probability=1)  # a block is final 4 s after its time
    run_until(stage, lambda: int(str(stage.report()["late_fills"])) > 0, "late ones are found")
    live.freeze()
    run_to_the_end(stage, context, live)
    assert_complete(context, live)


def test_a_provider_that_numbers_logs_in_its_own_way_doubles_nothing(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator)
    run_to_the_end(build(context), context, simulator)
    before = ids(context)
    context.queue.call("DEL", *context.queue.height_keys("polygon"))  # all of it is read again
    other = context_of(redis_server, simulator, ["renumbered"], key_prefix=context.settings.key_prefix)
    stage = build(other)
    run_until(stage, lambda: int(str(stage.report()["records_known"])) >= len(before), "it has read what is there")
    assert ids(context) == before


# --- providers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider",
    [
        *("cap10", "cap1000", "cap10000", "notime", "nobatch", "otherchain,notime"),
        *("oddcap", "oddtime", "batch3", "batch3,oddcap"),
    ],
)
def test_a_provider_s_habits_lose_nothing(redis_server: RedisServer, simulator: SimulatorServer, provider: str) -> None:
    context = context_of(redis_server, simulator, provider.split(","), polygon_max_blocks=64)
    run_to_the_end(build(context), context, simulator)
    assert_complete(context, simulator)


def test_the_chunk_of_a_provider_that_tells_its_limit_is_found_at_once(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator, ["cap10"], polygon_max_blocks=500)
    stage = build(context)
    stage.step()
    assert stage.report()["records_out"] == 0
    assert "10 blocks a request" in str(stage.report()["detail"])
    stage.step()
    height = read_height(context.queue, "polygon")
    assert height is not None
    assert height.block == context.settings.cutover_block + 9


def test_a_provider_that_refuses_at_random_loses_nothing(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator, ["flaky", "flaky"])
    run_to_the_end(build(context, quick_clock()), context, simulator)
    assert_complete(context, simulator)


def test_another_provider_takes_over_from_one_that_is_down(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator, ["down", "cap10", "flaky"])
    stage = build(context)
    assert run_to_the_end(stage, context, simulator) == []
    assert_complete(context, simulator)
    assert "answers 503; left for" in str(stage.report()["detail"])


def test_when_all_are_down_each_one_s_reason_is_told(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    settings = {
        "polygon_rpc_url": f"{simulator.polygon_url}/down,{simulator.polygon_url}/otherchain,http://127.0.0.1:9"
    }
    context = context_of(redis_server, simulator, **settings)
    now = time.time()
    stage = build(context, lambda: now)  # nobody's pause is over while the others are asked
    stage.step()
    stage.step()
    with pytest.raises(Unavailable) as caught:
        stage.step()
    assert "answers 503" in caught.value.reason
    assert "serves chain 1, not Polygon (137)" in caught.value.reason
    assert "cannot reach Polygon at 127.0.0.1:9" in caught.value.reason
    assert caught.value.retry_after_s > 0
    assert read_height(context.queue, "polygon") is None


def test_nodes_that_lag_behind_lose_nothing(redis_server: RedisServer, live: SimulatorServer) -> None:
    context = context_of(redis_server, live, ["balanced", "lagging"], polygon_overlap_blocks=0)
    stage = build(context)
    run_until(stage, lambda: stage.report()["source_state"] == "live", "the ingester has caught up")
    caught_up = len(ids(context))
    run_until(stage, lambda: len(ids(context)) > caught_up + 60, "live fills arrive")
    live.freeze()
    run_to_the_end(stage, context, live)
    assert_complete(context, live)


def test_a_provider_without_final_blocks_is_read_up_to_the_confirmations(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator, ["nofinal"], polygon_confirmations=7)
    stage = build(context)
    # A source that is frozen for two minutes counts as stale; it has been read to its end all the same.
    run_until(stage, lambda: stage.report()["source_state"] in {"live", "stale"}, "the ingester has caught up")
    height = read_height(context.queue, "polygon")
    assert height is not None
    assert height.block == simulator.get_json("/health")["last_block"] - 7


def test_a_provider_whose_head_stands_still_is_overtaken(redis_server: RedisServer, live: SimulatorServer) -> None:
    """The first one of the settings answers, but its newest block is over a minute old."""
    old = int(live.rpc("eth_blockNumber"), 16) - 40

    def stuck(request: Asked) -> Reply:
        calls = json.loads(request.body)
        return answered(calls, {"eth_getBlockByNumber": block_of(old, int(time.time()) - 80)})

    with upstream(stuck) as url:
        settings = {"polygon_rpc_url": f"{url},{live.polygon_url}"}
        context = context_of(redis_server, live, order_events_start=str(old - 5), **settings)
        expected = {one for one in live.truth_fills(since=int(time.time()) - 60) if "_0x" not in one}
        run_until(build(context), lambda: set(ids(context)) >= expected, "the other one's fills arrive")


@pytest.mark.parametrize("steps", [0, 2])
def test_blocks_that_redis_has_lost_are_read_again(
    redis_server: RedisServer, simulator: SimulatorServer, steps: int
) -> None:
    """The ingester lives on, its cursor ahead of Redis'."""
    context = context_of(redis_server, simulator, polygon_max_blocks=10, polygon_overlap_blocks=0)
    stage = build(context)
    for _ in range(steps):
        stage.step()
    before = {key: context.queue.call("DUMP", key) for key in context.queue.call("KEYS", context.queue.keys("*"))}
    for _ in range(2):
        stage.step()
    for key in context.queue.call("KEYS", context.queue.keys("*")):
        context.queue.call("DEL", key)
    for key, value in before.items():
        context.queue.call("RESTORE", key, 0, value)
    run_to_the_end(stage, context, simulator)
    assert_complete(context, simulator)


# --- restarts, copies, faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_restart_goes_on_from_the_cursor(redis_server: RedisServer, simulator: SimulatorServer, steps: int) -> None:
    context = context_of(redis_server, simulator)
    stage = build(context)
    for _ in range(steps):
        stage.step()
    before = len(published(context, STREAM))
    again = build(context)
    run_to_the_end(again, context, simulator)
    assert again.report()["records_out"] == len(truth(simulator)) - before
    assert_complete(context, simulator)


def test_a_setting_that_changed_does_not_move_the_cursor(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator)
    build(context).step()
    later = context.settings.model_copy(update={"order_events_start": "1s"})
    run_to_the_end(build(context._replace(settings=later)), context, simulator)
    assert_complete(context, simulator)


def test_two_ingesters_at_once_publish_each_fill_once(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator)
    other_settings = context.settings.model_copy(update={"polygon_max_blocks": 13})
    one, other = build(context), build(context._replace(settings=other_settings))
    expected = truth(simulator)

    def both() -> bool:
        other.step()
        return set(ids(context)) >= expected

    run_until(one, both, "all fills arrive")
    assert_complete(context, simulator)


def test_faults_of_every_kind_lose_and_double_nothing(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    for kind in ("http_429", "http_500", "truncated_json", "garbage", "rpc_errors"):
        simulator.add_fault("polygon", kind, probability=0.1)
    for kind in ("duplicate_rows", "malformed_record", "removed_logs"):
        simulator.add_fault("polygon", kind, probability=0.3)
    context = context_of(redis_server, simulator, ["", "notime", "cap10"], polygon_max_blocks=10)
    run_to_the_end(build(context, quick_clock()), context, simulator)
    assert_complete(context, simulator)
    malformed = simulator.truth_malformed()
    for letter in dead_letters(context, STREAM):
        fields = json.loads(letter.data)
        assert f"{fields['transactionHash']}_{int(fields['logIndex'], 16)}" in malformed
        assert letter.source_stream == "polygon"


def test_logs_that_were_taken_back_are_no_fills(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    simulator.add_fault("polygon", "removed_logs", seconds=300)
    context = context_of(redis_server, simulator)
    run_to_the_end(build(context), context, simulator)
    assert_complete(context, simulator)
    assert dead_letters(context, STREAM) == []


def test_a_malformed_log_is_a_dead_letter_and_the_rest_goes_on(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    known = set(simulator.truth_malformed())
    simulator.add_fault("polygon", "malformed_record", count=5)
    context = context_of(redis_server, simulator, polygon_max_blocks=10)
    stage = build(context)
    run_to_the_end(stage, context, simulator)
    assert_complete(context, simulator)
    letters = dead_letters(context, STREAM)
    assert len(letters) == len(set(simulator.truth_malformed()) - known) == 5
    assert {letter.reason.split(":")[0] for letter in letters} <= {"data", "topics", "address", "blockNumber"}


def test_a_provider_that_hangs_is_cut_off_and_left(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    simulator.add_fault("polygon", "timeout", count=1, seconds=30)
    context = context_of(redis_server, simulator, ["", "cap10"], http_read_timeout_s=1.0)
    stage = build(context)
    stage.step()
    assert "silent for 1 s; left for" in str(stage.report()["detail"])
    run_to_the_end(stage, context, simulator)
    assert_complete(context, simulator)


def test_a_full_stream_makes_the_ingester_wait(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    stage = build(context_of(redis_server, simulator, stream_backlog_limit=1))
    assert stage.step() == 0
    assert stage.step() == 1
    assert stage.report()["detail"] == "waiting: stream is full"


# --- a node that says what the simulator never would ----------------------------------------------------------------


def answered(calls: Any, results: dict[str, Any]) -> Reply:
    """The answers to a call or a batch; what is not told has the simulator's usual answer."""
    usual = {"eth_chainId": "0x89", "eth_blockNumber": "0xfffffff", "eth_getLogs": []}

    def one(call: dict[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": call["id"], "result": (usual | results).get(call["method"])}

    return as_json([one(call) for call in calls] if isinstance(calls, list) else one(calls))


def scripted(redis: RedisServer, url: str, **settings: object) -> tuple[Context, PolygonIngester]:
    real = {name: Settings.model_fields[name].default for name in ("cutover_block", "cutover_timestamp")}
    chosen = {"polygon_rpc_url": url, "order_events_start": "2022-11-21", **real, **settings}
    context = context_for(redis, **chosen)
    return context, build(context)


def test_the_real_cut_over_is_exact_within_its_block(redis_server: RedisServer) -> None:
    """V1's last second is the time of the block that V2 is live from, by default."""
    block, second = 86_126_998, 1_777_374_040
    logs = [
        log(block, 1, v1=True, time_s=second),  # the subgraph's
        log(block, 2, v1=False, time_s=second),
        log(block + 1, 3, v1=True, time_s=second + 2),  # V1 once more: too late for the subgraph
        log(block + 1, 4, v1=False, time_s=second + 2),
    ]
    asked: list[dict[str, Any]] = []

    def node(request: Asked) -> Reply:
        calls = json.loads(request.body)
        asked.extend(call["params"][0] for call in calls if isinstance(calls, list) and call["method"] == "eth_getLogs")
        return answered(calls, {"eth_getBlockByNumber": block_of(block + 1, second + 2), "eth_getLogs": logs})

    with upstream(node) as url:
        context, stage = scripted(redis_server, url)
        stage.step()
        assert [fill["log_index"] for fill in published(context, STREAM)] == [2, 3, 4]
        assert read_height(context.queue, "polygon") == Height(block + 1, second + 2)
        (only,) = asked
        assert (only["fromBlock"], only["toBlock"]) == (hex(block), hex(block + 1))
        assert len(only["address"]) == 5
        assert len(only["topics"][0]) == 2


BLOCK = 86_127_100
NODE_ANSWERS: list[tuple[Any, str]] = [
    (lambda _: Reply(b"<html>"), "answers no JSON-RPC"),
    (lambda _: Reply(b""), "answers no JSON-RPC"),
    (lambda _: Reply(b"[" * 100_000), "answers no JSON-RPC"),
    (lambda _: as_json({"jsonrpc": "2.0", "id": 0}), "neither a result nor an error"),
    (lambda _: as_json([]), "answers a list to a single call"),
    (lambda _: as_json({"id": 0, "result": "137"}), "eth_chainId: expected a hexadecimal number"),
    (lambda _: as_json({"id": 0, "error": {"code": "x", "message": None}}), "answers an error"),
    (lambda calls: answered(calls, {"eth_getBlockByNumber": {"number": "0x1"}}), "answers no block"),
    (lambda calls: answered(calls, {"eth_getBlockByNumber": "0x1"}), "answers no block"),
    (lambda _: Reply(b"no such key", 401), "answers 401: no such key"),
    (
        lambda calls: answered(calls, {"eth_getBlockByNumber": block_of(BLOCK, 1), "eth_getLogs": None}),
        "answers no list of logs",
    ),
    (
        lambda calls: answered(calls, {"eth_getBlockByNumber": block_of(BLOCK, 1), "eth_getLogs": {"x": 1}}),
        "answers no list of logs",
    ),
    (
        lambda calls: answered(calls, {"eth_getBlockByNumber": block_of(BLOCK, 1), "eth_blockNumber": "0x5"}),
        "the node that answers is at block 5",
    ),
    (
        lambda calls: answered(
            calls, {"eth_getBlockByNumber": block_of(BLOCK, 1), "eth_getLogs": [log(5, 1, v1=True, time_s=1)]}
        ),
        "answers a log of block 5 for blocks",
    ),
    (
        lambda calls: answered(
            calls,
            {
                "eth_getBlockByNumber": block_of(BLOCK, 1),
                "eth_getLogs": [log(BLOCK, 1, v1=True, time_s=1) | {"address": f"0x{'12' * 20}"}],
            },
        ),
        "answers a log of another contract",
    ),
]


@pytest.mark.parametrize(("answer", "reason"), NODE_ANSWERS, ids=[reason for _, reason in NODE_ANSWERS])
def test_nonsense_is_never_no_new_data(redis_server: RedisServer, answer: Callable[[Any], Reply], reason: str) -> None:
    with upstream(lambda request: answer(json.loads(request.body))) as url:
        context, stage = scripted(redis_server, url, polygon_max_blocks=2000)
        with pytest.raises(Unavailable, match=reason):
            stage.step()
        assert read_height(context.queue, "polygon") is None
        assert stage.report()["source_state"] == "unreachable"


def test_an_answer_that_is_too_long_is_asked_for_in_smaller_parts(redis_server: RedisServer) -> None:
    spans: list[int] = []

    def node(request: Asked) -> Reply:
        calls = json.loads(request.body)
        both = calls if isinstance(calls, list) else [calls]
        for each in [call["params"][0] for call in both if call["method"] == "eth_getLogs"]:
            spans.append(int(each["toBlock"], 16) - int(each["fromBlock"], 16) + 1)
            if spans[-1] > 30:
                return Reply(b"payload too large", 413)
        return answered(calls, {"eth_getBlockByNumber": block_of(86_126_998 + 99, 1_777_374_300)})

    with upstream(node) as url:
        context, stage = scripted(redis_server, url, polygon_max_blocks=100)
        run_until(stage, lambda: stage.report()["source_state"] == "stale", "the end is reached")
        assert spans[:5] == [100, 100, 50, 50, 25]  # each once in a batch and once alone
        assert read_state(context.queue, "polygon_last_block") == str(86_126_998 + 99)


def test_a_source_without_fills_is_idle_and_its_cursor_goes_on(redis_server: RedisServer) -> None:
    head = [86_127_000]

    def node(request: Asked) -> Reply:
        return answered(json.loads(request.body), {"eth_getBlockByNumber": block_of(head[0], int(time.time()))})

    with upstream(node) as url:
        context, stage = scripted(redis_server, url, polygon_poll_interval=0.01)
        run_until(stage, lambda: stage.report()["source_state"] == "idle", "the end is reached")
        head[0] += 7
        run_until(stage, lambda: read_state(context.queue, "polygon_last_block") == "86127007", "the cursor moves")
        assert stage.report()["head_block"] == 86_127_007


def test_a_node_that_answers_and_stands_still_is_stale_until_it_moves_again(redis_server: RedisServer) -> None:
    began = int(time.time())
    head = [86_127_000, began]
    now = [float(began)]
    with upstream(
        lambda request: answered(json.loads(request.body), {"eth_getBlockByNumber": block_of(head[0], head[1])})
    ) as url:
        context, _ = scripted(redis_server, url)
        stage = build(context, lambda: now[0])
        run_until(stage, lambda: stage.report()["source_state"] == "idle", "the end is reached")
        now[0] += 130
        stage.step()
        report = stage.report()
        assert (report["source_state"], report["source_since"], report["lag_s"]) == ("stale", str(began), "130.0")
        assert str(report["source_reason"]).startswith("its newest block (86127000) is of ")
        head[:] = [86_127_060, began + 130]
        now[0] += 5
        run_until(stage, lambda: stage.report()["source_state"] == "idle", "the node goes on")


def test_a_chain_that_cannot_be_asked_is_unreachable_with_the_reason(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    stage = build(context_of(redis_server, simulator, ["down"]))
    with pytest.raises(Unavailable):
        stage.step()
    report = stage.report()
    assert report["source_state"] == "unreachable"
    assert "answers 503" in str(report["source_reason"])


def test_a_start_before_the_first_one_is_said_with_the_command_that_fetches_the_rest(
    redis_server: RedisServer, simulator: SimulatorServer, caplog: pytest.LogCaptureFixture
) -> None:
    cutover = simulator.cutover_settings()["cutover_timestamp"]
    context = context_of(redis_server, simulator, order_events_start=str(cutover + 20))
    run_until(build(context), lambda: read_height(context.queue, "polygon"), "the cursor is written")
    build(context)
    assert "ORDER_EVENTS_START" not in caplog.text
    earlier = context.settings.model_copy(update={"order_events_start": "2022-11-21"})
    build(context._replace(settings=earlier))
    assert "ORDER_EVENTS_START=2022-11-21 is for a first start and moves nothing" in caplog.text
    command = f".venv/bin/python3 -m ingesters.backfill --from {iso(cutover)} --to {iso(cutover + 20)} --source polygon"
    assert caplog.text.strip().endswith(command)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order_events_start", "soon"),
        ("polygon_rpc_url", "http://127.0.0.1:9, ftp://x"),
        ("exchange_addresses", "0x12"),
        ("exchange_addresses", " , "),
    ],
)
def test_a_setting_that_makes_no_sense_is_a_configuration_error(
    redis_server: RedisServer, simulator: SimulatorServer, name: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=name.upper()):
        build(context_of(redis_server, simulator, **{name: value}))


# --- the process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["ingesters/polygon_ingester.py"], ["-m", "ingesters.polygon_ingester"]])
def test_the_process_fetches_at_once_and_ends_cleanly(
    redis_server: RedisServer, simulator: SimulatorServer, tmp_path: Path, command: list[str]
) -> None:
    context = context_of(redis_server, simulator)
    with process(command, context, tmp_path) as running:
        wait_until(lambda: published(context, STREAM), "fills arrive")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, (tmp_path / "log").read_text()


def test_a_process_that_is_killed_now_and_then_ends_complete(
    redis_server: RedisServer, simulator: SimulatorServer, tmp_path: Path
) -> None:
    context = context_of(redis_server, simulator, ["", "flaky"], polygon_max_blocks=3)
    expected = len(truth(simulator))
    for share in (0.1, 0.3, 0.5):
        with process(["-m", "ingesters.polygon_ingester"], context, tmp_path) as running:
            wait_until(lambda share=share: len(ids(context)) >= share * expected, "a share of the fills arrives")  # type: ignore[misc]
            running.kill()
    run_to_the_end(build(context), context, simulator)
    assert_complete(context, simulator)
