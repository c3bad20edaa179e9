"""Sends one test fill through trade processor and writer, and shows each hop.

It works on the configured servers, in a database and under a key prefix of its own, and removes both afterwards.
Exit status: 0 the fill arrived, 1 it did not or a server is away, 2 the configuration is wrong.
"""

import logging
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from common.clickhouse import ClickHouse
from common.config import Settings, load_settings
from common.errors import ConfigError, Unavailable
from common.printable import printable
from common.records import Market, OrderFilled, encode
from common.redis_queue import Offer, Position, RedisQueue
from common.runtime import Context, Stage
from processors import clickhouse_writer, trade_processor
from setup_schema import apply_schema

LIMIT_S = 20.0
WINDOW_S = 120


class Hop(NamedTuple):
    """One stage of the way."""

    name: str
    has_arrived: Callable[[], object]  # truthy once it has; shown to the person


def scratch_settings(settings: Settings) -> Settings:
    """The same servers, but names that nobody else uses."""
    unique = uuid.uuid4().hex[:8]
    return settings.model_copy(
        update={
            "key_prefix": f"{settings.key_prefix}test_message:{unique}:",
            "clickhouse_database": f"{settings.clickhouse_database}_test_message_{unique}",
            "clickhouse_writer_max_wait": 0.2,
        }
    )


def test_market() -> Market:
    return Market(
        id="1",
        updated_at=datetime.now(UTC),
        question="Does a message arrive?",
        slug="does-a-message-arrive",
        condition_id="0x" + "1" * 64,
        token_ids=["1" * 77, "2" * 77],
        outcomes=["Yes", "No"],
        outcome_prices=[Decimal("0.94"), Decimal("0.06")],
        active=True,
        closed=False,
        neg_risk=False,
    )


def test_fill(now: int) -> OrderFilled:
    """A maker who sells 0.26125 tokens for 0.245575 of collateral: the price is 0.94."""
    return OrderFilled(
        id="0x" + "a" * 64 + "_0x" + "b" * 64,
        transaction_hash="0x" + "a" * 64,
        order_hash="0x" + "b" * 64,
        timestamp=now,
        maker="0x" + "c" * 40,
        taker="0x" + "d" * 40,
        maker_asset_id="1" * 77,
        taker_asset_id="0",
        maker_amount_filled=261250,
        taker_amount_filled=245575,
        fee=0,
    )


def push(queue: RedisQueue, settings: Settings) -> None:
    """Hand market and fill over as the ingesters do."""
    market, fill = test_market(), test_fill(int(time.time()))
    offer = Offer(market.id, encode(market), version="1")
    queue.push_changed(queue.keys(settings.stream_markets), [offer], source="test", state={})
    offers = [Offer(fill.id, encode(fill), fill.timestamp)]
    position = Position(fill.timestamp, fill.id)
    stream = queue.keys(settings.stream_order_events)
    queue.push_batch(stream, offers, source="test", position=position, window_s=WINDOW_S)


def hops(queue: RedisQueue, clickhouse: ClickHouse, settings: Settings) -> list[Hop]:
    """What has to come true, in the order in which it does."""
    database = settings.clickhouse_database

    def entries_in(stream: str) -> Callable[[], object]:
        return lambda: count_shown(queue.stream_info(queue.keys(stream)).entries_added)

    def row_of(table: str, columns: str) -> Callable[[], object]:
        sql = f"SELECT {columns} FROM {database}.{table} LIMIT 1"  # noqa: S608 - own names only
        return lambda: ", ".join(str(value) for row in clickhouse.query(sql) for value in row)

    return [
        Hop("stream:order_events", entries_in(settings.stream_order_events)),
        Hop("stream:trades", entries_in(settings.stream_trades)),
        Hop("table markets", row_of("markets", "id, question, outcomes")),
        Hop("table order_filled", row_of("order_filled", "timestamp, maker_amount_filled, taker_amount_filled")),
        Hop("table trades", row_of("trades", "timestamp, market_id, outcome, maker_direction, price, usd_amount")),
    ]


def count_shown(entries: int) -> str:
    return f"{entries} entry" if entries else ""


def follow(way: list[Hop], stages: list[Stage]) -> bool:
    """Step the stages until every hop has been seen; False when one isn't within the limit."""
    started = time.monotonic()
    for hop in way:
        while not (seen := hop.has_arrived()):
            if time.monotonic() - started > LIMIT_S:
                print(f"  {hop.name:22} nothing after {LIMIT_S:.0f} s")
                return False
            for stage in stages:
                time.sleep(stage.step())
        print(f"  {hop.name:22} {time.monotonic() - started:5.2f} s  {seen}")
    return True


def clean_up(queue: RedisQueue, clickhouse: ClickHouse, settings: Settings) -> None:
    """Remove the scratch database and every key under the scratch prefix."""
    clickhouse.command(f"DROP DATABASE IF EXISTS {settings.clickhouse_database}")
    cursor = 0
    while True:
        cursor, keys = queue.call("SCAN", cursor, "MATCH", f"{settings.key_prefix}*", "COUNT", 1000)
        if keys:
            queue.call("DEL", *keys)
        if not cursor:
            return


def send(settings: Settings) -> bool:
    """Whether the test fill arrived."""
    queue, clickhouse = RedisQueue(settings), ClickHouse(settings)
    context = Context(settings, queue, logging.getLogger("test_message"), lambda: False)
    stages: list[Stage] = []
    try:
        apply_schema(clickhouse, settings.pipeline_mode, lambda _: None)
        stages += [trade_processor.build(context), clickhouse_writer.build(context)]
        push(queue, settings)
        return follow(hops(queue, clickhouse, settings), stages)
    finally:
        for stage in stages:
            stage.close()
        clean_up(queue, clickhouse, settings)
        queue.close()
        clickhouse.close()


def main() -> int:
    try:
        settings = scratch_settings(load_settings())
        print(f"One fill through the pipeline, in database {settings.clickhouse_database}:")
        arrived = send(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Unavailable as error:
        print(f"{printable(error.reason)}\nRun .venv/bin/python3 test_setup.py: it shows what to do.", file=sys.stderr)
        return 1
    print("It arrived, and everything was removed again." if arrived else "It did not arrive. See logs/*.log.")
    return 0 if arrived else 1


if __name__ == "__main__":
    raise SystemExit(main())
