"""What chaos runs have found, each made small: one fault at one place, and the loss or the copy that it led to."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from common.redis_queue import RedisQueue
from ingesters.goldsky_ingester import build
from tests.integration.ingesting import Asked, Reply, as_json, context_for, published, run_until, upstream
from tests.servers import RedisServer
from tests.simulator import SimulatorServer

EVENTS = "stream:order_events"
NOW = 1_762_854_600
OVERLAP_S = 60


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    with SimulatorServer(tmp_path_factory.mktemp("simulator"), rate_limits=False, history_hours=0.05) as server:
        server.freeze()
        yield server


def remember(queue: RedisQueue) -> Mapping[bytes, bytes]:
    """Return everything that Redis holds for this queue."""
    return {key: queue.call("DUMP", key) for key in queue.call("KEYS", queue.keys("*"))}


def fall_back(queue: RedisQueue, before: Mapping[bytes, bytes]) -> None:
    """Make Redis hold what it held before, as after the loss of the end of its append-only file."""
    for key in queue.call("KEYS", queue.keys("*")):
        queue.call("DEL", key)
    for key, value in before.items():
        queue.call("RESTORE", key, 0, value)


@pytest.mark.parametrize("pages", [0, 4])
def test_pages_that_redis_has_lost_are_read_again(
    redis_server: RedisServer, simulator: SimulatorServer, pages: int
) -> None:
    """The ingester lives on, its cursor ahead of Redis': going on from there would leave the lost pages out."""
    settings = {"goldsky_page_size": 100, "goldsky_overlap_s": 1, "goldsky_requests_per_10s": 10_000}
    context = context_for(
        redis_server, goldsky_url=simulator.goldsky_url, order_events_start="2h", goldsky_poll_interval=0.1, **settings
    )
    stage = build(context)
    for _ in range(pages):
        stage.step()
    before = remember(context.queue)
    for _ in range(4):
        stage.step()
    fall_back(context.queue, before)
    run_until(stage, lambda: stage.report()["source_state"] != "catching up", "the ingester has caught up")
    assert [fill["id"] for fill in published(context, EVENTS)] == simulator.truth_fills()


class Subgraph:
    """Rows by time and id, filtered as the ingester asks."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def add(self, timestamp: int) -> str:
        """Add a row; returns its id."""
        transaction, order = f"0x{timestamp:064x}", f"0x{'b2' * 32}"
        row = {
            "id": f"{transaction}_{order}",
            "timestamp": str(timestamp),
            "transactionHash": transaction,
            "orderHash": order,
            "maker": f"0x{'d4' * 20}",
            "taker": f"0x{'47' * 20}",
            "makerAssetId": "0",
            "takerAssetId": "123",
            "makerAmountFilled": "205000",
            "takerAmountFilled": "5000000",
            "fee": "0",
        }
        self.rows.append(row)
        return row["id"]

    def __call__(self, request: Asked) -> Reply:
        asked = json.loads(request.body)
        if "_meta" in asked["query"]:
            return as_json({"data": {"_meta": None}})
        where: dict[str, Any] = asked["variables"]["where"]
        found = [row for row in self.rows if all(passes(row, name, value) for name, value in where.items())]
        ordered = sorted(found, key=lambda row: (row["timestamp"], row["id"]))
        return as_json({"data": {"orderFilledEvents": ordered}})


def passes(row: Mapping[str, str], name: str, value: str) -> bool:
    column, _, comparison = name.partition("_")
    told = row[column]
    return {"": told == value, "gt": told > value, "gte": told >= value, "lte": told <= value}[comparison]


def test_a_row_that_was_late_when_the_source_fell_silent_arrives(redis_server: RedisServer) -> None:
    """The silence began between two pages of a look. Its last page moves the cursor far beyond the late row."""
    now, subgraph = [float(NOW)], Subgraph()
    with upstream(subgraph) as url:
        context = context_for(redis_server, goldsky_url=url, order_events_start=str(NOW - 1000))
        stage = build(context, lambda: now[0])
        subgraph.add(NOW - 10)
        stage.step()
        late = subgraph.add(NOW - 11)
        now[0] += 10 * OVERLAP_S
        subgraph.add(int(now[0]))
        run_until(stage, lambda: stage.report()["source_state"] == "live", "the look has come to its end")
        now[0] += 100
        stage.step()
        assert late in {fill["id"] for fill in published(context, EVENTS)}
