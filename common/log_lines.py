"""Log lines, `timestamp - component - level - message`: one for each message, whatever its text holds. Pure."""

import logging
import time

from common.printable import printable

_INDENT = "    "


class LineFormatter(logging.Formatter):
    """UTC lines. What is below the message, a traceback, is indented: only a message begins a line with a time.

    Messages quote what sources, clients and servers said, and none of them may write lines of its own into the log or
    steer the terminal that shows it.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        message, *traceback = super().format(record).split("\n")
        return "\n".join([message, *(_INDENT + printable(line) for line in traceback)])
