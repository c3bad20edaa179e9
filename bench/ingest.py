"""From the sources' pages to Redis, by each ingester at full speed: a simulator without rate limits and without delay.

The floor of each is what it spends waiting for the source: the requests alone, as if reading them cost nothing. The
figure is that of the subgraph's ingester.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from bench.result import Result, options, table
from bench.servers import Bench, servers
from common.http import HttpSource
from common.redis_queue import RedisQueue
from common.runtime import Context, Stage
from ingesters import goldsky_ingester, polygon_ingester, polymarket_ingester
from tests.integration.ingesting import WITHOUT_CUTOVER
from tests.simulator import SimulatorServer

HOURS = 1
RATE = 20.0  # fills a second of history, so that the simulator makes them quickly
MARKETS = 3000
GOAL = 4500  # nine tenths of what the subgraph's limit allows
LIMIT_S = 300.0
DONE = ("live", "idle", "stale", "ended")


class Ingested(NamedTuple):
    name: str
    records: int
    seconds: float
    waited_s: float  # of them, for the source


def run(arguments: Sequence[str] = ()) -> Result:
    hours = options("ingest", arguments, hours=HOURS).hours
    with servers("--maxmemory", "8gb") as bench:
        with simulator(bench, hours) as source:
            told = [ingest(bench, "markets", polymarket_ingester.build, source)]
            told.append(ingest(bench, "subgraph", goldsky_ingester.build, source, **WITHOUT_CUTOVER))
        with simulator(bench, hours, cutover=f"-{3600 * hours - 60}s") as source:
            told.append(ingest(bench, "chain", polygon_ingester.build, source, **source.cutover_settings()))
    table(
        ("source", "records", "records/s", "seconds", "of them waiting for it, all requests together"),
        [(each.name, each.records, each.records / each.seconds, each.seconds, each.waited_s) for each in told],
    )
    rate, floor = told[1].records / told[1].seconds, told[1].records / told[1].waited_s
    return Result("ingest", rate, "fills/s", floor, GOAL, lower_is_better=False)


def simulator(bench: Bench, hours: int, **changes: str) -> SimulatorServer:
    """A source with a history and nothing new, that answers as fast as it can."""
    world = {"history_hours": hours, "history_rate": RATE, "live_rate": 0.001, "markets": MARKETS}
    folder = bench.folder / f"simulator{len(changes)}"
    folder.mkdir()
    return SimulatorServer(folder, rate_limits=False, **world, **changes)


def ingest(
    bench: Bench, name: str, build: Callable[[Context], Stage], source: SimulatorServer, **changes: object
) -> Ingested:
    """Run one ingester until it has read everything."""
    own = {
        "key_prefix": f"{name}:",
        "order_events_start": f"{24 * 365}h",
        "polymarket_api_url": source.gamma_url,
        "goldsky_url": source.goldsky_url,
        "polygon_rpc_url": source.polygon_url,
        **{f"{each}_requests_per_10s": 1_000_000 for each in ("polymarket", "goldsky", "polygon")},
    }
    settings = bench.settings.model_copy(update={**own, **changes})
    queue = RedisQueue(settings)
    stage = build(Context(settings, queue, logging.getLogger("bench"), lambda: False))
    with waiting_for_sources() as waited:
        started = time.perf_counter()
        while stage.report()["source_state"] not in DONE and time.perf_counter() < started + LIMIT_S:
            stage.step()
        seconds = time.perf_counter() - started
    records = int(stage.report()["records_out"])
    stage.close()
    queue.close()
    return Ingested(name, records, seconds, sum(waited))


@contextmanager
def waiting_for_sources() -> Iterator[list[float]]:
    """Yields a list of the seconds that each request to a source has taken."""
    waited: list[float] = []
    ask = HttpSource._ask  # noqa: SLF001 - the one place that every request goes through

    def timed(*arguments: Any, **named: Any) -> bytes:
        started = time.perf_counter()
        try:
            return ask(*arguments, **named)
        finally:
            waited.append(time.perf_counter() - started)

    HttpSource._ask = timed  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield waited
    finally:
        HttpSource._ask = ask  # type: ignore[method-assign]  # noqa: SLF001
