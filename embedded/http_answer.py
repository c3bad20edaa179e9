"""Answer: a statement's result with the headers, the compression and the error marks of ClickHouse's HTTP interface."""

import json
import secrets
import string
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from embedded import errors, http_body
from embedded.engine import Statistics
from embedded.http_request import Request

BUFFERED_BYTES = 1024 * 1024  # an answer that is complete by then has exact headers, and errors come before it
COMPRESSED_FROM_BYTES = 1024
_WRITE_BYTES = 1024 * 1024
_TAG_LENGTH = 16
_CONTENT_TYPES = (
    (("tabseparated", "tsv"), "text/tab-separated-values; charset=UTF-8"),
    (("csv",), "text/csv; charset=UTF-8"),
    (("jsoneachrow", "jsonlines", "ndjson", "jsoncompacteachrow"), "application/x-ndjson; charset=UTF-8"),
    (("json",), "application/json; charset=UTF-8"),
    (("native", "rowbinary", "parquet", "arrow", "orc", "avro", "npy"), "application/octet-stream"),
    (("xml",), "application/xml; charset=UTF-8"),
    (("markdown",), "text/markdown; charset=UTF-8"),
)


def content_type(format_name: str) -> str:
    """Return the media type of an output format."""
    lower = format_name.lower()
    return next((kind for prefixes, kind in _CONTENT_TYPES if lower.startswith(prefixes)), "text/plain; charset=UTF-8")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server says about itself in each answer."""

    display_name: str
    timezone: str


class Answer:
    """Sends one result. Up to BUFFERED_BYTES it is sent whole; beyond, in chunks while the engine goes on."""

    def __init__(self, http: BaseHTTPRequestHandler, request: Request, format_name: str, identity: Identity) -> None:
        self._http = http
        self._request = request
        self._format = format_name
        self._identity = identity
        self._started_ns = time.monotonic_ns()

    def send(self, pieces: Iterator[bytes | memoryview], statistics: Statistics) -> None:
        """Send the result. ClickHouseError: nothing has been sent yet, so report it; later errors end the answer."""
        buffered, complete = _first_bytes(pieces)
        if complete:
            self._send_whole(b"".join(buffered), statistics)
        else:
            self._send_chunked(buffered, pieces, statistics)

    def _send_whole(self, data: bytes, statistics: Statistics) -> None:
        encoding = self._encoding() if len(data) >= COMPRESSED_FROM_BYTES else None
        if encoding:
            compressor = http_body.compressor(encoding)
            data = compressor.compress(data) + compressor.flush()
        self._start(encoding, statistics)
        self._http.send_header("Content-Length", str(len(data)))
        self._http.end_headers()
        if self._http.command != "HEAD":
            self._http.wfile.write(data)

    def _send_chunked(
        self, buffered: list[bytes | memoryview], pieces: Iterator[bytes | memoryview], statistics: Statistics
    ) -> None:
        encoding, tag = self._encoding(), _random_tag()
        self._start(encoding, statistics)
        self._http.send_header("Transfer-Encoding", "chunked")
        self._http.send_header("X-ClickHouse-Exception-Tag", tag)
        self._http.end_headers()
        body = _ChunkedBody(self._http, encoding)
        try:
            for piece in _chained(buffered, pieces):
                body.write(piece)
        except errors.ClickHouseError as error:
            self._http.log_error("%s", " ".join(error.text[:300].split()))
            body.write(exception_mark(error.text, tag))
            body.flush()
            self._http.close_connection = True  # without the last chunk: no client takes the answer for complete
            return
        body.finish()

    def _encoding(self) -> str | None:
        if not self._request.allows_compression:
            return None
        return http_body.accepted_encoding(self._http.headers.get("Accept-Encoding", ""))

    def _start(self, encoding: str | None, statistics: Statistics) -> None:
        headers = {
            "Content-Type": content_type(self._format),
            "X-ClickHouse-Server-Display-Name": self._identity.display_name,
            "X-ClickHouse-Query-Id": self._request.query_id or str(uuid.uuid4()),
            "X-ClickHouse-Format": self._format,
            "X-ClickHouse-Timezone": self._identity.timezone,
            "X-ClickHouse-Summary": self._summary(statistics),
        }
        self._http.send_response(HTTPStatus.OK)
        for name, value in (headers | ({"Content-Encoding": encoding} if encoding else {})).items():
            self._http.send_header(name, value)

    def _summary(self, statistics: Statistics) -> str:
        figures = asdict(statistics) | {"elapsed_ns": time.monotonic_ns() - self._started_ns}
        return json.dumps({name: str(value) for name, value in figures.items()})


class _ChunkedBody:
    def __init__(self, http: BaseHTTPRequestHandler, encoding: str | None) -> None:
        self._out = http.wfile
        self._compressor = http_body.compressor(encoding) if encoding else None

    def write(self, piece: bytes | memoryview) -> None:
        for start in range(0, len(piece), _WRITE_BYTES):
            part = piece[start : start + _WRITE_BYTES]
            self._chunk(self._compressor.compress(bytes(part)) if self._compressor else part)

    def flush(self) -> None:
        if self._compressor:
            self._chunk(self._compressor.flush())
        self._out.flush()

    def finish(self) -> None:
        self.flush()
        self._out.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes | memoryview) -> None:
        if len(data):
            self._out.write(b"%x\r\n" % len(data))
            self._out.write(data)
            self._out.write(b"\r\n")


def exception_mark(text: str, tag: str) -> bytes:
    """Return what ends an answer that failed half-way, as ClickHouse 25.11 and later write it.

    Clients find it by the tag of the X-ClickHouse-Exception-Tag header.
    """
    message = text.rstrip().encode() + b"\n"
    mark = tag.encode()
    return b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (mark, message, len(message), mark)


def _random_tag() -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(_TAG_LENGTH))


def _first_bytes(pieces: Iterator[bytes | memoryview]) -> tuple[list[bytes | memoryview], bool]:
    """Take pieces up to BUFFERED_BYTES; the second value tells whether these are all."""
    taken: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size >= BUFFERED_BYTES:
            return taken, False
    return taken, True


def _chained(buffered: list[bytes | memoryview], pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    while buffered:
        yield buffered.pop(0)  # not held any longer than needed
    yield from pieces
