"""Pages of other sites and ports, in a real browser, get nothing from the embedded ClickHouse and the dashboard.

Each attempt is one that a page can make without asking anybody. What reads runs a statement that fails with the secret
in its message, so that it leaves the secret in the server's log when it is executed, whether or not the page sees it.
"""

import http.client
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
import uvicorn
from selenium import webdriver
from selenium.common.exceptions import NoSuchFrameException
from starlette.requests import Request
from starlette.responses import Response

from common.same_origin import OwnNames
from monitoring.access import Answer
from monitoring.dashboard import app_of, listen
from monitoring.snapshot import Watch
from tests.browser import IS_INSTALLED, start_browser
from tests.servers import ClickHouseServer, free_port
from tests.statuses import a_status
from tests.waiting import wait_until

SECRET = "the-operators-secret"
READ = "SELECT toUInt8(value) FROM secrets"
CHANGE = "INSERT INTO visits SELECT 2"
DROP = "DROP TABLE visits"
REFUSED = "not answered"  # the words of every refusal in ClickHouse's log
NO_PREFLIGHT = "Unsupported method ('OPTIONS')"
TARGETS = ("localhost", "127.0.0.1")
# Whose page asks whom. On another port of the same name it is the same site, for browsers.
PAIRS = (("localhost", "localhost"), ("127.0.0.1", "127.0.0.1"), ("evil.test", "localhost"))

# What a page can do with an address, arguments[0].
READS: Mapping[str, str] = {
    "navigation": "location = arguments[0]",
    "redirect": "location = '/redirect?' + encodeURIComponent(arguments[0])",
    "link": "const a = document.createElement('a'); a.href = arguments[0]; document.body.append(a); a.click()",
    "meta refresh": """const meta = document.createElement('meta'); meta.httpEquiv = 'refresh';
        meta.content = '0;url=' + arguments[0]; document.head.append(meta)""",
    "new window": "window.open(arguments[0])",
    "form GET": """const form = document.createElement('form'), url = new URL(arguments[0]); form.action = url;
        for (const [name, value] of url.searchParams) {
            const input = document.createElement('input'); input.name = name; input.value = value; form.append(input)
        } document.body.append(form); form.submit()""",
    "iframe": "const e = document.createElement('iframe'); e.src = arguments[0]; document.body.append(e)",
    "object": "const e = document.createElement('object'); e.data = arguments[0]; document.body.append(e)",
    "image": "const e = document.createElement('img'); e.src = arguments[0]; document.body.append(e)",
    "script": "const e = document.createElement('script'); e.src = arguments[0]; document.body.append(e)",
    "stylesheet": """const e = document.createElement('link'); e.rel = 'stylesheet'; e.href = arguments[0];
        document.head.append(e)""",
    "prefetch": """const e = document.createElement('link'); e.rel = 'prefetch'; e.href = arguments[0];
        document.head.append(e)""",
    "fetch no-cors": "fetch(arguments[0], {mode: 'no-cors'}).then(a => a.text()).then(text => window.got = text)",
    "fetch cors": "fetch(arguments[0]).then(a => a.text()).then(text => window.got = text)",
    "fetch with credentials": """fetch(arguments[0], {credentials: 'include'}).then(a => a.text())
        .then(text => window.got = text)""",
    "EventSource": "new EventSource(arguments[0]).onmessage = event => window.got = event.data",
    "WebSocket": "new WebSocket(arguments[0].replace('http', 'ws')).onmessage = event => window.got = event.data",
    "beacon": "navigator.sendBeacon(arguments[0])",
    "worker": """new Worker(URL.createObjectURL(new Blob([`importScripts(${JSON.stringify(arguments[0])})`])))""",
}
# What a page can send: to the server's address, arguments[0], a statement, arguments[1].
FORM = """const form = document.createElement('form'), input = document.createElement('input');
    form.method = 'post'; form.action = arguments[0]; form.append(input); document.body.append(form);"""
WRITES: Mapping[str, str] = {
    "form as text": FORM + "form.enctype = 'text/plain'; input.name = arguments[1] + ' -- '; form.submit()",
    "form in parts": FORM + """form.enctype = 'multipart/form-data'; input.name = 'query'; input.value = arguments[1];
        form.submit()""",
    "fetch no-cors": "fetch(arguments[0], {method: 'POST', mode: 'no-cors', body: arguments[1]})",
    "fetch cors": "fetch(arguments[0], {method: 'POST', body: arguments[1]})",
    "fetch with a header": """fetch(arguments[0], {method: 'POST', body: arguments[1],
        headers: {'X-ClickHouse-User': 'default'}})""",
    "fetch PUT": "fetch(arguments[0], {method: 'PUT', body: arguments[1]})",
    "beacon": "navigator.sendBeacon(arguments[0], arguments[1])",
    "beacon as a form": """const form = new FormData(); form.append('query', arguments[1]);
        navigator.sendBeacon(arguments[0], form)""",
}  # fmt: skip

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="Chromium or its chromedriver is not installed")


class Page(BaseHTTPRequestHandler):
    """An empty page at every address; one redirects."""

    def do_GET(self) -> None:
        _, _, to = self.path.partition("/redirect?")
        self.send_response(302 if to else 200)
        if to:
            self.send_header("Location", urllib.parse.unquote(to))
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>foreign</title><body>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    """Return the port of a site that is not ours."""
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver = start_browser(tmp_path_factory.mktemp("profile"), "--host-resolver-rules=MAP evil.test 127.0.0.1")
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def _left_alone(browser: webdriver.Chrome) -> Iterator[None]:
    """End what the last page was doing, and the windows that it opened."""
    yield
    first, *others = browser.window_handles
    for window in others:
        browser.switch_to.window(window)
        browser.close()
    browser.switch_to.window(first)
    browser.get("about:blank")


def seen(browser: webdriver.Chrome) -> str:
    """Everything that the browser shows, in all windows and frames, and what a script got hold of."""
    texts = []
    for window in browser.window_handles:
        browser.switch_to.window(window)
        texts += [browser.page_source, str(browser.execute_script("return window.got"))]
        for frame in browser.find_elements("css selector", "iframe, object"):
            with suppress(NoSuchFrameException):  # an object that was refused is none
                browser.switch_to.frame(frame)
                texts.append(browser.page_source)
                browser.switch_to.default_content()
    return "\n".join(texts)


class Database(NamedTuple):
    """ClickHouse with a secret and with something to change."""

    server: ClickHouseServer

    def run(self, sql: str) -> str:
        """Execute a statement as curl does; returns the answer."""
        with closing(http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)) as connection:
            connection.request("POST", "/", sql)
            return connection.getresponse().read().decode()

    def url(self, host: str, sql: str = "") -> str:
        query = "?" + urllib.parse.urlencode({"query": sql}, quote_via=urllib.parse.quote) if sql else ""
        return f"http://{host}:{self.server.port}/{query}"

    def log(self, start: int = 0) -> str:
        return self.server.log()[start:]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        database = Database(server)
        for sql in (
            "CREATE TABLE secrets (value String) ENGINE = MergeTree ORDER BY value",
            "CREATE TABLE visits (n UInt8) ENGINE = MergeTree ORDER BY n",
            f"INSERT INTO secrets SELECT '{SECRET}'",
            "INSERT INTO visits SELECT 1",
        ):
            assert database.run(sql) == ""
        yield database


class TestDatabase:
    def test_the_secret_is_there_for_clients_and_for_people(
        self, browser: webdriver.Chrome, database: Database
    ) -> None:
        """What the other tests look for would be found."""
        before = len(database.log())
        assert SECRET in database.run(READ)
        wait_until(lambda: SECRET in database.log(before), "the statement leaves its trace")
        for host in TARGETS:
            before = len(database.log())
            browser.get(database.url(host, READ))
            browser.refresh()
            assert SECRET in seen(browser)
            wait_until(lambda since=before: database.log(since).count(SECRET) == 2, "typed, and typed again")  # type: ignore[misc]

    @pytest.mark.parametrize(("attacker", "target"), PAIRS)
    @pytest.mark.parametrize("attempt", READS)
    def test_no_page_reads(
        self,
        browser: webdriver.Chrome,
        database: Database,
        foreign_port: int,
        attempt: str,
        attacker: str,
        target: str,
    ) -> None:
        browser.get(f"http://{attacker}:{foreign_port}/")
        before = len(database.log())
        browser.execute_script(READS[attempt], database.url(target, READ))
        wait_until(lambda: SECRET in database.log(before) or REFUSED in database.log(before), "the server is asked")
        assert SECRET not in database.log(before), "the statement was executed"
        assert SECRET not in seen(browser)

    @pytest.mark.parametrize(("attacker", "sql"), [("localhost", CHANGE), ("127.0.0.1", DROP), ("evil.test", CHANGE)])
    @pytest.mark.parametrize("attempt", WRITES)
    def test_no_page_changes_anything(
        self, browser: webdriver.Chrome, database: Database, foreign_port: int, attempt: str, attacker: str, sql: str
    ) -> None:
        def visits() -> str:
            return database.run("SELECT arraySort(groupArray(n)) FROM visits")

        def is_refused() -> bool:
            return any(words in database.log(before) for words in (REFUSED, NO_PREFLIGHT))

        browser.get(f"http://{attacker}:{foreign_port}/")
        visited, before = visits(), len(database.log())
        assert visited.startswith("[1")
        browser.execute_script(WRITES[attempt], database.url("127.0.0.1"), sql)
        wait_until(lambda: is_refused() or visits() != visited, "the server is asked")
        assert visits() == visited

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_name_that_was_made_to_resolve_to_this_machine_opens_nothing(
        self, browser: webdriver.Chrome, database: Database, method: str
    ) -> None:
        """The page has the origin of the server itself, as far as the browser can see."""
        before = len(database.log())
        browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})  # as if the attacker had served the page
        browser.get(database.url("evil.test", READ))
        script = """const [sql, method, done] = arguments;
            fetch('/?query=' + encodeURIComponent(sql), {method})
                .then(a => a.text()).then(done, error => done('failed: ' + error))"""
        got = browser.execute_async_script(script, READ, method)
        assert "does not answer to that host name" in got
        assert SECRET not in got + seen(browser) + database.log(before)


class Dashboard(NamedTuple):
    """The dashboard's application, and what it answered: path and status."""

    port: int
    answers: list[tuple[str, int]]


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    answers: list[tuple[str, int]] = []

    async def record(request: Request, call_next: Answer) -> Response:
        response = await call_next(request)
        answers.append((request.url.path, response.status_code))
        return response

    app = app_of(Watch(lambda _: a_status(), time.time), OwnNames("127.0.0.1", frozenset(), ""))
    app.middleware("http")(record)
    listening = listen("127.0.0.1", free_port())
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield Dashboard(listening.getsockname()[1], answers)
    server.should_exit = True
    thread.join()


class TestDashboard:
    @pytest.mark.parametrize("host", TARGETS)
    def test_it_is_there_for_people_and_for_itself(
        self, browser: webdriver.Chrome, dashboard: Dashboard, host: str
    ) -> None:
        dashboard.answers.clear()
        browser.get(f"http://{host}:{dashboard.port}/")
        browser.refresh()
        assert "Polymarket pipeline" in browser.title
        wait_until(lambda: dashboard.answers.count(("/fragment", 200)) >= 1, "the page refreshes itself")
        assert {status for _, status in dashboard.answers} <= {200, 304}
        assert {"/", "/static/dashboard.css", "/static/dashboard.js"} <= {path for path, _ in dashboard.answers}

    @pytest.mark.parametrize(("attacker", "target"), PAIRS)
    @pytest.mark.parametrize("attempt", READS)
    def test_no_page_reads(
        self,
        browser: webdriver.Chrome,
        dashboard: Dashboard,
        foreign_port: int,
        attempt: str,
        attacker: str,
        target: str,
    ) -> None:
        browser.get(f"http://{attacker}:{foreign_port}/")
        dashboard.answers.clear()
        browser.execute_script(READS[attempt], f"http://{target}:{dashboard.port}/")
        wait_until(lambda: dashboard.answers, "the server is asked")
        # The page that explains the refusal is the dashboard's own, and may have its icon.
        assert {status for path, status in dashboard.answers if path != "/favicon.ico"} == {403}
        assert "Polymarket pipeline" not in seen(browser)

    def test_a_person_who_follows_a_link_learns_how_to_get_there(
        self, browser: webdriver.Chrome, dashboard: Dashboard, foreign_port: int
    ) -> None:
        browser.get(f"http://localhost:{foreign_port}/")
        browser.execute_script(READS["link"], f"http://localhost:{dashboard.port}/")
        wait_until(lambda: "click in the address bar and press Enter" in browser.page_source, "it explains what to do")
        browser.get(browser.current_url)
        assert "Polymarket pipeline" in browser.title

    def test_a_name_that_was_made_to_resolve_to_this_machine_opens_nothing(
        self, browser: webdriver.Chrome, dashboard: Dashboard
    ) -> None:
        dashboard.answers.clear()
        browser.get(f"http://evil.test:{dashboard.port}/api/status")
        assert dashboard.answers[0] == ("/api/status", 421)
        assert "heartbeat" not in browser.page_source
