"""Statements as the engine parses them, before it executes any of them."""

import json
import re
import threading
from typing import Any, TypeAlias

from embedded import errors

Node: TypeAlias = dict[str, Any]
MAX_STATEMENT_BYTES = 32 * 1024 * 1024  # quoted, a statement may be twice as long as the endpoint accepts
_SETTINGS = {
    "implicit_select": "0",  # read what the endpoint executes: see engine.py
    "max_query_size": str(MAX_STATEMENT_BYTES),
    "max_ast_depth": "10000",
    "max_ast_elements": "10000000",
    "max_expanded_ast_elements": "10000000",
}
INLINE_DATA = "INSERT with inline data"  # parseQueryToJSON
_NOT_SERIALIZED = re.compile(r"AST node of type '(\w+)[^']*' does not support JSON serialization")
_OWN_WORDS = re.compile(r": In scope SELECT parseQueryToJSON\(.*\. \((\w+)\)", re.DOTALL)


class Parser:
    """Asks the engine, over a connection of its own; may be shared between threads."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._lock = threading.Lock()
        self._raw.query("SET " + ", ".join(f"{name} = '{value}'" for name, value in _SETTINGS.items()), "Null")

    def tree(self, sql: bytes) -> Node | str:
        """Return the syntax tree of one statement, or the type of a statement that the engine can't serialize.

        ClickHouseError: it is not exactly one statement.
        """
        try:
            text = self._ask(b"SELECT parseQueryToJSON(%s)" % _quoted(sql), "TSVRaw")
            found: Node = json.loads(text.decode(errors="surrogateescape"))  # a literal may be any bytes
        except errors.ClickHouseError as error:
            if INLINE_DATA in error.text:  # the engine takes it, and stores nothing
                raise errors.refusal("NOT_IMPLEMENTED", "Rows after INSERT … SELECT: insert them first") from error
            if name := _NOT_SERIALIZED.search(error.text):
                return name[1]
            raise errors.ClickHouseError(error.code, error.name, _OWN_WORDS.sub(r". (\1)", error.text)) from error
        except RecursionError as error:
            raise errors.refusal("TOO_DEEP_AST", "The statement is nested too deeply") from error
        return found

    def canonical(self, sql: bytes) -> bytes:
        """Return a statement as the engine writes it: in one line, strings in single quotes, without comments."""
        return self._ask(b"SELECT formatQuerySingleLine(%s)" % _quoted(sql), "TSVRaw").rstrip(b"\n")

    def rows(self, sql: str) -> list[list[Any]]:
        """Return the rows of a query of our own."""
        return [list(json.loads(line)) for line in self._ask(sql.encode(), "JSONCompactEachRow").splitlines()]

    def _ask(self, sql: bytes, format_name: str) -> bytes:
        try:
            with self._lock:
                answer: bytes = self._raw.query(sql, format_name).bytes()
        except errors.ENGINE_ERRORS as error:
            raise errors.from_engine(error) from error
        return answer


def _quoted(sql: bytes) -> bytes:
    return b"'" + sql.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"
