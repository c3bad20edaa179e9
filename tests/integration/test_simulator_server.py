"""The simulator as a process: what clients of the real APIs would meet, and what it says about itself."""

import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.simulator import SimulatorServer
from tests.waiting import wait_until

SMALL = {"history_hours": 0.05, "live_rate": 10}
QUERY = """query ($first: Int!, $t: BigInt!, $id: ID!) {
  orderFilledEvents(first: $first, orderBy: timestamp, orderDirection: asc,
    where: {or: [{timestamp_gt: $t}, {timestamp: $t, id_gt: $id}]}) {
    id transactionHash timestamp orderHash maker taker makerAssetId takerAssetId
    makerAmountFilled takerAmountFilled fee } }"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    with SimulatorServer(tmp_path_factory.mktemp("simulator"), rate_limits=False, **SMALL) as server:
        yield server


@pytest.fixture
def server(shared: SimulatorServer) -> Iterator[SimulatorServer]:
    yield shared
    shared.clear_faults()
    shared.resume()


def rows(server: SimulatorServer, first: int = 100, time_s: str = "0", last: str = "") -> list[dict[str, Any]]:
    return list(server.query(QUERY, first=first, t=time_s, id=last)["data"]["orderFilledEvents"])


def sweep(server: SimulatorServer) -> list[str]:
    found: list[str] = []
    time_s, last = "0", ""
    while page := rows(server, 1000, time_s, last):
        found += [row["id"] for row in page]
        time_s, last = page[-1]["timestamp"], page[-1]["id"]
    return found


def refusal(server: SimulatorServer, path: str, body: bytes | None = None) -> urllib.error.HTTPError:
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(f"{server.url}{path}", body):
        pass
    caught.value.close()
    return caught.value


def raw(server: SimulatorServer, path: str, body: bytes | None = None) -> tuple[bytes, http.client.HTTPMessage]:
    with urllib.request.urlopen(f"{server.url}{path}", body, timeout=60) as answer:
        return answer.read(), answer.headers


def post_all(server: SimulatorServer, path: str, bodies: Sequence[bytes]) -> None:
    """Over one connection, as quickly as it goes."""
    address = urlsplit(server.url)
    with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)) as connection:
        for body in bodies:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == http.HTTPStatus.OK


def test_what_was_served_is_what_exists(server: SimulatorServer) -> None:
    server.freeze()
    assert sweep(server) == server.truth_fills()
    assert sorted(server.truth_served_fills()) == sorted(server.truth_fills())
    assert server.get_text("/truth/fills?count=1") == server.get_text("/truth/served/fills?count=1")


def test_the_truth_knows_the_amounts_of_a_fill(server: SimulatorServer) -> None:
    row = rows(server, 1)[0]
    truth = server.truth_fill(row["id"])
    assert {key: str(truth[key]) for key in row} == row
    assert truth["outcome"] == server.truth_tokens()[truth["token_id"]]["outcome"]


def test_bounds_of_the_truth(server: SimulatorServer) -> None:
    server.freeze()
    fills = server.truth_fills()
    middle = int(server.truth_fill(fills[len(fills) // 2])["timestamp"])
    assert server.truth_fills(until=middle) + server.truth_fills(since=middle) == fills


def test_served_markets_are_those_of_the_answers(server: SimulatorServer) -> None:
    item = server.get_json("/gamma/markets?limit=1&offset=7")[0]
    assert item["id"] in server.truth_served_markets()
    assert set(server.truth_served_markets()) <= set(server.truth_markets())


def test_headers_of_gamma(server: SimulatorServer) -> None:
    _, headers = raw(server, "/gamma/events?limit=1")
    assert headers["deprecation"] == "true"
    assert "max-age=300" in headers["cache-control"]
    _, headers = raw(server, "/gamma/markets/keyset?limit=1")
    assert "deprecation" not in headers


def test_refusals_of_gamma(server: SimulatorServer) -> None:
    assert refusal(server, "/gamma/markets?offset=2001").code == 422
    assert refusal(server, "/gamma/markets/keyset?offset=1").code == 422
    assert refusal(server, "/gamma/markets?order=volume_num").code == 422
    assert refusal(server, "/gamma/markets/1").code == 404
    assert refusal(server, "/gamma/comments").code == 404
    assert refusal(server, f"/gamma/markets?clob_token_ids={'1' * 8192}").code == 414


def test_an_error_of_the_subgraph_is_a_200(server: SimulatorServer) -> None:
    assert "errors" in server.query("{ orderFilledEvents(first: 1001) { id } }")
    assert refusal(server, "/goldsky", b"not json").code == 400


def test_any_path_below_goldsky_is_the_subgraph(server: SimulatorServer) -> None:
    body, _ = raw(
        server, "/goldsky/subgraphs/orderbook-subgraph/0.0.1/gn", b'{"query": "{ _meta { block { number } } }"}'
    )
    assert json.loads(body)["data"]["_meta"]["block"]["number"] > 0


@pytest.mark.parametrize(("target", "path"), [("gamma", "/gamma/markets"), ("goldsky", "/goldsky")])
def test_refusals_on_order(server: SimulatorServer, target: str, path: str) -> None:
    body = b'{"query": "{ _meta { block { number } } }"}' if target == "goldsky" else None
    server.add_fault(target, "http_429", retry_after_s=7)
    refused = refusal(server, path, body)
    assert (refused.code, refused.headers["retry-after"]) == (429, "7")
    server.add_fault(target, "http_500")
    assert refusal(server, path, body).code == 500
    for kind in ("truncated_json", "garbage"):
        server.add_fault(target, kind)
        with pytest.raises(ValueError, match=r"\w"):
            json.loads(raw(server, path, body)[0])
    assert json.loads(raw(server, path, body)[0])


def test_graphql_errors_on_order(server: SimulatorServer) -> None:
    server.add_fault("goldsky", "graphql_errors")
    assert server.query("{ orderFilledEvents { id } }") == {"errors": [{"message": "statement timeout"}]}


def test_a_timeout_is_silence(server: SimulatorServer) -> None:
    server.add_fault("gamma", "timeout", seconds=30)
    with pytest.raises(TimeoutError), urllib.request.urlopen(f"{server.gamma_url}/markets", timeout=0.3):
        pass
    assert server.get_json("/health")["status"] == "ok"


def test_a_spoiled_page_counts_only_what_it_shows(tmp_path: Path) -> None:
    with SimulatorServer(tmp_path, **SMALL) as server:
        server.add_fault("goldsky", "truncated_json")
        raw(server, "/goldsky", json.dumps({"query": "{ orderFilledEvents { id } }"}).encode())
        assert server.truth_served_fills() == []
        server.add_fault("goldsky", "short_page")
        shown = [row["id"] for row in rows(server, 50)]
        assert 0 < len(shown) < 50
        assert server.truth_served_fills() == shown


def test_a_malformed_record_is_known_to_the_truth_as_such(server: SimulatorServer) -> None:
    server.add_fault("goldsky", "malformed_record")
    strangers = {row["id"] for row in rows(server)} - set(server.truth_fills())
    assert strangers
    assert strangers <= set(server.truth_malformed())
    server.add_fault("gamma", "malformed_record")
    items = server.get_json("/gamma/markets/keyset?limit=20")["markets"]
    assert {item["id"] for item in items} - set(server.truth_markets()) <= set(server.truth_malformed())


def test_orders_are_listed_cleared_and_checked(server: SimulatorServer) -> None:
    server.add_fault("goldsky", "http_500", probability=0.5)
    assert [fault["kind"] for fault in server.faults()] == ["http_500"]
    server.clear_faults()
    assert server.faults() == []
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.add_fault("goldsky", "earthquake")
    caught.value.close()
    assert caught.value.code == 422


def test_a_frozen_source_stays_as_it_is_until_it_resumes(server: SimulatorServer) -> None:
    server.freeze()
    count = server.get_text("/truth/fills?count=1")
    block = server.get_json("/health")["last_block"]
    server.resume()
    wait_until(lambda: server.get_json("/health")["last_block"] > block + 1, "new blocks")
    wait_until(lambda: int(server.get_text("/truth/fills?count=1")) > int(count), "new fills")


def test_the_page_for_people_shows_counts_and_faults(server: SimulatorServer) -> None:
    server.add_fault("gamma", "http_500", probability=0.1)
    page = server.get_text("/")
    assert "Markets listed" in page
    assert "http_500" in page


def test_the_subgraph_admits_50_requests_in_ten_seconds(tmp_path: Path) -> None:
    with SimulatorServer(tmp_path, **SMALL) as server:
        body = b'{"query": "{ _meta { block { number } } }"}'
        post_all(server, "/goldsky", [body] * 50)
        refused = [refusal(server, "/goldsky", body) for _ in range(2)]
        assert [error.code for error in refused] == [429, 429]
        assert sorted("retry-after" in error.headers for error in refused) == [False, True]
        server.set_rate_limits(enabled=False)
        assert raw(server, "/goldsky", body)


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restart_serves_the_same_history(tmp_path: Path, way: str) -> None:
    with SimulatorServer(tmp_path, seed=5, **SMALL) as server:
        birth = server.get_json("/health")["birth"]
        before, tokens, url = server.truth_fills(until=birth), server.truth_tokens(), server.url
        getattr(server, way)()
        server.start()
        assert server.url == url
        assert server.truth_fills(until=birth) == before
        assert (
            tokens.items()
            <= {token: {**row, **_state(tokens, token)} for token, row in server.truth_tokens().items()}.items()
        )


def _state(tokens: dict[str, dict[str, Any]], token: str) -> dict[str, Any]:
    """Whether it was listed then: the one thing that time changes."""
    return {"listed": tokens[token]["listed"]} if token in tokens else {}


def test_it_stops_at_once_when_asked_even_in_the_middle_of_a_silence(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        server = SimulatorServer(tmp_path, **SMALL)
        server.add_fault("gamma", "timeout", seconds=300)
        with pytest.raises(TimeoutError), urllib.request.urlopen(f"{server.gamma_url}/markets", timeout=0.3):
            pass
        process = server._running()
        process.send_signal(number)
        assert process.wait(60) == 0


def test_an_occupied_port_is_told_and_exits_with_2(server: SimulatorServer) -> None:
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "simulator", "--port", port]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert port in second.stderr
    assert "Traceback" not in second.stderr


def test_answers_that_are_delayed_overlap(tmp_path: Path) -> None:
    count, delay_s = 40, 2.0  # 80 s one after the other
    with SimulatorServer(tmp_path, answer_delay_s=delay_s, markets=50, **SMALL) as slow:
        began = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            pages = list(pool.map(slow.get_json, ["/gamma/markets?limit=1"] * count))
        assert delay_s <= time.monotonic() - began < count * delay_s / 2
        assert all(len(page) == 1 for page in pages)
        assert slow.get_json("/health")["requests"]["gamma"] == count
