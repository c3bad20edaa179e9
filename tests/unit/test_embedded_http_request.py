"""What a URL and its headers ask of the embedded ClickHouse."""

import base64
import io
from email.message import Message
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded import errors
from embedded.engine import quoted
from embedded.http_answer import content_type, exception_mark
from embedded.http_request import (
    MAX_HEAD_BYTES,
    Credentials,
    MalformedHead,
    Request,
    form_fields,
    parse_request,
    read_head,
)


def parsed(target: str, **headers: str) -> Request:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return parse_request(target, message)


def test_a_url_carries_query_database_settings_and_parameters() -> None:
    request = parsed("/?query=SELECT+1&database=d&async_insert=0&param_x=a%20b&insert_deduplication_token=t&query_id=q")
    assert (request.query, request.database, request.query_id) == ("SELECT 1", "d", "q")
    assert request.settings == {"async_insert": "0", "insert_deduplication_token": "t"}
    assert request.parameters == {"x": "a b"}


def test_a_parameter_may_have_any_name_that_the_drivers_give() -> None:
    assert parsed("/?param_%24x%24=1&param_a_1=2&param_1=3").parameters == {"$x$": "1", "a_1": "2", "1": "3"}


def test_names_of_the_interface_are_not_settings() -> None:
    request = parsed("/?wait_end_of_query=1&session_id=s&client_protocol_version=54405&send_progress_in_http_headers=1")
    assert request.settings == {}


def test_a_setting_cannot_smuggle_in_sql() -> None:
    with pytest.raises(errors.ClickHouseError) as caught:
        parsed("/?a%3D1%2C%20b=2")
    assert caught.value.code == 115


@pytest.mark.parametrize("name", ["x=1; DROP TABLE t; SET y", "x=1,readonly", "x ", "", "x-y", "x\n"])
def test_a_parameters_name_cannot_smuggle_in_sql(name: str) -> None:
    with pytest.raises(errors.ClickHouseError) as caught:
        parsed("/?" + urlencode({f"param_{name}": "2"}))
    assert (caught.value.code, caught.value.http_status) == (36, 400)


@given(st.text())
def test_a_quoted_value_contains_no_bare_quote(text: str) -> None:
    inner = quoted(text)[1:-1].replace("\\\\", "").replace("\\'", "")
    assert "'" not in inner
    assert "\\" not in inner


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic " + base64.b64encode(b"ann:s:cret").decode()},
        {"X_ClickHouse_User": "ann", "X_ClickHouse_Key": "s:cret"},
    ],
)
def test_credentials_come_from_headers(headers: dict[str, str]) -> None:
    assert parsed("/", **headers).credentials == Credentials("ann", "s:cret")


def test_credentials_come_from_the_url() -> None:
    assert parsed("/?user=ann&password=s%3Acret").credentials == Credentials("ann", "s:cret")


def test_nobody_in_particular_is_the_default_user() -> None:
    assert parsed("/").credentials == Credentials("default", "")


@pytest.mark.parametrize("header", ["Basic !", "Bearer abc", "Bearer YTpi", "", "Basic /w==", "Basic \u00e9"])
def test_credentials_that_cannot_be_read_fail(header: str) -> None:
    with pytest.raises(errors.ClickHouseError) as caught:
        parsed("/", Authorization=header)
    assert (caught.value.code, caught.value.http_status) == (516, 403)


def test_there_is_one_set_of_credentials_and_that_one_counts() -> None:
    """Whoever gives several is known by one of them as a whole, never by a name here and a password there."""
    basic = "Basic " + base64.b64encode(b"ann:basic").decode()
    url = "/?user=bob&password=url"
    assert parsed(url, Authorization=basic).credentials == Credentials("bob", "url")
    assert parsed(url, X_ClickHouse_User="eve", Authorization=basic).credentials == Credentials("eve", "")
    assert parsed(url, X_ClickHouse_Key="key").credentials == Credentials("default", "key")
    assert parsed("/?user=ann", Authorization=basic).credentials == Credentials("ann", "")
    assert parsed("/?user=&password=", Authorization=basic).credentials == Credentials("", "")
    assert parsed("/", Authorization="basic " + base64.b64encode(b":x").decode()).credentials == Credentials(
        "default", "x"
    )


def test_credentials_match_only_as_a_whole() -> None:
    assert Credentials("ann", "x").matches(Credentials("ann", "x"))
    assert not Credentials("ann", "x").matches(Credentials("ann", "y"))
    assert not Credentials("ann", "x").matches(Credentials("bob", "x"))
    assert not Credentials("ann", "x").matches(Credentials("ann\0x", ""))
    assert not Credentials("ann", "x").matches(Credentials("", ""))


def test_a_session_has_a_bounded_time_out() -> None:
    session = parsed("/?session_id=s&session_timeout=99999&session_check=1").session
    assert session is not None
    assert (session.session_id, session.timeout_s, session.must_exist) == ("s", 3600.0, True)


def test_the_native_protocols_compression_is_refused() -> None:
    with pytest.raises(errors.ClickHouseError) as caught:
        parsed("/?decompress=1")
    assert caught.value.http_status == 501


def test_a_form_carries_the_query_and_its_parameters() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {x:String}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="param_x"\r\n\r\n\xc3\xa9\r\n--b--\r\n'
    )
    request = parsed("/?max_threads=1").with_fields(form_fields("multipart/form-data; boundary=b", body))
    assert (request.query, request.parameters) == ("SELECT {x:String}", {"x": "é"})
    assert request.settings == {"max_threads": "1"}


def test_the_engines_words_become_code_name_and_status() -> None:
    error = errors.from_engine(
        RuntimeError("Code: 60. DB::Exception: Unknown table 't'. (UNKNOWN_TABLE) (version 26.9)")
    )
    assert (error.code, error.name, error.http_status) == (60, "UNKNOWN_TABLE", 404)


def test_words_of_the_engine_without_a_code_are_an_error_all_the_same() -> None:
    error = errors.from_engine(RuntimeError("connection closed"))
    assert (error.code, error.http_status) == (1002, 500)
    assert "connection closed" in error.text


@pytest.mark.parametrize(
    ("format_name", "expected"),
    [
        ("TabSeparated", "text/tab-separated-values; charset=UTF-8"),
        ("JSON", "application/json; charset=UTF-8"),
        ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
        ("Native", "application/octet-stream"),
        ("Pretty", "text/plain; charset=UTF-8"),
    ],
)
def test_the_content_type_follows_the_format(format_name: str, expected: str) -> None:
    assert content_type(format_name) == expected


def test_the_mark_of_a_broken_answer_tells_the_length_of_its_message() -> None:
    mark = exception_mark("Code: 1. é", "tag")
    assert mark == b"\r\n__exception__\r\ntag\r\nCode: 1. \xc3\xa9\n12 tag\r\n__exception__\r\n"


def test_the_header_lines_are_read_and_the_body_is_left_alone() -> None:
    source = io.BytesIO(b"Host: a\r\nX-Y: \xe9\tz\r\nEmpty:\n\r\nbody")
    assert read_head(source) == b"Host: a\r\nX-Y: \xe9\tz\r\nEmpty:\n\r\n"
    assert source.read() == b"body"


@pytest.mark.parametrize(
    "line",
    [b"A: b\rOrigin: null", b"A: b\x00", b"A: b\x0b", b"A: b\x7f", b"A : b", b" folded", b"\tfolded", b"no colon",
     b": x", b"A\xe9: b", b"From someone", b"\r", b"A: " + b"x" * MAX_HEAD_BYTES],
)  # fmt: skip
def test_a_line_that_servers_read_differently_is_no_header(line: bytes) -> None:
    with pytest.raises(MalformedHead):
        read_head(io.BytesIO(b"Host: a\r\n" + line + b"\r\nSec-Fetch-Site: cross-site\r\n\r\n"))


@pytest.mark.parametrize("sent", [b"", b"Host: a\r\n", b"Host: a\r\nSec-Fetch-Site: cross-site"])
def test_headers_that_end_early_are_not_taken_for_fewer(sent: bytes) -> None:
    with pytest.raises(MalformedHead):
        read_head(io.BytesIO(sent))
