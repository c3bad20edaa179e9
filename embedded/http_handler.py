"""One HTTP connection of the ClickHouse endpoint: a request in, its statement executed, the answer out."""

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from common import same_origin
from common.printable import as_header
from embedded import errors, http_body, http_request, statement
from embedded.http_answer import Answer
from embedded.limits import Stopping

if TYPE_CHECKING:
    from embedded.clickhouse_server import Endpoint
    from embedded.engine import Connection

IDLE_LIMIT_S = 300.0  # of a kept connection between requests, and of a client that stops in the middle of one
MAX_STATEMENT_BYTES = 16 * 1024 * 1024  # the rows of an INSERT do not count
MAX_DRAINED_BYTES = 1024 * 1024 * 1024
_LOGGED_CHARACTERS = 300
# ClickHouse's clients ignore these. In a browser, they keep a result from running scripts.
_HEADERS = {**same_origin.HEADERS, "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox"}
_log = logging.getLogger("clickhouse_server")


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks of the engine: a statement, and the rows if it is an INSERT that brings them along."""

    request: http_request.Request
    sql: bytes
    insert: statement.Insert | None
    rows: Iterable[bytes]

    @property
    def format_name(self) -> str:
        default = self.request.default_format
        return default if self.insert else statement.format_of(self.sql, default)

    def execute(self, connection: "Connection") -> Generator[bytes | memoryview]:
        """Execute the statement and yield the pieces of its result."""
        if self.insert:
            connection.insert(self.insert, self.rows)
        elif statement.can_stream(self.sql, self.format_name):
            yield from connection.stream(self.sql, self.format_name)
        else:
            yield from connection.query(self.sql, self.format_name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "embedded-clickhouse"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    timeout: ClassVar[float] = IDLE_LIMIT_S
    raw_requestline: bytes
    server: "Endpoint"
    _body: Iterator[bytes] = iter(())

    def parse_request(self) -> bool:
        connection = self.rfile
        self.request_version, self.command = self.protocol_version, ""
        try:
            http_request.check_request_line(self.raw_requestline)
            self.rfile = BytesIO(http_request.read_head(connection))
            return super().parse_request()
        except http_request.MalformedHead as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
            return False
        finally:
            self.rfile = connection

    def do_GET(self) -> None:
        self._respond(may_change=False)

    def do_HEAD(self) -> None:
        self._respond(may_change=False)

    def do_POST(self) -> None:
        self._respond(may_change=True)

    def do_PUT(self) -> None:
        self._respond(may_change=True)

    def _respond(self, *, may_change: bool) -> None:
        try:
            self._body = http_body.raw_pieces(self.rfile, self.headers)
            self._refuse_foreign_pages()
            with self.server.running.one_more():
                self._execute(may_change=may_change)
        except errors.ClickHouseError as error:
            self._report(error)
        except http_body.BadFraming as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        except (http_body.IncompleteBody, ConnectionError, TimeoutError, Stopping) as error:
            self.log_error("request dropped: %r", error)
            self.close_connection = True

    def _execute(self, *, may_change: bool) -> None:
        path = self.path.partition("?")[0]
        if path in {"/ping", "/replicas_status"}:
            self._send_text(HTTPStatus.OK, "Ok.\n")
        elif path != "/":
            self._send_text(HTTPStatus.NOT_FOUND, f"There is no handle {path}\n")
        else:
            self._execute_statement(may_change=may_change)

    def _execute_statement(self, *, may_change: bool) -> None:
        request = http_request.parse_request(self.path, self.headers)
        if not self.server.credentials.matches(request.credentials):
            raise http_request.authentication_failed(request.credentials.user)
        work = self._work(request)
        if work is None:
            self._send_text(HTTPStatus.OK, "Ok.\n")
            return
        if not may_change and (work.insert or not self.server.engine.only_reads(work.sql)):
            raise errors.refusal("READONLY", f"Cannot execute query in readonly mode: {self.command} only reads")
        self._run(work)

    def _refuse_foreign_pages(self) -> None:
        refused = same_origin.refusal(lambda name: self.headers.get_all(name, []), self.server.names)
        if refused:
            self.close_connection = True  # its body may be written to pass for the next request
            raise errors.refusal("AUTHENTICATION_FAILED", refused.reason)

    def _work(self, request: http_request.Request) -> Work | None:
        """Split the request into statement and rows. None: there is no statement."""
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        content = http_body.coalesced(http_body.decompressed(self._body, encoding))
        if self.headers.get_content_type() == "multipart/form-data":
            form = http_request.form_fields(self.headers["Content-Type"], _statement_bytes(b"", content))
            request, content = request.with_fields(form), iter(())
        # As ClickHouse: the statement is the URL's, a line end and the body.
        head = (request.query.encode() + b"\n" if request.query else b"") + next(content, b"")
        insert = statement.insert_of(head)
        if insert:
            return Work(request, insert.sql, insert, _non_empty(chain([head[insert.data_start :]], content)))
        sql = _statement_bytes(head, content)
        return Work(request, sql, None, ()) if sql.strip() else None

    def _run(self, work: Work) -> None:
        with self.server.slots.taken(), self.server.sessions.connection(work.request, work.sql) as connection:
            if work.insert is None:
                connection.permit(work.sql)  # before anything else reads a statement of any length
            answer = Answer(self, work.request, work.format_name, self.server.identity)
            with closing(work.execute(connection)) as pieces:
                answer.send(pieces, connection.statistics)

    def _report(self, error: errors.ClickHouseError) -> None:
        self.log_error("%s", " ".join(error.text[:_LOGGED_CHARACTERS].split()))
        headers = {"X-ClickHouse-Exception-Code": str(error.code)}
        self._send_text(error.http_status, error.text.rstrip() + "\n", headers)

    def _send_text(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self._drain()
        data = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _drain(self) -> None:
        # Most clients read the answer only once they have sent everything.
        left = MAX_DRAINED_BYTES
        try:
            while left > 0 and (piece := next(self._body, b"")):
                left -= len(piece)
        except http_body.IncompleteBody:
            left = 0
        self.close_connection = self.close_connection or left <= 0

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what is not a request, and close the connection: where the next one begins is unknown."""
        self.log_error("refused with %d: %s", code, message)
        self.close_connection = True
        self._body = iter(())
        self._send_text(code, f"{message or HTTPStatus(code).phrase}\n")

    def send_header(self, keyword: str, value: str) -> None:
        super().send_header(keyword, as_header(value))

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def handle_expect_100(self) -> bool:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()  # the client waits for it
        return True

    def version_string(self) -> str:
        return self.server_version

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: there is one line per failure, not per request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        _log.warning("%s: %s", self.client_address[0], format % args)


def _non_empty(pieces: Iterable[bytes]) -> Iterator[bytes]:
    return (piece for piece in pieces if piece)


def _statement_bytes(head: bytes, content: Iterator[bytes]) -> bytes:
    parts = [head]
    left = MAX_STATEMENT_BYTES - len(head)
    for piece in content:
        parts.append(piece)
        left -= len(piece)
        if left < 0:
            raise errors.refusal("QUERY_IS_TOO_LARGE", f"The statement is longer than {MAX_STATEMENT_BYTES} bytes")
    return b"".join(parts)
