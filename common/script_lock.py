"""One ./start.sh or ./stop.sh at a time: the lock that they hold. Runs with any Python, before there is a .venv.

    python -m common.script_lock wait FD WHY    waits for the lock on the file open as FD; prints WHY if it is held
    python -m common.script_lock start FD       the same for ./start.sh; writes its process group to the file
    python -m common.script_lock stop FD        the same for ./stop.sh; ends each ./start.sh that holds it

The lock belongs to the open file, and so to the shell that has opened it and to every process that it starts; it ends
with the last of them, however that ends. Processes that live on have to be started with FD closed.

Exit codes: 0 locked, 1 still held at the limit, 3 ./stop.sh ended a start that was waiting.
"""

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress

LOCKED, STILL_HELD, ENDED = 0, 1, 3
STOP_LIMIT_S = 660.0  # longer than another ./stop.sh may take
POLL_S = 0.2


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(descriptor: int) -> str:
    """The note of the lock's last holder: `start` or `stop`, and its process group."""
    return os.pread(descriptor, 100, 0).decode(errors="replace")


def note(descriptor: int, what: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{what} {os.getpgrp()}".encode(), 0)


def wait(descriptor: int, why: str) -> None:
    if not try_lock(descriptor):
        say(why)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def start(descriptor: int) -> int:
    if not try_lock(descriptor):
        before = holder(descriptor)
        say(f"Another ./start.sh or ./stop.sh is under way ({before}); waiting for it to end.")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = holder(descriptor)
        if found != before and found.startswith("stop "):
            return ENDED
    note(descriptor, "start")
    return LOCKED


def stop(descriptor: int) -> int:
    """End starts that are under way, and wait for another stop."""
    deadline = time.monotonic() + STOP_LIMIT_S
    before = ""
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            return STILL_HELD
        before = _end_start(holder(descriptor), before)
        time.sleep(POLL_S)
    note(descriptor, "stop")
    return LOCKED


def _end_start(found: str, before: str) -> str:
    """SIGTERM the start that holds the lock, once its note was seen twice: a new holder writes its own a bit later."""
    what, _, group = found.partition(" ")
    if found == before and what == "start" and group.isdecimal():
        with suppress(ProcessLookupError):
            os.killpg(int(group), signal.SIGTERM)
    elif what == "start":
        say("A ./start.sh is under way; ending it.")
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    what, descriptor = arguments[0], int(arguments[1])
    if what == "wait":
        wait(descriptor, arguments[2])
        return LOCKED
    return start(descriptor) if what == "start" else stop(descriptor)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
