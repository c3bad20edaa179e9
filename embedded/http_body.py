"""HTTP bodies: request bodies read in pieces and decompressed, answers compressed."""

import re
import sys
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

import lz4.frame

from embedded import errors

if TYPE_CHECKING:
    from email.message import Message

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1024 * 1024  # a few calls into the engine per insert, and little memory per request
_MAX_LINE_BYTES = 4096
_LENGTH = re.compile(r"[0-9]{1,18}")
# Python's int(…, 16) also accepts signs, underscores and 0x, which a proxy in front may read differently.
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_REFUSED = re.compile(r";\s*q=0(?:\.0*)?\s*$")
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_DETECT_WBITS = 32 + zlib.MAX_WBITS  # gzip or zlib, by its header


class IncompleteBody(Exception):
    """The client went away or lied about the length: nothing of the request may take effect."""


class BadFraming(IncompleteBody):
    """Where the body ends, and the next request begins, is ambiguous: answer 400 and close the connection."""


Headers: TypeAlias = "Message[str, str]"  # names in any case


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


class Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _ZlibDecompressor:
    """zlib's as the other two: it keeps the input that it has not used."""

    def __init__(self) -> None:
        self._raw = zlib.decompressobj(wbits=_DETECT_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._raw.eof

    @property
    def unused_data(self) -> bytes:
        return self._raw.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._raw.decompress(self._raw.unconsumed_tail + data, max_length)
        self.needs_input = len(found) < max_length
        return found


class _Lz4Compressor:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._header: bytes = self._frame.begin()

    def compress(self, data: bytes) -> bytes:
        header, self._header = self._header, b""
        compressed: bytes = self._frame.compress(data)
        return header + compressed

    def flush(self) -> bytes:
        header, self._header = self._header, b""
        compressed: bytes = self._frame.flush()
        return header + compressed


def compressor(encoding: str) -> Compressor:
    """Return the compressor of an encoding that `accepted_encoding` chose."""
    if encoding == "lz4":
        return _Lz4Compressor()
    if encoding == "zstd":
        return zstd.ZstdCompressor(level=1)
    return zlib.compressobj(level=1, wbits=_GZIP_WBITS if encoding == "gzip" else zlib.MAX_WBITS)


def accepted_encoding(header: str) -> str | None:
    """Return the cheapest encoding that an Accept-Encoding header names; None: send the answer as it is."""
    offered = {part.split(";")[0].strip().lower() for part in header.split(",") if not _REFUSED.search(part)}
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in offered), None)


def raw_pieces(source: Readable, headers: Headers) -> Iterator[bytes]:
    """Return the body as it was sent. Raises BadFraming; reading it raises IncompleteBody if it ends early."""
    lengths = [value.strip() for value in headers.get_all("Content-Length", [])]
    encodings = [value.strip().lower() for value in headers.get_all("Transfer-Encoding", [])]
    if len(lengths) + len(encodings) > 1:
        raise BadFraming("the length of the body is given more than once")
    if encodings:
        if encodings != ["chunked"]:
            raise BadFraming(f"Transfer-Encoding: {encodings[0]!r} is not chunked")
        return _chunked_pieces(source)
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise BadFraming(f"Content-Length: {lengths[0]!r} is not a length")
    return _exactly(source, int(lengths[0]) if lengths else 0)


def _exactly(source: Readable, length: int) -> Iterator[bytes]:
    while length:
        piece = source.read(min(length, PIECE_BYTES))
        if not piece:
            raise IncompleteBody(f"the body ended {length} bytes early")
        length -= len(piece)
        yield piece


def _chunked_pieces(source: Readable) -> Iterator[bytes]:
    while size := _chunk_size(source.readline(_MAX_LINE_BYTES)):
        yield from _exactly(source, size)
        if source.readline(_MAX_LINE_BYTES) not in {b"\r\n", b"\n"}:
            raise BadFraming("a chunk is longer than its size")
    while source.readline(_MAX_LINE_BYTES).strip():  # trailers, up to the empty line
        pass


def _chunk_size(line: bytes) -> int:
    if not line:
        raise IncompleteBody("the body ended before its last chunk")
    size = _CHUNK_SIZE.fullmatch(line)
    if size is None:
        raise BadFraming(f"expected the size of a chunk, got {line[:40]!r}")
    return int(size[1], 16)


def decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the content of a body with this Content-Encoding. IncompleteBody: the compressed data ends early."""
    if encoding in {"", "identity"}:
        return pieces
    return _decompressed(pieces, encoding)


def _decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    # Each of the encodings allows several compressed frames one after the other.
    current = _decompressor(encoding)
    untouched = True
    for piece in pieces:
        rest = piece
        while rest:
            if current.eof:
                current = _decompressor(encoding)
            untouched = False
            yield from _outputs(current, rest, encoding)
            rest = (current.unused_data or b"") if current.eof else b""
    if not untouched and not current.eof:
        raise IncompleteBody(f"the {encoding} data ends early")


def _outputs(decompressor: Decompressor, data: bytes, encoding: str) -> Iterator[bytes]:
    """Yield what the data holds, a piece at a time: a few kilobytes can hold gigabytes."""
    yield _decompress(decompressor, data, encoding)
    while not (decompressor.eof or decompressor.needs_input):
        yield _decompress(decompressor, b"", encoding)


def _decompress(decompressor: Decompressor, data: bytes, encoding: str) -> bytes:
    try:
        return decompressor.decompress(data, PIECE_BYTES)
    except (zlib.error, zstd.ZstdError, RuntimeError) as error:  # lz4 raises RuntimeError
        raise errors.refusal("INCORRECT_DATA", f"{encoding} body: {error}") from error


def _decompressor(encoding: str) -> Decompressor:
    if encoding == "lz4":
        decompressor: Decompressor = lz4.frame.LZ4FrameDecompressor()
        return decompressor
    if encoding == "zstd":
        return zstd.ZstdDecompressor()
    if encoding in {"gzip", "deflate"}:
        return _ZlibDecompressor()
    message = f"Content-Encoding {encoding!r}: expected gzip, deflate, lz4 or zstd"
    raise errors.refusal("UNKNOWN_COMPRESSION_METHOD", message)


def coalesced(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of at least PIECE_BYTES, except the last; never an empty one."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting)
