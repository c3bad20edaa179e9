"""Redis' append-only file, shortened as by a power cut that took what was written last."""

import socket
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


def load_slowly(redis_folder: Path) -> None:
    """Make the server take minutes to load this file, until `finish_loading`. It must not be running.

    The file's own commands slow it down, since CONFIG SET too is executed. It answers others after each 1024 of them.
    """
    path = mark(redis_folder).path
    held = path.read_bytes()
    if _SLOWER not in held:
        path.write_bytes(held + _SLOWER + _command("PING") * 300_000 + _command(*_DELAY, "0"))


def finish_loading(port: int) -> None:
    """Make it load the rest at full speed."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(_command(*_DELAY, "0"))
        assert connection.recv(64) == b"+OK\r\n"


def _command(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)


def _number(path: Path) -> int:
    """Of appendonly.aof.12.incr.aof: 12."""
    return int(path.name.split(".")[-3])


_DELAY = ("CONFIG", "SET", "key-load-delay")
_SLOWER = _command(*_DELAY, "1000")  # microseconds a command
