"""The file `.env` of the folder in which a process was started: its text, and where which name stands in it."""

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
    """A line that says something: its number, and the name before its `=`; no name where there is no `=`."""

    number: int
    name: str


def read_text() -> str:
    """Its text, empty where there is no file. Raises ConfigError, which never repeats what stands in it."""
    try:
        data = ENV_FILE.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f".env: expected a file that can be read: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise ConfigError(".env: expected text in UTF-8, got UTF-16 or no text; save the file as UTF-8")
    try:
        return data.decode(ENCODING)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f".env, line {number}: expected text in UTF-8; save the file as UTF-8") from None


def lines(text: str) -> Iterator[Line]:
    """Its lines but for comments, and for those that python-dotenv can't read and warns of itself."""
    for binding in parse_stream(io.StringIO(text)):
        if binding.key:
            statement = binding.original.string
            blank = statement[: len(statement) - len(statement.lstrip())].count("\n")  # the parser counts them to it
            yield Line(binding.original.line + blank, "" if binding.value is None else binding.key)
