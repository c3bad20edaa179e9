"""Which requests are answered, and the headers of every answer.

The page has no log-in. What protects it is that it listens on loopback, answers only its own pages and people who ask
for it by its own names, and allows no script but its own.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from common import same_origin
from common.same_origin import OwnNames

HEADERS: Mapping[str, str] = {
    **same_origin.HEADERS,
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

Answer = Callable[[Request], Awaitable[Response]]


def guard(own: OwnNames) -> Callable[[Request, Answer], Awaitable[Response]]:
    """Middleware that refuses requests from foreign pages or under foreign host names, and adds the headers."""

    async def answer(request: Request, call_next: Answer) -> Response:
        refused = same_origin.refusal(request.headers.getlist, own)
        if refused:
            response: Response = PlainTextResponse(f"{refused.reason}.\n", refused.status)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    return answer
