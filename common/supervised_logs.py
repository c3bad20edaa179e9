"""Log files under supervisord: one that was deleted is recreated within seconds. supervisord.conf loads this.

supervisord itself keeps writing to the deleted file, which nobody can read, until it gets a SIGUSR2.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.loggers import FileHandler


def watch(supervisord: Any) -> object:
    """The factory that `supervisor.rpcinterface_factory` asks for; the interface that it returns has no methods."""
    events.subscribe(events.Tick5Event, lambda _: recreate(handlers_of(supervisord)))
    return object()


def handlers_of(supervisord: Any) -> Iterator[FileHandler]:
    """The handlers of supervisord's own log, then those of the processes' logs."""
    loggers = [supervisord.options.logger]
    for group in supervisord.process_groups.values():
        for process in group.processes.values():
            loggers += [getattr(dispatcher, "normallog", None) for dispatcher in process.dispatchers.values()]
    for logger in filter(None, loggers):
        yield from (handler for handler in logger.handlers if isinstance(handler, FileHandler))


def recreate(handlers: Iterator[FileHandler]) -> None:
    """Give each handler whose file is gone a new one. One that can't be created is tried again at the next tick."""
    for handler in handlers:
        path = Path(handler.baseFilename)
        if path.exists():
            continue
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open(handler.mode)
            handler.stream, deleted = stream, handler.stream  # never closed before there is another: see doRollover
            deleted.close()
