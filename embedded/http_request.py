"""Request: what a URL and its headers say, in the terms of ClickHouse's HTTP interface."""

import base64
import hmac
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl, urlsplit

from embedded import errors
from embedded.http_body import Headers, Readable
from embedded.statement import DEFAULT_FORMAT

DEFAULT_SESSION_TIMEOUT_S = 60.0
MAX_SESSION_TIMEOUT_S = 3600.0
PARAMETER_PREFIX = "param_"
# Names of the HTTP interface itself; every other name is a setting. The ones without a meaning here (quota_key, role,
# buffer_size, wait_end_of_query, ...) are accepted and do nothing.
_INTERFACE_NAMES = frozenset({
    "query", "database", "default_format", "query_id", "user", "password", "quota_key", "role",
    "session_id", "session_timeout", "session_check", "close_session",
    "compress", "decompress", "enable_http_compression", "client_protocol_version",
    "wait_end_of_query", "buffer_size", "stacktrace",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms",
})  # fmt: skip
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9_$]+")
_REQUEST_LINE = re.compile(rb"[A-Z]+ [\x21-\x7e\x80-\xff]+ HTTP/\d\.\d\r?\n")
MAX_HEAD_BYTES = 256 * 1024
# RFC 9112: no blank before the colon, no folded line, no control character, no bare CR.
_HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r?\n")


class MalformedHead(Exception):
    """The header lines are invalid, or servers read them differently: answer 400 and close the connection."""


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str = "default"
    password: str = ""

    def matches(self, other: "Credentials") -> bool:
        mine, others = f"{self.user}\0{self.password}", f"{other.user}\0{other.password}"
        return hmac.compare_digest(mine.encode(), others.encode())


@dataclass(frozen=True, slots=True)
class Session:
    session_id: str
    timeout_s: float
    must_exist: bool


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    query: str
    database: str
    default_format: str
    query_id: str
    settings: dict[str, str]
    parameters: dict[str, str]  # name without prefix → value in the engine's escaped text form
    session: Session | None
    credentials: Credentials
    allows_compression: bool

    def with_fields(self, fields: Mapping[str, str]) -> "Request":
        """Return the request with the fields of a multipart form added, as if the URL had carried them."""
        return replace(
            self,
            query=fields.get("query", self.query),
            settings=self.settings | _settings(fields),
            parameters=self.parameters | _parameters(fields),
        )


def check_request_line(line: bytes) -> None:
    """Check the first line before more is read: a client of another protocol may send no more. Raises MalformedHead."""
    if not _REQUEST_LINE.fullmatch(line):
        raise MalformedHead(f"Not a request line: {line[:40]!r}")


def read_head(source: Readable) -> bytes:
    """Read the header lines, up to and including the empty one. MalformedHead: anything else comes before it."""
    lines: list[bytes] = []
    left = MAX_HEAD_BYTES
    while (line := source.readline(left + 1)) not in {b"\r\n", b"\n"}:
        left -= len(line)
        if left < 0:
            raise MalformedHead(f"The headers are longer than {MAX_HEAD_BYTES} bytes")
        if not _HEADER_LINE.fullmatch(line):
            raise MalformedHead(f"Not a header line: {line[:40]!r}")
        lines.append(line)
    return b"".join(lines) + line


def parse_request(target: str, headers: Headers) -> Request:
    """Read a request's target and headers. ClickHouseError: they contradict the interface."""
    url = urlsplit(target)
    given = dict(parse_qsl(url.query, keep_blank_values=True))
    _refuse_native_compression(given)
    return Request(
        path=url.path,
        query=given.get("query", ""),
        database=given.get("database") or headers.get("X-ClickHouse-Database") or "",
        default_format=given.get("default_format") or headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT,
        query_id=given.get("query_id", ""),
        settings=_settings(given),
        parameters=_parameters(given),
        session=_session(given),
        credentials=_credentials(given, headers),
        allows_compression=given.get("enable_http_compression", "1") not in {"0", "false"},
    )


def _refuse_native_compression(given: Mapping[str, str]) -> None:
    for name in ("compress", "decompress"):
        if given.get(name, "0") not in {"0", "false", ""}:
            message = f"{name}=1, the native protocol's compression: use Content-Encoding and Accept-Encoding"
            raise errors.refusal("NOT_IMPLEMENTED", message)


def _settings(given: Mapping[str, str]) -> dict[str, str]:
    settings = {
        name: value
        for name, value in given.items()
        if name not in _INTERFACE_NAMES and not name.startswith(PARAMETER_PREFIX)
    }
    for name in settings:
        if not _SETTING_NAME.fullmatch(name):
            raise errors.refusal("UNKNOWN_SETTING", f"Unknown setting {name!r}")
    return settings


def _parameters(given: Mapping[str, str]) -> dict[str, str]:
    parameters = {
        name.removeprefix(PARAMETER_PREFIX): value for name, value in given.items() if name.startswith(PARAMETER_PREFIX)
    }
    for name in parameters:  # they become part of a SET, as settings do
        if not _PARAMETER_NAME.fullmatch(name):
            raise errors.refusal("BAD_ARGUMENTS", f"{PARAMETER_PREFIX}{name!r} is not the name of a parameter")
    return parameters


def _session(given: Mapping[str, str]) -> Session | None:
    if not given.get("session_id"):
        return None
    try:
        timeout_s = float(given.get("session_timeout", DEFAULT_SESSION_TIMEOUT_S))
    except ValueError as error:
        raise errors.refusal("BAD_ARGUMENTS", "session_timeout: expected seconds") from error
    if math.isnan(timeout_s):
        raise errors.refusal("BAD_ARGUMENTS", "session_timeout: expected seconds")
    return Session(given["session_id"], min(timeout_s, MAX_SESSION_TIMEOUT_S), given.get("session_check") == "1")


def _credentials(given: Mapping[str, str], headers: Headers) -> Credentials:
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        return Credentials(headers.get("X-ClickHouse-User", "default"), headers.get("X-ClickHouse-Key", ""))
    if "user" in given or "password" in given:
        return Credentials(given.get("user", "default"), given.get("password", ""))
    if "Authorization" in headers:
        return _basic_credentials(headers["Authorization"])
    return Credentials()


def _basic_credentials(header: str) -> Credentials:
    scheme, _, encoded = header.partition(" ")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError as error:  # not base64, or not UTF-8
        raise authentication_failed("unknown") from error
    if scheme.lower() != "basic":
        raise authentication_failed("unknown")
    return Credentials(user or "default", password)


def authentication_failed(user: str) -> errors.ClickHouseError:
    message = f"{user}: Authentication failed: password is incorrect, or there is no user with such name"
    return errors.refusal("AUTHENTICATION_FAILED", message)


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """Return the fields of a multipart/form-data body. ClickHouseError: it carries files, i.e. external tables."""
    form = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields = {}
    for part in form.iter_parts():
        if part.get_filename():
            raise errors.refusal("NOT_IMPLEMENTED", "External tables in a form")
        name = part.get_param("name", header="Content-Disposition")
        content = part.get_payload(decode=True)
        try:
            fields[str(name)] = content.decode() if isinstance(content, bytes) else ""
        except UnicodeDecodeError as error:
            raise errors.refusal("BAD_ARGUMENTS", f"{name}: expected UTF-8") from error
    return fields
