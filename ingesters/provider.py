"""One provider of Polygon nodes: its newest final block, the logs it serves, and whether it can be used at present.

A provider is asked only for blocks up to the newest one that it itself has told. Beyond it a node answers an empty
list, which would read as blocks without fills. And since a provider may be many nodes behind one address, the node
that answers for logs says in the same batch how far it is. Where not even two calls can go out together, it is asked
just before, over the same connection: then two nodes may answer, and what the second one lacks is found by a later
look. See `PolygonIngester`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from common import parsing
from common.errors import InvalidRecord, Unavailable
from common.fallback import Fallback
from common.http import HttpSource, TooMuch
from ingesters.chunk_size import ChunkSize
from ingesters.json_rpc import Answer, Call, JsonRpc, TooLarge
from ingesters.log_decoder import block_of, block_time, has_time, quantity

CHAIN_ID = 137
OTHER_CHAIN_S = 600.0  # an address that serves another chain hardly changes
FIRST_PAUSE_S = 1.0  # after a failure; doubled with every further one
LONGEST_PAUSE_S = 60.0
BLOCK_S = 2.5  # the longest usual time between two blocks
USUAL_BLOCK_S = 2.0
MAX_LOOK_UPS = 20  # requests a chunk where the blocks' times have to be looked up
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


class NodeBehind(Unavailable):
    """The node that answers does not have the blocks. Ask another provider, or again: another node may answer."""


class Provider:
    """One address. Raises Unavailable or TooLarge; it is for the caller to `leave` it then for a while."""

    def __init__(
        self,
        source: HttpSource,
        wanted: Wanted,
        *,
        most_blocks: int,
        confirmations: int,
        log: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        self.host = source.host
        self.wait_s = source.wait_s
        self.close = source.close
        self.chunk = ChunkSize(most_blocks)
        self.head: Head | None = None  # as told last
        self.reason = ""  # why it was left; empty while it works
        self.away_until = 0.0
        self._rpc = JsonRpc(source, log, clock)
        late_s = confirmations * USUAL_BLOCK_S
        self._by_count = Fallback(
            f"{source.host}: a block counts as final after {confirmations} others, some {late_s:.0f} s", log, clock
        )
        self._knows_finalized = False  # it has told such a block
        self._was_denied = False  # the last question for one
        self._wanted = wanted
        self._confirmations = confirmations
        self._is_polygon = False  # until it was asked
        self._failures = 0
        self._lacks_times = False

    # --- whether it can be used ----------------------------------------------------------------------------------

    def leave(self, now: float, error: Unavailable | TooLarge) -> None:
        """Use other providers for a while: longer each time in a row, unless one of its other nodes may do."""
        pause_s = FIRST_PAUSE_S
        if not isinstance(error, NodeBehind):
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 10))
            self._failures += 1
        self.reason = error.reason
        self.away_until = now + (max(pause_s, error.retry_after_s) if isinstance(error, Unavailable) else pause_s)

    def note_success(self) -> None:
        self._failures, self.reason = 0, ""

    @property
    def blocks_behind(self) -> int:
        """How much older its head is than the newest final block: where that has to be guessed by counting."""
        return self._confirmations if self._by_count.describe() else 0

    def age_limit_s(self, fresh_s: float) -> float:
        """Up to which age its head counts as that of a node that keeps up."""
        return fresh_s + BLOCK_S * self.blocks_behind

    def delay(self) -> str:
        """Why its fills arrive late; empty where they don't."""
        if not self.blocks_behind:
            return ""
        return f"fills arrive about {self.blocks_behind * USUAL_BLOCK_S:.0f} s late: {self._by_count.describe()}"

    def troubles(self, now: float) -> list[str]:
        """What an operator should know of it."""
        away = f"{self.reason}; left for {max(0.0, self.away_until - now):.0f} s" if self.reason else ""
        small = f"{self.host}: {self.chunk.limit} blocks a request" if self.chunk.is_reduced else ""
        return [text for text in (away, small, self._by_count.describe(), self._rpc.trouble()) if text]

    # --- blocks --------------------------------------------------------------------------------------------------

    def look(self) -> Head:
        """Ask for the newest final block. The first time also for the chain that this is."""
        if not self._is_polygon:
            self._check_chain()
        self.head = self._confirmed() if self._by_count.is_on else self._finalized()
        return self.head

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

    def _finalized(self) -> Head:
        """The newest final block, as the provider tells it; counted where it does not know that word.

        One that has known it is asked once more before an error counts as that.
        """
        try:
            head = self._told_final()
        except TooMuch:
            raise
        except (Unavailable, TooLarge) as error:
            is_first, self._was_denied = not self._was_denied, True
            if is_first and (self._knows_finalized or _asks_to_wait(error)):
                raise
            head = self._confirmed()  # raises where the node is down altogether
            self._by_count.begin(error.reason)
            return head
        self._knows_finalized, self._was_denied = True, False
        self._by_count.end()
        return head

    def _told_final(self) -> Head:
        head = self._head(_decoded(self._rpc.result(self._rpc.ask(_block("finalized"))[0])))
        if head is None:
            raise Unavailable(f"{self.host} answers no block for 'finalized'")
        return head

    def _confirmed(self) -> Head:
        newest = self._quantity(
            _decoded(self._rpc.result(self._rpc.ask(Call("eth_blockNumber"))[0])), "eth_blockNumber"
        )
        number = max(0, newest - self._confirmations)
        return Head(number, self.block_time(number))

    def _known_block(self, number: int, answer: Answer) -> Head:
        head = self._head(_decoded(self._rpc.result(answer)))
        if head is None or head.number != number:
            raise NodeBehind(f"{self.host} does not have block {number}")
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
        if self._lacks_times:
            blocks = min(blocks, MAX_LOOK_UPS * self._rpc.batch_limit)
        return min(head.number, first + blocks - 1)

    def logs(self, first: int, last: int) -> list[Log]:
        """All logs of the blocks, in the order of blocks."""
        wanted = {
            "address": sorted(self._wanted.addresses),
            "topics": [list(self._wanted.topics)],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        place, answer = self._rpc.ask(Call("eth_blockNumber"), Call("eth_getLogs", [wanted]))
        logs = self._rpc.result(answer)
        self._check_place(place, last)
        read = list(self._read(logs, first, last))
        return sorted(read, key=lambda log: last if log.block is None else log.block)

    def times(self, logs: Sequence[Log], known: Callable[[int], int | None]) -> dict[int, int]:
        """Times of those blocks whose logs don't tell them readably; `known`: what was looked up before.

        A block that does not tell its own time is left out.
        """
        blocks = sorted({log.block for log in logs if log.block is not None and not has_time(log.fields)})
        self._lacks_times = bool(blocks) if logs else self._lacks_times
        times = {block: time for block in blocks if (time := known(block)) is not None}
        missing = [block for block in blocks if block not in times]
        answers = self._rpc.ask(*(_block(hex(number)) for number in missing))
        for number, answer in zip(missing, answers, strict=True):
            if (time := self._time_of(number, answer)) is not None:
                times[number] = time
        return times

    def _time_of(self, number: int, answer: Answer) -> int | None:
        """None where the block is there and its time can't be read. Raises Unavailable."""
        block = _decoded(self._rpc.result(answer))
        if not isinstance(block, dict) or block.get("number") != hex(number) or has_time(block, "timestamp"):
            return self._known_block(number, answer).timestamp
        return None

    def _check_place(self, answer: Answer, last: int) -> None:
        newest = self._quantity(_decoded(self._rpc.result(answer)), "eth_blockNumber")
        if newest < last:
            raise NodeBehind(f"{self.host}: the node that answers is at block {newest} and can't know of {last}")

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


def _asks_to_wait(error: Unavailable | TooLarge) -> bool:
    return isinstance(error, Unavailable) and error.retry_after_s > 0


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
