"""Data directory: made for its server and held by one process at a time."""

import fcntl
import os
from pathlib import Path


class DirectoryInUse(Exception):
    """Another process serves this directory: do not start a second server on it."""


def claim(directory: Path) -> int:
    """Create the directory, lock it for the life of this process and return the lock's descriptor.

    A record lock (lockf) outlives execve, is not inherited by forked children and ends with the process however that
    ends, so nothing has to be cleaned up after a kill -9.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)  # also one that an older version, or a person, made readable for others
    descriptor = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DirectoryInUse(f"{directory}: another process serves this directory") from error
    return descriptor
