"""Reading a syntax tree: its nodes, and what a name with arguments stands for where it is."""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from embedded.access.parser import Node

# A function; a table function; one of the two; or a name of something else: a codec, a type of index.
Role: TypeAlias = Literal["expression", "table function", "either", "name"]
_TABLE_FUNCTION_KEYS = frozenset({"table_function", "as_table_function"})
_NAME_KEYS = frozenset(
    {"codec", "statistics_desc", "index_type", "projection_type", "recompression_codec", "statistics_decl"}
)
_LISTS_OF_NAMES = frozenset({"CODEC", "STATISTICS"})


def walk(tree: Node) -> Iterator[tuple[Node, Role]]:
    """Yield every node with its role, parents first."""
    waiting: list[tuple[Any, Role]] = [(tree, "expression")]
    while waiting:
        found, role = waiting.pop()
        if isinstance(found, list):
            waiting.extend((each, role) for each in found)
        elif isinstance(found, dict):
            yield found, role
            waiting.extend(_below(found, role))


def _below(node: Node, role: Role) -> Iterator[tuple[Any, Role]]:
    is_function = node.get("type") == "Function"
    for key, value in node.items():
        if is_function and key == "arguments":
            yield from _of_arguments(node, role)
        elif key in _TABLE_FUNCTION_KEYS:
            yield value, "table function"
        elif key in _NAME_KEYS:
            yield value, "name"
        else:
            yield value, "expression"


def _of_arguments(node: Node, role: Role) -> Iterator[tuple[Any, Role]]:
    given = arguments(node)
    if role == "name":
        yield given, "name" if node["name"] in _LISTS_OF_NAMES else "expression"
    elif role in {"table function", "either"}:  # loop(numbers(3))
        yield given, "either"
    elif node["name"].lower().removesuffix("ignoreset").endswith("in"):  # x IN numbers(3)
        yield given[:1], "expression"
        yield given[1:], "either"
    else:
        yield given, "expression"


def arguments(node: Node) -> list[Node]:
    """Return a function's arguments."""
    found: list[Node] = node.get("arguments", {}).get("children", [])
    return found


def is_row(node: Node) -> bool:
    """Return whether an argument is a tuple rather than text."""
    return node.get("name") == "tuple" or (node["type"] == "Literal" and node["value"].get("field_type") == "Tuple")


def text_of(node: Node | str) -> str:
    """Return the text of a literal or an identifier."""
    if isinstance(node, str):
        return node
    return str(node["value"].get("value", "") if node["type"] == "Literal" else node["name"])
