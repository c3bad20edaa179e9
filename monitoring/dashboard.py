"""The operator's page on the pipeline, its JSON, and its health checks. It reads Redis and ClickHouse, no more."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import ConfigError
from common.redis_queue import RedisQueue
from common.runtime import Context, main
from common.same_origin import OwnNames, host_names
from monitoring.access import guard
from monitoring.page import render_fragment, render_page
from monitoring.repetitions import RepetitionCounter
from monitoring.snapshot import Snapshot, Watch
from monitoring.status import collect

STATIC = Path(__file__).parent / "static"
READ_TIMEOUT_S = 2.0  # the page has to say soon that a server does not answer; other processes can wait longer
COUNT_TIMEOUT_S = 6.0  # more than a count may take; stopping waits for it
GRACE_S = 5  # for requests under way when the process is told to stop
CHECK_S = 1.0
OK, UNAVAILABLE = 200, 503
Job = Callable[[], Coroutine[None, None, None]]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])


def create_app(
    settings: Settings,
    queue: RedisQueue,
    clickhouse: ClickHouse,
    counter: RepetitionCounter,
    clock: Callable[[], float],
) -> FastAPI:
    """The application on a pipeline's servers."""
    allowed_hosts = "DASHBOARD_ALLOWED_HOSTS"
    own = OwnNames(settings.dashboard_host, host_names(settings.dashboard_allowed_hosts, allowed_hosts), allowed_hosts)
    watch = Watch(lambda now: collect(queue, clickhouse, settings, now, counter.latest), clock)
    return app_of(watch, own, counter.count_for_ever)


def app_of(watch: Watch, own: OwnNames, *jobs: Job) -> FastAPI:
    """The application. While it runs it samples for its charts; it reads at most once a second for all clients.

    `jobs` run as long as it does.
    """
    app = FastAPI(title="Polymarket pipeline", lifespan=_running(watch.sample_for_ever, *jobs), openapi_url=None)
    app.state.jobs = []
    app.middleware("http")(guard(own))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_pages(app, watch)
    _add_checks(app, watch)
    return app


def _running(*jobs: Job) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = app.state.jobs = [asyncio.create_task(job()) for job in jobs]
        yield
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return lifespan


def _page_at(app: FastAPI, path: str) -> Callable[[Endpoint], Endpoint]:
    """An address that answers GET, and HEAD as web servers do; FastAPI by itself refuses HEAD."""
    return app.api_route(path, methods=["GET", "HEAD"])


def _add_pages(app: FastAPI, watch: Watch) -> None:
    @_page_at(app, "/")
    async def page() -> HTMLResponse:
        return HTMLResponse(render_page(await watch.snapshot()))

    @_page_at(app, "/fragment")
    async def fragment() -> HTMLResponse:
        return HTMLResponse(render_fragment(await watch.snapshot()))

    @_page_at(app, "/favicon.ico")
    async def favicon() -> FileResponse:
        return FileResponse(STATIC / "favicon.svg", media_type="image/svg+xml")

    @_page_at(app, "/api/status")
    async def status() -> Response:
        return _json((await watch.snapshot()).to_json())


def _add_checks(app: FastAPI, watch: Watch) -> None:
    @_page_at(app, "/health")
    async def health() -> Response:
        """Whether the pipeline works, with and without its sources; 503 with the reasons when a part is broken."""
        return _health(await watch.snapshot())

    @_page_at(app, "/livez")
    async def livez() -> Response:
        """Whether this process answers; no dependency is looked at."""
        return _json({"status": "ok"})

    @_page_at(app, "/readyz")
    async def readyz() -> Response:
        """Whether what this process depends on can be used."""
        return _readiness(await watch.snapshot())


def _health(snapshot: Snapshot) -> Response:
    health = snapshot.health
    reasons = [f"{reason.severity}: {reason.about} {reason.text}" for reason in health.reasons]
    told = {"status": health.verdict, "pipeline": health.of_pipeline, "reasons": reasons}
    return _json(told, UNAVAILABLE if health.verdict == "broken" else OK)


def _readiness(snapshot: Snapshot) -> Response:
    servers = {"redis": snapshot.status.redis, "clickhouse": snapshot.status.clickhouse}
    ready = all(reading.state == "known" for reading in servers.values())
    dependencies = {name: reading.reason or "ok" for name, reading in servers.items()}
    body = {"status": "ok" if ready else "not ready", "dependencies": dependencies}
    return _json(body, OK if ready else UNAVAILABLE)


def _json(body: object, status_code: int = OK) -> Response:
    return Response(msgspec.json.encode(body), status_code, media_type="application/json")


class Dashboard:
    """The web server as a stage: it serves in a thread of its own while the main thread beats and heeds signals."""

    def __init__(self, app: FastAPI, listening: socket.socket, close: Callable[[], None]) -> None:
        self._app = app
        self._close = close
        self._server = uvicorn.Server(
            uvicorn.Config(app, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S)
        )
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="web server")
        self._thread.start()

    @property
    def instance(self) -> str:
        return "dashboard"

    def step(self) -> float:
        """Crash when the server or one of the jobs has: pages that stand still must not look alive."""
        if not self._thread.is_alive():
            raise RuntimeError("the web server has ended by itself")
        jobs: list[asyncio.Task[None]] = self._app.state.jobs
        for job in jobs:
            if job.done():
                raise RuntimeError("a background job has ended by itself") from job.exception()
        return CHECK_S

    def drain(self) -> None:
        """Answer what is under way."""
        self._server.should_exit = True
        self._thread.join()

    def close(self) -> None:
        self.drain()
        self._close()

    def report(self) -> Mapping[str, str | int | float]:
        return {}


def build(context: Context) -> Dashboard:
    """The dashboard with connections of its own, which give up sooner than a pipeline's have to."""
    timeouts = {"redis_timeout_s": READ_TIMEOUT_S, "clickhouse_timeout_s": READ_TIMEOUT_S}
    settings = context.settings.model_copy(update=timeouts)
    listening = listen(settings.dashboard_host, settings.dashboard_port)
    queue, clickhouse = RedisQueue(settings), ClickHouse(settings)
    counting = ClickHouse(settings.model_copy(update={"clickhouse_timeout_s": COUNT_TIMEOUT_S}))
    counter = RepetitionCounter(counting)

    def close() -> None:
        queue.close()
        clickhouse.close()
        counting.close()

    context.log.info("listening on http://%s:%d", settings.dashboard_host, settings.dashboard_port)
    return Dashboard(create_app(settings, queue, clickhouse, counter, time.time), listening, close)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError when the address or the port can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"DASHBOARD_HOST, DASHBOARD_PORT: can't listen on {host}:{port}: {reason}") from error


if __name__ == "__main__":
    raise SystemExit(main("dashboard", build))
