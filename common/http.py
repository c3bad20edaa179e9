"""One HTTP source: the only module that imports requests.

Every failure that passes by itself surfaces as Unavailable, with a reason that names the host and never a path, a
query or credentials, since those can hold keys. A proxy in between is named as well. Nothing is tried again here: that
is run()'s back-off.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from common.errors import PipelineError, Unavailable
from common.proxies import checked, is_private, name_of, through

RATE_WINDOW_S = 10.0  # both sources count their limits over 10 s
MOST_BYTES = 64 * 1024 * 1024  # the largest real page, 100 events with all their markets, is below 20 MB
MOST_RETRY_AFTER_S = 300.0  # a source that asks for more is asked again after five minutes
UNTOLD_RETRY_AFTER_S = 10.0  # 429 without Retry-After: one window of the limit
# Servers close connections that are idle (uvicorn after 5 s), and a request that crosses the closing is lost. So a
# connection serves requests that follow one another, and a request after a pause gets a new one.
IDLE_CONNECTION_S = 2.0
_CHUNK = 64 * 1024
_SHOWN_BODY = 300
_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_BUSY = (408, 425, 429)  # 4xx that pass by themselves
_NO_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")  # http.client's words for a proxy that refuses CONNECT


class Rejected(PipelineError):
    """The source understood the request and refuses it (4xx). The same request will be refused again: ask otherwise."""

    def __init__(self, reason: str, status: int, body: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.body = body


class TooMuch(Unavailable):
    """The answer is too long, or takes too long. Wait and repeat, or ask for less."""


class RateLimit:
    """So many requests in any ten seconds, over all sources and threads that share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[float] = deque(maxlen=most)
        self._held_until = 0.0
        self._lock = threading.Lock()

    def wait_s(self, now: float, spare: int = 0) -> float:
        """Seconds until one more request leaves `spare` of the limit unused; 0 when it does."""
        with self._lock:
            return self._wait_s(now, spare)

    def take_s(self, now: float, spare: int = 0) -> float:
        """As `wait_s`, but where it is 0 the request counts already: between threads, asking and counting are one."""
        with self._lock:
            wait_s = self._wait_s(now, spare)
            if not wait_s:
                self._times.append(now)
            return wait_s

    def note(self, now: float) -> None:
        """Count a request."""
        with self._lock:
            self._times.append(now)

    def hold(self, until: float) -> None:
        """The source asked for a pause: nobody sends before this moment."""
        with self._lock:
            self._held_until = max(self._held_until, until)

    def _wait_s(self, now: float, spare: int) -> float:
        room = max(1, self._most - spare)
        full_until = self._times[-room] + RATE_WINDOW_S if len(self._times) >= room else 0.0
        return max(0.0, full_until - now, self._held_until - now)


class HttpSource:
    """A source under one base address: connections kept alive, answers bounded in size and in time."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        requests_per_10s: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
        limit: RateLimit | None = None,
        bearer: str = "",
    ) -> None:
        """`bearer`: a token that every request carries, and no answer's text.

        `limit`: one that several sources share, each for a thread of its own; it replaces `requests_per_10s`.

        A pause that the server asks one of them for holds all of them up. A source by itself has its caller for that.
        """
        parts = urlsplit(base_url)
        self.host = host_of(base_url)
        self._proxy = proxy_of(base_url)
        self._scheme = parts.scheme
        self._where = f"{name} at {self.host}{through(self._proxy)}"
        self._base_url = base_url.rstrip("/")
        self._timeouts = (connect_timeout_s, read_timeout_s)
        self._answer_s = 2 * read_timeout_s  # of a whole answer: one that trickles must not hold up a stop
        self._most_bytes = most_bytes
        self._clock = clock
        self._limit = limit or RateLimit(requests_per_10s)
        self._shares_limit = limit is not None
        self._is_counted = False  # the next request, by `take_turn_s`
        self._answered_at = clock()
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "polymarket-pipeline"
        self._bearer = bearer
        if bearer:
            self._session.auth = _Bearer(bearer)

    def wait_s(self, spare: int = 0) -> float:
        """Seconds until the next request leaves `spare` of our own limit unused. Wait before calling get or post."""
        return self._limit.wait_s(self._clock(), spare)

    def take_turn_s(self, spare: int = 0) -> float:
        """As `wait_s`, but where it is 0 the next request is counted already. For sources that share a limit."""
        if self._is_counted:
            return 0.0
        wait_s = self._limit.take_s(self._clock(), spare)
        self._is_counted = not wait_s
        return wait_s

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> bytes:
        """The body of a 200. Raises Unavailable, or Rejected on a 4xx that waiting won't mend."""
        return self._ask("GET", path, params=params, data=None)

    def post(self, body: bytes) -> bytes:
        """The body of the 200 that answers a JSON body. Raises as `get` does."""
        return self._ask("POST", "", params=(), data=body)

    def close(self) -> None:
        self._session.close()

    def _ask(self, method: str, path: str, *, params: Sequence[tuple[str, str]], data: bytes | None) -> bytes:
        started = self._clock()
        if not self._is_counted:
            self._limit.note(started)
        self._is_counted = False
        if started - self._answered_at > IDLE_CONNECTION_S:
            self._session.close()  # its connections; the session goes on
        try:
            with self._session.request(
                method,
                self._base_url + path,
                params=list(params),
                data=data,
                headers={"Content-Type": "application/json"} if data is not None else None,
                timeout=self._timeouts,
                proxies={self._scheme: self._proxy},  # empty: none, whatever the environment says
                stream=True,
                allow_redirects=False,  # a POST that is redirected would arrive as a GET
            ) as response:
                body = self._read(response, started + self._answer_s)
        except (requests.RequestException, HTTPError, OSError) as error:
            kind = TooMuch if isinstance(error, requests.ReadTimeout | ReadTimeoutError) else Unavailable
            raise kind(self._reason(error)) from error
        self._answered_at = self._clock()
        self._check(response, body)
        return body

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > self._most_bytes:
                raise TooMuch(f"{self._where} answers more than {self._most_bytes} bytes; cut off")
            if self._clock() > deadline:
                raise TooMuch(f"{self._where} takes over {self._answer_s:g} s to answer; cut off")
        return bytes(body)

    def _check(self, response: requests.Response, body: bytes) -> None:
        status = response.status_code
        if status == requests.codes.ok:
            return
        if status == requests.codes.proxy_authentication_required and self._proxy:
            raise Unavailable(f"the proxy {name_of(self._proxy)} requires a user and a password: it answers {status}")
        reason = f"{self._where} answers {status}"
        if requests.codes.bad_request <= status < requests.codes.server_error and status not in _BUSY:
            shown = self._without_token(body.decode("utf-8", "replace"))[:_SHOWN_BODY]
            raise Rejected(f"{reason}: {shown}", status, shown)
        default_s = UNTOLD_RETRY_AFTER_S if status == requests.codes.too_many_requests else 0.0
        told = response.headers.get("Retry-After", "")
        pause_s = retry_after_s(told, datetime.now(UTC), default_s)
        if self._shares_limit:
            self._limit.hold(self._clock() + pause_s)
        raise Unavailable(reason, retry_after_s=pause_s)

    def _without_token(self, text: str) -> str:
        return text.replace(self._bearer, "(hidden)") if self._bearer else text

    def _reason(self, error: Exception) -> str:
        if isinstance(error, requests.ConnectTimeout):
            return f"cannot reach {self._where}: no connection within {self._timeouts[0]:g} s"
        if isinstance(error, requests.ReadTimeout | ReadTimeoutError):
            return f"{self._where} is silent for {self._timeouts[1]:g} s"
        if isinstance(error, requests.RequestException | ValueError):  # the body is read from urllib3
            return f"cannot reach {self._where}: {cause(error)}"
        return f"the answer of {self._where} broke off: {cause(error)}"


class _Bearer(requests.auth.AuthBase):
    """Puts a token into a request. As a header of the session, a `.netrc` of this machine would replace it."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def host_of(url: str) -> str:
    """The host and port of an address, as errors name them: without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2]


def proxy_of(url: str) -> str:
    """The environment's proxy for an address; empty where there is none, or NO_PROXY or the host itself rules it out.

    Raises ConfigError when the proxy's address can't be used.
    """
    if is_private(urlsplit(url).hostname or ""):
        return ""
    return checked(requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) or "", _PROXY_SCHEMES)


def retry_after_s(told: str, now: datetime, default_s: float) -> float:
    """Seconds that a Retry-After header asks for, as seconds or as an HTTP date; the default when it tells nothing."""
    told = told.strip()
    if told.isascii() and told.replace(".", "", 1).isdigit():
        seconds = float(told)
    else:
        try:
            date = parsedate_to_datetime(told)
        except ValueError:
            return default_s
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(0.0, seconds), MOST_RETRY_AFTER_S)


def cause(error: BaseException) -> str:
    """What the operating system said, in lower case; the error's kind where it said nothing. Never an address."""
    seen: BaseException | None = error
    for _ in range(10):
        if isinstance(seen, OSError) and isinstance(seen.strerror, str):
            return seen.strerror.lower()
        if isinstance(seen, OSError) and (refused := _NO_TUNNEL.match(str(seen))):
            return f"the proxy answers {refused[1]}"
        following = seen.__cause__ or seen.__context__ if seen is not None else None
        if following is None:
            break
        seen = following
    return type(seen).__name__
