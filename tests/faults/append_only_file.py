"""Redis' append-only file, shortened as by a power cut that took what was written last."""

from pathlib import Path
from typing import NamedTuple


class Mark(NamedTuple):
    """How long the newest file was at some moment."""

    path: Path
    size: int


def mark(redis_folder: Path) -> Mark:
    """Remember this moment. The server writes whole commands, so its file ends between two of them."""
    newest = max((redis_folder / "appendonlydir").glob("*.incr.aof"), key=_number)
    return Mark(newest, newest.stat().st_size)


def written_since(moment: Mark) -> int:
    """Bytes that were written since; 0 when the file was replaced by a newer one meanwhile."""
    newest = mark(moment.path.parent.parent)
    return newest.size - moment.size if newest.path == moment.path else 0


def forget_since(moment: Mark) -> int:
    """Cut off what was written since; returns the bytes. The server must not run.

    A command that was under way at the moment is cut in the middle; the server then drops it when it starts
    (aof-load-truncated), with its whole transaction. 0 when the file was replaced by a newer one meanwhile.
    """
    lost = written_since(moment)
    if lost:
        with moment.path.open("r+b") as file:
            file.truncate(moment.size)
    return lost


def _number(path: Path) -> int:
    """Of appendonly.aof.12.incr.aof: 12."""
    return int(path.name.split(".")[-3])
