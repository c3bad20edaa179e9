"""Statuses of pipelines in various conditions, made by hand."""

from collections.abc import Mapping
from typing import Any, Literal

from common.dead_letters import DeadLetter
from common.redis_queue import ConsumerInfo, GroupInfo, StreamInfo
from monitoring.disks import GB, Disk
from monitoring.reading import Reading, absent, known, unknown
from monitoring.redis_server import as_redis_state
from monitoring.repetitions import Repeated
from monitoring.sources import read_sources
from monitoring.stages import COMPONENTS, read_stage
from monitoring.status import Latency, Status
from monitoring.streams import Reader, Work, as_dead_letters, as_stream
from monitoring.tables import Stored, TableState
from monitoring.watermarks import WATERMARKS, Watermark

NOW = 1_763_749_211.0  # 2025-11-21 18:20:11 UTC
STALE_AFTER_S = 90.0
WRITER, PROCESSOR = Reader("clickhouse_writer", 122.0), Reader("trade_processor", 3660.0)
GROUPS = {
    "stream:markets": {"markets_writers": WRITER},
    "stream:order_events": {"events_processors": PROCESSOR, "order_events_writers": WRITER},
    "stream:trades": {"trades_writers": WRITER},
}
AWAY = unknown("Redis at localhost:6379: Error 111 connecting to localhost:6379. Connection refused.")
CLICKHOUSE_AWAY = unknown("ClickHouse at localhost:8123: connection refused")


def beat(component: str, **fields: str) -> dict[str, str]:
    """A fresh heartbeat of a running process."""
    return {
        "component": component,
        "instance": component,
        "pid": "4711",
        "host": "pipeline-1",
        "state": "running",
        "reason": "",
        "next_attempt_at": "",
        "started_at": f"{NOW - 7300:.3f}",
        "updated_at": f"{NOW - 0.8:.3f}",
        "starts": "1",
        "mode": "live",
    } | fields


REPORTS: Mapping[str, Mapping[str, str]] = {
    "polymarket_ingester": {
        "records_in": "46531", "records_out": "46498", "dead_letters": "2", "source": "gamma-api.polymarket.com",
        "source_state": "live", "newest_event_at": f"{NOW - 40}", "head_at": f"{NOW - 1}", "lag_s": "1.2",
        "source_since": f"{NOW - 7300}", "source_reason": "", "detail": "open markets, page 12",
    },
    "goldsky_ingester": {
        "records_in": "1204211", "records_out": "1204000", "dead_letters": "1", "source": "api.goldsky.com",
        "source_state": "live", "newest_event_at": f"{NOW - 3}", "head_at": f"{NOW - 2}", "head_block": "80123456",
        "lag_s": "2.0", "source_since": f"{NOW - 7300}", "source_reason": "",
    },
    "polygon_ingester": {
        "records_in": "9120", "records_out": "9101", "dead_letters": "0", "source": "polygon-rpc.com",
        "source_state": "live", "newest_event_at": f"{NOW - 5}", "head_at": f"{NOW - 4}", "head_block": "86130211",
        "lag_s": "4.0", "source_since": f"{NOW - 7300}", "source_reason": "",
    },
    "trade_processor": {
        "instance": "trade_processor-1", "records_in": "1204000", "records_out": "1203961", "dead_letters": "0",
        "waiting": "39", "starts": "3",
    },
    "clickhouse_writer": {
        "instance": "clickhouse_writer-1", "records_in": "2454420", "records_out": "2454388", "dead_letters": "0",
        "batches": "3120", "latency_p50_s": "1.12", "latency_p99_s": "2.31",
    },
    "dashboard": {},
}  # fmt: skip


def beats(**changed: Mapping[str, str] | None) -> list[dict[str, str]]:
    """A heartbeat of each component, some of them changed; None takes one away."""
    found = []
    for component in COMPONENTS:
        change = changed.get(component, {})
        if change is not None:
            found.append(beat(component, **(dict(REPORTS[component]) | dict(change))))
    return found


def group(name: str, lag: int | None = 4, pending: int = 12, read: int | None = 1_204_000) -> GroupInfo:
    """A consumer group that keeps up."""
    oldest = f"{int(NOW * 1000) - 700}-0" if pending else None
    return GroupInfo(name, 1, pending, lag, f"{int(NOW * 1000) - 100}-0", oldest, read)


def member(name: str, pending: int = 12, idle_s: float = 0.1, held_s: float | None = 0.6) -> ConsumerInfo:
    """A consumer that keeps up."""
    return ConsumerInfo(name, pending, idle_s, held_s)


def work_of(name: str) -> dict[str, Work]:
    """What the groups of a stream hold while they keep up."""
    since = f"{int(NOW * 1000) - 90}-0"
    return {group: Work(since, [member(f"{reader.component}-1")]) for group, reader in GROUPS[name].items()}


def stream_info(name: str) -> StreamInfo:
    """A stream with the groups that it should have."""
    first, last = f"{int(NOW * 1000) - 20_000}-0", f"{int(NOW * 1000) - 90}-0"
    return StreamInfo(843, first, last, 1_204_004, [group(each) for each in GROUPS[name]])


def table(name: str, rows: int) -> TableState:
    newest = absent("its rows tell no time") if name == "market_tokens" else known(NOW - 6)
    return TableState(name, known(rows), known(rows * 86), newest)


def either(gone: Reading[Any] | None, value: object) -> Reading[Any]:
    """The value, unless its server is away."""
    return known(value) if gone is None else gone


MARKS = {
    "goldsky_last_timestamp": f"{NOW - 3:.0f}",
    "goldsky_last_id": f"0x{'1c9f' * 16}_0x{'77e0' * 16}",
    "polygon_last_timestamp": f"{NOW - 4:.0f}",
    "polygon_last_block": "86130211",
    "polymarket_offset": "46500",
    "polymarket_cursor": "open eyJpZCI6IjUxNjkzNyJ9",
}
ROWS = {"markets": 1_512_377, "market_tokens": 3_024_760, "order_filled": 1_204_000, "trades": 1_203_961}


REDIS_INFO = {
    "maxmemory_policy": "noeviction", "aof_enabled": "1", "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok", "rdb_last_bgsave_status": "ok",
}  # fmt: skip
DISK = Disk("default", "/var/lib/clickhouse/", 400 * GB, 1000 * GB)


def watermarks(redis: Reading[Any] | None) -> list[Watermark]:
    return [
        Watermark(
            name=name,
            meaning=meaning,
            value=either(redis, MARKS[name]),
            at=either(redis, NOW - 3) if name.endswith("timestamp") else None,
        )
        for name, meaning in WATERMARKS.items()
    ]


def sizes(clickhouse: Reading[Any] | None) -> list[TableState]:
    if clickhouse is not None:
        return [TableState(name, clickhouse, clickhouse, clickhouse) for name in ROWS]
    return [table(name, rows) for name, rows in ROWS.items()]


def a_status(
    *,
    mode: Literal["live", "demo"] = "live",
    heartbeats: list[dict[str, str]] | None = None,
    streams: Mapping[str, StreamInfo] | None = None,
    letters: Mapping[str, list[DeadLetter]] | None = None,
    tables: list[TableState] | None = None,
    redis: Reading[Any] | None = None,
    clickhouse: Reading[Any] | None = None,
    lost_entries: int = 0,
    work: Mapping[str, dict[str, Work]] | None = None,
    redis_info: Mapping[str, str] | None = None,
    disks: list[Disk] | None = None,
    repeated: list[Repeated] | None = None,
) -> Status:
    """A pipeline in which everything works, but for what is given."""
    told = either(redis, beats() if heartbeats is None else heartbeats)
    stages = [read_stage(component, told, STALE_AFTER_S, NOW) for component in COMPONENTS]
    infos = {name: stream_info(name) for name in GROUPS} | dict(streams or {})
    works = {name: work_of(name) for name in infos} | dict(work or {})
    found = {name: (letters or {}).get(name, []) for name in GROUPS}
    writer = stages[COMPONENTS.index("clickhouse_writer")]
    return Status(
        at=NOW,
        mode=mode,
        redis=either(redis, value=True),
        clickhouse=either(clickhouse, value=True),
        stages=stages,
        sources=read_sources(stages),
        streams=[
            as_stream(name, either(redis, info), GROUPS[name], NOW, either(redis, works[name]))
            for name, info in infos.items()
        ],
        watermarks=watermarks(redis),
        tables=sizes(clickhouse) if tables is None else tables,
        latency=Latency(
            redis_to_clickhouse_p50_s=writer.latency_p50_s,
            redis_to_clickhouse_p99_s=writer.latency_p99_s,
            block_to_clickhouse=either(clickhouse, Stored(12_000, 4.2, 7.9)),
            newest_trade_age_s=either(clickhouse, 6.0),
        ),
        dead_letters=[as_dead_letters(name, either(redis, (len(found[name]), found[name]))) for name in GROUPS],
        unreadable=either(redis, {"endDate": 3, "volume": 1}),
        lost_entries=either(redis, lost_entries),
        redis_state=as_redis_state(either(redis, REDIS_INFO | dict(redis_info or {})), "redis-cli"),
        disks=either(clickhouse, [DISK] if disks is None else disks),
        repeated=either(clickhouse, repeated or []),
        stream_backlog_limit=500_000,
    )
