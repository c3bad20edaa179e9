"""Which requests are answered, and the headers of every answer.

The page has no log-in. What protects it is that it listens on loopback, answers only to its own names (a foreign
page whose name was made to resolve to this machine is refused), and allows no script but its own.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MISDIRECTED = 421

Answer = Callable[[Request], Awaitable[Response]]


def guard(listening_on: str) -> Callable[[Request, Answer], Awaitable[Response]]:
    """Middleware that refuses foreign host names and adds the headers."""

    async def answer(request: Request, call_next: Answer) -> Response:
        if is_own_name(request.headers.get("host", ""), listening_on):
            response = await call_next(request)
        else:
            response = PlainTextResponse("This dashboard does not answer to that host name.\n", MISDIRECTED)
        response.headers.update(HEADERS)
        return response

    return answer


def is_own_name(host: str, listening_on: str) -> bool:
    """Whether a Host header names this machine: a local name, the configured one, or any address if on all of them."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in LOCAL_NAMES or name == listening_on.lower() or (listening_on in WILDCARDS and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
