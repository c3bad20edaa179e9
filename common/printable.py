"""Text from outside, made fit for a terminal, a log line or a header. Pure."""

import json


def printable(text: str) -> str:
    """The text in one line, with an escape for every character that a terminal might obey or not show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def as_header(value: str) -> str:
    """The value of a header, as visible ASCII: nothing in it ends the header or fails to be encoded."""
    return printable(value).encode("ascii", "backslashreplace").decode()


def _escaped(char: str) -> str:
    """As JSON writes it, so that JSON remains the same JSON."""
    return json.dumps(char)[1:-1]
