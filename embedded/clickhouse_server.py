"""ClickHouse for a machine that has none: the real engine (PyPI package chdb) behind its HTTP interface.

    python -m embedded.clickhouse_server --host 127.0.0.1 --port 8123 --path data/clickhouse

The engine lives in one process per data directory, hence this one server process for all the others.
"""

import argparse
import http.client
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, cast

from common.errors import ConfigError
from common.log_lines import LineFormatter
from common.same_origin import OwnNames, host_names
from embedded import data_directory
from embedded.access.catalogue import SETTING
from embedded.access.confinement import confine
from embedded.engine import Engine
from embedded.exit_codes import EXIT_CONFIG, leave_to_other_server
from embedded.http_answer import Identity
from embedded.http_handler import Handler
from embedded.http_request import Credentials
from embedded.limits import RunningRequests, Slots
from embedded.sessions import Sessions

PROBE_TIMEOUT_S = 2.0
TRUE_WORDS = frozenset({"1", "on", "t", "true", "y", "yes"})  # as the pipeline's settings are read
STATEMENTS_AT_ONCE = 16
STATEMENT_WAIT_LIMIT_S = 30.0
CONNECTIONS_AT_ONCE = 256
STOP_LIMIT_S = 20.0
MAX_MEMORY_BYTES = 4 * 1024**3
MAX_MEMORY_SHARE = 0.6  # of the machine's, where that is less
_log = logging.getLogger("clickhouse_server")


@dataclass(frozen=True)
class ServerSettings:
    host: str
    port: int
    path: Path
    max_memory_bytes: int
    stop_limit_s: float
    credentials: Credentials
    names: OwnNames
    unrestricted: bool  # clients may use the whole engine, with this process' rights


class Endpoint(ThreadingMixIn, TCPServer):
    """The listening socket; one thread per connection, each statement on an engine connection of its own."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, settings: ServerSettings, engine: Engine) -> None:
        self.address_family, address = listening_address(settings.host, settings.port)
        self.engine = engine
        self.sessions = Sessions(engine)
        self.credentials = settings.credentials
        self.names = settings.names
        self.identity = Identity(socket.gethostname(), engine.timezone)
        self.slots = Slots(STATEMENTS_AT_ONCE, STATEMENT_WAIT_LIMIT_S)
        self.running = RunningRequests()
        self._places = threading.BoundedSemaphore(CONNECTIONS_AT_ONCE)
        super().__init__(address, Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return self._places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        error = sys.exception()
        if isinstance(error, (ConnectionError, TimeoutError)):
            _log.warning("%s: connection lost: %s", client_address[0], error)
        else:
            _log.error("%s: request failed", client_address[0], exc_info=True)


def listening_address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Resolve the host; where a name has several addresses, as localhost has, clients try the IPv4 one too."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, cast("tuple[str, int]", address)


def server_answers(host: str, port: int) -> bool:
    """Tell whether a ClickHouse answers there. OSError: something else does, and has to go first."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/ping")
        if connection.getresponse().read(64) == b"Ok.\n":
            return True
    except ConnectionRefusedError:
        return False
    except (ConnectionResetError, http.client.HTTPException) as error:
        raise OSError(f"{host}:{port} is in use by something that does not speak HTTP") from error
    finally:
        connection.close()
    raise OSError(f"{host}:{port} is in use by something that is not ClickHouse")


def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way; a second signal ends the process at once."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread starts, so that sigwait alone receives them
    data_directory.claim(settings.path)
    if not settings.unrestricted and not confine(settings.path.resolve()):
        _log.info("this system has no Landlock: what statements may reach is limited by their check alone")
    engine = Engine(settings.path.resolve(), settings.max_memory_bytes, unrestricted=settings.unrestricted)
    endpoint = Endpoint(settings, engine)
    threading.Thread(target=endpoint.serve_forever, name="accept", daemon=True).start()
    _log.info("serving %s on %s:%d", settings.path, settings.host, settings.port)
    signal.sigwait(signals)
    for each in signals:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    _stop(endpoint, engine, settings.stop_limit_s)


def _stop(endpoint: Endpoint, engine: Engine, limit_s: float) -> None:
    endpoint.shutdown()
    endpoint.server_close()
    if endpoint.running.finish(limit_s):
        endpoint.sessions.close()
        engine.close()
        _log.info("stopped")
    else:
        _log.warning("stopped with requests still running after %.0f s", limit_s)
        logging.shutdown()
        os._exit(0)  # an ordinary exit would wait for the engine, and the engine for them


def memory_limit_bytes() -> int:
    """Return the engine's memory limit for this machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(MAX_MEMORY_BYTES, int(machine * MAX_MEMORY_SHARE))


def parse_arguments(arguments: list[str], environment: Mapping[str, str]) -> ServerSettings:
    parser = argparse.ArgumentParser(prog="embedded.clickhouse_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--path", type=Path, required=True, help="where the tables live")
    parser.add_argument("--max-memory-bytes", type=int, default=memory_limit_bytes())
    parser.add_argument("--stop-limit-s", type=float, default=STOP_LIMIT_S, help="for requests under way at SIGTERM")
    parsed = parser.parse_args(arguments)
    credentials = Credentials(
        environment.get("CLICKHOUSE_USER") or "default", environment.get("CLICKHOUSE_PASSWORD", "")
    )
    allowed_hosts = "CLICKHOUSE_ALLOWED_HOSTS"
    names = OwnNames(parsed.host, host_names(environment.get(allowed_hosts, ""), allowed_hosts), allowed_hosts)
    return ServerSettings(
        host=parsed.host,
        port=parsed.port,
        path=parsed.path,
        max_memory_bytes=parsed.max_memory_bytes,
        stop_limit_s=parsed.stop_limit_s,
        credentials=credentials,
        names=names,
        unrestricted=environment.get(SETTING, "").strip().lower() in TRUE_WORDS,
    )


def main() -> int:
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[console])
    try:
        settings = parse_arguments(sys.argv[1:], os.environ)
        if server_answers(settings.host, settings.port):
            return leave_to_other_server(settings.host, settings.port)
        serve(settings)
    except (OSError, ConfigError, data_directory.DirectoryInUse) as error:
        sys.stderr.write(f"clickhouse_server: {error}\n")
        return EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
