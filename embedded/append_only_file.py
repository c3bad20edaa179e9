"""The server's append-only file: finding and repairing a damaged end, with the server binary's own checker.

Valkey itself drops an end that was cut off (aof-load-truncated). Anything else that it can't read, such as the zeros
that a power cut can leave, keeps it from starting. The checker takes some 4 s per GB, so a file is checked only if it
has not grown since the last start, which may have failed on it.
"""

import mmap
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

CHECKER = "valkey-check-aof"  # what the server binary becomes when it is started under this name
_NEWEST = re.compile(rb"file (\S+) seq \d+ type i\s*\Z")
_READABLE = re.compile(rb"ok_up_to=(\d+)")


class Damage(NamedTuple):
    """A file whose end can't be read."""

    path: Path
    size: int
    readable: int  # bytes from the start

    def __str__(self) -> str:
        lost = self.size - self.readable
        return f"the append-only file {self.path} is damaged: its last {lost:,} of {self.size:,} bytes can't be read"


def damage_after_failed_start(directory: Path, binary: str) -> Damage | None:
    """What keeps the server from starting, if the file has not grown since the last start. Notes this start."""
    path = newest_file(directory)
    if path is None:
        return None
    state = f"{path.name} {path.stat().st_size}"
    note = directory / "last_start"
    known = note.read_text() if note.exists() else ""
    note.write_text(state)
    return find_damage(path, binary) if state == known else None


def newest_file(directory: Path) -> Path | None:
    """The file that the server appends to; None before its first start.

    The checker gets it without the manifest: Valkey 9.1's takes the base file, which begins with VALKEY, for commands.
    """
    folder = directory / "appendonlydir"
    try:
        found = _NEWEST.search((folder / "appendonly.aof.manifest").read_bytes())
    except FileNotFoundError:
        return None
    path = folder / os.fsdecode(found[1]) if found else None
    return path if path and path.exists() else None


def find_damage(path: Path, binary: str) -> Damage | None:
    """The damage of a file that the server refuses; None for one that it reads or repairs itself."""
    checked = subprocess.run([CHECKER, path], executable=binary, capture_output=True, check=False)  # noqa: S603
    readable = _READABLE.search(checked.stdout + checked.stderr)
    size = path.stat().st_size
    if readable is None or int(readable[1]) == size or _is_cut_off(path, int(readable[1])):
        return None
    return Damage(path, size, int(readable[1]))


def _is_cut_off(path: Path, start: int) -> bool:
    """Whether `start` begins commands that the end of the file cuts off."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            while True:
                count, start = _number(data, start, b"*")
                for _ in range(count):
                    length, start = _number(data, start, b"$")
                    start = _end_of_line(data, start + length)
        except EOFError:
            return True
        except ValueError:
            return False


def _number(data: mmap.mmap, start: int, kind: bytes) -> tuple[int, int]:
    """The number of a line such as `*3`, and where the next begins. EOFError: cut off; ValueError: no such line."""
    line = data[start : start + 32]
    found = re.match(re.escape(kind) + rb"(\d+)\r\n", line)
    if found:
        return int(found[1]), start + found.end()
    if len(line) < 32 and re.fullmatch(rb"|" + re.escape(kind) + rb"\d*\r?", line):  # noqa: PLR2004 - to the end
        raise EOFError
    raise ValueError


def _end_of_line(data: mmap.mmap, start: int) -> int:
    mark = data[start : start + 2]
    if mark == b"\r\n":
        return start + 2
    if len(mark) < 2 and mark in b"\r":  # noqa: PLR2004 - the two bytes of a line's end
        raise EOFError
    raise ValueError


def repair(damage: Damage, binary: str) -> Path:
    """Cut off what can't be read; returns the copy of the whole file, made first. The server must not be running.

    OSError: no room for the copy, or the checker refuses; the file is unchanged.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = damage.path.parent.parent / f"{damage.path.name}.damaged-{stamp}"
    shutil.copy2(damage.path, kept)
    with kept.open("rb") as copy:
        os.fsync(copy.fileno())
    command = [CHECKER, "--fix", str(damage.path)]
    fixed = subprocess.run(command, executable=binary, input=b"y\n", capture_output=True, check=False)  # noqa: S603
    if fixed.returncode != 0:
        raise OSError(f"{CHECKER}: {(fixed.stdout + fixed.stderr).decode(errors='replace').strip()}")
    return kept
