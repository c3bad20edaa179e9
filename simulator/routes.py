"""The upstream endpoints: Gamma's REST lists and the subgraphs' GraphQL."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from simulator import selection, subgraph
from simulator.fills import Fill
from simulator.gamma import Answer, Refusal, windows_of
from simulator.selection import Edition
from simulator.service import Prepared, Service, as_json
from simulator.subjects import TOKEN_FILTERS

_MOST_URL_BYTES = 8192
_CACHED = {"cache-control": "public, max-age=300"}
_DEPRECATED = {**_CACHED, "deprecation": "true"}


class GraphqlBody(msgspec.Struct):
    query: str
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815 - the protocol's name


def gamma_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/gamma")

    async def ask(request: Request, make: Callable[[], Answer], headers: dict[str, str]) -> Response:
        if len(request.url.path) + len(request.url.query) + 1 > _MOST_URL_BYTES:
            return Response(b"URI Too Long", 414)
        path = request.url.path.removeprefix("/gamma")
        tokens = [token for name in TOKEN_FILTERS for token in request.query_params.getlist(name)]
        prepare = partial(_gamma_response, service, path, make, headers)
        return await service.respond("gamma", windows_of(path), prepare, tokens)

    @router.get("/{noun}/keyset")
    async def keyset(noun: str, request: Request) -> Response:
        return await ask(request, lambda: service.gamma.keyset(_noun(noun), request.query_params), _CACHED)

    @router.get("/tags")
    async def tags(request: Request) -> Response:
        return await ask(request, lambda: service.gamma.tags(request.query_params), _CACHED)

    @router.get("/markets/{identity}")
    async def market(identity: str, request: Request) -> Response:
        return await ask(request, lambda: service.gamma.single(identity), _CACHED)

    @router.get("/{noun}")
    async def page(noun: str, request: Request) -> Response:
        return await ask(request, lambda: service.gamma.page(_noun(noun), request.query_params), _DEPRECATED)

    return router


def _noun(name: str) -> str:
    if name not in {"markets", "events"}:
        raise Refusal(404, "no such path")
    return name


def _gamma_response(service: Service, path: str, make: Callable[[], Answer], headers: dict[str, str]) -> Prepared:
    try:
        answer = make()
    except Refusal as refusal:
        return Prepared(as_json(refusal.body, refusal.status))
    shown = () if "/events" in path else answer.market_ids
    return Prepared(as_json(answer.body, headers=headers), partial(service.served.markets.update, shown))


def goldsky_router(service: Service, api_key: str | None, edition: Edition = selection.V1) -> APIRouter:
    """A subgraph; with a key, only for who brings it as a bearer token."""
    router = APIRouter(prefix="/goldsky" if edition is selection.V1 else f"/goldsky-{edition.name}")

    @router.post("")
    @router.post("/{path:path}")
    async def graphql(request: Request) -> Response:
        if api_key is not None and request.headers.get("authorization") != f"Bearer {api_key}":
            return as_json({"errors": [{"message": "missing or wrong key"}]}, 401)
        raw = await request.body()
        return await service.respond("goldsky", ("all",), lambda: _goldsky_response(service, edition, raw))

    return router


def _goldsky_response(service: Service, edition: Edition, raw: bytes) -> Prepared:
    try:
        asked = msgspec.json.decode(raw, type=GraphqlBody)
    except msgspec.MsgspecError as error:
        return Prepared(as_json({"errors": [{"message": f"invalid request: {error}"}]}, 400))
    request = selection.Request(service.world, service.faults.late(service.world.now()), edition=edition)
    body = subgraph.answer(request, asked.query, asked.variables or {}, asked.operationName)
    shown: list[Fill] = []
    for key, fills in request.selected.items() if "data" in body else ():
        shown += _spoiled(service, body["data"], key, fills)
    return Prepared(as_json(body), partial(service.served.add_fills, shown))


def _spoiled(service: Service, data: dict[str, Any], key: str, fills: list[Fill]) -> list[Fill]:
    """Lets row faults change one list of the answer; returns the fills that are left in it."""
    rows = data[key]
    if not isinstance(rows, list):
        return fills
    by_row = {id(row): fill for row, fill in zip(rows, fills, strict=True)}
    data[key] = service.faults.spoil("goldsky", rows, service.world.now())
    return [by_row[id(row)] for row in data[key] if id(row) in by_row]
