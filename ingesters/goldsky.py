"""The order book subgraph on Goldsky, asked with gql.

gql's own transport over requests hides Retry-After and bounds neither the size nor the time of an answer, so a small
one of ours carries the document through `common/http.py`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from gql import Client, GraphQLRequest
from gql.transport import Transport
from gql.transport.exceptions import TransportQueryError
from graphql import ExecutionResult

from common import parsing
from common.errors import InvalidRecord, PipelineError, Unavailable
from common.http import HttpSource, Rejected

# What the database behind the subgraph says when a page is too much for it; a smaller one may do.
TOO_MUCH = ("timeout", "timed out", "canceling statement", "too large", "too complex")
_SHOWN = 200  # characters of an error message that a reason repeats

_FILLS = """
query Fills($first: Int!, $where: OrderFilledEvent_filter) {
  orderFilledEvents(first: $first, orderBy: timestamp, orderDirection: asc, where: $where) {
    id
    transactionHash
    timestamp
    orderHash
    maker
    taker
    makerAssetId
    takerAssetId
    makerAmountFilled
    takerAmountFilled
    fee
  }
}
"""
_META = "query Meta { _meta { block { number } hasIndexingErrors } }"


class PageTooLarge(PipelineError):
    """The source can't answer a page of this size. Ask for half of it."""


class Goldsky:
    """Pages of fills, each fill in its original bytes. An error that comes with a 200 is never an empty page."""

    def __init__(self, source: HttpSource) -> None:
        self.host = source.host
        self.wait_s = source.wait_s
        self.close = source.close
        self._client = Client(transport=_HttpTransport(source))

    def fills(self, where: Mapping[str, str], first: int) -> list[bytes]:
        """Up to `first` fills in the order of time and id. Raises Unavailable, PageTooLarge."""
        data = self._ask(_FILLS, {"first": first, "where": dict(where)})
        fills = data.get("orderFilledEvents")
        if not isinstance(fills, list):
            raise Unavailable(f"Goldsky at {self.host} answers without fills")
        return fills

    def has_indexing_errors(self) -> bool:
        """Whether the subgraph says that its own data is faulty. Raises Unavailable."""
        meta = self._ask(_META, {}).get("_meta")
        return isinstance(meta, dict) and meta.get("hasIndexingErrors") is True

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._client.execute(GraphQLRequest(query, variable_values=variables))
        except TransportQueryError as error:
            raise self._failure(error) from error

    def _failure(self, error: TransportQueryError) -> PipelineError:
        message = _message(error.errors)
        if any(sign in message.lower() for sign in TOO_MUCH):
            return PageTooLarge(message)
        return Unavailable(f"Goldsky at {self.host} answers an error: {message}")


def _message(errors: Any) -> str:
    first = errors[0] if isinstance(errors, list) and errors else errors
    message = first.get("message") if isinstance(first, dict) else first
    return str(message)[:_SHOWN]


class _Data(msgspec.Struct):
    orderFilledEvents: list[msgspec.Raw] | None = None  # noqa: N815 - the source's name
    meta: Any = msgspec.field(default=None, name="_meta")


class _Answer(msgspec.Struct):
    data: _Data | None = None
    errors: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class _HttpTransport(Transport):
    """Carries a document to the source and its answer back, the fills still undecoded."""

    def __init__(self, source: HttpSource) -> None:
        self._source = source

    def execute(self, request: GraphQLRequest, *_args: Any, **_kwargs: Any) -> ExecutionResult:
        try:
            body = self._source.post(msgspec.json.encode(request.payload))
        except Rejected as error:
            raise Unavailable(error.reason) from error
        try:
            answer, fills = _taken_apart(body)
        except (ValueError, RecursionError, InvalidRecord) as error:
            raise Unavailable(f"Goldsky at {self._source.host} answers no GraphQL: {parsing.shown(body)}") from error
        if answer.data is None and not answer.errors:
            raise Unavailable(f"Goldsky at {self._source.host} answers neither data nor errors")
        meta = None if answer.data is None else answer.data.meta
        return ExecutionResult(data={"orderFilledEvents": fills, "_meta": meta}, errors=answer.errors or None)

    def connect(self) -> None:
        """Connections are the source's business."""

    def close(self) -> None:
        """They are kept from one request to the next."""


def _taken_apart(body: bytes) -> tuple[_Answer, list[bytes] | None]:
    try:
        answer = _decode(body)
    except msgspec.ValidationError:
        raise
    except ValueError:
        # Malformed as a whole, or just one fill of it: then the others are still good.
        fills, rest = parsing.split_records(body, "orderFilledEvents")
        return _decode(rest), fills
    fills_raw = None if answer.data is None else answer.data.orderFilledEvents
    return answer, None if fills_raw is None else [bytes(fill) for fill in fills_raw]
