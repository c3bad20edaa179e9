"""Where log lines go: to the console and into rotating files."""

import logging
import os
import sys
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from common.config import Settings
from common.log_lines import LineFormatter

MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 5


class LogFile(RotatingFileHandler):
    """A rotating file that is recreated after somebody has deleted it or moved it away."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._follow_path()
        except OSError:
            self.handleError(record)
        super().emit(record)

    def _follow_path(self) -> None:
        path = Path(self.baseFilename)
        with suppress(FileNotFoundError):
            if self.stream is None or os.path.samestat(os.fstat(self.stream.fileno()), path.stat()):
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = self._open()
        self.stream, replaced = stream, self.stream
        replaced.close()


def setup_logging(component: str, settings: Settings) -> logging.Logger:
    """The component's logger, writing UTC lines to stdout and, unless switched off, to `<log_dir>/<component>.log`.

    Libraries' warnings and errors go to stderr in the same format.
    """
    formatter = LineFormatter()
    if logging.lastResort:
        logging.lastResort.setFormatter(formatter)
    logger = logging.getLogger(component)
    logger.setLevel(settings.log_level)
    logger.propagate = False
    logger.handlers.clear()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if settings.log_to_file:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        path = settings.log_dir / f"{component}.log"
        handlers.append(LogFile(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger
