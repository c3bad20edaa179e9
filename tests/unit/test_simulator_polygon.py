"""The simulated chain's JSON-RPC: what it answers is the world's fills, and its providers have their habits."""

from typing import Any

import pytest
from eth_abi.abi import decode

from simulator import chain
from simulator.polygon import FINALITY_S, PROVIDERS, V1_TOPIC, V2_TOPIC, Node
from simulator.service import Service
from simulator.world import World
from tests.simulator import Clock, small_world

BIRTH = small_world()[0].settings.birth


@pytest.fixture
def clocked() -> tuple[World, Clock]:
    return small_world(age_s=60, cutover=BIRTH - 60)


@pytest.fixture
def world(clocked: tuple[World, Clock]) -> World:
    return clocked[0]


def node(world: World, provider: str = "", range_limit: int = 1000) -> Node:
    return Node(Service(world, rate_limits=False), PROVIDERS[provider], range_limit, lags=False)


def ask(world: World, method: str, *params: Any, provider: str = "") -> Any:
    return node(world, provider).answer({"id": 1, "method": method, "params": list(params)})


def result(world: World, method: str, *params: Any, provider: str = "") -> Any:
    return ask(world, method, *params, provider=provider)["result"]


def logs(world: World, provider: str = "", **wanted: Any) -> list[dict[str, Any]]:
    bounds = {"fromBlock": hex(world.first_block), "toBlock": "latest"}
    return list(result(world, "eth_getLogs", bounds | wanted, provider=provider))


def test_the_logs_are_all_fills_in_the_order_of_the_log(world: World) -> None:
    found = logs(world)
    places = [(int(log["blockNumber"], 16), int(log["logIndex"], 16)) for log in found]
    assert places == sorted(places)
    told = {f"{log['transactionHash']}_{log['topics'][1]}" for log in found}
    assert told == {f"{fill.transaction_hash}_{fill.order_hash}" for fill in world.fills()}
    assert {log["topics"][0] for log in found} == {V1_TOPIC, V2_TOPIC}


def test_a_log_holds_the_fill_s_values(world: World) -> None:
    fills = {(fill.block_number, fill.log_index): fill for fill in world.fills()}
    for log in logs(world)[::50]:
        fill = fills[int(log["blockNumber"], 16), int(log["logIndex"], 16)]
        types = ["uint256"] * 5 if fill.is_v1 else ["uint8", *["uint256"] * 4, "bytes32", "bytes32"]
        words = decode(types, bytes.fromhex(log["data"][2:]))
        assert words[2:5] == (fill.maker_amount_filled, fill.taker_amount_filled, fill.fee)
        if fill.is_v1:
            assert words[:2] == (int(fill.maker_asset_id), int(fill.taker_asset_id))
        else:
            assert words[:2] == (0 if fill.maker_asset_id == "0" else 1, int(fill.token_id))
        assert decode(["address", "address"], bytes.fromhex((log["topics"][2] + log["topics"][3][2:])[2:])) == (
            fill.maker,
            fill.taker,
        )
        assert int(log["blockTimestamp"], 16) == fill.timestamp
        assert log["address"] == fill.exchange


def test_addresses_and_topics_select(world: World) -> None:
    upper = chain.NEG_RISK_V2.upper().replace("0X", "0x")
    found = logs(world, address=upper)
    assert {log["address"] for log in found} == {chain.NEG_RISK_V2}
    both = logs(world, address=[chain.EXCHANGE_V1, chain.NEG_RISK_V1], topics=[[V1_TOPIC, V2_TOPIC]])
    assert {log["topics"][0] for log in both} == {V1_TOPIC}
    assert logs(world, topics=[f"0x{'00' * 32}"]) == []
    assert len(logs(world, topics=[None])) == len(logs(world))


def test_blocks_are_told_by_number_and_by_word(world: World) -> None:
    newest = int(result(world, "eth_blockNumber"), 16)
    assert newest == world.last_block()
    block = result(world, "eth_getBlockByNumber", hex(newest - 5))
    assert int(block["timestamp"], 16) == chain.time_of(newest - 5)
    assert result(world, "eth_getBlockByNumber", "latest")["number"] == hex(newest)
    assert result(world, "eth_getBlockByNumber", hex(newest + 1)) is None
    assert result(world, "eth_chainId") == "0x89"


def test_a_block_is_final_some_seconds_later_and_after_a_freeze_all_are(clocked: tuple[World, Clock]) -> None:
    world, clock = clocked
    final = int(result(world, "eth_getBlockByNumber", "finalized")["number"], 16)
    assert final == chain.block_at(clock.now - FINALITY_S) < world.last_block()
    world.freeze()
    clock.now += FINALITY_S
    assert int(result(world, "eth_getBlockByNumber", "finalized")["number"], 16) == world.last_block()


def test_a_node_that_lags_answers_nothing_for_blocks_that_it_does_not_have(world: World) -> None:
    newest = int(result(world, "eth_blockNumber", provider="lagging"), 16)
    assert newest < world.last_block()
    beyond = {"fromBlock": hex(newest + 1), "toBlock": hex(world.last_block())}
    assert logs(world, "lagging", **beyond) == []
    assert logs(world, **beyond)


@pytest.mark.parametrize(
    ("wanted", "provider", "word"),
    [
        ({"blockHash": f"0x{'00' * 32}"}, "", "fromBlock"),
        ({"fromBlock": "0x2", "toBlock": "0x1"}, "", "invalid block range"),
        ({"fromBlock": "0x0", "toBlock": "0x3e8"}, "", "too large"),
        ({"fromBlock": "0x0", "toBlock": "0xa"}, "cap10", "10 block range"),
        ({"fromBlock": "0x0", "toBlock": "0x3e8"}, "cap1000", "block range"),
        ({"fromBlock": "0x0", "toBlock": "0x2710"}, "cap10000", "10000 blocks"),
        ({"fromBlock": "newest"}, "", "invalid block number or tag"),
        ({"fromBlock": "finalized", "toBlock": "latest"}, "nofinal", "invalid block number or tag: finalized"),
        ("all", "", "expected a filter"),
    ],
)
def test_what_is_refused_says_why(world: World, wanted: Any, provider: str, word: str) -> None:
    assert word in ask(world, "eth_getLogs", wanted, provider=provider)["error"]["message"]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ({"method": "eth_call"}, -32601),
        ({"method": "eth_getLogs", "params": {}}, -32600),
        ("call", -32600),
        ({"method": "eth_blockNumber", "params": [1]}, -32602),
        ({"method": "eth_getBlockByNumber"}, -32602),
    ],
)
def test_a_call_that_makes_no_sense_is_an_error(world: World, call: Any, code: int) -> None:
    assert node(world).answer(call)["error"]["code"] == code


def test_a_provider_may_leave_the_time_out(world: World) -> None:
    assert all("blockTimestamp" not in log for log in logs(world, "notime"))


def test_what_was_shown_is_known(world: World) -> None:
    asked = node(world)
    wanted = {"fromBlock": hex(world.first_block), "toBlock": hex(world.first_block + 9)}
    rows = asked.answer({"id": 1, "method": "eth_getLogs", "params": [wanted]})["result"]
    assert len(asked.shown) == len(rows) > 0


def spoiled(world: World, kind: str) -> tuple[list[dict[str, Any]], Service]:
    service = Service(world, rate_limits=False)
    service.faults.add({"target": "polygon", "kind": kind}, world.now())
    wanted = {"fromBlock": hex(world.first_block), "toBlock": hex(world.first_block + 9)}
    asked = Node(service, PROVIDERS[""], 1000, lags=False)
    return list(asked.answer({"id": 1, "method": "eth_getLogs", "params": [wanted]})["result"]), service


def test_removed_logs_come_beside_the_good_ones(world: World) -> None:
    rows, _ = spoiled(world, "removed_logs")
    good = [row for row in rows if not row["removed"]]
    assert len(rows) > len(good)
    assert good == logs(world, fromBlock=hex(world.first_block), toBlock=hex(world.first_block + 9))


def test_a_malformed_log_is_known_to_the_truth_as_such(world: World) -> None:
    rows, service = spoiled(world, "malformed_record")
    (identity,) = service.faults.malformed
    assert [row for row in rows if identity.startswith(row["transactionHash"])]
