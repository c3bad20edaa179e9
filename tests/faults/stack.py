"""The whole pipeline as real processes on free ports and scratch data, with a breakable connection between any two."""

import os
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from common.config import Settings
from setup_schema import setup
from tests.faults.plan import STAGES
from tests.faults.processes import Fleet, Spec
from tests.faults.tcp_proxy import TcpProxy
from tests.servers import ROOT, free_port
from tests.simulator import SimulatorServer
from tests.waiting import wait_until

START_LIMIT_S = 90.0
STOP_LIMIT_S = 60.0  # as supervisord's; the drain below takes 5 s, a call that has to time out first another 6
QUERY_LIMIT_S = 60.0
DATABASE = "polymarket"
COMPARED_TABLES = ("order_filled", "trades")
HISTORY_RATE = 10  # fills a second of the simulator's past
LIVE_RATE = 100
CHAIN_SHARE = 0.35  # of the past lies behind the cut-over; with what is new there, as much as the subgraph has
SOURCE_DELAY_S = 0.15  # an answer takes; with the page sizes below, fills flow steadily at some 600/s
PROVIDERS = ("polygon", "polygon/notime")  # the second has a block's time asked for by itself
MODULES = {
    "trade_processor": "processors.trade_processor",
    "clickhouse_writer": "processors.clickhouse_writer",
    "goldsky_ingester": "ingesters.goldsky_ingester",
    "polygon_ingester": "ingesters.polygon_ingester",
    "polymarket_ingester": "ingesters.polymarket_ingester",
}
# Everything that takes seconds in production takes fractions here, so that many take-overs fit into a run.
QUICK = {
    "LEASE_S": "3",
    "DRAIN_S": "5",
    "REDIS_TIMEOUT_S": "4",
    "CLICKHOUSE_TIMEOUT_S": "6",
    "HTTP_CONNECT_TIMEOUT_S": "2",
    "HTTP_READ_TIMEOUT_S": "3",
    "BACKOFF_INITIAL_S": "0.1",
    "BACKOFF_MAX_S": "0.5",
    "CLICKHOUSE_WRITER_MAX_WAIT": "0.3",
    "CLICKHOUSE_WRITER_BATCH_SIZE": "500",
    "PROCESSOR_BATCH_SIZE": "200",
    "TRIM_INTERVAL_S": "1",
    "UNKNOWN_TOKEN_RECHECK_S": "2",
    "POLYMARKET_POLL_INTERVAL": "2",
    "GOLDSKY_POLL_INTERVAL": "1",
    "GOLDSKY_OVERLAP_S": "20",
    "GOLDSKY_PAGE_SIZE": "60",
    "POLYGON_POLL_INTERVAL": "1",
    "POLYGON_MAX_BLOCKS": "2",
    "POLYGON_SECOND_LOOK_S": "8",
}
# Merges would remove duplicates before they are counted. Settings of the tables, unlike SYSTEM STOP MERGES, survive a
# restart of the server; without merges the number of parts has to be allowed to grow.
WITHOUT_MERGES = {
    "max_bytes_to_merge_at_max_space_in_pool": 1,
    "max_bytes_to_merge_at_min_space_in_pool": 1,
    "parts_to_delay_insert": 100_000,
    "parts_to_throw_insert": 100_000,
}


class Size(NamedTuple):
    """How much there is to do, and how the source lets it be read."""

    history_s: float
    source_seed: int
    rate_limits: bool


class Stack(NamedTuple):
    """A running pipeline."""

    fleet: Fleet
    proxies: dict[str, TcpProxy]
    source: SimulatorServer
    redis: "Redis"
    redis_folder: Path
    clickhouse_url: str
    start: int  # Unix seconds from which on fills are read

    def query(self, sql: str) -> list[list[str]]:
        """Rows of a SELECT as texts, asked of ClickHouse itself: past the proxy and past the code under test."""
        address = f"{self.clickhouse_url}/?{urllib.parse.urlencode({'database': DATABASE})}"
        request = urllib.request.Request(address, f"{sql} FORMAT TSVRaw".encode())
        with urllib.request.urlopen(request, timeout=QUERY_LIMIT_S) as answer:
            return [line.split("\t") for line in answer.read().decode().splitlines()]

    def number(self, sql: str) -> int:
        """The only figure of a SELECT."""
        return int(self.query(sql)[0][0])


@contextmanager
def running_stack(folder: Path, size: Size) -> Iterator[Stack]:
    """Yield the pipeline once everything is up; afterwards every process is gone, the folder stays."""
    with ExitStack() as closing:
        fleet = closing.enter_context(Fleet(folder))
        source = closing.enter_context(_running_source(folder, size, fleet))
        ports = {"redis": free_port(), "clickhouse": free_port(), "source": int(source.url.rpartition(":")[2])}
        proxies = {
            name: closing.enter_context(TcpProxy(port, delay_s=SOURCE_DELAY_S if name == "source" else 0.0))
            for name, port in ports.items()
        }
        redis = closing.enter_context(Redis(port=ports["redis"]))
        start = int(source.get_json("/health")["history_start"])
        url = f"http://127.0.0.1:{ports['clickhouse']}"
        stack = Stack(fleet, proxies, source, redis, folder / "redis", url, start)
        _start_servers(stack, ports, folder)
        _make_tables(stack, ports)
        _start_stages(stack, size)
        closing.callback(fleet.end)  # before the proxies and the source go
        yield stack


@contextmanager
def _running_source(folder: Path, size: Size, fleet: Fleet) -> Iterator[SimulatorServer]:
    source = SimulatorServer(
        folder,
        seed=size.source_seed,
        history_hours=size.history_s / 3600,
        history_rate=HISTORY_RATE,
        cutover=f"-{size.history_s * CHAIN_SHARE:.0f}s",
        live_rate=LIVE_RATE,
        rate_limits=size.rate_limits,
    )
    fleet.guard.add(source.pid)
    with source:
        try:
            yield source
        finally:
            fleet.guard.remove(source.pid)


def _start_servers(stack: Stack, ports: dict[str, int], folder: Path) -> None:
    clickhouse = [
        "embedded.clickhouse_server",
        "--port",
        str(ports["clickhouse"]),
        "--path",
        str(folder / "clickhouse"),
    ]
    redis = ["embedded.redis_server", "--port", str(ports["redis"]), "--dir", str(stack.redis_folder)]
    stack.fleet.add(program_spec("redis", redis, {}, "Ready to accept connections"))
    stack.fleet.add(program_spec("clickhouse", clickhouse, {}, "serving"))
    _wait_until_up(stack.fleet)


def _wait_until_up(fleet: Fleet) -> None:
    def are_up() -> bool:
        fleet.tick()
        return fleet.are_up()

    wait_until(are_up, "every process is up", START_LIMIT_S)


def _make_tables(stack: Stack, ports: dict[str, int]) -> None:
    settings = Settings(
        _env_file=None,
        redis_host="127.0.0.1",
        redis_port=ports["redis"],
        clickhouse_host="127.0.0.1",
        clickhouse_port=ports["clickhouse"],
        clickhouse_database=DATABASE,
        pipeline_mode="demo",
    )
    setup(settings, lambda _: None)
    changes = ", ".join(f"{name} = {value}" for name, value in WITHOUT_MERGES.items())
    for table in (*COMPARED_TABLES, "markets"):
        request = urllib.request.Request(
            stack.clickhouse_url, f"ALTER TABLE {DATABASE}.{table} MODIFY SETTING {changes}".encode()
        )
        urllib.request.urlopen(request, timeout=QUERY_LIMIT_S).close()


def _start_stages(stack: Stack, size: Size) -> None:
    source = f"http://127.0.0.1:{stack.proxies['source'].port}"
    env = {
        **QUICK,
        "PIPELINE_MODE": "demo",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(stack.proxies["redis"].port),
        "CLICKHOUSE_HOST": "127.0.0.1",
        "CLICKHOUSE_PORT": str(stack.proxies["clickhouse"].port),
        "CLICKHOUSE_DATABASE": DATABASE,
        "POLYMARKET_API_URL": f"{source}/gamma",
        "GOLDSKY_URL": f"{source}/goldsky",
        "POLYGON_RPC_URL": ",".join(f"{source}/{provider}" for provider in PROVIDERS),
        "ORDER_EVENTS_START": str(stack.start),
        **{setting.upper(): str(value) for setting, value in stack.source.cutover_settings().items()},
        "LOG_TO_FILE": "false",
    }
    if not size.rate_limits:
        env |= {f"{upstream}_REQUESTS_PER_10S": "100000" for upstream in ("GOLDSKY", "POLYGON", "POLYMARKET")}
    for name in STAGES:
        module = next(module for program, module in MODULES.items() if name.startswith(program))
        stack.fleet.add(program_spec(name, [module], env, "starting, pid {pid},"))
    _wait_until_up(stack.fleet)


def program_spec(name: str, command: list[str], env: dict[str, str], up: str) -> Spec:
    """A module of the project, run apart from this machine's settings: its environment's and its `.env`."""
    ours = {setting.upper() for setting in Settings.model_fields}
    clean = {variable: value for variable, value in os.environ.items() if variable.upper() not in ours}
    own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return Spec(name, [sys.executable, "-m", *command], {**clean, **own, **env}, up, STOP_LIMIT_S)
