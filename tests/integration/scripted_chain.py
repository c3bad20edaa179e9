"""A chain of a few hundred blocks behind nodes that refuse what a test wants them to refuse."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

from common.config import Settings
from common.errors import Unavailable
from ingesters.polygon_ingester import PolygonIngester, build
from tests.integration.ingesting import Asked, Reply, as_json, context_for, published, upstream
from tests.servers import RedisServer
from tests.simulator import Clock

STREAM = "stream:order_events"
FIRST, SECOND = 86_126_998, 1_777_374_040
BLOCK_S = 2
V1_TOPIC = "0xd0a08e8c493f9c94f29311604c9de1b4e8c8d4c06bd0c789af57f2d65bfec0f6"
V2_TOPIC = "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee"


def block_of(number: int, time_s: int) -> dict[str, Any]:
    return {"number": hex(number), "timestamp": hex(time_s)}


def log(block: int, index: int, *, v1: bool, time_s: int) -> dict[str, Any]:
    wallet = f"0x{0xA1:064x}"
    return {
        "address": "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e",
        "topics": [V1_TOPIC if v1 else V2_TOPIC, f"0x{'0c' * 32}", wallet, wallet],
        "data": "0x" + f"{0:064x}{7:064x}{5:064x}{9:064x}{0:064x}" + ("" if v1 else "0" * 128),
        "blockNumber": hex(block),
        "blockTimestamp": hex(time_s),
        "transactionHash": f"0x{block:064x}",
        "logIndex": hex(index),
        "removed": False,
    }


def time_of(block: int) -> int:
    return SECOND + BLOCK_S * (block - FIRST)


class Refusal(NamedTuple):
    """What is answered instead of a result; within a list, for a batch, where it says so."""

    status: int
    body: Any
    as_list: bool = False

    def reply(self) -> Reply:
        body = [self.body] if self.as_list else self.body
        return Reply(body.encode(), self.status) if isinstance(body, str) else as_json(body, status=self.status)


def error_of(code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}


class Chain:
    """Blocks from FIRST on, one fill in each, and what its nodes make of a request.

    `head`: the newest final block. Change the attributes at any time.
    """

    def __init__(self, blocks: int) -> None:
        self.head = FIRST + blocks - 1
        self.range_limit = 10_000
        self.range_refusal: dict[str, Any] | Refusal = {"code": -32005, "message": "block range is too large"}
        self.batch_limit = 10_000
        self.batch_refusal = Refusal(200, error_of(-32600, "batches are not allowed"))
        self.behind = 0  # blocks, of the node that some requests reach
        self.lag_share = 0.5
        self._chance = Random(1)
        self.has_times = True
        self.is_down = False
        self.hidden: set[int] = set()  # blocks whose logs have not appeared yet
        self.shift = 0  # of the logs' numbers
        self.deny: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda _: None  # an error for a call
        self.requests = 0
        self.batches: list[int] = []  # calls of each request
        self.ranges: list[tuple[int, int]] = []  # what eth_getLogs was asked for
        self.heads: list[int] = []  # the head at each of these moments

    @property
    def ids(self) -> set[str]:
        return {f"0x{block:064x}_{1 + self.shift}" for block in range(FIRST, self.head + 1)}

    def answer(self, request: Asked) -> Reply:
        self.requests += 1
        calls = json.loads(request.body)
        self.batches.append(len(calls) if isinstance(calls, list) else 1)
        if self.is_down:
            return Reply(b"no backend", 503)
        if self.batches[-1] > self.batch_limit:
            return self.batch_refusal.reply()
        behind = self.behind if self._chance.random() < self.lag_share else 0
        try:
            if isinstance(calls, list):
                return as_json([self._one(call, behind) for call in calls])
            return as_json(self._one(calls, behind))
        except _WholeRefusedError as refused:
            return refused.args[0].reply()  # type: ignore[no-any-return]

    def _one(self, call: dict[str, Any], behind: int) -> dict[str, Any]:
        whole = {"jsonrpc": "2.0", "id": call["id"]}
        if error := self.deny(call):
            return whole | {"error": error}
        result = getattr(self, "_" + call["method"])(*call["params"], behind=behind)
        return whole | (result if isinstance(result, dict) and "error" in result else {"result": result})

    def _eth_chainId(self, *, behind: int) -> str:  # noqa: N802, ARG002 - the protocol's name
        return "0x89"

    def _eth_blockNumber(self, *, behind: int) -> str:  # noqa: N802
        return hex(self.head + 3 - behind)

    def _eth_getBlockByNumber(self, tag: str, _full: bool, *, behind: int) -> Any:  # noqa: N802, FBT001
        number = self.head - behind if tag == "finalized" else int(tag, 16)
        return None if number > self.head + 3 - behind else block_of(number, time_of(number))

    def _eth_getLogs(self, wanted: dict[str, Any], *, behind: int) -> Any:  # noqa: N802
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        self.ranges.append((first, last))
        self.heads.append(self.head)
        if last - first >= self.range_limit:
            if isinstance(self.range_refusal, Refusal):
                raise _WholeRefusedError(self.range_refusal)
            return {"error": self.range_refusal}
        newest = min(last, self.head + 3 - behind)
        return [self._log(block) for block in range(max(first, FIRST), newest + 1) if block not in self.hidden]

    def _log(self, block: int) -> dict[str, Any]:
        made = log(block, 1 + self.shift, v1=False, time_s=time_of(block))
        if not self.has_times:
            del made["blockTimestamp"]
        return made


class _WholeRefusedError(Exception):
    """The whole request is answered with this."""


class Follower:
    """A polygon_ingester of these nodes, on a clock that jumps over every wait."""

    def __init__(self, redis: RedisServer, urls: list[str], clock: Clock, **settings: object) -> None:
        real = {name: Settings.model_fields[name].default for name in ("cutover_block", "cutover_timestamp")}
        chosen: dict[str, object] = {
            "polygon_rpc_url": ",".join(urls),
            "order_events_start": "2022-11-21",
            "polygon_requests_per_10s": 10_000,
            "polygon_max_blocks": 200,
            "polygon_poll_interval": 5,
            **real,
            **settings,
        }
        self.clock = clock
        self.context = context_for(redis, **chosen)
        self.stage: PolygonIngester = build(self.context, clock)

    def restart(self) -> None:
        self.stage.close()
        self.stage = build(self.context, self.clock)

    def run(self, seconds: float) -> None:
        """What is done in so many seconds of the clock."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.turn()

    def turn(self) -> None:
        try:
            wait_s = self.stage.step()
        except Unavailable as error:
            wait_s = max(1.0, error.retry_after_s)
        self.clock.now += wait_s or 0.05

    def until(self, done: Callable[[], bool], limit_s: float) -> float:
        """Seconds of the clock until it is done."""
        began = self.clock.now
        while not done():
            assert self.clock.now < began + limit_s, f"not done after {limit_s} s: {self.stage.report()['detail']}"
            self.turn()
        return self.clock.now - began

    def counted(self) -> Counter[str]:
        return Counter(fill["id"] for fill in published(self.context, STREAM))

    def count(self) -> int:
        return int(self.context.queue.call("XLEN", self.context.queue.keys(STREAM)))


@contextmanager
def following(redis: RedisServer, *chains: Chain, clock: Clock | None = None, **settings: object) -> Iterator[Follower]:
    """An ingester of these providers; the clock begins shortly after the newest block."""
    if len(chains) > 1:
        with upstream(chains[0].answer) as url, following(redis, *chains[1:], clock=clock, **settings) as last:
            urls = [url, *str(last.context.settings.polygon_rpc_url).split(",")]
            yield Follower(redis, urls, last.clock, **settings)
        return
    with upstream(chains[0].answer) as url:
        yield Follower(redis, [url], clock or Clock(time_of(chains[0].head) + 5.0), **settings)
