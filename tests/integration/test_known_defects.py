"""The four defects that were measured in an ancestor of this pipeline, each as a test that it would fail."""

from common.keys import Route
from common.records import encode
from common.redis_queue import Offer, Position, RedisQueue
from common.state import read_position
from tests.builders import Pipeline, make_fill
from tests.waiting import wait_until


def test_unacknowledged_entries_are_not_read_again_every_turn(pipeline: Pipeline) -> None:
    """It read its backlog from 0 every turn: while 3 messages were buffered, 15 rows came of them."""
    pipeline.add_fills(range(3))
    writer = pipeline.writer(clickhouse_writer_max_wait=0.5)
    for _ in range(5):
        writer.step()
    assert writer.report()["records_in"] == 3
    wait_until(lambda: writer.step() >= 0 and pipeline.count("order_filled") > 0, "the batch is in the table")
    writer.drain()
    assert pipeline.count("order_filled") == 3


def test_entries_that_a_group_has_not_read_are_not_trimmed(queue: RedisQueue) -> None:
    """It trimmed by length: of 50,000 unread entries 20,000 were left."""
    stream = queue.keys("s")
    routes = [Route(stream, "quick"), Route(stream, "slow")]
    for route in routes:
        queue.ensure_group(route)
    offers = [Offer(str(i), b"%d" % i, 100) for i in range(5000)]
    queue.push_batch(stream, offers, source="goldsky", position=Position(100, "x"), window_s=60)
    while entries := queue.read_from_stream(routes[0], "c", 1000):
        queue.ack(routes[0], [entry.id for entry in entries])
        queue.trim(stream, ["quick", "slow"])
    unread = []
    while entries := queue.read_from_stream(routes[1], "c", 1000):
        unread += entries
    assert len(unread) == 5000


def test_rows_of_the_cursors_own_second_are_not_passed_over(queue: RedisQueue) -> None:
    """Its cursor was a time alone, asked for with "greater than": the rest of a page's last second was lost."""
    stream = queue.keys("s")
    second = [Offer(f"{i:04d}", b"%d" % i, 100) for i in range(1500)]
    for page in (second[:1000], second[1000:]):
        position = Position(100, page[-1].identity)
        queue.push_batch(stream, page, source="goldsky", position=position, window_s=60)
    assert queue.stream_info(stream).length == 1500
    assert read_position(queue, "goldsky") == Position(100, "1499")


def test_two_equal_fills_of_one_transaction_are_two_rows(pipeline: Pipeline) -> None:
    """It dropped the fill's id and ordered its table by amounts: equal fills merged into one."""
    same = make_fill(1)
    twins = [make_fill(1, id=f"{same.transaction_hash}_{i}") for i in range(2)]
    pipeline.add_markets(range(10))
    from_source = [Offer(twin.id, encode(twin), twin.timestamp) for twin in twins]
    position = Position(same.timestamp, twins[-1].id)
    pipeline.queue.push_batch(pipeline.events, from_source, source="goldsky", position=position, window_s=60)
    processor, writer = pipeline.processor(), pipeline.writer()
    processor.step()
    wait_until(lambda: writer.step() >= 0 and pipeline.unfinished() == 0, "everything is in the tables")
    for table in ("order_filled", "trades"):
        pipeline.clickhouse.command(f"OPTIMIZE TABLE {pipeline.settings.clickhouse_database}.{table} FINAL")
        assert pipeline.ids(table) == sorted(twin.id for twin in twins)
