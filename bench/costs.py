"""What Redis and ClickHouse themselves spend on a fill, in microseconds of their CPU, under other settings.

Redis: a fill added, read by two groups, made a trade, that read and acknowledged, by the barest calls, with its
append-only file synced always, every second, or off, and without jemalloc. ClickHouse: a fill and its trade inserted in
batches of several sizes, with the merges that follow within a few seconds, and with LZ4 in place of ZSTD. The figure is
Redis as it is embedded, the floor Redis without an append-only file.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.fills import fill_rows, trade_rows, world_of
from bench.load import load
from bench.result import Result, options, table
from bench.servers import Bench, servers
from bench.throughput import cpu_s
from common.config import Settings
from common.keys import Route
from common.leases import take_lease
from common.redis_queue import Held, RedisQueue
from common.redis_queue import Result as Completed
from common.tables import ORDER_FILLED, TRADES
from tests.servers import RedisServer

FILLS = 100_000
GOAL_US = 33  # Redis is one thread: 30,000 fills a second leave it no more
BATCH = 2000
LEASE_S = 600.0
ENTRIES = 5000
ROWS = (10_000, 25_000, 50_000)
MERGE_S = 4.0
ALWAYS = {"appendfsync": "always"}
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "always": ALWAYS,
    "everysec": {"appendfsync": "everysec"},
    "no append-only file": {"appendonly": "no"},
}
WITHOUT_JEMALLOC = """import sys
from embedded import redis_server
redis_server.better_allocator = dict
sys.exit(redis_server.main())"""


class PlainServer(RedisServer):
    """The embedded server with the allocator that its wheel brings."""

    def command(self) -> list[str]:
        _, _, _, *where = super().command()
        return [sys.executable, "-c", WITHOUT_JEMALLOC, *where]


def run(arguments: Sequence[str] = ()) -> Result:
    count = options("costs", arguments, fills=FILLS).fills
    world = world_of(count)
    fills, trades = list(fill_rows(world, count)), list(trade_rows(world, count))
    costs = {name: redis_us(RedisServer, changes, fills, trades) for name, changes in SETTINGS.items()}
    costs["always, without jemalloc"] = redis_us(PlainServer, ALWAYS, fills, trades)
    table(("Redis", "CPU µs a fill"), list(costs.items()))
    rows = [(f"{size:,} rows an insert", clickhouse_us(fills, trades, size)) for size in ROWS]
    rows.append((f"{ROWS[-1]:,}, LZ4", clickhouse_us(fills, trades, ROWS[-1], codec="LZ4")))
    table(("ClickHouse", "CPU µs a fill"), rows)
    return Result(
        "costs", costs["always"], "CPU µs of Redis a fill", costs["no append-only file"], GOAL_US, lower_is_better=True
    )


def redis_us(
    kind: Callable[..., RedisServer], changes: Mapping[str, str], fills: Sequence[bytes], trades: Sequence[bytes]
) -> float:
    with redis(kind) as (server, queue):
        for name, value in changes.items():
            queue.call("CONFIG", "SET", name, value)
        before = cpu_s(server.pid)
        load(queue, "stream:order_events", fills)
        events = Route("stream:order_events", "events_processors")
        queue.ensure_group(events)
        made = iter(trades)
        lease = take_lease(queue, "bench", LEASE_S)
        assert lease
        entries = queue.read_from_stream(events, "bench", BATCH)
        while entries:
            results = [Completed(entry.id, next(made)) for entry in entries]
            held = Held("bench", lease.holder, len(entries))
            exchange = queue.start_exchange(events, "stream:trades", results, held, consumer="bench", count=BATCH)
            *_, entries = queue.finish_exchange(events, exchange)
        for route in (Route("stream:order_events", "order_events_writers"), Route("stream:trades", "trades_writers")):
            queue.ensure_group(route)
            while entries := queue.read_from_stream(route, "bench", ENTRIES):
                queue.ack(route, [entry.id for entry in entries])
        return (cpu_s(server.pid) - before) / len(fills) * 1e6


@contextmanager
def redis(kind: Callable[..., RedisServer]) -> Iterator[tuple[RedisServer, RedisQueue]]:
    with tempfile.TemporaryDirectory() as folder, kind(Path(folder), "--maxmemory", "8gb") as server:
        queue = RedisQueue(Settings(_env_file=None, redis_host=server.host, redis_port=server.port))
        try:
            yield server, queue
        finally:
            queue.close()


def clickhouse_us(fills: Sequence[bytes], trades: Sequence[bytes], size: int, codec: str = "") -> float:
    with servers() as bench:
        if codec:
            remake(bench, codec)
        pid = bench.pids()["clickhouse"]
        before = cpu_s(pid)
        for into, rows in ((ORDER_FILLED, fills), (TRADES, trades)):
            for start in range(0, len(rows), size):
                part = b"\n".join(rows[start : start + size])
                bench.clickhouse.batch_insert(into, part, f"{into.name}{start}")
        time.sleep(MERGE_S)
        return (cpu_s(pid) - before) / len(fills) * 1e6


def remake(bench: Bench, codec: str) -> None:
    """The two tables with another codec in place of ZSTD."""
    for declared in (ORDER_FILLED, TRADES):
        bench.clickhouse.command(f"DROP TABLE {bench.clickhouse.database}.{declared.name}")
        bench.clickhouse.command(declared.create(bench.clickhouse.database).replace("ZSTD(1)", codec))
