"""The order book subgraph on Goldsky, asked with gql.

gql's own transport over requests hides Retry-After and bounds neither the size nor the time of an answer, so a small
one of ours carries the document through `common/http.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from gql import Client, GraphQLRequest
from gql.transport import Transport
from gql.transport.exceptions import TransportQueryError
from graphql import ExecutionResult

from common import parsing
from common.errors import InvalidRecord, PipelineError, Unavailable
from common.http import HttpSource, Rejected
from ingesters.fill_parser import V1, Schema

# What the database behind the subgraph says when a page is too much for it; a smaller one may do.
TOO_MUCH = ("timeout", "timed out", "canceling statement", "too large", "too complex")
_NUMBER_LIMIT = 2**53
_SHOWN = 200  # characters of an error message that a reason repeats

_FILLS = """
query Fills($first: Int!, $where: OrderFilledEvent_filter, $skip: Int = 0) {
  orderFilledEvents(first: $first, skip: $skip, orderBy: timestamp, orderDirection: asc, where: $where) { %s }
}
"""
_META = "query Meta { _meta { block { number timestamp } hasIndexingErrors } }"
# How servers of GraphQL say that they don't know a field, a type or a filter: graphql-js, graph-node, Hasura.
_MISMATCH = (
    "cannot query field",
    "no field",
    "not defined by type",
    "unknown type",
    "unknown field",
    "not found in type",
)
_MISMATCH_S = 60.0  # rest after such a refusal: it takes a person to mend it
_WRONG_KEY_S = 60.0
_KEY_STATUSES = (401, 403)


class PageTooLarge(PipelineError):
    """The source can't answer a page of this size. Ask for half of it."""


class Meta(NamedTuple):
    """What a subgraph says of itself; None where it does not say."""

    block: int | None = None  # the newest one that it has indexed
    timestamp: int | None = None  # Unix seconds of that block
    has_errors: bool = False  # its own data is faulty


class Goldsky:
    """Pages of fills, each fill in its original bytes. An error that comes with a 200 is never an empty page."""

    def __init__(self, source: HttpSource, schema: Schema = V1) -> None:
        self.host = source.host
        self.schema = schema
        self._fills = _FILLS % " ".join(schema.fields)
        self.wait_s = source.wait_s
        self.close = source.close
        self._client = Client(transport=_HttpTransport(source))

    def fills(self, where: Mapping[str, str], first: int, skip: int = 0) -> list[bytes]:
        """Up to `first` fills by time and id, behind the first `skip`. Raises Unavailable, PageTooLarge."""
        skipping = {"skip": skip} if skip else {}
        data = self._ask(self._fills, {"first": first, "where": dict(where), **skipping})
        fills = data.get("orderFilledEvents")
        if not isinstance(fills, list):
            raise Unavailable(f"Goldsky at {self.host} answers without fills")
        return fills

    def meta(self) -> Meta | None:
        """How far the subgraph has indexed; None where it can't answer that, or won't. Raises Unavailable."""
        try:
            data = self._execute(_META, {})
        except TransportQueryError:
            return None
        except Unavailable as error:
            if isinstance(error.__cause__, Rejected) and error.__cause__.status not in _KEY_STATUSES:
                return None
            raise
        return _meta(data.get("_meta"))

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._execute(query, variables)
        except TransportQueryError as error:
            raise self._failure(error) from error

    def _execute(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        return self._client.execute(GraphQLRequest(query, variable_values=variables))

    def _failure(self, error: TransportQueryError) -> PipelineError:
        message = _message(error.errors)
        if any(sign in message.lower() for sign in _MISMATCH):
            doubt = f"the subgraph at {self.host} does not have the fields of GOLDSKY_SCHEMA={self.schema.name}"
            return Unavailable(f"{doubt}: {message}", retry_after_s=_MISMATCH_S)
        if any(sign in message.lower() for sign in TOO_MUCH):
            return PageTooLarge(message)
        return Unavailable(f"Goldsky at {self.host} answers an error: {message}")


def _meta(told: Any) -> Meta:
    """What can be understood of it."""
    if not isinstance(told, dict):
        return Meta()
    block = told.get("block")
    number, timestamp = (block.get("number"), block.get("timestamp")) if isinstance(block, dict) else (None, None)
    return Meta(_whole(number), _whole(timestamp) or None, told.get("hasIndexingErrors") is True)


def _whole(value: Any) -> int | None:
    try:
        return parsing.whole(value, "_meta", "a number", _NUMBER_LIMIT)
    except InvalidRecord:
        return None


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


def _refusal(error: Rejected) -> Unavailable:
    if error.status in _KEY_STATUSES:
        return Unavailable(f"{error.reason}; is GOLDSKY_API_KEY right?", retry_after_s=_WRONG_KEY_S)
    return Unavailable(error.reason)


class _HttpTransport(Transport):
    """Carries a document to the source and its answer back, the fills still undecoded."""

    def __init__(self, source: HttpSource) -> None:
        self._source = source

    def execute(self, request: GraphQLRequest, *_args: Any, **_kwargs: Any) -> ExecutionResult:
        try:
            body = self._source.post(msgspec.json.encode(request.payload))
        except Rejected as error:
            raise _refusal(error) from error
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
