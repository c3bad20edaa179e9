"""What tests are made of: records, settings, queues and stages with names of their own."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from common.clickhouse import ClickHouse
from common.config import Settings
from common.dead_letters import newest_dead_letters
from common.records import Market, OrderFilled, encode
from common.redis_queue import RedisQueue
from common.runtime import Context
from processors.clickhouse_writer import ClickHouseWriter
from processors.trade_processor import TradeProcessor
from setup_schema import apply_schema
from tests.servers import ClickHouseServer, RedisServer

EPOCH = 1_763_000_000  # 2025-11-13T02:13:20Z: the time of fill 0
EXCHANGE_V1 = "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e"
LOG = logging.getLogger("tests")
_numbers = itertools.count(1)


def token_id(i: int, place: int = 0) -> str:
    """Return an id of 77 digits, as long as real ones."""
    return f"{1 + place}{i:076d}"


def wallet(i: int) -> str:
    return f"0x{i:040x}"


def make_fill(i: int, **changes: Any) -> OrderFilled:
    """Return fill number i: of market i % 10 unless told otherwise, a BUY of the maker when i is even."""
    token = token_id(i % 10)
    fields: dict[str, Any] = {
        "id": f"0x{i:064x}_0x{i + 1:064x}",
        "transaction_hash": f"0x{i:064x}",
        "order_hash": f"0x{i + 1:064x}",
        "timestamp": EPOCH + i // 5,
        "maker": wallet(i),
        "taker": EXCHANGE_V1 if i % 3 == 0 else wallet(i + 1),
        "maker_asset_id": "0" if i % 2 == 0 else token,
        "taker_asset_id": token if i % 2 == 0 else "0",
        "maker_amount_filled": 1_000_000 + i,
        "taker_amount_filled": 2_000_000 + i,
        "fee": i % 7,
    }
    return OrderFilled(**{**fields, **changes})


def make_market(i: int, **changes: Any) -> Market:
    """Return market number i, with the tokens token_id(i, 0) and token_id(i, 1)."""
    fields: dict[str, Any] = {
        "id": str(1000 + i),
        "updated_at": datetime(2025, 11, 13, 2, 0, 0, 123456, tzinfo=UTC),
        "question": f"Does number {i} come up?",
        "slug": f"does-number-{i}-come-up",
        "condition_id": f"0x{i:064x}",
        "token_ids": [token_id(i, 0), token_id(i, 1)],
        "outcomes": ["Yes", "No"],
        "outcome_prices": [Decimal("0.5"), Decimal("0.5")],
        "active": True,
        "closed": False,
        "neg_risk": False,
    }
    return Market(**{**fields, **changes})


def own_name() -> str:
    """Return a name that no other test of this run has."""
    return f"t{next(_numbers)}"


def make_settings(**changes: Any) -> Settings:
    """Return settings for tests, which wait little between attempts, without reading `.env`."""
    quick: dict[str, Any] = {
        "backoff_initial_s": 0.01,
        "backoff_max_s": 0.05,
        "clickhouse_writer_max_wait": 0.02,
        "trim_interval_s": 0.01,
        "unknown_token_recheck_s": 0.01,
        "redis_timeout_s": 60.0,
        "clickhouse_timeout_s": 60.0,
        "log_to_file": False,
    }
    return Settings(_env_file=None, **{**quick, **changes})


def settings_for(redis: RedisServer, clickhouse: ClickHouseServer | None, prefix: str, **changes: Any) -> Settings:
    """Return settings for these servers; the prefix sets keys and database apart from other tests'."""
    servers: dict[str, Any] = {
        "redis_host": redis.host,
        "redis_port": redis.port,
        "key_prefix": f"{prefix}:",
        "clickhouse_host": "127.0.0.1",
        "clickhouse_port": clickhouse.port if clickhouse else 1,
        "clickhouse_database": f"test_{prefix}",
    }
    return make_settings(**{**servers, **changes})


def context_of(settings: Settings, queue: RedisQueue) -> Context:
    return Context(settings, queue, LOG, lambda: False)


class Pipeline:
    """Streams and tables under one name, and the stages between them. Each stage has connections of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queue = RedisQueue(settings)
        self.clickhouse = ClickHouse(settings)
        self.markets = self.queue.keys(settings.stream_markets)
        self.events = self.queue.keys(settings.stream_order_events)
        self.trades = self.queue.keys(settings.stream_trades)
        self._queues: list[RedisQueue] = []

    def make_tables(self) -> None:
        apply_schema(self.clickhouse, self.settings.pipeline_mode, lambda _: None)

    def stop_merges(self, *tables: str) -> None:
        """Keep merges from removing rows that were inserted twice."""
        for table in tables:
            self.clickhouse.command(f"SYSTEM STOP MERGES {self.settings.clickhouse_database}.{table}")

    def new_queue(self) -> RedisQueue:
        queue = RedisQueue(self.settings)
        self._queues.append(queue)
        return queue

    def processor(self, **changes: Any) -> TradeProcessor:
        """Return one more processor; `changes` are settings of its own."""
        return TradeProcessor(self._context(changes), ClickHouse(self.settings))

    def writer(self, **changes: Any) -> ClickHouseWriter:
        return ClickHouseWriter(self._context(changes), ClickHouse(self.settings))

    def _context(self, changes: dict[str, Any]) -> Context:
        return context_of(self.settings.model_copy(update=changes), self.new_queue())

    def add(self, stream: str, *rows: bytes) -> list[bytes]:
        """Put rows on a stream; returns their entry ids."""
        return [self.queue.call("XADD", stream, "*", "data", row) for row in rows]

    def add_fills(self, numbers: Sequence[int] | range) -> list[bytes]:
        return self.add(self.events, *(encode(make_fill(i)) for i in numbers))

    def add_markets(self, numbers: Sequence[int] | range) -> list[bytes]:
        return self.add(self.markets, *(encode(make_market(i)) for i in numbers))

    def rows(self, stream: str) -> list[bytes]:
        """Return the data of everything on a stream."""
        return [entry.data for entry in self.queue.read_simple(stream, b"0", 100_000)]

    def count(self, table: str, what: str = "count()") -> int:
        """Return a number that a table holds, as stored: without FINAL."""
        return int(self.clickhouse.query(f"SELECT {what} FROM {self.settings.clickhouse_database}.{table}")[0][0])

    def ids(self, table: str) -> list[str]:
        """Return the id of every stored row, in order, without FINAL."""
        return [
            identity
            for (identity,) in self.clickhouse.query(
                f"SELECT id FROM {self.settings.clickhouse_database}.{table} ORDER BY id"
            )
        ]

    def dead(self, stream: str) -> list[Any]:
        return newest_dead_letters(self.queue, stream, 1000)[1]

    def pending(self, stream: str) -> int:
        """Return how many entries of a stream are delivered and not acknowledged, over all of its groups."""
        return sum(group.pending for group in self.queue.stream_info(stream).groups)

    def unfinished(self) -> int:
        """Return how many entries some group still has to read or to acknowledge, over the three streams."""
        return sum(
            group.pending + (group.lag or 0)
            for stream in (self.markets, self.events, self.trades)
            for group in self.queue.stream_info(stream).groups
        )

    def expire_leases(self) -> None:
        """Let every lease run out at once."""
        for key in self.queue.call("KEYS", self.queue.keys.lease("*")):
            self.queue.call("DEL", key)

    def close(self) -> None:
        for queue in (self.queue, *self._queues):
            queue.close()
        self.clickhouse.close()


@contextmanager
def open_pipeline(settings: Settings) -> Iterator[Pipeline]:
    """Yield a pipeline whose keys and database are gone afterwards."""
    pipeline = Pipeline(settings)
    try:
        yield pipeline
    finally:
        remove_keys(pipeline.queue)
        pipeline.close()


def remove_keys(queue: RedisQueue) -> None:
    for key in queue.call("KEYS", queue.keys("*")):
        queue.call("DEL", key)


def times_executed(queue: RedisQueue, command: str) -> int:
    """How often the server has executed a command, for whomever."""
    return int(queue.call("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def step_until(stages: Sequence[Any], done: Callable[[], bool], what: str, limit: int = 5000) -> None:
    """Step the stages in turn until it is done; AssertionError when it is not after `limit` rounds."""
    for _ in range(limit):
        if done():
            return
        for stage in stages:
            stage.step()
    raise AssertionError(f"{what}: not after {limit} rounds")
