"""The application in process: its endpoints, its headers, and how often it reads."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

import httpx
import pytest
from msgspec.structs import replace

from common.same_origin import HEADERS, OwnNames
from monitoring.dashboard import app_of
from monitoring.snapshot import Watch
from monitoring.status import Status
from tests.statuses import AWAY, NOW, a_status, beats


def own_names(listening_on: str = "127.0.0.1", *allowed: str) -> OwnNames:
    return OwnNames(listening_on, frozenset(allowed), "DASHBOARD_ALLOWED_HOSTS")


def ask(
    status: Status,
    path: str,
    *,
    host: str = "localhost:8000",
    own: OwnNames | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    app = app_of(Watch(lambda _: status, lambda: NOW), own or own_names())

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
            return await client.request(method, path, headers={"host": host, **(headers or {})})

    return asyncio.run(get())


PAGES = ["/", "/fragment", "/api/status", "/health", "/livez", "/readyz", "/favicon.ico", "/static/dashboard.css",
         "/static/dashboard.js", "/static/favicon.svg"]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_every_address_answers_with_the_security_headers(path: str) -> None:
    answer = ask(a_status(), path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", PAGES)
def test_every_address_answers_head_as_it_answers_get(path: str) -> None:
    asked, read = ask(a_status(), path, method="HEAD"), ask(a_status(), path)
    assert (asked.status_code, asked.headers["content-type"]) == (200, read.headers["content-type"])


def test_other_methods_are_refused() -> None:
    assert ask(a_status(), "/", method="POST").status_code == 405


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/redoc", "/static/../dashboard.py", "/static/%2e%2e/page.py"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert ask(a_status(), path).status_code == 404


def test_health_is_200_while_it_works_and_while_it_is_degraded() -> None:
    assert ask(a_status(), "/health").json() == {"status": "ok", "pipeline": "ok", "reasons": []}
    degraded = ask(a_status(heartbeats=beats(goldsky_ingester={"state": "waiting", "reason": "503"})), "/health")
    assert degraded.status_code == 200
    reasons = ["degraded: goldsky_ingester waits: 503"]
    assert degraded.json() == {"status": "degraded", "pipeline": "degraded", "reasons": reasons}


def test_health_is_503_with_reasons_when_something_is_broken() -> None:
    answer = ask(a_status(heartbeats=beats(clickhouse_writer=None)), "/health")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["broken: clickhouse_writer has no heartbeat: it is not running"]


def test_readiness_lists_what_it_depends_on() -> None:
    assert ask(a_status(), "/readyz").json()["dependencies"] == {"redis": "ok", "clickhouse": "ok"}
    answer = ask(a_status(redis=AWAY), "/readyz")
    assert answer.status_code == 503
    assert answer.json()["dependencies"] == {"redis": AWAY.reason, "clickhouse": "ok"}


def test_liveness_looks_at_nothing() -> None:
    def must_not_read(_: float) -> Status:
        raise AssertionError

    app = app_of(Watch(must_not_read, lambda: NOW), own_names())

    async def get(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/livez")

    assert asyncio.run(_with_client(app, get)).status_code == 200


def test_the_status_tells_unknown_from_zero_in_json() -> None:
    answer = ask(a_status(redis=AWAY), "/api/status")
    status = json.loads(answer.content)
    assert status["streams"][0]["length"] == {"state": "unknown", "value": None, "reason": AWAY.reason}
    assert status["tables"][0]["rows"] == {"state": "known", "value": 1512377, "reason": ""}
    assert status["health"]["verdict"] == "broken"
    assert "trades.rows" in status["rates"]


def test_a_heartbeat_without_a_time_is_valid_json_too() -> None:
    answer = ask(a_status(heartbeats=beats(goldsky_ingester={"updated_at": ""})), "/api/status")
    assert json.loads(answer.content)["stages"][1]["heartbeat_age_s"]["value"] is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[", "10.0.0.7:8000"]
)
def test_a_foreign_host_name_is_refused(host: str) -> None:
    assert ask(a_status(), "/api/status", host=host).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "pipeline.internal"])
def test_own_names_are_answered(host: str) -> None:
    assert ask(a_status(), "/livez", host=host, own=own_names("pipeline.internal")).status_code == 200


def test_listening_on_every_address_answers_to_addresses_but_to_no_foreign_name() -> None:
    assert ask(a_status(), "/livez", host="10.0.0.7:8000", own=own_names("0.0.0.0")).status_code == 200
    assert ask(a_status(), "/livez", host="evil.example", own=own_names("0.0.0.0")).status_code == 421
    assert ask(a_status(), "/livez", host="dashboard:8000", own=own_names("0.0.0.0", "dashboard")).status_code == 200


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("header", [("Sec-Fetch-Site", "same-site"), ("Origin", "http://localhost:9000")])
def test_requests_of_foreign_pages_are_refused_with_what_to_do(path: str, header: tuple[str, str]) -> None:
    answer = ask(a_status(), path, headers=dict([header]))
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/plain; charset=utf-8")
    assert "click in the address bar and press Enter." in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_a_person_and_its_own_page_are_answered(site: str) -> None:
    assert ask(a_status(), "/", headers={"Sec-Fetch-Site": site}).status_code == 200


def test_however_many_ask_the_servers_are_read_once_a_second() -> None:
    reads: list[float] = []
    now = NOW

    def read(at: float) -> Status:
        reads.append(at)
        return replace(a_status(), at=at)

    async def ask_often(watch: Watch) -> None:
        await asyncio.gather(*(watch.snapshot() for _ in range(50)))

    async def two_seconds() -> None:
        nonlocal now
        watch = Watch(read, lambda: now)
        await ask_often(watch)
        now += 0.9
        await ask_often(watch)
        now += 0.2
        await ask_often(watch)

    asyncio.run(two_seconds())
    assert reads == [NOW, now]


def test_samples_come_just_after_each_multiple_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample a moment before its multiple would leave a gap in every chart."""
    now = NOW + 1.3
    sampled: list[float] = []

    def read(at: float) -> Status:
        sampled.append(at)
        if len(sampled) == 4:
            raise asyncio.CancelledError
        return replace(a_status(), at=at)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds - 0.004  # a timer that is early

    monkeypatch.setattr("monitoring.snapshot.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Watch(read, lambda: now).sample_for_ever())
    assert [at // 5 - sampled[0] // 5 for at in sampled] == [0, 1, 2, 3]


async def _with_client(
    app: Callable[..., Awaitable[None]], use: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        return await use(client)
