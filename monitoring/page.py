"""The page as HTML. Everything that came from outside is escaped by the templates."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monitoring import formatting
from monitoring.reading import Reading, absent, known_or
from monitoring.snapshot import Snapshot, backlog
from monitoring.sparkline import sparkline
from monitoring.stages import number
from monitoring.unreadable import in_words

HERE = Path(__file__).parent
TITLE = "Polymarket pipeline"
HEADLINES = {"ok": "Everything works", "degraded": "Works, but needs attention", "broken": "Something is broken"}
SOURCE_TONES = {
    "live": "ok",
    "catching up": "busy",
    "idle": "warn",
    "stale": "bad",
    "unreachable": "bad",
    "ended": "done",
    "unknown": "unknown",
}
STATE_TONES = {
    "running": "ok",
    "starting": "busy",
    "draining": "busy",
    "waiting": "warn",
    "stopped": "bad",
    "silent": "bad",
    "missing": "bad",
    "unknown": "unknown",
}


class Tile(NamedTuple):
    """One figure with its last quarter of an hour."""

    title: str
    figure: Reading[str]
    notes: list[tuple[str, Reading[str]]]
    chart: Markup


def render_page(snapshot: Snapshot) -> str:
    """The whole page."""
    return _environment.get_template("page.html").render(_context(snapshot))


def render_fragment(snapshot: Snapshot) -> str:
    """The part of the page that is replaced when it refreshes."""
    return _environment.get_template("fragment.html").render(_context(snapshot))


def _context(snapshot: Snapshot) -> dict[str, object]:
    status = snapshot.status
    markets, events, trades = status.streams[:3]
    return {
        "title": TITLE,
        "status": status,
        "health": snapshot.health,
        "headline": HEADLINES[snapshot.health.verdict],
        "rates": snapshot.rates,
        "tiles": tiles(snapshot),
        "markets": markets,
        "events": events,
        "trades": trades,
        "charts": _stream_charts(snapshot),
        "shared_reasons": {status.redis.reason, status.clickhouse.reason},
    }


def tiles(snapshot: Snapshot) -> list[Tile]:
    """The figures at the top."""
    status, rates = snapshot.status, snapshot.rates
    events = f"{status.streams[1].name}.added"
    latency = status.latency
    stored = latency.block_to_clickhouse
    return [
        Tile(
            "Fills arriving",
            rates[events].map(formatting.rate),
            [
                ("newest trade's block", latency.newest_trade_age_s.map(formatting.ago)),
                ("peak, 15 min", peak(snapshot.rate_series[events]).map(formatting.rate)),
            ],
            sparkline(snapshot.rate_series[events], "Fills arriving per second, last 15 minutes"),
        ),
        Tile(
            "Trades stored",
            rates["trades.rows"].map(formatting.rate),
            [
                ("in all", status.table("trades").rows.map(formatting.number)),
                ("peak, 15 min", peak(snapshot.rate_series["trades.rows"]).map(formatting.rate)),
            ],
            sparkline(snapshot.rate_series["trades.rows"], "Trades stored per second, last 15 minutes"),
        ),
        Tile(
            "Block to ClickHouse, p50",
            stored.map(lambda took: formatting.duration(took.p50_s)),
            [
                ("p99", stored.map(lambda took: formatting.duration(took.p99_s))),
                ("from Redis, p99", latency.redis_to_clickhouse_p99_s.map(formatting.duration)),
            ],
            sparkline(snapshot.gauge_series["block_to_clickhouse_p50_s"], "Median in seconds, last 15 minutes"),
        ),
        Tile(
            "Backlog",
            backlog(status).map(formatting.number),
            [
                ("waiting for a market", status.stage("trade_processor").waiting.map(formatting.number)),
                ("peak, 15 min", peak(snapshot.gauge_series["behind"]).map(formatting.number)),
            ],
            sparkline(snapshot.gauge_series["behind"], "Entries still to be processed, last 15 minutes"),
        ),
    ]


def peak(values: Sequence[float | None]) -> Reading[float]:
    """The largest value that a chart stands for; rare ones are cut off there."""
    return known_or(max((value for value in values if value is not None), default=None), absent("not yet measured"))


def _stream_charts(snapshot: Snapshot) -> dict[str, Markup]:
    return {
        stream.name: sparkline(snapshot.rate_series[f"{stream.name}.added"], "Entries per second, last 15 minutes")
        for stream in snapshot.status.streams
    }


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,  # every template, whatever its name ends with
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("duration", "ago", "utc", "iso", "printable"):
        environment.filters[name] = getattr(formatting, name)
    environment.filters["counted"] = _counted
    environment.globals["tones"] = STATE_TONES
    environment.globals["source_tones"] = SOURCE_TONES
    environment.globals["no_disk"] = lambda _: "unlimited"  # object storage
    environment.globals["none_noted"] = lambda _: "none noted"
    environment.globals["fields"] = lambda counts: in_words(counts) or "none"
    environment.globals["fmt"] = formatting  # for the values of readings: reading.map(fmt.number)
    return environment


def _counted(text: str) -> str:
    """A number out of a heartbeat, or its text where it is none."""
    count = number(text)
    return formatting.printable(text) if count is None else formatting.number(count)


_environment = _make_environment()
