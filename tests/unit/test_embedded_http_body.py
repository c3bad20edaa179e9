"""Bodies of requests, as clients send them and as clients fail to."""

import gzip
import io
import sys
import zlib
from email.message import Message

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded import http_body
from embedded.errors import ClickHouseError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "lz4": lz4.frame.compress, "zstd": zstd.compress}


def headers(**values: str) -> "Message[str, str]":
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def body(sent: bytes, **values: str) -> bytes:
    return b"".join(http_body.raw_pieces(io.BytesIO(sent), headers(**values)))


def decompressed(sent: bytes, encoding: str, piece_size: int = 7) -> bytes:
    pieces = (sent[start : start + piece_size] for start in range(0, len(sent), piece_size))
    return b"".join(http_body.decompressed(pieces, encoding))


def test_a_body_ends_at_its_length() -> None:
    assert body(b"SELECT 1GET / HTTP/1.1", Content_Length="8") == b"SELECT 1"


def test_a_request_without_length_has_no_body() -> None:
    assert body(b"GET / HTTP/1.1") == b""


def test_chunks_are_put_together_and_the_next_request_is_left_alone() -> None:
    source = io.BytesIO(b"3\r\nSEL\r\n5;x=y\r\nECT 1\r\n0\r\nTrailer: 1\r\n\r\nnext")
    assert b"".join(http_body.raw_pieces(source, headers(Transfer_Encoding="chunked"))) == b"SELECT 1"
    assert source.read() == b"next"


@pytest.mark.parametrize(
    ("sent", "values"),
    [
        (b"SELECT", {"Content_Length": "8"}),
        (b"3\r\nSEL\r\n", {"Transfer_Encoding": "chunked"}),
        (b"8\r\nSEL", {"Transfer_Encoding": "chunked"}),
        (b"x\r\n", {"Transfer_Encoding": "chunked"}),
    ],
)
def test_a_body_that_ends_early_is_not_taken_for_a_shorter_one(sent: bytes, values: dict[str, str]) -> None:
    with pytest.raises(http_body.IncompleteBody):
        body(sent, **values)


@pytest.mark.parametrize("length", ["-1", "1x", "", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(http_body.IncompleteBody, match="Content-Length"):
        body(b"SELECT 1", Content_Length=length)


@pytest.mark.parametrize("length", ["+5", "1_0", " ", "0x5", "5, 5", "9" * 5000])
def test_a_length_that_others_may_read_differently_is_refused(length: str) -> None:
    with pytest.raises(http_body.BadFraming, match="Content-Length"):
        body(b"SELECT 1", Content_Length=length)


@pytest.mark.parametrize(
    "given_as",
    [
        [("Content-Length", "8"), ("Content-Length", "8")],
        [("Content-Length", "8"), ("Content-Length", "3")],
        [("Content-Length", "8"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")],
    ],
)
def test_a_body_whose_length_is_given_twice_is_refused(given_as: list[tuple[str, str]]) -> None:
    message = Message()
    for name, value in given_as:
        message[name] = value
    with pytest.raises(http_body.BadFraming, match="more than once"):
        http_body.raw_pieces(io.BytesIO(b"8\r\nSELECT 1\r\n0\r\n\r\n"), message)


@pytest.mark.parametrize("encoding", ["gzip, chunked", "chunked, chunked", "xchunked", "identity", ""])
def test_a_transfer_encoding_other_than_chunked_is_refused(encoding: str) -> None:
    with pytest.raises(http_body.BadFraming, match="Transfer-Encoding"):
        body(b"0\r\n\r\n", Transfer_Encoding=encoding)


@pytest.mark.parametrize(
    "sent",
    [b"-3\r\nSEL", b"+3\r\nSEL", b"0x3\r\nSEL", b"0_3\r\nSEL", b" 3\r\nSEL", b"\r\n", b";\r\n", b"3\rx\nSEL",
     b"3\r\nSELECT\r\n0\r\n\r\n", b"f" * 16 + b"\r\n"],
)  # fmt: skip
def test_a_chunk_that_others_may_read_differently_is_refused(sent: bytes) -> None:
    with pytest.raises(http_body.BadFraming):
        body(sent, Transfer_Encoding="Chunked")


@pytest.mark.parametrize("encoding", ENCODERS)
@given(data=st.binary(max_size=2000), more=st.binary(max_size=50))
def test_compressed_bodies_come_out_as_they_went_in(encoding: str, data: bytes, more: bytes) -> None:
    encode = ENCODERS[encoding]
    assert decompressed(encode(data), encoding) == data
    assert decompressed(encode(data) + encode(more), encoding) == data + more, "two frames, one after the other"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_compressed_data_that_ends_early_is_noticed(encoding: str) -> None:
    sent = ENCODERS[encoding](bytes(range(256)) * 10)
    with pytest.raises(http_body.IncompleteBody):
        decompressed(sent[:-5], encoding)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_is_not_compressed_is_refused(encoding: str) -> None:
    with pytest.raises(ClickHouseError) as caught:
        decompressed(b"SELECT 1 and no compression at all", encoding)
    assert caught.value.code == 117


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ClickHouseError) as caught:
        decompressed(b"SELECT 1", "br")
    assert caught.value.code == 89


@pytest.mark.parametrize("encoding", ENCODERS)
@given(pieces=st.lists(st.binary(max_size=300), max_size=5))
def test_answers_are_compressed_in_the_encoding_that_was_chosen(encoding: str, pieces: list[bytes]) -> None:
    compressor = http_body.compressor(encoding)
    sent = b"".join(compressor.compress(piece) for piece in pieces) + compressor.flush()
    assert decompressed(sent, encoding) == b"".join(pieces)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip, deflate, br", "gzip"),
        ("lz4,zstd,gzip", "lz4"),
        ("zstd;q=1.0, gzip;q=0.5", "zstd"),
        ("gzip;q=0", None),
        ("gzip; q=0.0", None),
        ("identity", None),
        ("", None),
    ],
)
def test_the_cheapest_accepted_encoding_is_used(header: str, expected: str | None) -> None:
    assert http_body.accepted_encoding(header) == expected


@given(st.lists(st.binary(max_size=10)))
def test_coalescing_changes_no_byte(pieces: list[bytes]) -> None:
    coalesced = list(http_body.coalesced(iter(pieces)))
    assert b"".join(coalesced) == b"".join(pieces)
    assert all(coalesced)


def test_small_pieces_reach_the_engine_as_large_ones() -> None:
    pieces = (b"x" * 1000 for _ in range(2500))
    sizes = [len(piece) for piece in http_body.coalesced(pieces)]
    assert sizes == [1_049_000, 1_049_000, 402_000]
