"""What the tables and the streams hold of a range of a source, and which ranges were read at all."""

from collections.abc import Iterator

import msgspec

from common.clickhouse import ClickHouse
from common.config import Settings
from common.helper_process import RangeRead
from common.keys import Route
from common.progress import read_runs
from common.records import OrderFilled, decode_order_filled
from common.redis_queue import GroupInfo, RedisQueue
from common.state import read_height, read_position, read_state
from monitoring.source_samples import SOURCES, Covered, Sample, Source

ENTRIES = 1000  # a request

_COLUMNS = ", ".join(
    "toUnixTimestamp(timestamp)" if name == "timestamp" else name for name in OrderFilled.__struct_fields__
)


class _Named(msgspec.Struct):
    """What finds a trade again."""

    id: str


_decode_trade = msgspec.json.Decoder(_Named).decode


# --- what was read ---------------------------------------------------------------------------------------------------


def read_covered(queue: RedisQueue, settings: Settings, settled_at: int) -> list[Covered]:
    """The ranges that live ingesters and complete backfills have read, as far as they lie before that moment."""
    found = [*_live_subgraph(queue, settings), *_live_chain(queue)]
    for source in SOURCES:
        runs = [run for name, run in read_runs(queue) if name == source and run.is_complete]
        found += [Covered(source, run.begin, run.end, run.since, run.until) for run in runs]
    return [each for whole in found if not (each := whole.settled(settled_at)).is_empty]


def _live_subgraph(queue: RedisQueue, settings: Settings) -> Iterator[Covered]:
    cursor, (began, _) = read_position(queue, "goldsky"), _beginning(queue, "goldsky")
    if cursor is not None and cursor.id and began:
        end = min(cursor.timestamp, settings.cutover_timestamp + 1)  # the cursor's second may have more
        yield Covered("goldsky", began, end, began, end)


def _live_chain(queue: RedisQueue) -> Iterator[Covered]:
    cursor, (began, block) = read_height(queue, "polygon"), _beginning(queue, "polygon")
    if cursor is not None and cursor.timestamp and block:
        yield Covered("polygon", block, cursor.block + 1, began, cursor.timestamp + 1)


def _beginning(queue: RedisQueue, source: Source) -> tuple[int, int]:
    """Unix seconds and block, 0 where that is unknown."""
    timestamp, _, block = (read_state(queue, f"{source}_began") or "").partition(" ")
    return int(timestamp) if timestamp.isdecimal() else 0, int(block) if block.isdecimal() else 0


# --- tables ----------------------------------------------------------------------------------------------------------


def read_stored(clickhouse: ClickHouse, settings: Settings, sample: Sample, read: RangeRead) -> list[OrderFilled]:
    """The fills of order_filled in the sample's range, each row once."""
    sql = f"SELECT DISTINCT {_COLUMNS} FROM {clickhouse.database}.order_filled WHERE {_OF_SAMPLE[sample.source]}"  # noqa: S608 - a checked name
    return [OrderFilled(*row) for row in clickhouse.query(sql, _parameters(settings, sample, read))]


def read_without_trade(clickhouse: ClickHouse, settings: Settings, sample: Sample, read: RangeRead) -> list[str]:
    """Ids of those that could be trades and are not, although the market of their token is known."""
    sql = _WITHOUT_TRADE.format(database=clickhouse.database, of_sample=_OF_SAMPLE[sample.source])
    return [identity for (identity,) in clickhouse.query(sql, _parameters(settings, sample, read))]


def read_near(clickhouse: ClickHouse, covered: Covered, moment: int) -> int | None:
    """Place of the first stored fill from a moment on; None where there is none in the range."""
    place, source = ("block_number", "IS NOT NULL") if covered.source == "polygon" else ("timestamp", "IS NOT NULL")
    sql = (
        f"SELECT toUInt64({place}) FROM {clickhouse.database}.order_filled "  # noqa: S608 - a checked name
        "WHERE timestamp >= toDateTime({moment:UInt32}, 'UTC') AND timestamp < toDateTime({until:UInt32}, 'UTC') "
        f"AND {place} {source} AND {place} >= {{begin:UInt64}} AND {place} < {{end:UInt64}} ORDER BY timestamp LIMIT 1"
    )
    bounds = {"moment": moment, "until": covered.until, "begin": covered.begin, "end": covered.end}
    return next((int(found) for (found,) in clickhouse.query(sql, bounds)), None)


def _parameters(settings: Settings, sample: Sample, read: RangeRead) -> dict[str, int]:
    return {
        "since": read.since,
        "until": read.until,
        "begin": sample.begin,
        "end": sample.end,
        "cutover_block": settings.cutover_block,
        "cutover": settings.cutover_timestamp,
    }


_TIMES = "timestamp >= toDateTime({since:UInt32}, 'UTC') AND timestamp <= toDateTime({until:UInt32}, 'UTC')"
# A fill without a block is the subgraph's; after the cut-over it has none.
_OF_SAMPLE = {
    "goldsky": f"{_TIMES} AND (block_number IS NULL OR block_number < {{cutover_block:UInt64}})",
    "polygon": f"{_TIMES} AND (block_number >= {{begin:UInt64}} AND block_number < {{end:UInt64}} "
    "OR block_number IS NULL AND timestamp > toDateTime({cutover:UInt32}, 'UTC'))",
}
_WITHOUT_TRADE = """SELECT DISTINCT id FROM
(
    SELECT
        id, maker_asset_id = '0' AS maker_buys, if(maker_buys, taker_asset_id, maker_asset_id) AS token,
        if(maker_buys, taker_amount_filled, maker_amount_filled) AS tokens
    FROM {database}.order_filled
    WHERE {of_sample} AND (maker_asset_id = '0') != (taker_asset_id = '0')
)
WHERE tokens > 0
    AND id NOT IN (SELECT id FROM {database}.trades WHERE {of_sample})
    AND token IN (
        SELECT token_id FROM {database}.market_tokens WHERE token_id IN (
            SELECT if(maker_asset_id = '0', taker_asset_id, maker_asset_id) FROM {database}.order_filled
            WHERE {of_sample}))
ORDER BY id"""


# --- streams ---------------------------------------------------------------------------------------------------------


def fills_on_their_way(queue: RedisQueue, settings: Settings) -> list[OrderFilled]:
    """Published, and not yet finished by the writers of order_filled."""
    stream = queue.keys(settings.stream_order_events)
    return [fill for data in _unfinished(queue, Route(stream, settings.group_order_events_writers))
            if (fill := _fill_of(data))]  # fmt: skip


def trades_on_their_way(queue: RedisQueue, settings: Settings) -> set[str]:
    """Ids of fills that the processors, and of trades that the writers have not finished, in this order."""
    events, trades = queue.keys(settings.stream_order_events), queue.keys(settings.stream_trades)
    waiting = map(_fill_of, _unfinished(queue, Route(events, settings.group_events_processors)))
    found = {fill.id for fill in waiting if fill}
    for data in _unfinished(queue, Route(trades, settings.group_trades_writers)):
        try:
            found.add(_decode_trade(data).id)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return found


def _fill_of(data: bytes) -> OrderFilled | None:
    try:
        return decode_order_filled(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _unfinished(queue: RedisQueue, route: Route) -> Iterator[bytes]:
    """The data of every entry that the group has still to read or to acknowledge; all of them without the group."""
    group = next((each for each in queue.stream_info(route.stream).groups if each.name == route.group), None)
    yield from () if group is None else _pending(queue, route, group)
    first = "-" if group is None else f"({group.last_delivered_id}"
    while entries := queue.read_from(route.stream, first, ENTRIES):
        yield from (entry.data for entry in entries)
        first = f"({entries[-1].id.decode()}"


def _pending(queue: RedisQueue, route: Route, group: GroupInfo) -> Iterator[bytes]:
    first = group.oldest_pending_id
    while first and (listed := queue.call("XPENDING", route.stream, route.group, first, "+", ENTRIES)):
        pending = {entry_id for entry_id, *_ in listed}
        yield from _data_of(queue, route.stream, pending, listed[0][0].decode(), listed[-1][0].decode())
        first = f"({listed[-1][0].decode()}"


def _data_of(queue: RedisQueue, stream: str, wanted: set[bytes], first: str, last: str) -> Iterator[bytes]:
    """Those of the entries from `first` to `last`, which may lie far apart."""
    while wanted and (entries := queue.read_from(stream, first, ENTRIES)):
        yield from (entry.data for entry in entries if entry.id in wanted)
        wanted = wanted - {entry.id for entry in entries}
        first = f"({entries[-1].id.decode()}"
        if _place(entries[-1].id.decode()) >= _place(last):
            return


def _place(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
