"""Ends what is left of a run when the process that started it is gone, however it ended.

It reads `+pid` and `-pid` lines from its standard input, which closes when the other side dies, and then kills the
processes that were added and not taken back.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO, Self


class Guard:
    """The guard, as its client sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    def add(self, pid: int) -> None:
        self._say(f"+{pid}")

    def remove(self, pid: int) -> None:
        """Take a process back once it has been waited for: its number may become somebody else's."""
        self._say(f"-{pid}")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, waits for its end


def watch(lines: IO[str]) -> set[int]:
    """Return the processes that are still there when the lines end."""
    pids: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        (pids.add if line[0] == "+" else pids.discard)(pid)
    return pids


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for pid in watch(sys.stdin):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
