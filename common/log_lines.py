"""Log lines, `timestamp - component - level - message`: one per message, whatever its text contains. Pure."""

import logging
import time

from common.printable import printable

_INDENT = "    "


class LineFormatter(logging.Formatter):
    """UTC lines. A traceback below a message is indented, so that only messages begin with a timestamp.

    Messages quote sources, clients and servers, none of which may forge lines in the log or control the terminal that
    shows it.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        message, *traceback = super().format(record).split("\n")
        return "\n".join([message, *(_INDENT + printable(line) for line in traceback)])
