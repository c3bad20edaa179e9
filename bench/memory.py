"""Resident memory of the six Python processes once all markets are known, in MB; each process's own part of it (PSS).

The markets come through the ingester and the writer. Then fills over tokens of all of them, at random, pass through the
processor: every one has to find its market. On a system that tells no PSS it is the resident size, shared parts
counted with each process. The floor is six interpreters that hold the libraries and nothing else.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from bench.markets import await_rows, await_sweep, await_until, show, simulator, sweeping
from bench.result import Result, options, table
from bench.servers import Bench, running, servers
from common.dead_letters import newest_dead_letters
from common.records import OrderFilled, encode
from common.redis_queue import Offer, Position
from simulator.catalogue import Catalogue
from simulator.standing import Life
from tests.servers import free_port
from tests.simulator import SimulatorServer

MARKETS = 60_000
FILLS = 100_000
PAGE = 2000
GOAL_MB = 600
PROCESSOR_GOAL_MB = 300
STAGES = (
    "ingesters.polymarket_ingester",
    "ingesters.goldsky_ingester",
    "ingesters.polygon_ingester",
    "processors.trade_processor",
    "processors.clickhouse_writer",
    "monitoring.dashboard",
)
LIBRARIES = "import clickhouse_connect, msgspec, pydantic_settings, redis, requests"


def run(arguments: Sequence[str] = ()) -> Result:
    """Start everything, let it learn the markets, send fills, weigh the processes."""
    asked = options("memory", arguments, markets=MARKETS, fills=FILLS)
    with servers(**sweeping()) as bench, simulator(bench, asked.markets) as source:
        listed = source.truth_markets()
        update = {
            "polymarket_api_url": source.gamma_url,
            "goldsky_url": source.goldsky_url,
            "polygon_rpc_url": source.polygon_url,
            "dashboard_port": free_port(),
            **source.cutover_settings(),
        }
        with running(bench.settings.model_copy(update=update), STAGES) as pids:
            show(await_sweep(bench, source), len(listed))
            await_rows(bench, listed)
            send_fills(bench, catalogue_of(source, asked.markets), asked.fills)
            weights = weigh({**pids, **bench.pids()})
        versions_mb = redis_mb(bench)
    floor = len(STAGES) * floor_mb()
    table(["process", "PSS MB", "RSS MB", "most MB"], [[name, *sizes] for name, sizes in weights.items()])
    print(f"Redis data: {versions_mb:,.0f} MB")
    stages = {name: sizes for name, sizes in weights.items() if name in pids}
    total = sum(pss for pss, _, _ in stages.values())
    processor = next(rss for name, (_, rss, _) in stages.items() if name.startswith("trade_processor"))
    print(f"trade processor: {processor:.0f} MB resident, the goal is {PROCESSOR_GOAL_MB}")
    return Result("memory", total, "MB", floor, GOAL_MB, lower_is_better=True)


def catalogue_of(source: SimulatorServer, markets: int) -> Catalogue:
    """The same markets as the simulator's."""
    health = source.get_json("/health")
    return Catalogue(Life(health["seed"], markets, health["history_start"], health["birth"]))


def send_fills(bench: Bench, catalogue: Catalogue, count: int) -> None:
    """Fills of random tokens as an ingester hands them over, until each is a trade."""
    rng, settings = Random(1), bench.settings
    stream, trades = settings.stream_order_events, settings.stream_trades
    before = bench.queue.stream_info(trades).entries_added
    now = int(catalogue.series_start)
    for start in range(0, count, PAGE):
        fills = [fill_of(number, now, token_of(catalogue, rng)) for number in range(start, min(start + PAGE, count))]
        offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in fills]
        bench.queue.push_batch(stream, offers, source="bench", position=Position(now, fills[-1].id), window_s=10)
    await_until(lambda: bench.queue.stream_info(trades).entries_added - before >= count, "every fill is a trade", 300)
    dead = newest_dead_letters(bench.queue, f"{stream}", 1)[0]
    if dead:
        raise SystemExit(f"{dead:,} fills found no market")
    print(f"{count:,} fills of random tokens: each found its market")


def token_of(catalogue: Catalogue, rng: Random) -> str:
    while not (tokens := catalogue[rng.randrange(len(catalogue.standing))].tokens):
        pass
    return rng.choice(tokens)


def fill_of(number: int, timestamp: int, token: str) -> OrderFilled:
    transaction, order = f"0x{number:064x}", f"0x{number + 1:064x}"
    return OrderFilled(
        id=f"{transaction}_{order}",
        transaction_hash=transaction,
        order_hash=order,
        timestamp=timestamp,
        maker=f"0x{1:040x}",
        taker=f"0x{2:040x}",
        maker_asset_id="0",
        taker_asset_id=token,
        maker_amount_filled=5_000_000,
        taker_amount_filled=10_000_000,
        fee=0,
    )


def weigh(pids: Mapping[str, int]) -> dict[str, tuple[float, float, float]]:
    """PSS, RSS and the largest RSS so far of each process, MB."""
    return {name: weight_of(pid) for name, pid in pids.items()}


def weight_of(pid: int) -> tuple[float, float, float]:
    try:
        rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text())
        status = _kilobytes(Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True)  # noqa: S607
        resident = int(told.stdout) / 1024
        return resident, resident, resident
    return rollup["Pss"] / 1024, rollup["Rss"] / 1024, status["VmHWM"] / 1024


def _kilobytes(text: str) -> dict[str, int]:
    lines = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def redis_mb(bench: Bench) -> float:
    """What Redis holds; without a backlog that is the remembered versions of the markets."""
    info = bench.queue.call("INFO", "memory")
    return int(info["used_memory"]) / 2**20


def floor_mb() -> float:
    """An interpreter that has loaded the libraries."""
    command = [sys.executable, "-c", f"{LIBRARIES}; print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        weight = weight_of(process.pid)[0]
        process.communicate(b"\n")
        return weight
