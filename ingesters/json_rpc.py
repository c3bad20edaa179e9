"""One JSON-RPC endpoint of an Ethereum-style node: calls, batches of them, and what its errors mean.

Errors come with a status of 200, of 4xx, alone or within a batch, and their codes differ between providers; only
their words tell what to do. https://www.jsonrpc.org/specification, https://ethereum.org/developers/docs/apis/json-rpc
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from common import parsing
from common.errors import PipelineError, Unavailable
from common.http import HttpSource, Rejected

RATE_LIMIT_S = 5.0  # rest after a refusal for too many requests that names no time
WRONG_KEY_S = 300.0  # a missing or wrong key is not found again soon
_KEY_STATUSES = (401, 402, 403)
_TOO_LONG_STATUS = 413
_RATE_CODES = (429, -32029)
_RATE_SIGNS = (
    *("rate limit", "too many requests", "request limit", "requests per", "request count"),
    *("capacity", "quota", "throttl", "compute unit"),
)
_TOO_LARGE_CODES = (-32701, -32005)
_TOO_LARGE_SIGNS = (
    *("block range", "range is too", "range too large", "ranges over", "range exceed", "returned more than"),
    *("too many results", "too many logs", "response size", "response is too", "too large", "too big"),
    *("limited to", "timeout", "timed out"),
)
_BEHIND_SIGNS = ("beyond", "not found", "unknown block")
_LONGEST = 2000  # characters of an error message that are looked at
_SHOWN = 200  # characters of an error message that a reason repeats
_NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d{1,6})(k?)(?![\w.])", re.ASCII | re.IGNORECASE)


_ABSENT = msgspec.Raw()


class Call(NamedTuple):
    """A method and its parameters."""

    method: str
    params: Sequence[Any] = ()


class RpcError(msgspec.Struct, frozen=True):
    """What a node answers instead of a result."""

    code: Any = 0  # an integer, where the node keeps to the specification
    text: Any = msgspec.field(default="", name="message")

    @property
    def message(self) -> str:
        return str(self.text)[:_LONGEST]


class TooLarge(PipelineError):
    """The answer would be too large. Ask for fewer blocks; for `hint` of them if the node told."""

    def __init__(self, reason: str, numbers: Sequence[int] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self._numbers = numbers

    def hint(self, asked: int) -> int | None:
        """The largest number of blocks below `asked` that the refusal speaks of."""
        return max((number for number in self._numbers if 0 < number < asked), default=None)


class _Reply(msgspec.Struct):
    id: int | str | None = None
    result: msgspec.Raw = _ABSENT
    error: RpcError | None = None


Answer = bytes | RpcError  # a result in its original bytes; b"null" is one
_decode = msgspec.json.Decoder(_Reply | list[_Reply]).decode


class JsonRpc:
    """Calls go out as one batch where the endpoint takes batches, else one after another."""

    def __init__(self, source: HttpSource) -> None:
        self.host = source.host
        self.wait_s = source.wait_s
        self.close = source.close
        self.takes_batches = True
        self._source = source

    def ask(self, *calls: Call) -> list[Answer]:
        """An answer for each call, in their order. Raises Unavailable, TooLarge."""
        if len(calls) > 1 and self.takes_batches:
            answers = self._ask_together(calls)
            if answers is not None:
                return answers
            self.takes_batches = False
        return [self._ask_alone(call) for call in calls]

    def result(self, answer: Answer) -> bytes:
        """The result of a call. Raises Unavailable or TooLarge for an error."""
        if isinstance(answer, RpcError):
            raise self._failure(answer)
        return answer

    def _ask_alone(self, call: Call) -> Answer:
        reply = self._post(_encoded(0, call))
        if not isinstance(reply, _Reply):
            raise Unavailable(f"{self.host} answers a list to a single call")
        return self._answer(reply)

    def _ask_together(self, calls: Sequence[Call]) -> list[Answer] | None:
        """None when the endpoint refuses batches as such."""
        try:
            reply = self._post(b"[" + b",".join(_encoded(number, call) for number, call in enumerate(calls)) + b"]")
        except Unavailable as error:
            if isinstance(error.__cause__, Rejected) and error.__cause__.status not in _KEY_STATUSES:
                return None
            raise
        if isinstance(reply, _Reply):
            self._check_refusal_of_batch(reply)
            return None
        found = {each.id: each for each in reply}
        if set(found) != set(range(len(calls))):
            raise Unavailable(f"{self.host} answers {len(found)} of {len(calls)} calls of a batch")
        return [self._answer(found[number]) for number in range(len(calls))]

    def _check_refusal_of_batch(self, reply: _Reply) -> None:
        """A rate limit and a range that is too large are told for the batch as a whole, too."""
        if reply.error is not None and (_is_rate_limit(reply.error) or _is_too_large(reply.error)):
            raise self._failure(reply.error)

    def _post(self, body: bytes) -> _Reply | list[_Reply]:
        try:
            answer = self._source.post(body)
        except Rejected as error:
            raise self._refusal(error) from error
        try:
            decoded: _Reply | list[_Reply] = _decode(answer)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{self.host} answers no JSON-RPC: {parsing.shown(answer)}") from error
        return decoded

    def _answer(self, reply: _Reply) -> Answer:
        if reply.error is not None:
            return reply.error
        if not bytes(reply.result):
            raise Unavailable(f"{self.host} answers neither a result nor an error")
        return bytes(reply.result)

    def _refusal(self, error: Rejected) -> PipelineError:
        """What a status of 4xx means: some providers put a JSON-RPC error into its body."""
        told = RpcError(0, error.body)
        if error.status == _TOO_LONG_STATUS or _is_too_large(told):
            return TooLarge(error.reason, _numbers(error.body))
        return Unavailable(error.reason, retry_after_s=WRONG_KEY_S if error.status in _KEY_STATUSES else 0.0)

    def _failure(self, error: RpcError) -> PipelineError:
        reason = f"{self.host} answers an error: {error.message[:_SHOWN] or error.code}"
        if _is_rate_limit(error):
            return Unavailable(reason, retry_after_s=RATE_LIMIT_S)
        return TooLarge(reason, _numbers(error.message)) if _is_too_large(error) else Unavailable(reason)


def _encoded(number: int, call: Call) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": call.method, "params": list(call.params)})


def _is_rate_limit(error: RpcError) -> bool:
    return error.code in _RATE_CODES or _says(error, _RATE_SIGNS)


def _is_too_large(error: RpcError) -> bool:
    if _is_rate_limit(error) or _says(error, _BEHIND_SIGNS):
        return False
    return error.code in _TOO_LARGE_CODES or _says(error, _TOO_LARGE_SIGNS)


def _says(error: RpcError, signs: Sequence[str]) -> bool:
    return any(sign in error.message.lower() for sign in signs)


def _numbers(message: str) -> list[int]:
    """Numbers that stand for themselves: 10, 10,000 or 10k; not hexadecimal ones."""
    return [int(digits.replace(",", "")) * (1000 if thousand else 1) for digits, thousand in _NUMBER.findall(message)]
