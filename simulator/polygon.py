"""The chain's JSON-RPC: a node's answers, and the habits of different providers of nodes."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter, Request, Response

from simulator import chain
from simulator.chance import generator, hex_digest
from simulator.fills import Fill
from simulator.service import Prepared, Service, as_json
from simulator.world import World

CHAIN_ID = 137
FINALITY_S = 4  # so much older than the newest block is the newest final one
V1_TOPIC = "0xd0a08e8c493f9c94f29311604c9de1b4e8c8d4c06bd0c789af57f2d65bfec0f6"
V2_TOPIC = "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee"

_INVALID_REQUEST, _NO_METHOD, _INVALID_PARAMS, _LIMIT_EXCEEDED = -32600, -32601, -32602, -32005
_INTERNAL = -32603
_ODD_TIMES: tuple[Any, ...] = ("0x0", "", 1_777_374_050, "1777374050", None, "yesterday")
_LAG_S = 10.0
_REFUSED_SHARE = 0.35
_QUANTITY = re.compile(r"0x[0-9a-f]{1,16}")


class Provider(NamedTuple):
    """What a provider of nodes allows, and how it says no."""

    range_limit: int | None = None  # blocks a request; None: the simulator's own option
    refusal: tuple[int, str] = (_LIMIT_EXCEEDED, "block range is too large")  # error code and message
    most_logs: int | None = None
    lag_s: float = 0.0  # its nodes are so far behind
    is_balanced: bool = False  # every second request reaches a node that lags
    has_times: bool = True  # blockTimestamp in the logs
    has_odd_times: bool = False  # there, and of no use
    has_finalized: bool = True
    takes_batches: bool = True
    most_calls: int | None = None  # in a batch
    is_renumbered: bool = False  # its logs have numbers of their own, in the same order
    chain_id: int = CHAIN_ID
    is_flaky: bool = False
    is_down: bool = False


PROVIDERS = {
    "": Provider(),
    "cap10": Provider(10, (_INVALID_REQUEST, "eth_getLogs requests may span up to a 10 block range")),
    "cap1000": Provider(1000, (-32701, "exceeded maximum block range")),
    "cap10000": Provider(10_000, (_INVALID_PARAMS, "ranges over 10000 blocks are not supported"), most_logs=10_000),
    "oddcap": Provider(20, (-32011, "no backend is currently healthy to serve traffic")),
    "oddtime": Provider(has_odd_times=True),
    "batch3": Provider(has_times=False, most_calls=3),
    "renumbered": Provider(is_renumbered=True),
    "flaky": Provider(is_flaky=True),
    "down": Provider(is_down=True),
    "notime": Provider(has_times=False),
    "nofinal": Provider(has_finalized=False),
    "nobatch": Provider(takes_batches=False),
    "lagging": Provider(lag_s=_LAG_S),
    "balanced": Provider(is_balanced=True),
    "otherchain": Provider(chain_id=1),
}


class RpcError(Exception):
    """What a call is refused with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message}


class Node:
    """One node of a provider, for one request."""

    def __init__(self, service: Service, provider: Provider, range_limit: int, *, lags: bool) -> None:
        self._service = service
        self._world = service.world
        self._provider = provider
        self._range_limit = provider.range_limit or range_limit
        self._lag_s = max(provider.lag_s, _LAG_S if lags else 0.0)
        self.shown: list[Fill] = []  # in the answers so far
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(provider.chain_id),
            "eth_blockNumber": lambda: hex(self._newest()),
            "eth_getBlockByNumber": self._block,
            "eth_getLogs": self._logs,
        }

    def answer(self, call: Any) -> dict[str, Any]:
        """The answer to one call."""
        identity = call.get("id") if isinstance(call, dict) else None
        try:
            result = self._result(call)
        except RpcError as error:
            return {"jsonrpc": "2.0", "id": identity, "error": error.error}
        return {"jsonrpc": "2.0", "id": identity, "result": result}

    def _result(self, call: Any) -> Any:
        if not isinstance(call, dict) or not isinstance(call.get("params", []), list):
            raise RpcError(_INVALID_REQUEST, "invalid request")
        method = self._methods.get(str(call.get("method")))
        if method is None:
            raise RpcError(_NO_METHOD, f"the method {call.get('method')} does not exist/is not available")
        try:
            return method(*call.get("params", []))
        except TypeError:
            raise RpcError(_INVALID_PARAMS, "invalid number of params") from None

    def _newest(self) -> int:
        return self._block_before(self._lag_s)

    def _block_before(self, seconds: float) -> int:
        return chain.block_at(min(self._world.fills_now(), self._world.now() - seconds))

    def _number(self, tag: Any) -> int:
        if tag == "finalized" and self._provider.has_finalized:
            return self._block_before(self._lag_s + FINALITY_S)
        if tag in {"latest", "pending"}:
            return self._newest()
        if tag == "earliest":
            return 0
        if not _QUANTITY.fullmatch(str(tag)):
            raise RpcError(_INVALID_PARAMS, f"invalid block number or tag: {tag}")
        return int(tag, 16)

    def _block(self, tag: Any, _full: bool = False) -> dict[str, Any] | None:  # noqa: FBT001, FBT002 - the protocol's order
        now = self._world.now()
        if tag == "finalized" and self._service.faults.take("polygon", {"finalized_errors"}, now):
            raise RpcError(_INTERNAL, "internal error")
        number = self._number(tag)
        if number > self._newest():
            return None
        seed = self._world.settings.seed
        return {
            "number": hex(number),
            "hash": hex_digest(seed, "block", number),
            "parentHash": hex_digest(seed, "block", number - 1),
            "timestamp": hex(chain.time_of(number)),
            "transactions": [],
        }

    def _logs(self, wanted: Any) -> list[dict[str, Any]]:
        if not isinstance(wanted, dict) or "blockHash" in wanted:
            raise RpcError(_INVALID_PARAMS, "expected a filter with fromBlock and toBlock")
        first, last = (self._number(wanted.get(name, "latest")) for name in ("fromBlock", "toBlock"))
        if first > last:
            raise RpcError(_INVALID_PARAMS, "invalid block range params")
        if last - first >= self._range_limit:
            raise RpcError(*self._provider.refusal)
        # As real nodes do it: what lies beyond this node's newest block is no error, only empty.
        fills = list(_matching(self._world, range(first, min(last, self._newest()) + 1), wanted))
        if self._provider.most_logs is not None and len(fills) > self._provider.most_logs:
            raise RpcError(_LIMIT_EXCEEDED, f"query returned more than {self._provider.most_logs} results")
        return self._shown_rows(fills)

    def _shown_rows(self, fills: list[Fill]) -> list[dict[str, Any]]:
        seed, faults, now = self._world.settings.seed, self._service.faults, self._world.now()
        withheld = faults.late_logs(now)
        fills = [fill for fill in fills if not any(fault.withholds(fill, now) for fault in withheld)]
        rows = [self._as_this_provider(log_of(fill, seed, has_time=self._provider.has_times)) for fill in fills]
        by_row = {id(row): fill for row, fill in zip(rows, fills, strict=True)}
        left = faults.spoil_logs(faults.spoil("polygon", rows, now), now)
        self.shown += [by_row[id(row)] for row in left if id(row) in by_row]
        return left

    def _as_this_provider(self, log: dict[str, Any]) -> dict[str, Any]:
        number = int(log["logIndex"], 16)
        if self._provider.is_renumbered:
            log["logIndex"] = hex(number // 2 + 7)  # they are two apart at least
        if self._provider.has_odd_times:
            log["blockTimestamp"] = _ODD_TIMES[number % len(_ODD_TIMES)]
        return log


def _matching(world: World, numbers: range, wanted: dict[str, Any]) -> Iterator[Fill]:
    """Fills of existing blocks that pass the filter's addresses and first topic, in the order of the log."""
    addresses = _alternatives(wanted.get("address"))
    topics = _alternatives((wanted.get("topics") or [None])[0])
    existing = world.numbers()
    for number in range(max(numbers.start, existing.start), min(numbers.stop, existing.stop)):
        for fill in sorted(world.block(number).fills, key=lambda fill: fill.log_index):
            if (addresses is None or fill.exchange in addresses) and (topics is None or topic_of(fill) in topics):
                yield fill


def _alternatives(value: Any) -> set[str] | None:
    if value is None:
        return None
    return {str(one).lower() for one in (value if isinstance(value, list) else [value])}


def topic_of(fill: Fill) -> str:
    return V1_TOPIC if fill.is_v1 else V2_TOPIC


def log_of(fill: Fill, seed: int, *, has_time: bool = True) -> dict[str, Any]:
    """A fill as an entry of eth_getLogs."""
    log = {
        "address": fill.exchange,
        "topics": [topic_of(fill), fill.order_hash, _padded(fill.maker), _padded(fill.taker)],
        "data": _data(fill),
        "blockNumber": hex(fill.block_number),
        "transactionHash": fill.transaction_hash,
        "transactionIndex": hex(fill.log_index // 4),
        "blockHash": hex_digest(seed, "block", fill.block_number),
        "logIndex": hex(fill.log_index),
        "removed": False,
    }
    return log | {"blockTimestamp": hex(fill.timestamp)} if has_time else log


def _data(fill: Fill) -> str:
    amounts = (fill.maker_amount_filled, fill.taker_amount_filled, fill.fee)
    if fill.is_v1:
        words = [int(fill.maker_asset_id), int(fill.taker_asset_id), *amounts]
    else:
        words = [0 if fill.maker_asset_id == "0" else 1, int(fill.token_id), *amounts, 0, 0]
    return "0x" + "".join(f"{word:064x}" for word in words)


def _padded(address: str) -> str:
    return f"0x{address.removeprefix('0x'):0>64}"


def polygon_router(service: Service, range_limit: int) -> APIRouter:
    """`/polygon` and, below it, a path for each provider."""
    router = APIRouter(prefix="/polygon")
    rng = generator(service.world.settings.seed, 108)
    requests = dict.fromkeys(PROVIDERS, 0)

    @router.post("")
    @router.post("/{name}")
    async def ask(request: Request, name: str = "") -> Response:
        raw = await request.body()
        provider = PROVIDERS.get(name)
        if provider is None:
            return as_json({"error": f"no such provider; there are {', '.join(filter(None, PROVIDERS))}"}, 404)
        requests[name] += 1
        if refusal := _refusal(provider, rng.random() if provider.is_flaky else 1.0):
            return refusal
        lags = provider.is_balanced and requests[name] % 2 == 0
        node = Node(service, provider, range_limit, lags=lags)
        return await service.respond("polygon", ("all",), partial(_respond, service, node, provider, raw))

    return router


def _refusal(provider: Provider, chance: float) -> Response | None:
    """How a provider refuses a request before any node has seen it."""
    if provider.is_down:
        return Response(b"Service Unavailable", 503)
    if chance >= _REFUSED_SHARE:
        return None
    errors = (
        (429, None),
        (500, None),
        (200, (-32701, "the block range is too large at the moment")),
        (200, (-32029, "too many requests")),
    )
    status, error = errors[int(chance / _REFUSED_SHARE * len(errors))]
    if error is None:
        return Response(b"", status)
    return as_json({"jsonrpc": "2.0", "id": None, "error": {"code": error[0], "message": error[1]}}, status)


def _respond(service: Service, node: Node, provider: Provider, raw: bytes) -> Prepared:
    try:
        asked = msgspec.json.decode(raw)
    except ValueError:
        return Prepared(as_json(node.answer(None)))
    if not isinstance(asked, list):
        body: Any = node.answer(asked)
    elif refusal := _batch_refusal(service, provider, len(asked)):
        return Prepared(refusal)
    else:
        # The protocol allows any order.
        body = [node.answer(call) for call in reversed(asked)]
    return Prepared(as_json(body), partial(service.served.add_fills, node.shown))


def _batch_refusal(service: Service, provider: Provider, calls: int) -> Response | None:
    """How a batch is refused: by whom it is too large for, and in one way after the other where it was ordered."""
    error = {"code": _INVALID_REQUEST, "message": "batches are not allowed"}
    if not provider.takes_batches:
        return as_json({"jsonrpc": "2.0", "id": None, "error": error})
    if provider.most_calls is not None and calls > provider.most_calls:
        text = f"batch of more than {provider.most_calls} requests not allowed"
        return as_json([{"jsonrpc": "2.0", "id": None, "error": {"code": 31, "message": text}}])
    fault = service.faults.take("polygon", {"refused_batch"}, service.world.now())
    if fault is None:
        return None
    status, body = _BATCH_REFUSALS[(fault.number + fault.fired) % len(_BATCH_REFUSALS)]
    return as_json(body, status)


_BATCH_REFUSALS: tuple[tuple[int, Any], ...] = (
    (200, {"jsonrpc": "2.0", "id": None, "error": {"code": 31, "message": "no"}}),
    (403, {"message": "forbidden"}),
    (200, []),
    (500, {"error": "batch"}),
    (413, "too large"),
)
