"""Statement: what can be read off the SQL text without the engine.

Where an INSERT's data begins, the format that a query asks for, its kind.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

DEFAULT_FORMAT = "TabSeparated"
_TOKEN = re.compile(
    rb"""
      (?P<blank> \s+ | --[^\n]* | \#[\ !][^\n]* | /\*.*?\*/ )
    | (?P<heredoc> \$(?P<tag>[A-Za-z0-9_]*)\$.*?\$(?P=tag)\$ )
    | (?P<quoted> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
    | (?P<word> [A-Za-z0-9_\x80-\xff][A-Za-z0-9_$\x80-\xff]* )
    | (?P<symbol> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_INSERT_DATA_GAP = re.compile(rb"[ \t\f]*\r?\n?")
# Rows of these formats stand for themselves, so one result may be sent as the concatenation of its blocks.
_STREAMED_FORMATS = frozenset({
    "native", "rowbinary", "csv", "tabseparated", "tsv", "tabseparatedraw", "tsvraw", "raw", "lineasstring",
    "jsoneachrow", "jsonlines", "ndjson", "jsonstringseachrow", "jsoncompacteachrow", "jsoncompactstringseachrow",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # quoted, heredoc, word or symbol
    text: bytes
    start: int
    end: int
    depth: int  # of parentheses around it

    @property
    def keyword(self) -> bytes:
        """The word in upper case at the statement's own level; empty for anything else."""
        return self.text.upper() if self.kind == "word" and self.depth == 0 else b""


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT whose rows follow it: the statement without its format clause, the format, and where data begins."""

    sql: bytes
    format: str
    data_start: int
    source_at: int  # where in `sql` a FROM clause goes: at its end, or before its SETTINGS

    def reading_from(self, source: bytes) -> bytes:
        """Return the statement with its rows in a file: `source` is the path as a quoted literal."""
        head, tail = self.sql[: self.source_at].rstrip(), self.sql[self.source_at :]
        return b"%s FROM INFILE %s COMPRESSION 'none' %s FORMAT %s" % (head, source, tail, self.format.encode())


def tokens(sql: bytes) -> Iterator[Token]:
    """Yield the statement's tokens without blanks and comments. Lazy, so data behind an INSERT is never scanned."""
    depth = 0
    for found in _TOKEN.finditer(sql):
        kind, text = str(found.lastgroup), found[0]
        if kind == "blank":
            continue
        depth -= text == b")"
        yield Token(kind, text, found.start(), found.end(), depth)
        depth += text == b"("


def insert_of(sql: bytes) -> Insert | None:
    """Return the INSERT whose data follows in the request; None for every other statement."""
    stream = tokens(sql)
    if next((token.keyword for token in stream), b"") != b"INSERT":
        return None
    previous, settings_at = b"", None
    for token in stream:
        names_a_table = previous in {b"INTO", b"TABLE", b"."}
        if not names_a_table and _reads_its_own_source(token):
            return None
        if not names_a_table and token.keyword == b"SETTINGS":
            settings_at = token.start
        if not names_a_table and token.keyword == b"VALUES":
            return _insert(sql, token, "Values", token.end, settings_at)
        if not names_a_table and token.keyword == b"FORMAT":
            return _insert_with_format(sql, token, next(stream, None), settings_at)
        previous = token.keyword or token.text
    return None


def _reads_its_own_source(token: Token) -> bool:
    return token.kind == "word" and token.text.upper() in {b"SELECT", b"INFILE"}


def _insert_with_format(sql: bytes, clause: Token, name: Token | None, settings_at: int | None) -> Insert | None:
    if name is None or name.kind != "word":
        return None
    if name.text.upper() == b"VALUES":
        return _insert(sql, clause, "Values", name.end, settings_at)
    # As ParserInsertQuery: blanks, then at most one line end, belong to the statement; what follows is data.
    gap = _INSERT_DATA_GAP.match(sql, name.end)
    return _insert(sql, clause, name.text.decode(errors="replace"), gap.end() if gap else name.end, settings_at)


def _insert(sql: bytes, clause: Token, format_name: str, data_start: int, settings_at: int | None) -> Insert:
    return Insert(sql[: clause.start], format_name, data_start, clause.start if settings_at is None else settings_at)


def format_of(sql: bytes, default: str) -> str:
    """Return the format that the query's FORMAT clause names, or the default."""
    words = list(tokens(sql))
    for clause, name, after in zip(words, words[1:], [*words[2:], None], strict=False):
        if clause.keyword == b"FORMAT" and name.kind == "word" and _ends_a_query(after):
            return name.text.decode(errors="replace")
    return default


def without_json_arguments(sql: bytes) -> tuple[bytes, list[bytes]]:
    """Return the statement with JSON in place of JSON(a.b UInt8), and the parentheses that were left out."""
    kept: list[bytes] = []
    cut: list[bytes] = []
    end, words = 0, list(tokens(sql))
    for name, opening in itertools.pairwise(words):
        if name.start >= end and name.text.upper() == b"JSON" and opening.text == b"(":
            kept.append(sql[end : opening.start])
            closing = (word for word in words if word.start > opening.start and word.depth == opening.depth)
            end = next((word.end for word in closing if word.text == b")"), len(sql))
            cut.append(sql[opening.start : end])
    return b"".join([*kept, sql[end:]]), cut


def without_hints(sql: bytes) -> bytes:
    """Return the statement without comments that hold braces: the library obeys some, such as { serverError 47 }."""
    if b"{" not in sql:
        return sql
    return _TOKEN.sub(lambda found: b" " if found.lastgroup == "blank" and b"{" in found[0] else found[0], sql)


def _ends_a_query(token: Token | None) -> bool:
    return token is None or token.text == b";" or token.keyword == b"SETTINGS"


def can_stream(sql: bytes, format_name: str) -> bool:
    """Tell whether the result may be fetched block by block: a plain SELECT in a format of independent rows.

    The engine's streaming fetch leaves out totals.
    """
    if format_name.lower() not in _STREAMED_FORMATS:
        return False
    words = list(tokens(sql))
    first = words[0].text.upper() if words else b""
    return first in {b"SELECT", b"WITH", b"("} and not any(t.text.upper() == b"TOTALS" for t in words)


def leaves_state(sql: bytes) -> bool:
    """Tell whether the statement changes its session for later ones: SET, USE or a temporary table."""
    words = tokens(sql)
    first = next((token.keyword for token in words), b"")
    if first == b"CREATE":
        return any(token.keyword == b"TEMPORARY" for _, token in zip(range(3), words, strict=False))
    return first in {b"SET", b"USE"}
