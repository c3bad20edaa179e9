"""Which statements reach the engine: their syntax trees must hold nothing but what is allowed."""

import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from embedded import errors, statement
from embedded.access import allowed
from embedded.access.catalogue import Catalogue, denied, require
from embedded.access.parser import Node, Parser
from embedded.access.syntax import Role, arguments, is_row, text_of, walk

JSON_TYPE_ARGUMENT = "ASTObjectTypeArgument"
INLINE_DATA = "INSERT with inline data"  # parseQueryToJSON's words for it
MAX_REMEMBERED = 1000  # statements that were permitted
MAX_REMEMBERED_BYTES = 10_000
MAX_EXPRESSIONS_BYTES = 1024 * 1024  # of an INSERT's VALUES that are more than numbers and strings
_FILE_KEYS = ("infile", "out_file", "attach_from_path")
NO_INDENT = 1_000_000  # an indentation that no line has
_CHILDREN = re.compile(r" \(children \d+\)$")
_PLAIN_VALUES = re.compile(
    rb"(?:[\s()\[\]{},.:;0-9eE+-]|'(?:[^'\\]|\\.|'')*+'|(?i:NULL|TRUE|FALSE|INF|NAN)(?![\w(`\"]))*+", re.DOTALL
)


class Policy(Protocol):
    """What a connection asks before it executes anything. Its methods raise ClickHouseError when access is denied."""

    def permit(self, sql: bytes, parameters: Mapping[str, str], own_file: str = "") -> None: ...
    def permit_settings(self, names: Iterable[str]) -> None: ...
    def permit_values(self, rows: Path, parameters: Mapping[str, str]) -> None: ...


class Unrestricted:
    """Everything that the engine can do."""

    def permit(self, sql: bytes, parameters: Mapping[str, str], own_file: str = "") -> None:
        pass

    def permit_settings(self, names: Iterable[str]) -> None:
        pass

    def permit_values(self, rows: Path, parameters: Mapping[str, str]) -> None:
        pass


class TablesOnly:
    """Tables of this server and what computes with them; nothing else on this machine or any other."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._catalogue = Catalogue(parser)
        self._permitted: set[bytes] = set()

    def permit(self, sql: bytes, parameters: Mapping[str, str], own_file: str = "") -> None:
        """Check one statement, exactly as the engine will be given it.

        `own_file`: where the rows of an INSERT are, when the endpoint itself has put them there.
        """
        if sql in self._permitted:
            return
        check = _Check(self._parser, self._catalogue, parameters, own_file)
        check.statement(sql)
        if check.holds_for_any_parameters and not own_file and len(sql) <= MAX_REMEMBERED_BYTES:
            self._remember(sql)

    def permit_settings(self, names: Iterable[str]) -> None:
        """Check the names of settings given alongside the statement."""
        for name in names:
            self._catalogue.require_setting(name)

    def permit_values(self, rows: Path, parameters: Mapping[str, str]) -> None:
        """Check the rows of an INSERT in the format Values, in which the engine executes expressions."""
        if not rows.stat().st_size:
            return
        with rows.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _PLAIN_VALUES.fullmatch(data):
                return
            if len(data) > MAX_EXPRESSIONS_BYTES:
                raise denied(f"an expression in VALUES of more than {MAX_EXPRESSIONS_BYTES} bytes")
            text = data[:].rstrip(b"; \t\r\n,")
        self.permit(b"SELECT tuple(\n%s\n)" % text, parameters)

    def _remember(self, sql: bytes) -> None:
        if len(self._permitted) >= MAX_REMEMBERED:
            self._permitted.clear()
        self._permitted.add(sql)


class _Check:
    """The check of one statement."""

    def __init__(self, parser: Parser, catalogue: Catalogue, parameters: Mapping[str, str], own_file: str) -> None:
        self._parser = parser
        self._catalogue = catalogue
        self._parameters = parameters
        self._own_file = own_file
        self.holds_for_any_parameters = True

    def statement(self, sql: bytes) -> None:
        tree = self._parsed(sql)
        if not isinstance(tree, str):
            self._tree(tree)
        elif tree == "DescribeQuery":
            self.statement(_as_select(sql))
        elif tree == JSON_TYPE_ARGUMENT:
            self._with_json_types(sql)
        elif tree.startswith(allowed.STATEMENTS_OF_NAMES):
            self._names_only(tree, sql)
        else:
            raise denied(f"the statement {tree}")

    def _parsed(self, sql: bytes) -> Node | str:
        """Return the statement's tree: see `Parser.tree`. Rows after INSERT … SELECT … FROM input(…) are not in it."""
        try:
            return self._parser.tree(sql)
        except errors.ClickHouseError as error:
            end = statement.format_end(sql) if INLINE_DATA in error.text else 0
            if not end:
                raise
        tree = self._parser.tree(sql[:end])
        # The engine ends the statement at the same place: what follows a format is data.
        if isinstance(tree, str) or str(tree.get("format", "values")).lower() == "values":
            raise denied("rows in the format Values after a SELECT")
        return tree

    def _names_only(self, kind: str, sql: bytes) -> None:
        for line in self._parser.nodes(sql)[1:]:
            if line.split()[:1] != ["Identifier"]:
                raise denied(f"{line.strip()} in {kind}")

    def _with_json_types(self, sql: bytes) -> None:
        """Check a statement with a type such as JSON(a.b UInt8), whose arguments parseQueryToJSON leaves out."""
        plain = statement.without_json_arguments(sql)
        if _outline(self._parser.nodes(sql)) != _outline(self._parser.nodes(plain)):
            raise denied("what stands in parentheses after JSON")
        self.statement(plain)

    def _tree(self, tree: Node) -> None:
        for node, role in walk(tree):
            kind = str(node.get("type", ""))
            if (kind.endswith("Query") or node is tree) and kind not in allowed.STATEMENTS:
                raise denied(f"the statement {kind}")
            self._node(node, role)

    def _node(self, node: Node, role: Role) -> None:
        for key in _FILE_KEYS:
            if node.get(key) and (not self._own_file or text_of(node[key]) != self._own_file):
                raise denied("a file in a statement")
        for change in node.get("changes", ()):
            self._catalogue.require_setting(change["name"])
        if "func_name" in node:  # SELECT * APPLY(name)
            self._catalogue.require_function(node["func_name"])
        if node.get("type") == "Dictionary":
            _permit_dictionary(node)
        if node.get("type") == "Function":
            self._function(node, role)

    def _function(self, node: Node, role: Role) -> None:
        """Check a name with arguments, which is not always a function."""
        name, kind = node["name"], node.get("kind")
        if kind == "TABLE_ENGINE":
            require(name, allowed.TABLE_ENGINES, "the table engine")
        elif kind == "DATABASE_ENGINE":
            require(name, allowed.DATABASE_ENGINES, "the database engine")
        elif role == "table function" or (role == "either" and name.lower() in allowed.TABLE_FUNCTIONS):
            self._table_function(node)
        elif role != "name":
            self._catalogue.require_function(name)
            for argument in arguments(node):
                self._not_a_function(argument)

    def _not_a_function(self, argument: Node) -> None:
        """Check an argument that is a name: `arrayMap(file, paths)` calls the function of that name."""
        if argument["type"] == "Identifier":
            for name in self._names(argument):
                self._catalogue.require_harmless(name)

    def _names(self, identifier: Node) -> list[str]:
        """Return what an identifier may mean: itself, and what parameters put in its place."""
        names = [identifier["name"]]
        for parameter in identifier.get("children", ()):
            self.holds_for_any_parameters = False
            if parameter["name"] not in self._parameters:
                raise denied("an argument whose name is a parameter that is not part of the request")
            names.append(self._parameters[parameter["name"]])
        return names

    def _table_function(self, node: Node) -> None:
        name, given = node["name"].lower(), arguments(node)
        if name not in allowed.TABLE_FUNCTIONS:
            self._catalogue.require_view(node["name"])
        if name == "values":  # only its first argument can be columns
            given = [] if given and is_row(given[0]) else given[:1]
        if name in allowed.TABLE_FUNCTIONS_OF_TEXT:
            for argument in given:
                self._text(argument, name)

    def _text(self, argument: Node, function: str) -> None:
        """Check text that may be columns, whose DEFAULTs are expressions, or the format Values, whose rows are."""
        if argument["type"] not in {"Literal", "Identifier"}:
            raise denied(f"an argument of {function} that is not a literal")
        names = self._names(argument) if argument["type"] == "Identifier" else [text_of(argument)]
        for text in names:
            if text.lower() == "values":
                raise denied(f"the format Values in {function}")
            self._columns(text)

    def _columns(self, text: str) -> None:
        """Check text in case it is a list of columns."""
        sql = f"CREATE TABLE columns ({text}\n) ENGINE = Memory".encode(errors="surrogateescape")
        try:
            self._parser.tree(sql)
        except errors.ClickHouseError:
            return  # the engine can't read it as columns either
        self.statement(sql)


def _permit_dictionary(node: Node) -> None:
    source, layout = node.get("source", {}), node.get("layout", {})
    require(source.get("name", "null"), allowed.DICTIONARY_SOURCES, "the dictionary source")
    require(layout.get("layout_type", "flat"), allowed.DICTIONARY_LAYOUTS, "the dictionary layout")
    for pair in source.get("elements", {}).get("children", ()):
        require(pair["first"], allowed.DICTIONARY_SOURCE_KEYS, "the key of a dictionary source")


def _outline(lines: list[str]) -> list[str]:
    """Return the nodes that EXPLAIN AST shows, without the arguments of JSON types and without counts of children."""
    kept: list[str] = []
    hidden_below = NO_INDENT
    for line in lines:
        indent, words = len(line) - len(line.lstrip()), line.split()
        if indent > hidden_below:
            if words[0] == "Function" and words[1] != "equals":  # max_dynamic_paths = 16
                raise denied(f"{line.strip()} in the type JSON")
        elif words[:1] == [JSON_TYPE_ARGUMENT]:
            hidden_below = indent
            if kept[-1].strip() == "ExpressionList":  # the list of the arguments
                kept.pop()
        else:
            hidden_below = NO_INDENT
            kept.append(_CHILDREN.sub("", line))
    return kept


def _as_select(describe: bytes) -> bytes:
    """Return a SELECT from what a DESCRIBE names: the same grammar follows, and only the SELECT can be serialized."""
    words = statement.tokens(describe)
    next(words)
    second = next(words)
    start = second.end if second.keyword == b"TABLE" else second.start
    return b"SELECT * FROM " + describe[start:]
