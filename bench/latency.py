"""From a fill's arrival in Redis to its trade being visible in ClickHouse, at the live rate.

Processor and writer run as processes of their own, with the default settings. Fills are handed over as an ingester
does, 40 a second with bursts of 80; every 20 ms the tables are asked which ids they show. The floor is a single row
inserted and read back directly: what ClickHouse itself takes.
"""

import statistics
import time
from collections.abc import Sequence

from bench.result import Result, options
from bench.servers import running, servers
from common.clickhouse import ClickHouse
from common.config import Settings
from common.records import encode
from common.redis_queue import Offer, Position, RedisQueue
from common.tables import ORDER_FILLED
from test_message import test_fill, test_market

SECONDS = 40
RATE = 40  # fills a second; every fifth second twice as many
TICK_S = 0.1
POLL_S = 0.02
BURST_EVERY_S = 5
SETTLE_S = 20.0
GOAL_S = 3.0
FLOOR_ROUNDS = 20
PROCESSES = ("processors.trade_processor", "processors.clickhouse_writer")


class Feed:
    """Hands fills over like an ingester, and notes when each had arrived."""

    def __init__(self, queue: RedisQueue, settings: Settings) -> None:
        self._queue = queue
        self._stream = settings.stream_order_events
        self.arrived: dict[str, float] = {}
        market = test_market()
        offer = Offer(market.id, encode(market), version="1")
        queue.push_changed(settings.stream_markets, [offer], source="bench", state={})

    def push(self, count: int) -> None:
        now = int(time.time())
        offers = []
        for number in range(len(self.arrived), len(self.arrived) + count):
            fill = test_fill(now)
            identity = f"{fill.transaction_hash[:-8]}{number:08x}_{fill.order_hash}"
            data = encode(fill).replace(fill.id.encode(), identity.encode(), 1)
            offers.append(Offer(identity, data, now))
        position = Position(now, offers[-1].identity)
        self._queue.push_batch(self._stream, offers, source="bench", position=position, window_s=120)
        arrived_at = time.time()
        self.arrived.update((offer.identity, arrived_at) for offer in offers)


class Watch:
    """Which ids a table shows, and since when."""

    def __init__(self, clickhouse: ClickHouse, table: str) -> None:
        self._clickhouse = clickhouse
        self._sql = f"SELECT id FROM {clickhouse.database}.{table}"
        self.seen: dict[str, float] = {}

    def look(self) -> None:
        rows = self._clickhouse.query(self._sql)
        now = time.time()
        for (identity,) in rows:
            self.seen.setdefault(identity, now)

    def latencies(self, arrived: dict[str, float]) -> list[float]:
        return sorted(self.seen[identity] - at for identity, at in arrived.items())


def drive(feed: Feed, watches: list[Watch]) -> None:
    """Feed at the live rate for a while, watching, until everything is visible."""
    started = time.time()
    ticks = 0
    while time.time() - started < SECONDS + SETTLE_S:
        elapsed = time.time() - started
        if elapsed < SECONDS and elapsed >= ticks * TICK_S:
            is_burst = int(elapsed) % BURST_EVERY_S == 0
            feed.push(int(RATE * TICK_S) * (2 if is_burst else 1))
            ticks += 1
        for watch in watches:
            watch.look()
        if elapsed >= SECONDS and all(len(watch.seen) == len(feed.arrived) for watch in watches):
            return
        time.sleep(POLL_S)
    missing = [len(feed.arrived) - len(watch.seen) for watch in watches]
    raise SystemExit(f"not visible {SETTLE_S} s after the last arrival: {missing}")


def floor_s(clickhouse: ClickHouse) -> float:
    """Median of inserting one row and reading it back."""
    took = []
    for number in range(FLOOR_ROUNDS):
        fill = test_fill(int(time.time()))
        row = encode(fill).replace(fill.id.encode(), f"floor{number}".encode(), 1)
        started = time.perf_counter()
        clickhouse.batch_insert(ORDER_FILLED, row, f"floor{number}")
        shown = clickhouse.query(
            f"SELECT count() FROM {clickhouse.database}.order_filled WHERE id = {{id:String}}",
            {"id": f"floor{number}"},
        )
        assert shown == [(1,)]
        took.append(time.perf_counter() - started)
    clickhouse.command(f"TRUNCATE TABLE {clickhouse.database}.order_filled")
    return statistics.median(took)


def percentile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]


def run(arguments: Sequence[str] = ()) -> Result:
    """Start the servers, measure, print a table."""
    options("latency", arguments)
    with servers() as bench:
        floor = floor_s(bench.clickhouse)
        feed = Feed(bench.queue, bench.settings)
        watches = [Watch(bench.clickhouse, "trades"), Watch(bench.clickhouse, "order_filled")]
        with running(bench.settings, PROCESSES):
            drive(feed, watches)
    print(f"{len(feed.arrived)} fills in {SECONDS} s; arrival in Redis to visible in ClickHouse, seconds")
    print(f"{'table':14} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7}")
    for name, watch in zip(("trades", "order_filled"), watches, strict=True):
        ordered = watch.latencies(feed.arrived)
        shares = [percentile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0)]
        print(f"{name:14} " + " ".join(f"{share:7.3f}" for share in shares))
    worst = percentile(watches[0].latencies(feed.arrived), 0.99)
    return Result("latency", worst, "s (p99)", floor, GOAL_S, lower_is_better=True)
