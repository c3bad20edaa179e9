"""A stand-in for a Redis server that can't start: it answers every command with the reason, for clients to report."""

import socket
import socketserver
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hiredis

POLL_S = 0.5


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, error: bytes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.error = error
        self.timeout = POLL_S
        super().__init__((host, port), _Refusal)


class _Refusal(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        error: bytes = self.server.error  # type: ignore[attr-defined]  # the base class knows no such attribute
        reader = hiredis.Reader()
        with suppress(ConnectionError):
            while data := self.request.recv(65536):
                reader.feed(data)
                try:
                    self.request.sendall(error * _commands(reader))
                except hiredis.ProtocolError:  # a command as a plain line, from a person or a probe
                    self.request.sendall(error)
                    return


def _commands(reader: Any) -> int:
    """How many complete commands have arrived."""
    count = 0
    while reader.gets() is not False:
        count += 1
    return count


def refuse_until(is_over: Callable[[], bool], host: str, port: int, reason: str) -> None:
    """Answer every command with `-MISCONF reason`, which clients wait out, until `is_over`. OSError: no such port."""
    with _Server("127.0.0.1" if host == "localhost" else host, port, f"-MISCONF {reason}\r\n".encode()) as server:
        while not is_over():
            server.handle_request()
