"""The application: upstream endpoints, controls, the truth and a page for people."""

from datetime import UTC, datetime
from html import escape
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse

from simulator import chain, routes, truth
from simulator.polygon import PROVIDERS, polygon_router
from simulator.selection import V1, V2
from simulator.service import Service, as_json
from simulator.world import World

RPC_RANGE_LIMIT = 1000  # blocks a request of /polygon


def create_app(
    world: World,
    *,
    rate_limits: bool = True,
    rpc_range_limit: int = RPC_RANGE_LIMIT,
    answer_delay_s: float = 0.0,
    goldsky_api_key: str | None = None,
) -> FastAPI:
    """An application that serves this world, with its own faults and records."""
    service = Service(world, rate_limits=rate_limits, answer_delay_s=answer_delay_s)
    app = FastAPI(title="Simulated upstream of Polymarket's data", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(routes.gamma_router(service))
    for edition in (V1, V2):
        app.include_router(routes.goldsky_router(service, goldsky_api_key, edition))
    app.include_router(polygon_router(service, rpc_range_limit))
    app.include_router(truth.router(service))
    _add_controls(app, service)
    _add_faults(app, service)
    _add_pages(app, service)
    return app


def _add_controls(app: FastAPI, service: Service) -> None:
    @app.post("/control/freeze")
    async def freeze() -> dict[str, Any]:
        """No fill appears after this instant; markets that fills have reached still get listed."""
        return {"frozen_at": service.world.freeze()}

    @app.post("/control/resume")
    async def resume() -> dict[str, Any]:
        service.world.resume()
        return {"frozen_at": None}

    @app.post("/control/rate-limits")
    async def rate_limits(*, enabled: Annotated[bool, Body(embed=True)]) -> dict[str, Any]:
        service.rate_limits = enabled
        return {"enabled": enabled}


def _add_faults(app: FastAPI, service: Service) -> None:
    faults, world = service.faults, service.world

    @app.post("/faults", status_code=201)
    async def add(order: dict[str, Any]) -> Response:
        try:
            faults.add(order, world.now())
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return as_json(faults.listing(world.now()), 201)

    @app.get("/faults")
    async def listing() -> Response:
        return as_json(faults.listing(world.now()))

    @app.delete("/faults")
    async def clear() -> Response:
        faults.clear()
        return as_json([])


def _add_pages(app: FastAPI, service: Service) -> None:
    world = service.world

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Who answers here, and the numbers that determine its data."""
        return {
            "status": "ok",
            "service": "polymarket-simulator",
            "seed": world.settings.seed,
            "birth": world.settings.birth,
            "history_start": world.settings.history_start,
            "cutover": world.settings.cutover,
            "cutover_block": world.cutover_block,
            "cutover_timestamp": None if world.cutover_block is None else chain.time_of(world.cutover_block),
            "frozen_at": world.frozen_at,
            "last_block": world.last_block(),
            "requests": service.requests,
        }

    @app.get("/")
    async def home() -> HTMLResponse:
        return HTMLResponse(_page(await _figures(service), service.faults.listing(world.now())))


async def _figures(service: Service) -> dict[str, str]:
    world, served = service.world, service.served
    frozen = "no" if world.frozen_at is None else f"since {_time(world.frozen_at)}"
    return {
        "Seed and birth": f"{world.settings.seed}, {_time(world.settings.birth)}",
        "Fills since": _time(world.settings.history_start),
        "Fills": f"{await truth.count_fills(world):,}",
        "Fills served": f"{served.count_fills():,}",
        "Markets listed": f"{sum(1 for _ in world.listed_places()):,}",
        "Markets served": f"{len(served.markets):,}",
        "Requests": ", ".join(f"{target} {count:,}" for target, count in service.requests.items()),
        "Frozen": frozen,
        "Rate limits": "on" if service.rate_limits else "off",
    }


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _page(figures: dict[str, str], faults: list[dict[str, Any]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in figures.items())
    orders = "".join(f"<li>{escape(str(fault))}</li>" for fault in faults) or "<li>none</li>"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Simulated upstream</title>
<style>body{{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}}
th{{text-align:left;padding-right:2rem}}</style></head><body>
<h1>Simulated upstream</h1>
<p>Stands in for Polymarket's public APIs: a data set made by chance that repeats, growing with the clock.
Nothing here is real trading.</p>
<table>{rows}</table>
<h2>Faults on order</h2><ul>{orders}</ul>
<h2>Endpoints</h2>
<ul><li><a href="/gamma/markets?limit=3">/gamma/markets</a>,
<a href="/gamma/markets/keyset?limit=3">/gamma/markets/keyset</a>,
<a href="/gamma/events?limit=1">/gamma/events</a>, <a href="/gamma/tags">/gamma/tags</a></li>
<li>/goldsky, /goldsky-v2 (POST GraphQL)</li>
<li>/polygon, /polygon/{escape("|".join(filter(None, PROVIDERS)))} (POST JSON-RPC)</li>
<li><a href="/truth/fills?count=1">/truth/fills</a>, <a href="/truth/served/fills?count=1">/truth/served/fills</a>,
<a href="/truth/markets?count=1">/truth/markets</a>, <a href="/truth/tokens?count=1">/truth/tokens</a>,
<a href="/truth/malformed">/truth/malformed</a></li>
<li><a href="/faults">/faults</a> (GET, POST, DELETE), /control/freeze,
/control/resume, /control/rate-limits (POST)</li>
</ul></body></html>"""
