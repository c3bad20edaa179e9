"""Ingesters under test: settings and a queue of their own, turned step by step, and an upstream made of a function."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from common.config import Settings
from common.dead_letters import DeadLetter, newest_dead_letters
from common.errors import Unavailable
from common.redis_queue import RedisQueue
from common.runtime import Context, Stage
from tests.servers import ROOT, RedisServer
from tests.waiting import LIMIT_S, wait_until

LOG = logging.getLogger("ingester under test")
MOST_READ = 100_000
WITHOUT_CUTOVER = {"cutover_block": 2**31, "cutover_timestamp": 2**32 - 1}  # a subgraph that has everything


def context_for(redis: RedisServer, **settings: object) -> Context:
    """A context with keys of its own; settings by name, everything else by default."""
    own: dict[str, object] = {"redis_host": redis.host, "redis_port": redis.port, "key_prefix": f"{uuid4().hex}:"}
    own |= {"log_to_file": False, **WITHOUT_CUTOVER}
    effective = Settings.model_validate(Settings(_env_file=None).model_dump() | own | settings)
    return Context(effective, RedisQueue(effective), LOG, lambda: False)


def run_until(stage: Stage, predicate: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> list[Unavailable]:
    """Step until the predicate is true; returns what was unavailable meanwhile, in order."""
    failures: list[Unavailable] = []

    def turn() -> object:
        try:
            stage.step()
        except Unavailable as error:
            failures.append(error)
        return predicate()

    wait_until(turn, what, limit_s)
    return failures


def process(command: list[str], context: Context, folder: Path) -> subprocess.Popen[bytes]:
    """An ingester as its own process, with the context's settings in its environment; its log is `folder`/log."""
    settings = {
        name.upper(): str(value)
        for name, value in context.settings.model_dump().items()
        if isinstance(value, str | int | float)
    }
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log
        )


def published(context: Context, stream: str) -> list[dict[str, Any]]:
    """All records of a stream, in order."""
    entries = context.queue.read_simple(context.queue.keys(stream), b"0", MOST_READ)
    return [json.loads(entry.data) for entry in entries]


def dead_letters(context: Context, stream: str) -> list[DeadLetter]:
    return newest_dead_letters(context.queue, context.queue.keys(stream), MOST_READ)[1]


class Asked(NamedTuple):
    """A request as the scripted upstream got it."""

    path: str
    params: dict[str, list[str]]
    body: bytes
    client_port: int  # tells connections apart
    headers: dict[str, str]  # names in lower case


class Reply(NamedTuple):
    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Iterator[bytes] | None = None  # sent one by one in place of the body, without telling a length


def as_json(value: object, **rest: Any) -> Reply:
    return Reply(json.dumps(value).encode(), **rest)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms for the headers' acknowledgement
    answer: Callable[[Asked], Reply]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _answer(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        told = {name.lower(): value for name, value in self.headers.items()}
        reply = type(self).answer(Asked(parts.path, parse_qs(parts.query), body, self.client_address[1], told))
        headers = dict(reply.headers)
        if reply.pieces is None:
            headers.setdefault("Content-Length", str(len(reply.body)))
        self.close_connection = headers.get("Content-Length") != str(len(reply.body))
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(reply.pieces or iter([reply.body]))

    def _send(self, pieces: Iterator[bytes]) -> None:
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True  # the other side has had enough

    def log_message(self, *_args: object) -> None:
        """Requests are what tests look at, not what they print."""


@contextmanager
def upstream(answer: Callable[[Asked], Reply]) -> Iterator[str]:
    """The address of a server that answers as the function says."""
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
