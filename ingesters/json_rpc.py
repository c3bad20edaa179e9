"""One JSON-RPC endpoint of an Ethereum-style node: calls, batches of them, and what its errors seem to mean.

Errors come with a status of 200, of 4xx, alone or within a batch, and their codes and words differ between providers.
The lists of words here are hints that save a request or two; what decides is which smaller question is answered.
https://www.jsonrpc.org/specification, https://ethereum.org/developers/docs/apis/json-rpc
"""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from common import parsing
from common.errors import PipelineError, Unavailable
from common.fallback import Fallback
from common.http import HttpSource, Rejected, TooMuch

MAX_CALLS = 50  # a request
RATE_LIMIT_S = 5.0  # rest after a refusal for too many requests that names no time
WRONG_KEY_S = 300.0  # a key that never worked is not found again soon
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
        """The largest number of blocks below `asked` that the refusal speaks of; a single one is no sane limit."""
        return max((number for number in self._numbers if 1 < number < asked), default=None)


class _Reply(msgspec.Struct):
    id: int | str | None = None
    result: msgspec.Raw = _ABSENT
    error: RpcError | None = None


Answer = bytes | RpcError  # a result in its original bytes; b"null" is one
_decode = msgspec.json.Decoder(_Reply | list[_Reply]).decode


class _BatchRefused(PipelineError):
    """No answers to the calls of a batch, in whatever form; `error`: what that is, unless single calls pass."""

    def __init__(self, error: Unavailable | TooLarge) -> None:
        super().__init__(error.reason)
        self.error = error


class JsonRpc:
    """Calls go out together, in batches as large as the endpoint takes.

    How a refusal of batches is worded, and with which status, differs from provider to provider. So a batch counts as
    refused when smaller ones, or in the end its calls by themselves, are answered at the same time.
    """

    def __init__(self, source: HttpSource, log: logging.Logger, clock: Callable[[], float]) -> None:
        self.host = source.host
        self.wait_s = source.wait_s
        self.close = source.close
        self._source = source
        self._has_answered = False
        self._paused_for = MAX_CALLS + 1  # calls of the smallest batch that met a rate limit
        self._limit = MAX_CALLS  # calls a request, while the fallback is on
        self._fallback = Fallback(f"{self.host}: smaller batches of calls", log, clock)

    @property
    def batch_limit(self) -> int:
        """Calls that go out in one request at present."""
        return self._limit if self._fallback.is_on else MAX_CALLS

    def trouble(self) -> str:
        """What an operator should know; empty when all is well."""
        return self._fallback.describe()

    def ask(self, *calls: Call) -> list[Answer]:
        """An answer for each call, in their order. Raises Unavailable, TooLarge."""
        answers: list[Answer] = []
        while left := calls[len(answers) :]:
            answers += self._ask_some(left[: self.batch_limit])
        return answers

    def result(self, answer: Answer) -> bytes:
        """The result of a call. Raises Unavailable or TooLarge for an error."""
        if isinstance(answer, RpcError):
            raise self._failure(answer)
        return answer

    def _ask_some(self, calls: Sequence[Call]) -> list[Answer]:
        """Answers to the first ones of the calls, to all of them where they may go out together."""
        if len(calls) == 1:
            return [self._ask_alone(calls[0])]
        try:
            answers = self._ask_together(calls)
        except _BatchRefused as refusal:
            self._pause_once(len(calls), refusal.error)
            return self._ask_fewer(calls, refusal.error)
        if len(calls) >= self._paused_for:
            self._paused_for = MAX_CALLS + 1
        if len(calls) > self._limit:
            self._limit = MAX_CALLS
            self._fallback.end()
        return answers

    def _pause_once(self, size: int, error: Unavailable | TooLarge) -> None:
        """A rate limit is respected. Where one is met again after the pause, the batch itself may be meant."""
        if isinstance(error, Unavailable) and error.retry_after_s > 0 and size < self._paused_for:
            self._paused_for = size
            raise error

    def _ask_fewer(self, calls: Sequence[Call], refusal: Unavailable | TooLarge) -> list[Answer]:
        """Answers to the first ones of calls that were refused together. Raises what a single call raises."""
        first = self._ask_alone(calls[0])
        size = _fewer(len(calls))
        while size > 1:
            try:
                answers = self._ask_together(calls[:size])
            except _BatchRefused:
                size = _fewer(size)
            else:
                self._remember(size, refusal)
                return answers
        alone = [first, self._ask_alone(calls[1])]
        if any(isinstance(answer, RpcError) for answer in alone):
            return alone  # the call's own error: nothing is known of batches
        return self._ask_pair_again(calls[:2]) or self._alone(alone, refusal)

    def _ask_pair_again(self, calls: Sequence[Call]) -> list[Answer] | None:
        """None when two calls are refused again, though each passes: a failure that passes by is no refusal."""
        try:
            return self._ask_together(calls)
        except _BatchRefused:
            return None

    def _alone(self, answers: list[Answer], refusal: Unavailable | TooLarge) -> list[Answer]:
        self._remember(1, refusal)
        return answers

    def _remember(self, limit: int, refusal: Unavailable | TooLarge) -> None:
        self._limit = limit
        self._fallback.begin(f"more than {limit} at once refused, {refusal.reason}")

    def _ask_alone(self, call: Call) -> Answer:
        reply = self._post(_encoded(0, call))
        if not isinstance(reply, _Reply):
            raise Unavailable(f"{self.host} answers a list to a single call")
        return self._answer(reply)

    def _ask_together(self, calls: Sequence[Call]) -> list[Answer]:
        """Raises _BatchRefused; Unavailable when the endpoint is silent, or has too much to say."""
        try:
            reply = self._post(b"[" + b",".join(_encoded(number, call) for number, call in enumerate(calls)) + b"]")
        except TooMuch:
            raise
        except (Unavailable, TooLarge) as error:
            raise _BatchRefused(error) from error
        answers = self._in_order(reply, len(calls))
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, RpcError) and not _is_plain(answer) and self._passes_alone(call):
                raise _BatchRefused(Unavailable(f"{self.host} answers an error: {answer.message[:_SHOWN]}"))
        return answers

    def _in_order(self, reply: _Reply | list[_Reply], calls: int) -> list[Answer]:
        if isinstance(reply, _Reply):
            error = self._failure(reply.error) if reply.error is not None else None
            raise _BatchRefused(error or Unavailable(f"{self.host} answers a batch with a single object"))
        found = {each.id: each for each in reply}
        if set(found) != set(range(calls)):
            raise _BatchRefused(Unavailable(f"{self.host} answers {len(found)} of {calls} calls of a batch"))
        return [self._answer(found[number]) for number in range(calls)]

    def _passes_alone(self, call: Call) -> bool:
        try:
            return not isinstance(self._ask_alone(call), RpcError)
        except (Unavailable, TooLarge):
            return False

    def _post(self, body: bytes) -> _Reply | list[_Reply]:
        try:
            answer = self._source.post(body)
        except Rejected as error:
            raise self._refusal(error) from error
        try:
            decoded: _Reply | list[_Reply] = _decode(answer)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{self.host} answers no JSON-RPC: {parsing.shown(answer)}") from error
        self._has_answered = True
        return decoded

    def _answer(self, reply: _Reply) -> Answer:
        if reply.error is not None:
            return reply.error
        if not bytes(reply.result):
            raise Unavailable(f"{self.host} answers neither a result nor an error")
        return bytes(reply.result)

    def _refusal(self, error: Rejected) -> Unavailable | TooLarge:
        """What a status of 4xx means: some providers put a JSON-RPC error into its body.

        A key that has worked before is not wrong because of one refusal: filters and quotas answer the same.
        """
        told = RpcError(0, error.body)
        if error.status == _TOO_LONG_STATUS or _is_too_large(told):
            return TooLarge(error.reason, _numbers(error.body))
        has_wrong_key = error.status in _KEY_STATUSES and not self._has_answered
        return Unavailable(error.reason, retry_after_s=WRONG_KEY_S if has_wrong_key else 0.0)

    def _failure(self, error: RpcError) -> Unavailable | TooLarge:
        reason = f"{self.host} answers an error: {error.message[:_SHOWN] or error.code}"
        if _is_rate_limit(error):
            return Unavailable(reason, retry_after_s=RATE_LIMIT_S)
        return TooLarge(reason, _numbers(error.message)) if _is_too_large(error) else Unavailable(reason)


def _fewer(calls: int) -> int:
    """Half as many; two calls as long as there were more, since two are what the node's place is checked with."""
    return max(2, calls // 2) if calls > 2 else 1  # noqa: PLR2004 - two calls


def _is_plain(error: RpcError) -> bool:
    """Whether its words tell what it is about. A hint that saves a request, no more: other words are tried out."""
    return _is_rate_limit(error) or _is_too_large(error)


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
