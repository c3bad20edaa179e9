"""The dashboard in a real browser: it fits, it refreshes in place, it says when the connection is lost."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser import IS_INSTALLED, start_browser
from tests.dashboard import DashboardServer, QuietPipeline
from tests.servers import ClickHouseServer, RedisServer
from tests.waiting import wait_until

REFRESH_LIMIT_S = 60.0
COUNT_REFRESHES = """
    window.refreshed = 0;
    const original = fetch;
    window.fetch = (...given) => { window.refreshed++; return original(...given); };
"""

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="Chromium or its chromedriver is not installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def pipeline(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Iterator[QuietPipeline]:
    made = QuietPipeline.on(redis_server, clickhouse_server)
    made.beat_all()
    made.publish(30, faults=2)
    made.store(50)
    yield made
    made.close()


@pytest.fixture
def dashboard(pipeline: QuietPipeline, tmp_path: Path) -> Iterator[DashboardServer]:
    with DashboardServer(tmp_path, pipeline.settings) as server:
        yield server


def show(browser: webdriver.Chrome, url: str, width: int, theme: str = "light") -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")  # the last test's page goes on asking a server that has gone
    complaints(browser)
    browser.get(url)


def complaints(browser: webdriver.Chrome) -> list[dict[str, object]]:
    """Return what the browser's console has got since the last call."""
    return list(browser.get_log("browser"))  # type: ignore[no-untyped-call]  # selenium leaves it untyped


def pixels(png: bytes) -> bytes:
    """Return the scan lines of a PNG, with their filter bytes."""
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(data)


def text(browser: webdriver.Chrome, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).textContent", selector))


@pytest.mark.parametrize("width", [360, 390, 820, 1280])
def test_the_page_loads_without_complaints_and_fits_the_width(
    browser: webdriver.Chrome, dashboard: DashboardServer, width: int
) -> None:
    show(browser, dashboard.url, width)
    assert browser.title == "degraded · Polymarket pipeline"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert complaints(browser) == []
    assert browser.execute_script("return document.querySelectorAll('svg.sparkline').length") >= 4
    assert browser.execute_script("return document.querySelectorAll('#status script').length") == 0


def test_light_and_dark_both_show_something_and_differ(browser: webdriver.Chrome, dashboard: DashboardServer) -> None:
    pictures = {}
    for theme in ("light", "dark"):
        show(browser, dashboard.url, 1280, theme)
        pictures[theme] = pixels(browser.get_screenshot_as_png())
    assert pictures["light"] != pictures["dark"]
    assert all(len(set(picture)) > 50 for picture in pictures.values())


def test_the_page_refreshes_in_place(
    browser: webdriver.Chrome, dashboard: DashboardServer, pipeline: QuietPipeline
) -> None:
    show(browser, dashboard.url, 390)
    browser.execute_script("window.sameDocument = true; window.scrollTo(0, 700)")
    assert "2 in" in " ".join(text(browser, ".counts").split())
    pipeline.publish(5, first=100, faults=1)
    wait_until(
        lambda: "3 in" in " ".join(text(browser, ".counts").split()), "the third dead letter shows", REFRESH_LIMIT_S
    )
    assert browser.execute_script("return window.sameDocument") is True
    assert browser.execute_script("return window.scrollY") == 700
    assert complaints(browser) == []
    assert "needs attention" in text(browser, "#announcement")


def test_a_change_of_health_shows_in_the_title(
    browser: webdriver.Chrome, dashboard: DashboardServer, pipeline: QuietPipeline
) -> None:
    show(browser, dashboard.url, 1280)
    pipeline.beat("clickhouse_writer", state="stopped")
    wait_until(lambda: browser.title.startswith("broken"), "the title says broken", REFRESH_LIMIT_S)


def test_a_lost_connection_is_said_and_ends_when_the_dashboard_is_back(
    browser: webdriver.Chrome, dashboard: DashboardServer
) -> None:
    show(browser, dashboard.url, 390)
    wait_until(lambda: "s ago" in text(browser, "#updated"), "the page counts its age")
    dashboard.stop()
    wait_until(lambda: "connection lost since" in text(browser, "#updated"), "the loss is said", REFRESH_LIMIT_S)
    assert "dead letter" in text(browser, "#status")  # what was known stays
    dashboard.start()
    wait_until(lambda: "s ago" in text(browser, "#updated"), "the page goes on", REFRESH_LIMIT_S)


def test_text_that_somebody_selects_is_not_taken_away(browser: webdriver.Chrome, dashboard: DashboardServer) -> None:
    show(browser, dashboard.url, 1280)
    browser.execute_script("getSelection().selectAllChildren(document.querySelector('.letters td.long'))")
    browser.execute_script(COUNT_REFRESHES)
    wait_until(lambda: browser.execute_script("return window.refreshed") >= 2, "two refreshes", REFRESH_LIMIT_S)
    assert "alert(1)" in str(browser.execute_script("return getSelection().toString()"))
