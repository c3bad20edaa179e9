"""The pure parts of the chain's source: how much to ask for, where to begin, what to publish together."""

import logging
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Settings
from common.errors import ConfigError, Unavailable
from common.http import Rejected
from common.redis_queue import Offer
from ingesters.block_search import Search
from ingesters.chunk_size import GROW_AFTER, HINTED_S, LONGEST_S, PATIENT_S, ChunkSize
from ingesters.json_rpc import MAX_CALLS, Call, JsonRpc, RpcError, TooLarge
from ingesters.log_decoder import V1_TOPIC, V2_TOPIC
from ingesters.polygon import Page
from ingesters.polygon_ingester import MOST_OFFERS, ParsedLog, exchange_addresses, parse_log, provider_urls, slices
from ingesters.provider import Head, Log
from ingesters.start import Start, start_in_subgraph, start_on_chain

CUTOVER, SECOND = 86_126_998, 1_777_374_040
NOW = 1_795_000_000.0


def settings(**changed: object) -> Settings:
    return Settings.model_validate(Settings(_env_file=None).model_dump() | changed)


# --- chunk size ----------------------------------------------------------------------------------------------------


def requests_until(size: ChunkSize, cap: int, wanted: int) -> int:
    """Requests until one for `wanted` blocks is answered by a provider that allows `cap`."""
    for request in count(1):
        asked = size.blocks
        if asked > cap:
            size.refuse(asked, 0)
            continue
        size.accept(asked)
        if asked >= wanted:
            return request
    raise AssertionError


@pytest.mark.parametrize(("cap", "refusals"), [(10, 6), (1000, 0), (1, 9)])
def test_a_workable_size_is_found_in_few_requests(cap: int, refusals: int) -> None:
    size = ChunkSize(500)
    assert requests_until(size, cap, 1) <= refusals + 1


@given(st.integers(min_value=1, max_value=600))
def test_the_largest_size_that_a_provider_allows_is_found_in_the_end(cap: int) -> None:
    size = ChunkSize(500)
    best = min(cap, 500)
    assert requests_until(size, cap, best) < 12 * GROW_AFTER + 20


def test_a_hint_is_taken_at_once_and_kept() -> None:
    size = ChunkSize(500)
    assert size.refuse(500, 0, 10)
    for _ in range(1000):
        assert size.blocks == 10
        size.accept(10)
        size.doubt(HINTED_S - 1)


def test_a_provider_that_becomes_stricter_is_followed() -> None:
    size = ChunkSize(500)
    size.accept(500)
    assert requests_until(size, 10, 5) < 10


def test_a_limit_is_doubted_after_a_while_and_less_and_less_often() -> None:
    size, pauses, now = ChunkSize(500), list[float](), 0.0
    size.refuse(500, now)
    for _ in range(10):
        began = now
        while size.limit == 250:  # so much is answered; what is asked for at the head is less
            size.accept(10)
            now += 1
            size.doubt(now)
        pauses.append(now - began)
        size.accept(250)
        assert size.limit == 500
        assert size.refuse(500, now)
    assert pauses[:3] == [PATIENT_S, 2 * PATIENT_S, 4 * PATIENT_S]
    assert pauses[-1] == LONGEST_S


def test_a_small_answer_proves_nothing() -> None:
    size = ChunkSize(500)
    size.refuse(500, 0)
    for _ in range(2000):
        size.accept(3)
    assert size.blocks == 250


def test_one_block_can_not_be_made_smaller() -> None:
    size = ChunkSize(500)
    assert not size.refuse(1, 0)
    assert size.blocks == 1


def test_an_error_counts_as_a_refusal_the_second_time() -> None:
    size = ChunkSize(500)
    assert not size.fail(500, 0)
    assert size.blocks == 500
    assert size.fail(500, 0)
    assert size.blocks == 250
    assert size.fail(250, 0)
    assert size.blocks == 125


def test_errors_down_to_one_block_say_nothing_of_the_range() -> None:
    size = ChunkSize(500)
    size.refuse(500, 0, 100)
    size.accept(100)
    size.fail(100, 0)
    while size.fail(size.blocks, 0):
        assert size.blocks < 100
    assert (size.blocks, size.limit) == (1, 100)
    size.accept(1)
    assert size.blocks == 100


# --- errors --------------------------------------------------------------------------------------------------------


class Source:
    """An HTTP source with one answer."""

    host = "node.example"

    def __init__(self, answer: bytes | Exception) -> None:
        self._answer = answer

    def wait_s(self) -> float:
        return 0.0

    def close(self) -> None:
        """It holds nothing."""

    def post(self, _body: bytes) -> bytes:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def rpc(answer: bytes | Exception) -> JsonRpc:
    source: Any = Source(answer)  # what of an HttpSource is used
    return JsonRpc(source, logging.getLogger(__name__), lambda: 0.0)


def failure_of(code: Any, message: Any) -> Exception:
    with pytest.raises((Unavailable, TooLarge)) as caught:
        rpc(b"").result(RpcError(code, message))
    return caught.value


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (-32600, "eth_getLogs is limited to a 10 block range", 10),
        (-32005, "query returned more than 10000 results", None),
        (-32701, "Please specify an address or a smaller range", None),
        (-32602, "block range is too large, at most 10,000", None),
        (-32602, "exceeded maximum block range: 1k blocks", None),
        (-32602, "maximum block range: 0 - 100", 100),
        (-32000, "response size exceeds 150MB", None),
        (-32000, "query timeout", None),
        (-32602, "this block range should work: [0x10, 0x20]", None),
    ],
)
def test_a_refusal_for_its_size_is_told_apart(code: int, message: str, hint: int | None) -> None:
    failure = failure_of(code, message)
    assert isinstance(failure, TooLarge)
    assert failure.hint(500) == hint


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32005, "daily request count exceeded, request rate limited"),
        (-32029, "slow down"),
        (429, "block range"),
        (-32000, "your app has exceeded its compute units per second capacity"),
    ],
)
def test_a_rate_limit_is_no_matter_of_size(code: int, message: str) -> None:
    failure = failure_of(code, message)
    assert isinstance(failure, Unavailable)
    assert failure.retry_after_s > 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32602, "block range extends beyond current head block"),
        (-32000, "header not found"),
        (-32603, "internal error"),
        ("odd", None),
        (0, {"x": 1}),
    ],
)
def test_any_other_error_makes_the_provider_unavailable(code: Any, message: Any) -> None:
    assert isinstance(failure_of(code, message), Unavailable)


def test_an_error_in_a_batch_concerns_its_own_call() -> None:
    body = b'[{"id":1,"error":{"code":-32602,"message":"block range"}},{"id":0,"result":"0x1"}]'
    first, second = rpc(body).ask(Call("a"), Call("b"))
    assert first == b'"0x1"'
    assert isinstance(second, RpcError)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'[{"id":0,"result":"0x1"}]', "answers a list to a single call"),
        (b"[]", "answers a list to a single call"),
        (b"batches are not supported", "answers no JSON-RPC"),
        (Rejected("answers 400: no batches", 400, ""), "answers 400"),
        (Unavailable("answers 500"), "answers 500"),
    ],
)
def test_what_single_calls_do_not_pass_either_is_no_refusal_of_a_batch(answer: bytes | Exception, reason: str) -> None:
    endpoint = rpc(answer)
    with pytest.raises(Unavailable, match=reason):
        endpoint.ask(Call("a"), Call("b"))
    assert (endpoint.batch_limit, endpoint.trouble()) == (MAX_CALLS, "")


def test_an_error_of_each_call_is_no_refusal_of_a_batch() -> None:
    endpoint, alone = rpc(b'{"id":null,"error":{"code":-32600,"message":"no"}}'), RpcError(-32600, "no")
    assert endpoint.ask(Call("a"), Call("b")) == [alone, alone]
    assert endpoint.batch_limit == MAX_CALLS


def test_a_rate_limit_of_a_whole_batch_does_not_make_it_many_requests() -> None:
    endpoint = rpc(b'{"error":{"code":-32029,"message":"too many requests"}}')
    with pytest.raises(Unavailable, match="too many requests") as caught:
        endpoint.ask(Call("a"), Call("b"))
    assert caught.value.retry_after_s > 0


def test_a_body_of_413_or_one_that_speaks_of_the_range_is_a_matter_of_size() -> None:
    for error in (Rejected("413", 413, ""), Rejected("400", 400, '{"error": "up to a 10 block range"}')):
        with pytest.raises(TooLarge):
            rpc(error).ask(Call("a"))


def test_a_wrong_key_is_not_tried_again_soon() -> None:
    with pytest.raises(Unavailable) as caught:
        rpc(Rejected("answers 401", 401, "no key")).ask(Call("a"), Call("b"))
    assert caught.value.retry_after_s >= 60


# --- where to begin ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(min_value=0, max_value=5), max_size=60), st.integers(min_value=0, max_value=200))
def test_the_search_ends_at_the_first_block_of_the_moment(steps: list[int], moment: int) -> None:
    times = [sum(steps[: place + 1]) for place in range(len(steps))]
    search = Search(moment, 0, len(times))
    while search.found is None:
        search = search.narrowed(times[search.probe])
    assert search.found == next((place for place, time in enumerate(times) if time >= moment), len(times))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2022-11-21", Start(CUTOVER)),
        ("2026-04-28T11:00:40Z", Start(CUTOVER)),
        ("2026-04-28T11:00:41Z", Start(None, SECOND + 1)),
        ("1h", Start(None, int(NOW) - 3600)),
        ("90000000", Start(90_000_000)),
        ("50000000", Start(CUTOVER)),
        (" 1777374041 ", Start(None, SECOND + 1)),
        ("0", Start(CUTOVER)),
    ],
)
def test_the_chain_is_read_from_the_cut_over_at_the_earliest(start: str, expected: Start) -> None:
    assert start_on_chain(settings(order_events_start=start), NOW) == expected


def test_a_block_means_nothing_to_the_subgraph_unless_it_lies_behind_the_cut_over() -> None:
    assert start_in_subgraph(settings(order_events_start="90000000"), NOW) == SECOND + 1
    assert start_in_subgraph(settings(order_events_start="2022-11-21"), NOW) == 1_668_988_800
    with pytest.raises(ConfigError, match="ORDER_EVENTS_START: expected a block from the cut-over on"):
        start_in_subgraph(settings(order_events_start="50000000"), NOW)


def test_several_addresses_are_told_apart_by_commas() -> None:
    assert provider_urls(settings(polygon_rpc_url=" https://a.example/k ,http://b.example,")) == [
        "https://a.example/k",
        "http://b.example",
    ]
    assert len(exchange_addresses(settings())) == 5
    assert exchange_addresses(settings(exchange_addresses=f"0x{'AB' * 20}")) == {f"0x{'ab' * 20}"}


# --- what to publish -----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(min_value=1, max_value=1500), st.integers(min_value=1, max_value=3)), max_size=8))
def test_a_slice_ends_with_a_whole_block_and_the_last_one_with_the_page(blocks: list[tuple[int, int]]) -> None:
    parsed: list[ParsedLog] = []
    number = 100
    for fills, distance in blocks:
        number += distance
        parsed += [ParsedLog(Offer(f"{number}-{place}", b"", timestamp=number), 1) for place in range(fills)]
    last = number + 7
    found = list(slices(parsed, last))
    assert [one for some, _ in found for one in some] == parsed
    assert found[-1][1] == last
    for (some, complete_to), (following, _) in pairwise(found):
        assert max(one.offer.timestamp for one in some) <= complete_to < following[0].offer.timestamp
        assert len(some) <= max(MOST_OFFERS, 1500)


def log(block: int | None, *, v1: bool, time_s: int, **changes: Any) -> Log:
    wallet = f"0x{0xA1:064x}"
    fields: dict[str, Any] = {
        "address": f"0x{'4b' * 20}",
        "topics": [V1_TOPIC if v1 else V2_TOPIC, f"0x{'0c' * 32}", wallet, wallet],
        "data": "0x" + f"{0:064x}{7:064x}{5:064x}{9:064x}{0:064x}" + ("" if v1 else "0" * 128),
        "blockNumber": hex(block or 0),
        "blockTimestamp": hex(time_s),
        "transactionHash": f"0x{'01' * 32}",
        "logIndex": "0x2",
        "removed": False,
    }
    return Log(b"{}", fields | changes, block)


PAGE = Page(CUTOVER, CUTOVER + 9, Head(CUTOVER + 9, SECOND + 20))


@pytest.mark.parametrize(
    ("v1", "time_s", "is_ours"),
    [(True, SECOND, False), (True, SECOND + 1, True), (False, SECOND, True), (False, SECOND + 1, True)],
)
def test_the_subgraph_s_fills_are_left_to_it(*, v1: bool, time_s: int, is_ours: bool) -> None:
    assert (parse_log(log(CUTOVER, v1=v1, time_s=time_s), PAGE, SECOND) is not None) == is_ours


def test_a_log_that_was_taken_back_is_not_published() -> None:
    assert parse_log(log(CUTOVER, v1=False, time_s=SECOND, removed=True), PAGE, SECOND) is None


def test_a_faulty_log_keeps_its_bytes_and_lies_at_the_end_when_it_tells_no_block() -> None:
    found = parse_log(log(None, v1=False, time_s=SECOND, blockNumber="x"), PAGE, SECOND)
    assert found is not None
    assert found.offer.data == b"{}"
    assert found.offer.timestamp == PAGE.last
    assert found.offer.fault.startswith("blockNumber: expected")
    assert found.offer.identity.startswith("fault:")
    nonsense = parse_log(Log(b"[1]", {}, None), PAGE, SECOND)
    assert nonsense is not None
    assert nonsense.offer.fault.startswith("record: expected a JSON object")
