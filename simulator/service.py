"""What the routes share: the world, its faults and limits, the record of what was served, and how answers go wrong."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response

from simulator import gamma
from simulator.faults import ANSWER_KINDS, Fault, FaultBook
from simulator.fills import Fill
from simulator.gamma import Gamma
from simulator.limits import Limiter
from simulator.world import World

GOLDSKY_LIMIT = 50
POLYGON_LIMIT = 400
_GARBAGE = b"<html><head><title>502 Bad Gateway</title></head><body>upstream \xff\xfe gone</body></html>"
# Kinds that something in front of the source answers: body, status, headers.
_PAGES_OF_OTHERS = {
    "garbage": (_GARBAGE, 200, {"content-type": "application/json"}),
    "http_403": (b"<html><title>Just a moment...</title></html>", 403, {"content-type": "text/html"}),
}


class Served:
    """Which records were in a good answer so far: of fills a bit each, of markets the ids."""

    def __init__(self) -> None:
        self._bits: dict[int, int] = {}
        self.markets: set[str] = set()

    def add_fills(self, fills: Iterable[Fill]) -> None:
        for fill in fills:
            self._bits[fill.block_number] = self._bits.get(fill.block_number, 0) | 1 << fill.ordinal

    def has(self, fill: Fill) -> bool:
        return bool(self._bits.get(fill.block_number, 0) >> fill.ordinal & 1)

    def blocks(self) -> Iterator[int]:
        return iter(sorted(self._bits))

    def count_fills(self) -> int:
        return sum(bits.bit_count() for bits in self._bits.values())


class Prepared(NamedTuple):
    """A good answer, and how to record that it was given."""

    response: Response
    record: Callable[[], None] = lambda: None


class Service:
    def __init__(self, world: World, *, rate_limits: bool, answer_delay_s: float = 0.0) -> None:
        self.world = world
        self.rate_limits = rate_limits
        self.answer_delay_s = answer_delay_s  # of every answer, as over a network: requests overlap
        self.faults = FaultBook(world.settings.seed)
        self.served = Served()
        self.gamma = Gamma(world, self.faults)
        self._limiters = {
            "goldsky": Limiter({"all": GOLDSKY_LIMIT}, world.now),
            "gamma": gamma.limiter(world.now),
            "polygon": Limiter({"all": POLYGON_LIMIT}, world.now),
        }
        self.requests = dict.fromkeys(self._limiters, 0)

    async def respond(
        self, target: str, windows: tuple[str, ...], make: Callable[[], Prepared], tokens: Collection[str] = ()
    ) -> Response:
        """The answer that `make` gives, unless a rate limit or an ordered fault is in its way.

        `tokens`: outcome tokens that the request names.
        """
        self.requests[target] += 1
        await asyncio.sleep(self.answer_delay_s)
        if refusal := self._over_limit(target, windows):
            return refusal
        fault = self.faults.take(target, ANSWER_KINDS, self.world.now(), tokens)
        if fault is not None and fault.kind != "truncated_json":
            return await _wrong(fault)
        prepared = make()
        if fault is not None:
            return _cut(prepared.response)
        prepared.record()
        return prepared.response

    def _over_limit(self, target: str, windows: tuple[str, ...]) -> Response | None:
        limiter = self._limiters[target]
        wait_s = limiter.admit(*windows) if self.rate_limits else 0.0
        if wait_s == 0.0:
            return None
        # Not every refusal says how long to wait; here every second one does.
        headers = {"retry-after": str(int(wait_s) + 1)} if limiter.refused % 2 else {}
        return Response(b"Too Many Requests", 429, headers)


def as_json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


async def _wrong(fault: Fault) -> Response:
    """An answer that is of no use, in the way that was ordered."""
    if fault.kind == "timeout":
        await asyncio.sleep(fault.silence_s)
        return Response(b"Gateway Timeout", 504)
    if fault.kind == "http_429":
        wait_s = fault.retry_after_s
        return Response(b"Too Many Requests", 429, {} if wait_s is None else {"retry-after": f"{wait_s:g}"})
    if fault.kind == "graphql_errors":
        return as_json({"errors": [{"message": "statement timeout"}]})
    if fault.kind == "rpc_errors":
        return as_json({"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "internal error"}})
    if fault.kind in _PAGES_OF_OTHERS:
        return Response(*_PAGES_OF_OTHERS[fault.kind])
    return as_json({"error": "internal server error"}, 500)


def _cut(response: Response) -> Response:
    """A good answer that ends in the middle."""
    body = bytes(response.body)
    return Response(body[: len(body) // 2], response.status_code, media_type="application/json")
