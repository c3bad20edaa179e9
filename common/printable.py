"""Text from outside, made safe for a terminal, a log line or a header. Pure."""

import json


def printable(text: str) -> str:
    """The text on one line, with every character escaped that a terminal might obey or not show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def as_header(value: str) -> str:
    """A header's value as visible ASCII: nothing in it ends the header or fails to encode."""
    return printable(value).encode("ascii", "backslashreplace").decode()


def _escaped(char: str) -> str:
    """As JSON writes it, so that JSON remains the same JSON."""
    return json.dumps(char)[1:-1]
