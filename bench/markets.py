"""All markets, once, from a source that answers after 300 ms and allows 300 requests in 10 s: requests in 10 s.

The ingester and the writer run as processes with their default settings. The API's 300 include the look-ups of tokens,
so the ingester keeps to 290 and its sweep to a twentieth less. Measured once the first ten seconds, in which the limit
allows a burst, are over. At the end every market that was listed at the beginning has to be in ClickHouse.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.result import Result, options
from bench.servers import Bench, running, servers
from common.state import read_state
from tests.simulator import SimulatorServer

MARKETS = 60_000
OPEN_SHARE = 46_500 / 1_500_000  # as in 2026
DELAY_S = 0.3
ALLOWED = 300.0
GOAL = 0.9 * ALLOWED
WINDOW_S = 10.0
POLL_S = 0.2
LIMIT_S = 3600.0


class Swept(NamedTuple):
    """How long the first sweep took, and how many requests it made in ten seconds once it was under way."""

    seconds: float
    requests: int
    requests_per_10s: float


def run(arguments: Sequence[str] = ()) -> Result:
    """Start the servers, measure, print what was read."""
    count = options("markets", arguments, markets=MARKETS).markets
    with servers(**sweeping()) as bench, simulator(bench, count) as source:
        listed = source.truth_markets()
        settings = bench.settings.model_copy(update={"polymarket_api_url": source.gamma_url})
        with running(settings, ["ingesters.polymarket_ingester", "processors.clickhouse_writer"]):
            swept = await_sweep(bench, source)
            await_rows(bench, listed)
    show(swept, len(listed))
    return Result("markets", swept.requests_per_10s, "requests/10 s", ALLOWED, GOAL, lower_is_better=False)


def sweeping() -> dict[str, object]:
    """The settings that differ from the defaults."""
    return {"polymarket_api_url": "http://127.0.0.1:1"}  # told once the simulator has its port


def simulator(bench: Bench, markets: int, **changes: float) -> SimulatorServer:
    """Gamma with so many markets, as few of them open as in reality."""
    world = {"markets": markets, "open_markets": int(markets * OPEN_SHARE), "history_hours": 0.02, "live_rate": 1}
    return SimulatorServer(bench.folder, **{**world, "answer_delay_s": DELAY_S, **changes})


def await_sweep(bench: Bench, source: SimulatorServer) -> Swept:
    """Watch the first sweep to its end."""
    await_until(lambda: asked(source) > 0, "the first request")
    began = time.monotonic()
    await_until(lambda: time.monotonic() - began > WINDOW_S, "the first window")
    steady_from, before = time.monotonic(), asked(source)
    await_until(lambda: has_swept(bench), "the first sweep")
    now, requests = time.monotonic(), asked(source)
    return Swept(now - began, requests, (requests - before) / (now - steady_from) * WINDOW_S)


def await_rows(bench: Bench, listed: Sequence[str]) -> None:
    """Until every market is in ClickHouse; SystemExit with the missing ones."""
    wanted = set(listed)

    def missing() -> set[str]:
        if bench.queue.backlog(bench.settings.stream_markets) or bench.count("markets") < len(wanted):
            return wanted
        return wanted - {identity for (identity,) in bench.clickhouse.query(f"SELECT id FROM {_markets(bench)}")}

    try:
        await_until(lambda: not missing(), "every market is in ClickHouse", 120)
    except TimeoutError as error:
        raise SystemExit(f"{error}: {len(missing()):,} of {len(wanted):,} are missing") from error


def _markets(bench: Bench) -> str:
    return f"{bench.clickhouse.database}.markets"


def asked(source: SimulatorServer) -> int:
    """Requests that the simulated Gamma has had."""
    return int(source.get_json("/health")["requests"]["gamma"])


def has_swept(bench: Bench) -> bool:
    cursor = read_state(bench.queue, "polymarket_cursor") or ""
    return bool(cursor) and ("sweep=1 " not in cursor or cursor.endswith("closed=true done"))


def await_until(predicate: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit_s:g} s")
        time.sleep(POLL_S)


def show(swept: Swept, markets: int) -> None:
    rate = f"{swept.requests_per_10s:.0f} in 10 s"
    print(f"{markets:,} markets in {swept.seconds:.0f} s and {swept.requests:,} requests, {rate}")
