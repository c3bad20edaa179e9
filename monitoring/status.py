"""What is known of the pipeline at one moment, as read from Redis and ClickHouse. Nothing here waits or repeats.

Every value that can fail is a Reading. A server that is away hides only what it alone knows.
"""

from typing import Literal

import msgspec

from common.clickhouse import ClickHouse
from common.config import Settings
from common.redis_queue import RedisQueue
from common.tables import TRADES
from monitoring.disks import Disk, read_disks
from monitoring.reading import Reading, Server
from monitoring.redis_server import RedisState, read_redis
from monitoring.repetitions import NOT_COUNTED, Repeated
from monitoring.sources import Source, read_sources
from monitoring.stages import COMPONENTS, Stage, read_stage
from monitoring.streams import DeadLetters, Stream, expected_groups, read_dead_letters, read_stream
from monitoring.tables import Stored, TableState, read_stored, read_tables
from monitoring.unreadable import read_unreadable
from monitoring.watermarks import WATERMARKS, Watermark, read_watermark


class Latency(msgspec.Struct, frozen=True):
    """How long records take, in seconds."""

    redis_to_clickhouse_p50_s: Reading[float]  # arrival in Redis to acknowledged by ClickHouse, the slowest writer's
    redis_to_clickhouse_p99_s: Reading[float]
    block_to_clickhouse: Reading[Stored]  # block time to written, of recent fills
    newest_trade_age_s: Reading[float]  # since the newest block that is visible as a trade


class Status(msgspec.Struct, frozen=True):
    """The whole pipeline."""

    at: float  # Unix seconds
    mode: Literal["live", "demo"]
    redis: Reading[bool]
    clickhouse: Reading[bool]
    stages: list[Stage]  # in the order of COMPONENTS
    sources: list[Source]
    streams: list[Stream]  # markets, order events, trades
    watermarks: list[Watermark]
    tables: list[TableState]
    latency: Latency
    dead_letters: list[DeadLetters]
    unreadable: Reading[dict[str, int]]  # optional fields of markets to how many were stored without them
    lost_entries: Reading[int]  # gone from Redis before every group had them
    redis_state: RedisState
    disks: Reading[list[Disk]]  # of ClickHouse
    repeated: Reading[list[Repeated]]  # tables with rows stored twice; empty: none
    stream_backlog_limit: int  # entries behind which ingesters pause

    def stage(self, component: str) -> Stage:
        return next(stage for stage in self.stages if stage.component == component)

    def source(self, component: str) -> Source:
        """The one that this ingester reads."""
        return next(source for source in self.sources if source.component == component)

    def table(self, name: str) -> TableState:
        return next(table for table in self.tables if table.name == name)


def collect(
    queue: RedisQueue,
    clickhouse: ClickHouse,
    settings: Settings,
    now: float,
    repeated: Reading[list[Repeated]] = NOT_COUNTED,
) -> Status:
    """Read everything once; `repeated` was counted before. A server that is away costs two time-outs at most."""
    redis = Server(lambda: queue.call("PING"))
    database = Server(lambda: clickhouse.query("SELECT 1"))
    beats = redis.read(queue.heartbeats)
    stages = [read_stage(component, beats, settings.stale_after_s, now) for component in COMPONENTS]
    groups = expected_groups(queue.keys, settings)
    tables = read_tables(clickhouse, database)
    return Status(
        at=now,
        mode=settings.pipeline_mode,
        stages=stages,
        sources=read_sources(stages),
        streams=[read_stream(queue, redis, stream, expected, now) for stream, expected in groups.items()],
        dead_letters=[read_dead_letters(queue, redis, stream) for stream in groups],
        watermarks=[read_watermark(queue, redis, name) for name in WATERMARKS],
        unreadable=read_unreadable(queue, redis),
        lost_entries=redis.read(queue.lost_entries),
        redis_state=read_redis(queue, redis),
        disks=read_disks(clickhouse, database),
        repeated=repeated,
        tables=tables,
        latency=_latency(stages, tables, read_stored(clickhouse, database, now), now),
        stream_backlog_limit=settings.stream_backlog_limit,
        redis=redis.reachable(),
        clickhouse=database.reachable(),
    )


def _latency(stages: list[Stage], tables: list[TableState], stored: Reading[Stored], now: float) -> Latency:
    writer = next(stage for stage in stages if stage.component == "clickhouse_writer")
    trades = next(table for table in tables if table.name == TRADES.name)
    return Latency(
        redis_to_clickhouse_p50_s=writer.latency_p50_s,
        redis_to_clickhouse_p99_s=writer.latency_p99_s,
        block_to_clickhouse=stored,
        newest_trade_age_s=trades.newest_at.map(lambda at: max(0.0, now - at)),
    )
