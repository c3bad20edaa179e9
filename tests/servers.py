"""Real servers for tests: the embedded ones, each on a free port and a directory of its own."""

import os
import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
FIRST_PORT, PORTS_A_WORKER, WORKERS = 12_000, 2_500, 8
_given: set[int] = set()
_CREDENTIALS = ("REDIS_PASSWORD", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD")


def free_port() -> int:
    """Return a port that nobody used a moment ago: below those of outgoing connections, apart from other workers'."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST_PORT + PORTS_A_WORKER * (worker % WORKERS)
    while True:
        port = random.randrange(first, first + PORTS_A_WORKER)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without its credentials, plus `extra`."""
    return {name: value for name, value in os.environ.items() if name not in _CREDENTIALS} | dict(extra)


class Server(ABC):
    """One server process. Use it as a context manager, or call start() and stop().

    The port stays the same over kill(), stop() and restart(), and so does the data directory.
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self._arguments = arguments
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / f"{type(self).__name__}.log"

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line that starts this server."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server is ready for requests."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "the server was not started"
        return self._process

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def launch(self) -> None:
        """Start the process without waiting for an answer."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command(), *self._arguments], cwd=ROOT, env=environment(self._env), stdout=log, stderr=log
            )

    def start(self) -> Self:
        self.launch()
        try:
            wait_until(self._answers_or_raises, f"{type(self).__name__} answers", START_LIMIT_S)
        except (RuntimeError, TimeoutError):
            self.kill()
            raise
        return self

    def _answers_or_raises(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{type(self).__name__} ended with {self.process.returncode}: {self.log()}")
        return self.answers()

    def kill(self) -> None:
        """End the process at once, as a power cut or the OOM killer would (SIGKILL)."""
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)

    def stop(self) -> int:
        """End the process as a supervisor does (SIGTERM) and return its exit code; calling it again is harmless."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def restart(self) -> None:
        """Start again on the same directory and port, after kill() or stop(); a running server is stopped first."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class RedisServer(Server):
    """The embedded Redis-protocol server."""

    def command(self) -> list[str]:
        where = ["--host", self.host, "--port", str(self.port), "--dir", str(self.directory / "redis")]
        return [sys.executable, "-m", "embedded.redis_server", *where]

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


class ClickHouseServer(Server):
    """The embedded ClickHouse endpoint."""

    def command(self) -> list[str]:
        where = ["--host", self.host, "--port", str(self.port), "--path", str(self.directory / "clickhouse")]
        return [sys.executable, "-m", "embedded.clickhouse_server", *where]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=1) as answer:
                return bool(answer.read() == b"Ok.\n")
        except (OSError, urllib.error.URLError):
            return False

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"
