"""The page: hostile text stays text, unknown is never zero, and nothing in it needs more than its own origin."""

import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.dead_letters import DeadLetter
from common.redis_queue import StreamInfo
from monitoring.formatting import GAP
from monitoring.page import render_fragment, render_page, tiles
from monitoring.reading import unknown
from monitoring.snapshot import Snapshot, Watch
from monitoring.sparkline import ceiling, sparkline
from monitoring.status import Status
from monitoring.tables import TableState
from tests.statuses import AWAY, CLICKHOUSE_AWAY, NOW, a_status, beats, group, table

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"' onmouseover=\"alert(2)"


class Elements(HTMLParser):
    """The elements of a page, their attributes and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def snapshot_of(status: Status) -> Snapshot:
    return Watch(lambda _: status, lambda: status.at).interpret(status)


def hostile_status() -> Status:
    letter = DeadLetter("1763749000000-0", HOSTILE.encode() + b"\xff", HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE)
    fields = dict.fromkeys(
        ("instance", "reason", "source", "source_state", "source_reason", "detail", "pid", "host", "records_in"),
        HOSTILE,
    )
    return a_status(
        heartbeats=beats(goldsky_ingester={**fields, "state": "waiting"}, polymarket_ingester=fields),
        letters={"stream:trades": [letter]},
        tables=[
            TableState(name, unknown(HOSTILE), unknown(HOSTILE), unknown(HOSTILE))
            for name in ("markets", "order_filled", "trades")
        ],
    )


def test_hostile_text_is_shown_as_text() -> None:
    html = render_page(snapshot_of(hostile_status()))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    elements = Elements(html)
    assert "<script>alert('x')</script>" in elements.text
    assert [attributes.get("src") for tag, attributes in elements.found if tag == "script"] == ["/static/dashboard.js"]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert not [tag for tag, _ in elements.found if tag == "img"]


def test_the_page_keeps_to_its_content_policy() -> None:
    elements = Elements(render_page(snapshot_of(a_status())))
    assert not [attributes for _, attributes in elements.found if "style" in attributes]
    assert not [tag for tag, _ in elements.found if tag == "style"]
    addresses = [
        attributes[name] for _, attributes in elements.found for name in ("href", "src") if attributes.get(name)
    ]
    assert all(address is not None and address.startswith("/") for address in addresses)


def test_what_could_not_be_read_is_unknown_and_not_zero() -> None:
    elements = Elements(render_fragment(snapshot_of(a_status(clickhouse=CLICKHOUSE_AWAY))))
    unread = [attributes["title"] for _, attributes in elements.found if attributes.get("class") == "unread"]
    assert len(unread) > 10
    assert set(unread) == {CLICKHOUSE_AWAY.reason}
    assert "0 rows" not in elements.text


def test_the_reason_for_a_single_unknown_value_stands_beside_it() -> None:
    odd = TableState("trades", unknown("Too many parts"), unknown("Too many parts"), unknown("Too many parts"))
    rest = [table(name, 1) for name in ("markets", "order_filled")]
    elements = Elements(render_fragment(snapshot_of(a_status(tables=[*rest, odd]))))
    assert "unknown Too many parts" in " ".join(elements.text.split())


def test_a_page_without_redis_still_shows_the_tables() -> None:
    text = Elements(render_fragment(snapshot_of(a_status(redis=AWAY)))).text
    assert "1,203,961" in text
    assert "Something is broken" in text


def test_simulated_data_is_called_that_in_demo_mode_only() -> None:
    assert "Demo: simulated data" in render_page(snapshot_of(a_status(mode="demo")))
    assert "simulated" not in render_page(snapshot_of(a_status())).lower()


def test_each_source_is_shown_with_its_state_and_an_ended_one_differs_from_a_quiet_one() -> None:
    ended = {"source_state": "ended", "newest_event_at": str(NOW - 207 * 86_400), "lag_s": ""}
    quiet = {"source_state": "idle", "newest_event_at": str(NOW - 400), "source_reason": "nothing new"}
    status = a_status(heartbeats=beats(goldsky_ingester=ended, polygon_ingester=quiet))
    page = Elements(render_fragment(snapshot_of(status)))
    assert {"badge done", "badge warn"} <= {attributes.get("class") for _, attributes in page.found}
    rows = [line for line in page.text.split("Sources")[1].split("Streams")[0].split() if line]
    shown = " ".join(rows)
    assert "ended" in shown
    assert f"207{GAP}d ago" in page.text
    assert "idle" in shown
    assert "block 86130211" in shown
    assert shown.endswith("nothing new")


def test_a_source_whose_ingester_is_silent_is_unknown() -> None:
    status = a_status(heartbeats=beats(polygon_ingester={"updated_at": str(NOW - 400)}))
    [source] = [source for source in status.sources if source.name == "Polygon"]
    assert (source.state, source.reason) == ("unknown", "polygon_ingester is silent")
    assert source.head_at.state == source.lag_s.state == "absent"


def test_latency_is_measured_from_the_block() -> None:
    tile = next(tile for tile in tiles(snapshot_of(a_status())) if tile.title == "Block to ClickHouse, p50")
    assert (tile.figure.value, tile.notes[0][1].value) == (f"4.2{GAP}s", f"7.9{GAP}s")


def test_times_are_relative_with_the_absolute_time_at_hand() -> None:
    elements = Elements(render_fragment(snapshot_of(a_status())))
    titles = {attributes["title"] for tag, attributes in elements.found if tag == "time"}
    assert "2025-11-21 18:20:05 UTC" in titles  # the newest row, 6 s before


def test_every_table_has_headers_with_a_scope() -> None:
    elements = Elements(render_fragment(snapshot_of(a_status())))
    scopes = [attributes.get("scope") for tag, attributes in elements.found if tag == "th"]
    assert scopes
    assert set(scopes) <= {"col", "row", "rowgroup"}


@pytest.mark.parametrize("values", [[], [None, None], [0.0], [0.0, 0.0], [None, 5.0, None, 1.0, 2.0]])
def test_a_sparkline_of_anything_is_a_plain_picture(values: list[float | None]) -> None:
    root = ET.fromstring(sparkline(values, HOSTILE))
    assert root.attrib["aria-label"] == HOSTILE
    assert {element.tag.rsplit("}")[-1] for element in root.iter()} <= {"svg", "g", "path"}


def test_a_rare_peak_does_not_press_the_rest_to_the_ground() -> None:
    assert ceiling([40.0] * 30 + [5000.0]) == 80.0
    assert ceiling([40.0, 60.0]) == 60.0
    assert ceiling([0.0] * 30 + [7.0]) == 7.0  # rare values are all there is
    assert ceiling([None, 0.0]) == 1.0


def test_drawing_leaves_no_hook_in_the_import_system() -> None:
    assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("pygal")]


def test_a_sparkline_does_not_span_a_gap() -> None:
    whole = ET.fromstring(sparkline([1.0, 2.0, 3.0, 4.0], ""))
    broken = ET.fromstring(sparkline([1.0, 2.0, None, 3.0, 4.0], ""))
    assert len(list(whole.iter("{http://www.w3.org/2000/svg}path"))) == 2
    assert len(list(broken.iter("{http://www.w3.org/2000/svg}path"))) == 4


@given(st.text(max_size=300).map(lambda text: HOSTILE + text), st.binary(max_size=300).map(HOSTILE.encode().__add__))
def test_no_text_adds_an_element(text: str, data: bytes) -> None:
    letter = DeadLetter("1763749000000-0", data, text, text, text, 1, text)
    plain = DeadLetter("1763749000000-0", b"", "", "", "", 1, "")
    tags = [
        [tag for tag, _ in Elements(render_fragment(snapshot_of(a_status(letters={"stream:trades": [each]})))).found]
        for each in (letter, plain)
    ]
    assert tags[0] == tags[1]


def test_a_foreign_group_does_not_take_the_place_of_the_writers() -> None:
    foreign = StreamInfo(5, None, None, 5, [group("markets_writers"), group("zz_foreign")])
    status = a_status(streams={"stream:markets": foreign})
    assert [each.expected for each in status.streams[0].groups] == [True, False]
    assert "zz_foreign" in Elements(render_fragment(snapshot_of(status))).text


def test_rates_and_charts_come_from_the_history() -> None:
    status = a_status()
    watch = Watch(lambda _: status, lambda: NOW)
    for seconds, rows in ((10, 1_203_561), (5, 1_203_761)):
        earlier = a_status(
            tables=[table(name, rows) for name in ("markets", "market_tokens", "order_filled", "trades")]
        )
        watch.remember(replace(earlier, at=NOW - seconds))
    assert watch.interpret(status).rates["trades.rows"].value == 40.0


def test_fields_that_markets_were_stored_without_are_shown_and_degrade_nothing() -> None:
    snapshot = snapshot_of(a_status())
    assert "endDate 3, volume 1" in Elements(render_page(snapshot)).text
    assert snapshot.to_json()["unreadable"]["value"] == {"endDate": 3, "volume": 1}
    assert snapshot.health.verdict == "ok"
