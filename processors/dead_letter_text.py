"""Dead letters as a person and as a program read them: grouped by reason, in full, as lines of JSON. Pure."""

import base64
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from common.dead_letters import DeadLetter
from common.printable import printable

MOST_REASONS = 1000  # groups a table holds; it bounds the memory of a listing
MOST_SHOWN = 160  # characters of a reason in a table
MOST_FOLDED = 500  # characters of a reason that tell it from others
OTHER_REASONS = "(other reasons)"

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+(?:\.\d+)*")


class ReasonGroup:
    """The dead letters of one stream that one party refused for reasons that differ in numbers only."""

    def __init__(self, stream: str, refused_by: str, reason: str, example: DeadLetter) -> None:
        self.stream = stream
        self.refused_by = refused_by
        self.reason = reason  # folded
        self.example = printable(example.reason)
        self.count = 0
        self.oldest_ms = self.newest_ms = milliseconds(example)

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        at = milliseconds(letter)
        self.oldest_ms, self.newest_ms = min(at, self.oldest_ms), max(at, self.newest_ms)

    def as_json(self) -> str:
        return json.dumps(
            {
                "stream": self.stream,
                "count": self.count,
                "oldest": as_time(self.oldest_ms),
                "newest": as_time(self.newest_ms),
                "refused_by": self.refused_by,
                "reason": self.reason,
                "example": self.example,
            }
        )


class ReasonGroups:
    """The dead letters of a stream, grouped as they are read; at most MOST_REASONS groups and one for the rest."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._groups: dict[tuple[str, str], ReasonGroup] = {}

    def add(self, letter: DeadLetter) -> None:
        key = (shortened(printable(refused_by(letter))), fold(letter.reason))
        if key not in self._groups and len(self._groups) >= MOST_REASONS:
            key = ("", OTHER_REASONS)
        if key not in self._groups:
            self._groups[key] = ReasonGroup(self._stream, *key, letter)
        self._groups[key].add(letter)

    def largest_first(self) -> list[ReasonGroup]:
        return sorted(self._groups.values(), key=lambda group: -group.count)


def table(groups: Iterable[ReasonGroup]) -> list[str]:
    """Lines with a heading, in columns."""
    rows = [("count", "oldest", "newest", "refused by", "reason")]
    rows += (
        (str(each.count), as_time(each.oldest_ms), as_time(each.newest_ms), each.refused_by, shortened(each.reason))
        for each in groups
    )
    count, oldest, newest, by, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [f"{row[0]:>{count}}  {row[1]:{oldest}}  {row[2]:{newest}}  {row[3]:{by}}  {row[4]}" for row in rows]


def fold(reason: str) -> str:
    """The reason with N for each number, printable and bounded, so that reasons of one kind become one."""
    return printable(_NUMBER.sub("N", " ".join(reason[:MOST_FOLDED].split())))


def shortened(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def refused_by(letter: DeadLetter) -> str:
    """The consumer group that refused the letter, or the source whose ingester did."""
    return letter.group or letter.source_stream


def milliseconds(letter: DeadLetter) -> int:
    """When Redis took the letter in: Unix milliseconds, of its id."""
    return int(letter.id.split("-", 1)[0])


def as_time(unix_ms: int) -> str:
    """ISO time, UTC, to the second; the number itself where no calendar reaches."""
    try:
        return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{unix_ms} ms"


class Field(NamedTuple):
    """A line of a letter shown in full."""

    name: str
    value: str


def in_full(stream: str, letter: DeadLetter, replay: str) -> list[str]:
    """Every field of a letter, what `replay` would do with it, and below them its bytes."""
    fields = [
        Field("stream", stream),
        Field("at", letter.at),
        Field("reason", letter.reason),
        Field("source stream", letter.source_stream),
        Field("entry id", letter.entry_id),
        Field("group", letter.group),
        Field("attempts", str(letter.attempts)),
        Field("replay", replay),
        Field("data", f"{len(letter.data)} bytes"),
    ]
    lines = [f"  {field.name:13}  {printable(field.value)}".rstrip() for field in fields]
    return [letter.id, *lines, *(f"    {line}" for line in readable(letter.data))]


def readable(data: bytes) -> list[str]:
    """Lines: JSON with every value as it was written, or printable text, or else the bytes as Python writes them."""
    try:
        text = data.decode()
        pretty = msgspec.json.format(data, indent=2).decode()
    except UnicodeDecodeError:
        return [repr(data)]
    except (msgspec.DecodeError, RecursionError):
        return [text] if text and text.isprintable() else [repr(data)]
    return [printable(line) for line in pretty.split("\n")]


def as_json(stream: str, letter: DeadLetter) -> str:
    """The letter in one line of ASCII, to keep: `data` where its bytes are UTF-8, else `data_base64`."""
    fields = {"stream": stream, **letter._asdict()}
    data = fields.pop("data")
    try:
        fields["data"] = data.decode()
    except UnicodeDecodeError:
        fields["data_base64"] = base64.b64encode(data).decode()
    return json.dumps(fields)
