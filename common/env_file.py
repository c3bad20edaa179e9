"""The `.env` file of the directory that a process was started in: its text, and the names in it by line."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import parse_stream

from common.errors import ConfigError

ENV_FILE = Path(".env")
ENCODING = "utf-8-sig"  # UTF-8 with a byte order mark or without


class Line(NamedTuple):
    """A line with content: its number, and the name before its `=`, empty where there is no `=`."""

    number: int
    name: str


def read_text() -> str:
    """The file's text, empty if there is no file. Raises ConfigError, which never quotes the text."""
    try:
        data = ENV_FILE.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f".env: expected a readable file: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise ConfigError(".env: expected text in UTF-8, got UTF-16 or binary data; save the file as UTF-8")
    try:
        return data.decode(ENCODING)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f".env, line {number}: expected text in UTF-8; save the file as UTF-8") from None


def lines(text: str) -> Iterator[Line]:
    """The lines except comments and those that python-dotenv can't parse, which it warns about itself."""
    for binding in parse_stream(io.StringIO(text)):
        if binding.key:
            statement = binding.original.string
            blank = statement[: len(statement) - len(statement.lstrip())].count(
                "\n"
            )  # the parser includes the blank lines before it
            yield Line(binding.original.line + blank, "" if binding.value is None else binding.key)
