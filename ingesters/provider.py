"""One provider of Polygon nodes: its newest final block, the logs it serves, and whether it can be used at present.

A provider is asked only for blocks up to the newest one that it itself has told. Beyond it a node answers an empty
list, which would read as blocks without fills. And since a provider may be many nodes behind one address, the node
that answers for logs says in the same batch how far it is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from common import parsing
from common.errors import InvalidRecord, Unavailable
from common.http import HttpSource
from ingesters.chunk_size import ChunkSize
from ingesters.json_rpc import Answer, Call, JsonRpc, RpcError
from ingesters.log_decoder import block_of, block_time, has_time, quantity

CHAIN_ID = 137
OTHER_CHAIN_S = 600.0  # an address that serves another chain hardly changes
FIRST_PAUSE_S = 1.0  # after a failure; doubled with every further one
LONGEST_PAUSE_S = 60.0
BLOCK_S = 2.5  # the longest usual time between two blocks
BATCH = 50  # blocks whose times are looked up in one request
MOST_SINGLE_LOOK_UPS = 20  # blocks a chunk where their times have to be looked up one by one
_LIMIT = 2**63


class Head(NamedTuple):
    """The newest block that won't change any more, as a provider sees it."""

    number: int
    timestamp: int  # Unix seconds


class Log(NamedTuple):
    """An entry of eth_getLogs."""

    raw: bytes
    fields: dict[str, Any]
    block: int | None  # None where the log does not tell


class Wanted(NamedTuple):
    """Which logs to ask for."""

    addresses: frozenset[str]  # lower case
    topics: Sequence[str]  # any of them as the first one


class Provider:
    """One address. Raises Unavailable or TooLarge; it is for the caller to `leave` it then for a while."""

    def __init__(self, source: HttpSource, wanted: Wanted, *, most_blocks: int, confirmations: int) -> None:
        self.host = source.host
        self.wait_s = source.wait_s
        self.close = source.close
        self.chunk = ChunkSize(most_blocks)
        self.head: Head | None = None  # as told last
        self.reason = ""  # why it was left; empty while it works
        self.away_until = 0.0
        self.has_finalized = True  # until it shows otherwise
        self._rpc = JsonRpc(source)
        self._wanted = wanted
        self._confirmations = confirmations
        self._is_polygon = False  # until it was asked
        self._failures = 0
        self._lacks_times = False

    # --- whether it can be used ----------------------------------------------------------------------------------

    def leave(self, now: float, reason: str, at_least_s: float = 0.0) -> None:
        """Use other providers for a while: longer each time in a row."""
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1
        self.reason = reason
        self.away_until = now + max(pause_s, at_least_s)

    def note_success(self) -> None:
        self._failures, self.reason = 0, ""

    def age_limit_s(self, fresh_s: float) -> float:
        """Up to which age its head counts as that of a node that keeps up."""
        return fresh_s if self.has_finalized else fresh_s + BLOCK_S * self._confirmations

    # --- blocks --------------------------------------------------------------------------------------------------

    def look(self) -> Head:
        """Ask for the newest final block. The first time also for the chain that this is."""
        if not self._is_polygon:
            self._check_chain()
        head = self._finalized() if self.has_finalized else None
        if head is None:
            self.has_finalized = False
            head = self._confirmed()
        self.head = head
        return head

    def block_time(self, number: int) -> int:
        """Unix seconds of a block that the provider has."""
        block = self._known_block(number, self._rpc.ask(_block(hex(number)))[0])
        return block.timestamp

    def _check_chain(self) -> None:
        told = _decoded(self._rpc.result(self._rpc.ask(Call("eth_chainId"))[0]))
        chain = self._quantity(told, "eth_chainId")
        if chain != CHAIN_ID:
            raise Unavailable(
                f"{self.host} serves chain {chain}, not Polygon ({CHAIN_ID})", retry_after_s=OTHER_CHAIN_S
            )
        self._is_polygon = True

    def _finalized(self) -> Head | None:
        """None when the provider does not know the word."""
        answer = self._rpc.ask(_block("finalized"))[0]
        if isinstance(answer, RpcError):
            return None
        return self._head(_decoded(answer))

    def _confirmed(self) -> Head:
        newest = self._quantity(
            _decoded(self._rpc.result(self._rpc.ask(Call("eth_blockNumber"))[0])), "eth_blockNumber"
        )
        number = max(0, newest - self._confirmations)
        return Head(number, self.block_time(number))

    def _known_block(self, number: int, answer: Answer) -> Head:
        head = self._head(_decoded(self._rpc.result(answer)))
        if head is None or head.number != number:
            raise Unavailable(f"{self.host} does not have block {number}")
        return head

    def _head(self, block: Any) -> Head | None:
        if block is None:
            return None
        try:
            return Head(quantity(block["number"], "number", _LIMIT), block_time(block["timestamp"], "timestamp"))
        except (InvalidRecord, KeyError, TypeError) as error:
            raise Unavailable(f"{self.host} answers no block: {error}") from error

    def _quantity(self, value: Any, field: str) -> int:
        try:
            return quantity(value, field, _LIMIT)
        except InvalidRecord as error:
            raise Unavailable(f"{self.host}: {error}") from error

    # --- logs ----------------------------------------------------------------------------------------------------

    def last_of_chunk(self, first: int, head: Head) -> int:
        """The last block to ask for together with `first`."""
        blocks = self.chunk.blocks
        if self._lacks_times and not self._rpc.takes_batches:
            blocks = min(blocks, MOST_SINGLE_LOOK_UPS)
        return min(head.number, first + blocks - 1)

    def logs(self, first: int, last: int) -> list[Log]:
        """All logs of the blocks, in the order of blocks."""
        wanted = {
            "address": sorted(self._wanted.addresses),
            "topics": [list(self._wanted.topics)],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        answers = self._rpc.ask(*self._node_s_place(), Call("eth_getLogs", [wanted]))
        logs = self._rpc.result(answers[-1])
        if len(answers) > 1:
            self._check_place(answers[0], last)
        read = list(self._read(logs, first, last))
        return sorted(read, key=lambda log: last if log.block is None else log.block)

    def times(self, logs: Sequence[Log], known: Callable[[int], int | None]) -> dict[int, int]:
        """Times of those blocks whose logs don't tell them; `known`: what was looked up before."""
        blocks = sorted({log.block for log in logs if log.block is not None and not has_time(log.fields)})
        self._lacks_times = self._lacks_times or bool(blocks)
        times = {block: time for block in blocks if (time := known(block)) is not None}
        missing = [block for block in blocks if block not in times]
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            answers = self._rpc.ask(*(_block(hex(number)) for number in some))
            found = [self._known_block(number, answer) for number, answer in zip(some, answers, strict=True)]
            times.update((block.number, block.timestamp) for block in found)
        return times

    def _node_s_place(self) -> tuple[Call, ...]:
        return (Call("eth_blockNumber"),) if self._rpc.takes_batches else ()

    def _check_place(self, answer: Answer, last: int) -> None:
        newest = self._quantity(_decoded(self._rpc.result(answer)), "eth_blockNumber")
        if newest < last:
            raise Unavailable(f"{self.host}: the node that answers is at block {newest} and can't know of {last}")

    def _read(self, result: bytes, first: int, last: int) -> Iterator[Log]:
        try:
            raws = msgspec.json.decode(result, type=list[msgspec.Raw])
        except ValueError as error:
            raise Unavailable(f"{self.host} answers no list of logs: {parsing.shown(result)}") from error
        for raw in map(bytes, raws):
            log = log_of(raw)
            if log.block is not None and not first <= log.block <= last:
                raise Unavailable(f"{self.host} answers a log of block {log.block} for blocks {first} to {last}")
            if _is_foreign(log.fields, self._wanted.addresses):
                raise Unavailable(f"{self.host} answers a log of another contract: {log.fields.get('address')}")
            yield log


def _block(tag: str) -> Call:
    return Call("eth_getBlockByNumber", [tag, False])


def _decoded(result: bytes) -> Any:
    return msgspec.json.decode(result)  # it was part of a body that is JSON


def log_of(raw: bytes) -> Log:
    """A log with what it tells of its block; whatever else is wrong with it is for the decoder to say."""
    try:
        fields = parsing.json_object(raw)
    except InvalidRecord:
        return Log(raw, {}, None)
    try:
        return Log(raw, fields, block_of(fields))
    except InvalidRecord:
        return Log(raw, fields, None)


def _is_foreign(fields: dict[str, Any], addresses: frozenset[str]) -> bool:
    """Whether the log comes from a contract that was not asked for; one without a sound address is not."""
    try:
        return parsing.address(fields.get("address"), "address") not in addresses
    except InvalidRecord:
        return False
