"""An order book subgraph of either edition: its schema, and the answer to a query."""

from collections.abc import Callable, Collection
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple, cast

from graphql import (
    FieldNode,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLScalarType,
    GraphQLSchema,
    OperationDefinitionNode,
    build_schema,
    execute_sync,
    get_argument_values,
    get_variable_values,
    parse,
    validate,
)

from simulator import selection
from simulator.fills import Fill
from simulator.selection import V1, Edition, Getter, Request, find, meta, select


def _schema_text(edition: Edition) -> str:
    filters = [
        f"{name}{'_' if how else ''}{how}: {f'[{kind}!]' if how.endswith('in') else kind}"
        for name, (kind, _) in edition.fields.items()
        for how in selection.COMPARISONS
    ]
    return f"""
    scalar BigInt
    scalar BigDecimal
    scalar Bytes
    type OrderFilledEvent {{ {" ".join(f"{name}: {kind}!" for name, (kind, _) in edition.fields.items())} }}
    enum OrderFilledEvent_orderBy {{ {" ".join(edition.fields)} }}
    enum OrderDirection {{ asc desc }}
    input OrderFilledEvent_filter {{
      {" ".join(filters)}
      or: [OrderFilledEvent_filter!]
      and: [OrderFilledEvent_filter!]
    }}
    type _Block_ {{ number: Int! timestamp: Int hash: Bytes }}
    type _Meta_ {{ block: _Block_! deployment: String! hasIndexingErrors: Boolean! }}
    type Query {{
      orderFilledEvent(id: ID!): OrderFilledEvent
      orderFilledEvents(
        first: Int = {selection.DEFAULT_FIRST}, skip: Int = 0, orderBy: OrderFilledEvent_orderBy,
        orderDirection: OrderDirection, where: OrderFilledEvent_filter
      ): [OrderFilledEvent!]!
      _meta: _Meta_
    }}
    """


def _parse_big(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise GraphQLError(f"expected a BigInt, got {value!r}")
    try:
        return int(value)
    except ValueError:
        raise GraphQLError(f"expected a BigInt, got {value!r}") from None


def _parse_decimal(value: object) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise GraphQLError(f"expected a BigDecimal, got {value!r}") from None


def _parse_bytes(value: object) -> str:
    if not isinstance(value, str):
        raise GraphQLError(f"expected Bytes, got {value!r}")
    return value.lower()


def _resolve_events(request: Request, info: GraphQLResolveInfo[Any], **arguments: Any) -> list[Fill]:
    fills = request.selected[str(info.path.key)] = select(request, arguments)
    return fills


def _resolve_event(request: Request, info: GraphQLResolveInfo[Any], *, id: str) -> Fill | None:  # noqa: A002 - the schema's name
    fill = find(request, id)
    request.selected[str(info.path.key)] = [] if fill is None else [fill]
    return fill


def _build(edition: Edition) -> GraphQLSchema:
    schema = build_schema(_schema_text(edition))
    big = cast("GraphQLScalarType", schema.type_map["BigInt"])
    big.coerce_output_value, big.coerce_input_value = str, _parse_big
    decimal = cast("GraphQLScalarType", schema.type_map["BigDecimal"])
    decimal.coerce_output_value, decimal.coerce_input_value = str, _parse_decimal
    cast("GraphQLScalarType", schema.type_map["Bytes"]).coerce_input_value = _parse_bytes
    query = schema.query_type
    assert query is not None
    query.fields["orderFilledEvents"].resolve = _resolve_events
    query.fields["orderFilledEvent"].resolve = _resolve_event
    query.fields["_meta"].resolve = lambda request, _info: meta(request.world, request.edition)
    events = cast("Any", schema.type_map["OrderFilledEvent"])
    for name, event_field in events.fields.items():
        event_field.resolve = _reader(edition.getter(name))
    return schema


def _reader(get: Getter) -> Callable[..., Any]:
    return lambda fill, _info: get(fill)


@lru_cache(maxsize=2)
def schema(edition: Edition = V1) -> GraphQLSchema:
    return _build(edition)


class Plain(NamedTuple):
    """A field of a query that needs no executor: fills with plain columns."""

    key: str
    node: FieldNode
    columns: tuple[tuple[str, str], ...]  # key in the answer, wire name


class Plan(NamedTuple):
    document: Any
    errors: list[GraphQLError]
    operation: OperationDefinitionNode | None
    plain: Plain | None  # None: the executor answers


@lru_cache(maxsize=64)
def plan(query: str, edition: Edition = V1) -> Plan:
    """A query, parsed and validated once."""
    try:
        document = parse(query)
    except GraphQLError as error:
        return Plan(None, [error], None, None)
    errors = validate(schema(edition), document)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    operation = operations[0] if len(document.definitions) == 1 and operations else None
    return Plan(document, errors, operation, _plain(operation) if operation and not errors else None)


def _plain(operation: OperationDefinitionNode) -> Plain | None:
    """The one shape worth a short cut: a single list of fills without fragments and directives."""
    nodes = operation.selection_set.selections
    node = nodes[0]
    if len(nodes) != 1 or not _is_plain(node) or not isinstance(node, FieldNode) or operation.directives:
        return None
    if node.name.value != "orderFilledEvents" or node.selection_set is None:
        return None
    columns = node.selection_set.selections
    if not all(_is_plain(column) for column in columns):
        return None
    names = tuple((_key(column), column.name.value) for column in columns if isinstance(column, FieldNode))
    return Plain(_key(node), node, names)


def _is_plain(node: Any) -> bool:
    return isinstance(node, FieldNode) and not node.directives


def _key(node: FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


def answer(request: Request, query: str, variables: dict[str, Any], operation: str | None = None) -> dict[str, Any]:
    """The body of the answer: {"data": …} or {"errors": […]}; never both, like the source."""
    planned = plan(query, request.edition)
    if planned.errors:
        return _failed(planned.errors)
    if planned.plain is None or planned.operation is None:
        return execute(request, query, variables, operation)
    return _short_cut(request, planned.operation, planned.plain, variables)


def execute(request: Request, query: str, variables: dict[str, Any], operation: str | None = None) -> dict[str, Any]:
    """The same through the GraphQL executor, which knows every query but takes nine times as long for a large page."""
    planned = plan(query, request.edition)
    if planned.errors:
        return _failed(planned.errors)
    result = execute_sync(
        schema(request.edition),
        planned.document,
        root_value=request,
        variable_values=variables,
        operation_name=operation,
    )
    return _failed(result.errors) if result.errors else {"data": result.data}


def _short_cut(
    request: Request, operation: OperationDefinitionNode, plain: Plain, variables: dict[str, Any]
) -> dict[str, Any]:
    graph = schema(request.edition)
    values = get_variable_values(graph, operation.variable_definitions or (), variables)
    if isinstance(values, list):
        return _failed(values)
    query_type = graph.query_type
    assert query_type is not None
    try:
        arguments = get_argument_values(query_type.fields["orderFilledEvents"], plain.node, values)
        fills = request.selected[plain.key] = select(request, arguments)
    except GraphQLError as error:
        return _failed([error])
    columns = [(key, request.edition.getter(name)) for key, name in plain.columns]
    return {"data": {plain.key: [{key: str(get(fill)) for key, get in columns} for fill in fills]}}


def _failed(errors: Collection[GraphQLError]) -> dict[str, Any]:
    return {"errors": [{"message": error.message} for error in errors]}
