"""The tables against the truth of the source: every fill once, every market, the right figures."""

import json
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions

from tests.faults.stack import COMPARED_TABLES, Stack

if TYPE_CHECKING:
    from redis import Redis

SAMPLE = 60  # fills whose every figure is compared
DEAD_LETTERS = 10_000
CHANGE_LIMIT_S = 60.0
CHANGE_LOOK_S = 0.1
NO_FAULTS = frozenset({"served", "served_by_chain", "dead_letters"})
STREAMS = ("stream:markets", "stream:order_events", "stream:trades")


class Verdict(NamedTuple):
    """What a run has come to. All counts; everything but those in NO_FAULTS should be 0."""

    served: int  # fills that the sources have
    served_by_chain: int  # of them, behind the cut-over
    missing: int  # of them, not in a table; both tables together
    unexpected: int  # ids in a table that the sources never had
    duplicates_raw: int  # rows beyond one an id, as stored
    duplicates_final: int  # the same, with FINAL
    duplicates_streamed: int  # entries of a stream of fills or trades beyond one a fill
    merged_parts: int  # parts that a merge has made: they may have hidden duplicates
    markets_missing: int
    values_wrong: int  # of a sample
    dead_letters: int
    dead_good_fills: int  # dead letters that the sources had as good fills
    stuck_pending: int  # entries that a group still has to read or to finish, and batches that nobody finished
    lost_entries: int  # as the pipeline itself counts


def judge(stack: Stack, seed: int) -> Verdict:
    """Compare everything, once the pipeline has settled."""
    fills = set(stack.source.truth_fills(since=stack.start))
    tables = [read_ids(stack, table) for table in COMPARED_TABLES]
    ids = [set(table) for table in tables]
    dead = list(dead_letters(stack.redis))
    return Verdict(
        served=len(fills),
        served_by_chain=sum(map(is_of_chain, fills)),
        missing=sum(len(fills - found) for found in ids),
        unexpected=sum(len(found - fills) for found in ids),
        duplicates_raw=sum(len(table) - len(found) for table, found in zip(tables, ids, strict=True)),
        duplicates_final=sum(
            stack.number(f"SELECT count() FROM {table} FINAL") - len(found)
            for table, found in zip(COMPARED_TABLES, ids, strict=True)
        ),
        duplicates_streamed=sum(
            max(0, entries_added(stack.redis, stream) - len(fills)) for stream in STREAMS if stream != STREAMS[0]
        ),
        merged_parts=stack.number(
            "SELECT count() FROM system.parts WHERE database = currentDatabase() AND active "
            f"AND table IN {COMPARED_TABLES} AND min_block_number != max_block_number"
        ),
        markets_missing=least(lambda: len(missing_markets(stack))),
        values_wrong=len(wrong_values(stack, Random(seed).sample(sorted(fills), min(SAMPLE, len(fills))))),
        dead_letters=len(dead),
        dead_good_fills=sum(is_good_fill(data, fills) for data in dead),
        stuck_pending=least(lambda: unfinished(stack.redis) + unfinished_batches(stack.redis)),
        lost_entries=sum(int(count) for count in stack.redis.hvals("lost_entries")),
    )


def least(count: Callable[[], int]) -> int:
    """0 as soon as the count is, for markets go on changing and take their way; else the last count."""
    deadline = time.monotonic() + CHANGE_LIMIT_S
    while (last := count()) and time.monotonic() < deadline:
        time.sleep(CHANGE_LOOK_S)
    return last


def read_ids(stack: Stack, table: str) -> list[str]:
    """The id of every row, as stored."""
    return [identity for (identity,) in stack.query(f"SELECT id FROM {table}")]


def is_of_chain(identity: str) -> bool:
    """Whether it names a place in the log; the subgraph's name an order."""
    return identity.rpartition("_")[2].isdecimal()


def missing_markets(stack: Stack) -> set[str]:
    return set(stack.source.truth_markets()) - set(read_ids(stack, "markets"))


# --- the streams ---------------------------------------------------------------------------------------------------


def groups(redis: "Redis") -> Iterable[dict[str, Any]]:
    for stream in STREAMS:
        if redis.exists(stream):
            yield from redis.xinfo_groups(stream)  # type: ignore[misc,unused-ignore]


def holds_entries(redis: "Redis", pid: int) -> bool:
    """Whether the process is inside its hand-over; no when Redis is away.

    A writer is from the moment that it has fixed a batch until the batch is acknowledged: ClickHouse may have it or
    not. Its buffer alone would be no such moment. A processor is while it has entries that it has not finished.
    """
    try:
        return any(is_inside(redis, name) for name in consumers_of(redis, pid))
    except exceptions.RedisError:
        return False


def is_inside(redis: "Redis", name: bytes) -> bool:
    if name.startswith(b"clickhouse_writer"):
        return bool(redis.hlen("manifests:" + name.decode()))
    return consumer_pending(redis, name) > 0


def consumers_of(redis: "Redis", pid: int) -> list[bytes]:
    """The names that the process holds a lease on."""
    leases: list[bytes] = list(redis.scan_iter("lease:*"))
    holders: Any = redis.mget(leases) if leases else []
    return [
        lease.removeprefix(b"lease:")
        for lease, holder in zip(leases, holders, strict=True)
        if holder is not None and f":{pid}:".encode() in holder
    ]


def consumer_pending(redis: "Redis", name: bytes) -> int:
    consumers: Any = [
        consumer
        for stream in STREAMS
        for group in redis.xinfo_groups(stream)
        for consumer in redis.xinfo_consumers(stream, group["name"])
    ]
    return sum(consumer["pending"] for consumer in consumers if consumer["name"] == name)


def unfinished(redis: "Redis") -> int:
    """Entries that some group has not read or not finished; a lag that Redis can't tell counts as one."""
    return sum(group["pending"] + (1 if group["lag"] is None else group["lag"]) for group in groups(redis))


def unfinished_batches(redis: "Redis") -> int:
    return sum(int(redis.hlen(key)) for key in redis.scan_iter("manifests:*"))


def entries_added(redis: "Redis", stream: str) -> int:
    """How many entries the stream has ever been given."""
    info: Any = redis.xinfo_stream(stream)
    return int(info["entries-added"])


def dead_letters(redis: "Redis") -> Iterable[bytes]:
    """The original bytes of every dead letter."""
    for stream in STREAMS:
        entries: Any = redis.xrange(f"{stream}_dlq", count=DEAD_LETTERS)
        yield from (fields[b"data"] for _, fields in entries)


def is_good_fill(data: bytes, fills: set[str]) -> bool:
    """Whether a dead letter is a fill that the sources have, so that it should have arrived."""
    try:
        record = json.loads(data)
    except ValueError:
        return False
    return isinstance(record, dict) and not fills.isdisjoint(identities(record))


def identities(record: dict[str, Any]) -> Iterable[str]:
    """What the fill may be called that a record tells of: a row or one of our own, else a log of any exchange."""
    if "topics" not in record:
        return [str(record.get("id"))]
    try:
        transaction, order, place = record["transactionHash"], record["topics"][1], int(record["logIndex"], 16)
    except (KeyError, IndexError, TypeError, ValueError):
        return []  # broken beyond a name
    return [f"{transaction}_{order}", f"{transaction}_{place}"]


# --- figures -------------------------------------------------------------------------------------------------------


def wrong_values(stack: Stack, sample: list[str]) -> list[str]:
    """Those fills of the sample of which a table tells something else than the source."""
    truth = {identity: stack.source.truth_fill(identity) for identity in sample}
    wrong = []
    for table, expect in (("order_filled", expected_fill), ("trades", expected_trade)):
        expected = {identity: expect(fill) for identity, fill in truth.items()}
        columns = list(next(iter(expected.values())))
        ids = ", ".join(f"'{identity}'" for identity in sample)
        sql = f"SELECT id, {', '.join(map(_as_text, columns))} FROM {table} WHERE id IN ({ids})"
        wrong += [row[0] for row in stack.query(sql) if row[1:] != list(expected[row[0]].values())]
    return wrong


def _as_text(column: str) -> str:
    if column == "timestamp":
        return "toUnixTimestamp(timestamp)"
    return "toUInt8(is_taker_side)" if column == "is_taker_side" else f"toString({column})"


def _decimal(base_units: int) -> str:
    """As ClickHouse writes a Decimal: without trailing zeros."""
    return f"{Decimal(base_units).scaleb(-6):f}".rstrip("0").rstrip(".") if base_units else "0"


def expected_fill(fill: dict[str, Any]) -> dict[str, str]:
    return {
        "timestamp": str(fill["timestamp"]),
        "maker": fill["maker"],
        "taker": fill["taker"],
        "maker_asset_id": fill["makerAssetId"],
        "taker_asset_id": fill["takerAssetId"],
        "maker_amount_filled": fill["makerAmountFilled"],
        "taker_amount_filled": fill["takerAmountFilled"],
        "fee": fill["fee"],
        "transaction_hash": fill["transactionHash"],
        "order_hash": fill["orderHash"],
    }


def expected_trade(fill: dict[str, Any]) -> dict[str, str]:
    return {
        "timestamp": str(fill["timestamp"]),
        "maker": fill["maker"],
        "taker": fill["taker"],
        "market_id": fill["market_id"],
        "condition_id": fill["condition_id"],
        "token_id": fill["token_id"],
        "outcome": fill["outcome"],
        "nonusdc_side": f"token{fill['outcome_index'] + 1}",
        "maker_direction": fill["maker_direction"],
        "usd_amount": _decimal(int(fill["usd_amount"])),
        "token_amount": _decimal(int(fill["token_amount"])),
        "fee": _decimal(int(fill["fee"])),
        "is_taker_side": str(int(fill["is_taker_side"])),
        "transactionHash": fill["transactionHash"],
    }
