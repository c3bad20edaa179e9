"""The later exchanges' fills through a subgraph of theirs, with its own schema and a key."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import describe
from common.errors import Unavailable
from common.runtime import Context
from ingesters import polygon_ingester
from ingesters.goldsky_ingester import GoldskyIngester, build
from tests.integration.ingesting import Asked, Reply, as_json, context_for, published, run_until, upstream
from tests.servers import RedisServer
from tests.simulator import SimulatorServer

STREAM = "stream:order_events"
KEY = "key-of-the-test-0123456789"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    """Frozen, with the cut-over in the middle of its history."""
    folder = tmp_path_factory.mktemp("simulator")
    options: dict[str, Any] = {"rate_limits": False, "history_hours": 0.05, "live_rate": 10, "cutover": "-90s"}
    with SimulatorServer(folder, goldsky_api_key=KEY, **options) as server:
        server.freeze()
        yield server


def context_of(redis: RedisServer, simulator: SimulatorServer, **settings: object) -> Context:
    defaults: dict[str, object] = {
        "goldsky_url": simulator.goldsky_v2_url,
        "goldsky_schema": "v2",
        "goldsky_api_key": KEY,
        "goldsky_page_size": 100,
        "goldsky_poll_interval": 0.1,
        "goldsky_requests_per_10s": 10_000,
        "order_events_start": "2h",
    }
    return context_for(redis, **(defaults | settings))


def truth(simulator: SimulatorServer) -> set[str]:
    """Ids of the later exchanges' fills."""
    return {identity for identity in simulator.truth_fills() if "_0x" not in identity}


def run_to_the_end(stage: GoldskyIngester) -> None:
    """A source that is frozen for two minutes counts as stale; it has been read to its end all the same."""
    at_the_end = {"live", "idle", "stale"}
    assert run_until(stage, lambda: stage.report()["source_state"] in at_the_end, "all is read") == []


def test_the_same_fills_arrive_under_the_ids_that_they_have_on_the_chain(
    redis_server: RedisServer, simulator: SimulatorServer
) -> None:
    context = context_of(redis_server, simulator)
    stage = build(context)
    run_to_the_end(stage)
    counted = Counter(fill["id"] for fill in published(context, STREAM))
    assert set(counted) == truth(simulator)
    assert set(counted.values()) == {1}
    assert stage.report()["dead_letters"] == 0


def test_both_ways_to_a_fill_give_the_same_record(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator)
    run_to_the_end(build(context))
    through_subgraph = {fill["id"]: fill for fill in published(context, STREAM)}
    chain = context_of(redis_server, simulator, polygon_rpc_url=simulator.polygon_url, **simulator.cutover_settings())
    expected = truth(simulator)
    run_until(
        polygon_ingester.build(chain), lambda: len(published(chain, STREAM)) >= len(expected), "the chain is read"
    )
    assert {fill["id"]: fill for fill in published(chain, STREAM)} == through_subgraph
    assert {fill["maker_asset_id"] == "0" for fill in through_subgraph.values()} == {True, False}  # both sides


def test_a_restart_goes_on_from_the_subgraph_s_own_id(redis_server: RedisServer, simulator: SimulatorServer) -> None:
    context = context_of(redis_server, simulator)
    stage = build(context)
    for _ in range(4):
        stage.step()
    run_to_the_end(build(context))
    counted = Counter(fill["id"] for fill in published(context, STREAM))
    assert set(counted) == truth(simulator)
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("key", [None, "another-key"])
def test_without_the_right_key_the_reason_names_the_setting_and_no_key(
    redis_server: RedisServer, simulator: SimulatorServer, key: str | None
) -> None:
    context = context_of(redis_server, simulator, goldsky_api_key=key)
    stage = build(context)
    with pytest.raises(Unavailable, match=r"answers 401: .*; is GOLDSKY_API_KEY right\?$") as caught:
        stage.step()
    assert caught.value.retry_after_s > 10
    assert stage.report()["source_state"] == "unreachable"
    assert str(key) not in str(caught.value)


@pytest.mark.parametrize("schema", ["v1", "v2"])
def test_a_subgraph_with_other_fields_is_told_with_the_setting_to_change(
    redis_server: RedisServer, simulator: SimulatorServer, schema: str
) -> None:
    other = simulator.goldsky_url if schema == "v2" else simulator.goldsky_v2_url
    stage = build(context_of(redis_server, simulator, goldsky_url=other, goldsky_schema=schema))
    with pytest.raises(Unavailable, match=f"does not have the fields of GOLDSKY_SCHEMA={schema}: Cannot query field"):
        stage.step()


@pytest.mark.parametrize(
    "message",
    [
        "Type `OrderFilledEvent` has no field `tokenId`",
        "field 'tokenId' not found in type: 'OrderFilledEvent'",
        'Field "timestamp_gte" is not defined by type "OrderFilledEvent_filter".',
    ],
)
def test_servers_say_in_many_words_that_they_lack_a_field(redis_server: RedisServer, message: str) -> None:
    with upstream(lambda _: as_json({"errors": [{"message": message}]})) as url:
        stage = build(context_for(redis_server, goldsky_url=url, goldsky_schema="v2"))
        with pytest.raises(Unavailable, match="GOLDSKY_SCHEMA=v2"):
            stage.step()


def test_the_key_goes_with_every_request_and_nowhere_else(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not to where a redirect points, nor into a log; and no .netrc of this machine takes its place."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n", "utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    caplog.set_level(logging.DEBUG)
    elsewhere: list[Asked] = []
    asked: list[Asked] = []

    def other(request: Asked) -> Reply:
        elsewhere.append(request)
        return as_json({})

    with upstream(other) as target:

        def answer(request: Asked) -> Reply:
            asked.append(request)
            if len(asked) == 1:
                return Reply(json.dumps({"message": f"no such key: {KEY}"}).encode(), 403)
            return Reply(b"", 307, (("Location", target),))

        with upstream(answer) as url:
            context = context_for(redis_server, goldsky_url=url, goldsky_schema="v2", goldsky_api_key=KEY)
            stage = build(context)
            reasons = []
            for _ in range(2):
                with pytest.raises(Unavailable) as caught:
                    stage.step()
                reasons.append(str(caught.value))
    assert [request.headers["authorization"] for request in asked] == [f"Bearer {KEY}"] * 2
    assert elsewhere == []
    assert "no such key: (hidden)" in reasons[0]
    assert "answers 307" in reasons[1]
    for shown in (*reasons, str(stage.report()), caplog.text, describe(context.settings), repr(context.settings)):
        assert KEY not in shown
