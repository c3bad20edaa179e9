"""The kernel's share: a process that can open no file but its own data, and run no command (Linux's Landlock).

It holds whatever a statement makes the engine do. See https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
_VERSION_FLAG, _PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38
_OLDEST_VERSION = 3  # of Linux 6.2; older ones forbid to rename between folders, or can't forbid to truncate
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _EVERYTHING = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, (1 << 15) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
# What a library may read while it works. Of the processes, its own alone: others' environments can hold passwords.
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc", "/sys", "/dev", "/run/systemd/resolve", "/nix/store",
           "/proc/self", "/proc/sys", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version")  # fmt: skip


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def is_available() -> bool:
    """Tell whether this system has it, in a version that leaves out nothing we need."""
    return sys.platform == "linux" and _call(_CREATE_RULESET, None, 0, _VERSION_FLAG) >= _OLDEST_VERSION


def confine(data: Path) -> bool:
    """Confine this thread and those that it starts, for good, to the data; tell whether that was possible."""
    if not is_available():
        return False
    handled = ctypes.c_uint64(_EVERYTHING)
    ruleset = _call(_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if ruleset < 0:
        return False
    for path in _readable():
        _allow(ruleset, path, _READ)
    _allow(ruleset, data, _EVERYTHING & ~_EXECUTE)
    _allow(ruleset, Path("/dev/null"), _READ_FILE | _WRITE_FILE)
    libc = ctypes.CDLL(None)
    confined = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and _call(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return confined


def _readable() -> Iterable[Path]:
    """Yield the folders of the system, of Python and of our own packages; the checkout around these may hold `.env`."""
    packages = Path(__file__).resolve().parents[1]
    checkout = packages.parent
    yield from (packages, checkout / "common", Path(sys.prefix), Path(sys.base_prefix))
    yield from (Path(path) for path in _SYSTEM)
    yield from (Path(path) for path in sys.path if path and not _holds(Path(path), checkout))


def _holds(folder: Path, other: Path) -> bool:
    return other.is_relative_to(folder.resolve())


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # there is no such path on this system
    rule = _PathRule(access if path.is_dir() else access & _OF_FILES, descriptor)
    _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    """Return a system call's result; -1 where it fails, as on a kernel without it."""
    result: int = ctypes.CDLL(None).syscall(number, *arguments)
    return result
