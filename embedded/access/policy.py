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
MAX_REMEMBERED = 1000  # statements that were permitted
MAX_REMEMBERED_BYTES = 10_000
MAX_EXPRESSIONS_BYTES = 1024 * 1024  # of an INSERT's VALUES that are more than numbers and strings
_FILE_KEYS = ("infile", "out_file", "attach_from_path")
_DATABASES = ("database", "from_database", "to_database")
_NAME = rb"(?:`(?:[^`\\]|\\.)*`|\w+)"
# Statements of names as the engine writes them: nothing follows but a format.
_OF_NAMES = re.compile(
    rb"(?:SHOW CREATE|EXISTS|UNDROP|DROP FUNCTION)(?: TEMPORARY)?(?: TABLE| VIEW| DICTIONARY| DATABASE)?(?: IF EXISTS)?"
    rb" %b(?:\.%b)?(?: FORMAT \w+)?|SHOW (?:PROCESSLIST|FUNCTIONS|ENGINES|GRANTS)(?: FORMAT \w+)?" % (_NAME, _NAME),
    re.DOTALL,
)
_JSON_ARGUMENTS = re.compile(rb"\((?:[\w\s.,()=`]|SKIP REGEXP '[^'\\]*')*\)")
# Rows of VALUES are read by another reader than statements. These texts both read alike: no comment, no heredoc, no
# quoted name, and of escapes those that end where they seem to: \x takes the next two characters, whatever they are.
_STRING = rb"'(?:[^'\\]|\\(?:[^x]|x[0-9A-Fa-f]{2})|'')*+'"
_PLAIN_VALUES = re.compile(
    rb"(?:[\s()\[\]{},.:;0-9eE+]|-(?!-)|%b|(?i:NULL|TRUE|FALSE|INF|NAN)(?![\w(`\"$]))*+" % _STRING
)
_PLAIN_EXPRESSIONS = re.compile(rb"(?:[\w\s()\[\]{},.:;+*%%=<>!|?]|-(?!-)|/(?!\*)|%b)*+" % _STRING)


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
            if not _PLAIN_EXPRESSIONS.fullmatch(data):
                raise denied("a comment, a heredoc, a quoted name or an unusual escape beside expressions in VALUES")
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
        self._keeps_parameters = False
        self.holds_for_any_parameters = True

    def statement(self, sql: bytes) -> None:
        tree = self._parser.tree(sql)
        if not isinstance(tree, str):
            self._tree(tree)
        elif tree == "DescribeQuery":
            self.statement(_as_select(self._parser.canonical(sql)))
        elif tree == JSON_TYPE_ARGUMENT:
            self._with_json_types(self._parser.canonical(sql))
        elif not tree.startswith(allowed.STATEMENTS_OF_NAMES) or not _OF_NAMES.fullmatch(self._parser.canonical(sql)):
            raise denied(f"the statement {tree}, or a part of it,")

    def _with_json_types(self, sql: bytes) -> None:
        """Check a statement with a type such as JSON(a.b UInt8), whose arguments parseQueryToJSON leaves out."""
        plain, arguments_of_types = statement.without_json_arguments(sql)
        for text in arguments_of_types:
            if not _JSON_ARGUMENTS.fullmatch(text):
                raise denied("what stands in parentheses after JSON")
            for word in re.findall(r"\w+", text.decode(errors="replace")):
                self._catalogue.require_harmless(word)
        self.statement(plain)

    def _tree(self, tree: Node) -> None:
        # A view keeps its parameters: whoever selects from it chooses the names.
        self._keeps_parameters = bool(tree.get("is_ordinary_view")) or tree["type"] == "AlterQuery"
        for node, role in walk(tree):
            kind = str(node.get("type", ""))
            if (kind.endswith("Query") or node is tree) and kind not in allowed.STATEMENTS:
                raise denied(f"the statement {kind}")
            if kind in allowed.CHANGING and any(
                str(node.get(key)).lower() in allowed.SYSTEM_DATABASES for key in _DATABASES
            ):
                raise denied("a change of the system's own tables")
            self._node(node, role)

    def _node(self, node: Node, role: Role) -> None:
        for key in _FILE_KEYS:
            if node.get(key) and (not self._own_file or text_of(node[key]) != self._own_file):
                raise denied("a file in a statement")
        for change in node.get("changes", ()):
            self._catalogue.require_setting(change["name"])
        if "func_name" in node:  # SELECT * APPLY(name)
            self._catalogue.require_function(node["func_name"])
        match node.get("type"):
            case "Function":
                self._function(node, role)
            case "Dictionary":
                _permit_dictionary(node)
            case "DictionaryAttributeDeclaration" if node.get("expression", {}).get("type") == "Literal":
                raise denied("a dictionary's EXPRESSION as text")
            case "SystemQuery":
                _permit_system_command(node["query_type"])
            case "CreateSQLFunctionQuery":
                self._catalogue.require_free(node["function_name"]["name"])

    def _function(self, node: Node, role: Role) -> None:
        """Check a name with arguments, which is not always a function."""
        name, kind = node["name"], node.get("kind")
        if kind == "TABLE_ENGINE":
            require(name, allowed.TABLE_ENGINES, "the table engine")
        elif kind == "DATABASE_ENGINE":
            require(name, allowed.DATABASE_ENGINES, "the database engine")
        elif role == "table function" or (role == "either" and self._catalogue.has_table_function(name)):
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
            if self._keeps_parameters:
                raise denied("a name as a parameter of a view")
            if parameter["name"] not in self._parameters:
                raise denied("an argument whose name is a parameter that is not part of the request")
            names.append(self._parameters[parameter["name"]])
        return names

    def _table_function(self, node: Node) -> None:
        name, given = node["name"].lower(), arguments(node)
        if name not in allowed.TABLE_FUNCTIONS:
            self._catalogue.require_view(node["name"])
        if name == "format" and given:
            self._format(given[0])
            given = given[1:2] if len(given) == 3 else []  # noqa: PLR2004 - format, columns, data
        if name in allowed.TABLE_FUNCTIONS_OF_TEXT and given and not is_row(given[0]):
            self._columns(given[0], name)

    def _format(self, argument: Node) -> None:
        """Check the name of a format: rows in the format Values are expressions."""
        if argument["type"] not in {"Literal", "Identifier"}:
            raise denied("a format that is not a name")
        names = self._names(argument) if argument["type"] == "Identifier" else [text_of(argument)]
        if any(name.lower() == "values" for name in names):
            raise denied("the format Values in a function")

    def _columns(self, argument: Node, function: str) -> None:
        """Check text that may be columns, whose DEFAULTs are expressions; calling anything takes parentheses."""
        if argument["type"] != "Literal":
            raise denied(f"an argument of {function} that is not a literal")
        text = text_of(argument)
        if "(" not in text:
            return
        try:
            check = _Check(self._parser, self._catalogue, self._parameters, own_file="")
            check.statement(f"CREATE TABLE columns ({text}\n) ENGINE = Memory".encode(errors="surrogateescape"))
        except errors.ClickHouseError as error:
            if error.name == "ACCESS_DENIED":
                raise
            raise denied(f"an argument of {function} that can't be read as columns") from error


def _permit_system_command(name: str) -> None:
    if not (name.startswith("CLEAR_") and name.endswith("_CACHE")):
        require(name, allowed.SYSTEM_COMMANDS, "the command SYSTEM")


def _permit_dictionary(node: Node) -> None:
    source, layout = node.get("source", {}), node.get("layout", {})
    require(source.get("name", "null"), allowed.DICTIONARY_SOURCES, "the dictionary source")
    require(layout.get("layout_type", "flat"), allowed.DICTIONARY_LAYOUTS, "the dictionary layout")
    for pair in source.get("elements", {}).get("children", ()):
        require(pair["first"], allowed.DICTIONARY_SOURCE_KEYS, "the key of a dictionary source")


def _as_select(describe: bytes) -> bytes:
    """Return a SELECT from what a DESCRIBE names: the same grammar follows, and only the SELECT can be serialized."""
    words = statement.tokens(describe)
    next(words)
    second = next(words)
    start = second.end if second.keyword == b"TABLE" else second.start
    return b"SELECT * FROM " + describe[start:]
