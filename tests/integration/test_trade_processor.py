"""The trade processor between real servers."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from common.config import Settings
from common.errors import Unavailable
from common.keys import Route
from common.records import Trade, encode
from common.tables import MARKETS
from processors.trade_processor import COMPONENT, TradeProcessor
from tests.builders import (
    Pipeline,
    make_fill,
    make_market,
    open_pipeline,
    own_name,
    settings_for,
    step_until,
    times_executed,
    token_id,
)
from tests.servers import ClickHouseServer, RedisServer
from tests.waiting import wait_until

decode_trade = msgspec.json.Decoder(Trade).decode


def trades(pipeline: Pipeline) -> list[Trade]:
    return [decode_trade(row) for row in pipeline.rows(pipeline.trades)]


def fill_ids(numbers: range | list[int]) -> list[str]:
    return sorted(make_fill(i).id for i in numbers)


def run(pipeline: Pipeline, *processors: TradeProcessor) -> None:
    """Step until everything delivered is acknowledged and nothing is left to deliver."""
    step_until(processors, lambda: finished(pipeline), "every fill is a trade or a dead letter")


def finished(pipeline: Pipeline) -> bool:
    [group] = pipeline.queue.stream_info(pipeline.events).groups
    return group.pending == 0 and group.lag == 0


def step_until_waiting(processor: TradeProcessor, count: int) -> None:
    step_until([processor], lambda: processor.report()["waiting"] == count, f"{count} fills wait")


def recheck_now(processor: TradeProcessor) -> None:
    processor._next_care_at = processor._next_recheck_at = 0.0


def test_fills_become_trades_of_their_markets(pipeline: Pipeline) -> None:
    pipeline.add_markets(range(10))
    pipeline.add_fills(range(100))
    processor = pipeline.processor()
    run(pipeline, processor)
    made = trades(pipeline)
    assert sorted(trade.id for trade in made) == fill_ids(range(100))
    assert {trade.market_id for trade in made} == {str(1000 + i) for i in range(10)}
    assert processor.report() == {"records_in": 100, "records_out": 100, "dead_letters": 0, "waiting": 0}
    assert processor.instance == "trade_processor-1"


def test_markets_that_left_the_stream_are_found_in_clickhouse(pipeline: Pipeline) -> None:
    pipeline.clickhouse.batch_insert(MARKETS, b"\n".join(encode(make_market(i)) for i in range(10)), "t")
    pipeline.add_fills(range(20))
    run(pipeline, pipeline.processor())
    assert len(trades(pipeline)) == 20


class TestUnknownTokens:
    """Fills of markets that nobody has listed yet."""

    def test_such_a_fill_waits_and_its_token_is_asked_for(self, pipeline: Pipeline) -> None:
        pipeline.add_fills([3])
        processor = pipeline.processor()
        step_until_waiting(processor, 1)
        assert pipeline.queue.unknown_tokens(10) == [token_id(3)]
        assert trades(pipeline) == []
        assert pipeline.pending(pipeline.events) == 1

    def test_it_keeps_no_other_fill_from_becoming_a_trade(self, pipeline: Pipeline) -> None:
        pipeline.add_markets([1])
        pipeline.add_fills([3, 1, 13, 11])
        processor = pipeline.processor()
        step_until([processor], lambda: len(trades(pipeline)) == 2, "the others are made")
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids([1, 11])

    def test_it_is_made_when_its_market_arrives_in_the_stream(self, pipeline: Pipeline) -> None:
        pipeline.add_fills([3, 13])
        processor = pipeline.processor()
        step_until_waiting(processor, 2)
        pipeline.add_markets([3])
        run(pipeline, processor)
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids([3, 13])
        assert processor.report()["waiting"] == 0

    def test_it_is_made_when_its_market_appears_in_clickhouse_only(self, pipeline: Pipeline) -> None:
        pipeline.add_fills([3])
        processor = pipeline.processor()
        step_until_waiting(processor, 1)
        pipeline.clickhouse.batch_insert(MARKETS, encode(make_market(3)), "t")
        recheck_now(processor)
        run(pipeline, processor)
        assert [trade.market_id for trade in trades(pipeline)] == ["1003"]

    def test_a_token_is_asked_for_again_as_long_as_fills_wait(self, pipeline: Pipeline) -> None:
        pipeline.add_fills([3])
        processor = pipeline.processor()
        step_until_waiting(processor, 1)
        pipeline.queue.forget_unknown_tokens([token_id(3)])
        recheck_now(processor)
        processor.step()
        assert pipeline.queue.unknown_tokens(10) == [token_id(3)]

    def test_a_clean_stop_and_a_new_start_keep_it_waiting(self, pipeline: Pipeline) -> None:
        pipeline.add_fills([3])
        first = pipeline.processor()
        step_until_waiting(first, 1)
        first.drain()
        first.close()
        second = pipeline.processor()
        assert second.instance == first.instance
        step_until_waiting(second, 1)
        pipeline.add_markets([3])
        run(pipeline, second)
        assert len(trades(pipeline)) == 1

    def test_no_more_are_read_than_may_wait(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(100))
        processor = pipeline.processor(processor_waiting_limit=10, processor_batch_size=5)
        step_until_waiting(processor, 10)
        for _ in range(3):
            assert processor.step() > 0
        assert pipeline.pending(pipeline.events) == 10
        pipeline.add_markets(range(10))
        run(pipeline, processor)
        assert len(trades(pipeline)) == 100

    def test_a_cache_smaller_than_a_batch_slows_down_and_loses_nothing(self, pipeline: Pipeline) -> None:
        pipeline.clickhouse.batch_insert(MARKETS, b"\n".join(encode(make_market(i)) for i in range(10)), "t")
        pipeline.add_fills(range(50))
        processor = pipeline.processor(token_cache_size=1)
        processor.step()
        assert len(trades(pipeline)) == 50


class TestExpiry:
    """Fills whose market is never listed."""

    @pytest.fixture
    def pipeline_settings(self, redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
        return settings_for(redis_server, clickhouse_server, own_name(), unknown_token_ttl=1)

    def test_they_become_dead_letters_and_are_no_longer_asked_for(self, pipeline: Pipeline) -> None:
        old = f"{1_700_000_000_000}-0"
        pipeline.queue.call("XADD", pipeline.events, old, "data", encode(make_fill(3)))
        processor = pipeline.processor()
        step_until_waiting(processor, 1)
        recheck_now(processor)
        run(pipeline, processor)
        [letter] = pipeline.dead(pipeline.events)
        assert letter.reason == "no market lists its token within 1 s"
        assert (letter.data, letter.entry_id) == (encode(make_fill(3)), old)
        assert pipeline.queue.unknown_tokens(10) == []
        assert processor.report() == {"records_in": 1, "records_out": 0, "dead_letters": 1, "waiting": 0}

    def test_a_token_with_younger_fills_is_still_asked_for(self, pipeline: Pipeline) -> None:
        pipeline.queue.call("XADD", pipeline.events, "1700000000000-0", "data", encode(make_fill(3)))
        pipeline.queue.call("XADD", pipeline.events, "9700000000000-0", "data", encode(make_fill(13)))
        processor = pipeline.processor()
        step_until_waiting(processor, 2)
        recheck_now(processor)
        step_until_waiting(processor, 1)
        assert pipeline.queue.unknown_tokens(10) == [token_id(3)]
        pipeline.add_markets([3])
        run(pipeline, processor)
        assert [trade.id for trade in trades(pipeline)] == [make_fill(13).id]

    def test_a_market_that_came_in_time_wins_over_the_expiry(self, pipeline: Pipeline) -> None:
        pipeline.add_markets([3])
        pipeline.queue.call("XADD", pipeline.events, "1700000000000-0", "data", encode(make_fill(3)))
        run(pipeline, pipeline.processor())
        assert len(trades(pipeline)) == 1
        assert pipeline.dead(pipeline.events) == []


class TestPoison:
    """Entries that can't be a trade."""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"not JSON",
            b"{}",
            b"\xff\xfe\x00",
            b'{"id":"\xff"}',
            b'{"a":' + b"[" * 100_000,
            encode(make_fill(1, maker_asset_id="0", taker_asset_id="0")),
            encode(make_fill(1, maker_asset_id="7", taker_asset_id="8")),
            encode(make_fill(1, maker_asset_id=token_id(1), taker_asset_id="0", maker_amount_filled=0)),
        ],
        ids=lambda data: repr(data[:12]),
    )
    def test_it_is_a_dead_letter_with_its_bytes_and_the_rest_goes_on(self, pipeline: Pipeline, data: bytes) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills([1])
        [entry_id] = pipeline.add(pipeline.events, data)
        pipeline.add_fills([2])
        processor = pipeline.processor()
        run(pipeline, processor)
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids([1, 2])
        [letter] = pipeline.dead(pipeline.events)
        assert (letter.data, letter.entry_id, letter.attempts) == (data, entry_id.decode(), 1)
        assert letter.reason
        assert letter.source_stream == pipeline.events
        assert processor.report()["dead_letters"] == 1

    def test_attempts_are_counted_over_processors(self, pipeline: Pipeline) -> None:
        pipeline.add(pipeline.events, b"poison")
        route = Route(pipeline.events, pipeline.settings.group_events_processors)
        pipeline.queue.ensure_group(route)
        pipeline.queue.read_from_stream(route, "dead-1", 10)
        run(pipeline, pipeline.processor())
        assert [letter.attempts for letter in pipeline.dead(pipeline.events)] == [2]


class TestUnderLoad:
    def test_what_was_pending_is_read_before_anything_new(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(40))
        first = pipeline.processor(processor_batch_size=40)
        first._read()
        first._lease.release()
        pipeline.add_fills(range(40, 200))
        second = pipeline.processor(processor_batch_size=10)
        assert second.instance == first.instance
        step_until([second], lambda: len(trades(pipeline)) >= 40, "as many trades as were pending")
        assert {trade.id for trade in trades(pipeline)[:40]} == {make_fill(i).id for i in range(40)}
        run(pipeline, second)
        assert sorted(trade.id for trade in trades(pipeline)) == sorted(make_fill(i).id for i in range(200))

    def test_while_clickhouse_is_away_no_more_is_taken_in_hand_than_two_batches(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipeline.add_fills(range(200))
        processor = pipeline.processor(processor_batch_size=10)

        def away(*_: object) -> None:
            raise Unavailable("ClickHouse is away")

        monkeypatch.setattr(processor._clickhouse, "query", away)
        for _ in range(20):
            with pytest.raises(Unavailable, match="ClickHouse is away"):
                processor.step()
        assert pipeline.pending(pipeline.events) <= 20
        monkeypatch.undo()
        pipeline.add_markets(range(10))
        run(pipeline, processor)
        assert len(trades(pipeline)) == 200

    def test_new_fills_are_acknowledged_together(self, pipeline: Pipeline) -> None:
        """One command a batch, but for the first and the last ones."""
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(400))
        processor = pipeline.processor(processor_batch_size=20)
        before = times_executed(pipeline.queue, "xack")
        step_until([processor], lambda: processor.report()["records_out"] == 400, "all trades are written")
        assert times_executed(pipeline.queue, "xack") - before < 100
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(400))

    def test_a_lost_connection_under_load_loses_and_doubles_nothing(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(300))
        processor = pipeline.processor(processor_batch_size=10)
        for turn in range(60):
            with suppress(Unavailable):
                processor.step()
            if turn % 3 == 0:
                pipeline.queue.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            if turn % 5 == 0:
                pipeline.queue.call("SCRIPT", "FLUSH")
        run(pipeline, processor)
        assert sorted(trade.id for trade in trades(pipeline)) == sorted(make_fill(i).id for i in range(300))


class TestSeveral:
    """Processors beside one another, and one after another."""

    def test_two_share_the_work_and_each_fill_becomes_one_trade(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(200))
        processors = [pipeline.processor(processor_batch_size=10) for _ in range(2)]
        run(pipeline, *processors)
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(200))
        assert all(processor.report()["records_out"] for processor in processors)
        assert [processor.instance for processor in processors] == ["trade_processor-1", "trade_processor-2"]

    def test_two_that_hold_the_same_entries_make_one_trade_of_each(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(20))
        slow, quick = pipeline.processor(), pipeline.processor()
        slow._batch = slow._read()
        assert len(slow._batch) == 20
        pipeline.queue.call("DEL", slow._lease.key)
        run(pipeline, quick)
        slow.drain()
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(20))
        assert quick.report()["records_out"] == 20

    def test_the_fills_of_one_that_died_are_taken_over_once_its_lease_has_run_out(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(20))
        dead = pipeline.processor(lease_s=1000)
        dead._read()
        alive = pipeline.processor(lease_s=1)
        recheck_now(alive)
        alive.step()
        assert trades(pipeline) == []
        pipeline.queue.call("PEXPIRE", dead._lease.key, 100)
        step_until([alive], lambda: len(trades(pipeline)) == 20, "the fills are taken over")
        wait_until(lambda: finished(pipeline), "nothing is pending")
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(20))

    def test_more_fills_than_one_claim_takes_are_taken_over_without_waiting(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(2500))
        dead = pipeline.processor(processor_batch_size=2500)
        dead._read()
        pipeline.expire_leases()
        alive = pipeline.processor(lease_s=1000)
        step_until([alive], lambda: finished(pipeline), "all are taken over", limit=20)
        assert len(trades(pipeline)) == 2500

    def test_one_that_was_silent_too_long_starts_over(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(5))
        pipeline.add_fills(range(10))
        processor = pipeline.processor()
        step_until_waiting(processor, 5)
        pipeline.expire_leases()
        recheck_now(processor)
        step_until_waiting(processor, 5)
        pipeline.add_markets(range(5, 10))
        run(pipeline, processor)
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(10))

    def test_entries_that_came_in_under_its_name_without_its_knowledge_are_found(self, pipeline: Pipeline) -> None:
        """A lost reply, or a former holder of the name that woke up late: both leave entries that nobody has."""
        pipeline.add_markets(range(10))
        processor = pipeline.processor()
        processor.step()
        pipeline.add_fills(range(10))
        route = Route(pipeline.events, pipeline.settings.group_events_processors)
        assert len(pipeline.queue.read_from_stream(route, processor.instance, 10)) == 10
        recheck_now(processor)
        run(pipeline, processor)
        assert len(trades(pipeline)) == 10


class TestClickHouseAway:
    """Look-ups that nobody answers."""

    @pytest.fixture
    def pair(self, redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[Pipeline, ClickHouseServer]]:
        with (
            ClickHouseServer(tmp_path) as server,
            open_pipeline(settings_for(redis_server, server, own_name())) as pipeline,
        ):
            pipeline.make_tables()
            yield pipeline, server

    def test_the_step_fails_and_afterwards_nothing_is_missing(self, pair: tuple[Pipeline, ClickHouseServer]) -> None:
        pipeline, server = pair
        pipeline.clickhouse.batch_insert(MARKETS, b"\n".join(encode(make_market(i)) for i in range(10)), "t")
        pipeline.add_fills(range(20))
        pipeline.add(pipeline.events, b"poison")
        processor = pipeline.processor()
        server.kill()
        for _ in range(3):
            with pytest.raises(Unavailable, match="ClickHouse"):
                processor.step()
        assert trades(pipeline) == []
        server.start()
        run(pipeline, processor)
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(20))
        assert len(pipeline.dead(pipeline.events)) == 1
        assert processor.report()["records_in"] == 21

    def test_markets_of_the_stream_are_enough_without_it(self, pair: tuple[Pipeline, ClickHouseServer]) -> None:
        pipeline, server = pair
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(20))
        server.kill()
        run(pipeline, pipeline.processor())
        assert len(trades(pipeline)) == 20
        server.start()


class TestRedisAway:
    """A Redis that comes and goes."""

    @pytest.fixture
    def pair(self, clickhouse_server: ClickHouseServer, tmp_path: Path) -> Iterator[tuple[Pipeline, RedisServer]]:
        with RedisServer(tmp_path) as server:
            pipeline = Pipeline(settings_for(server, clickhouse_server, own_name()))
            pipeline.make_tables()
            yield pipeline, server
            pipeline.close()

    def test_nothing_is_lost_over_a_restart(self, pair: tuple[Pipeline, RedisServer]) -> None:
        pipeline, server = pair
        pipeline.add_markets(range(5))
        pipeline.add_fills(range(10))
        processor = pipeline.processor()
        step_until_waiting(processor, 5)
        server.stop()
        for _ in range(2):
            with pytest.raises(Unavailable, match="Redis"):
                processor.step()
        server.start()
        pipeline.add_markets(range(5, 10))
        pipeline.add_fills(range(10, 20))
        run(pipeline, processor)
        assert sorted(trade.id for trade in trades(pipeline)) == fill_ids(range(20))

    def test_a_redis_that_was_emptied_is_worked_with_again(self, pair: tuple[Pipeline, RedisServer]) -> None:
        pipeline, _ = pair
        pipeline.add_markets(range(10))
        processor = pipeline.processor()
        processor.step()
        pipeline.queue.call("FLUSHALL")
        recheck_now(processor)
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(10))
        with pytest.raises(Unavailable, match="group events_processors was missing"):
            step_until([processor], lambda: False, "it notices", limit=5)
        run(pipeline, processor)
        assert len(trades(pipeline)) == 10

    def test_a_full_redis_is_emptied_again_while_fills_wait_for_markets(
        self, pair: tuple[Pipeline, RedisServer]
    ) -> None:
        pipeline, _ = pair
        pipeline.add_markets(range(5))
        pipeline.add_fills(range(10))
        pipeline.queue.ensure_group(Route(pipeline.events, pipeline.settings.group_events_processors))
        pipeline.queue.call("CONFIG", "SET", "maxmemory", "1")
        processor = pipeline.processor()
        step_until_waiting(processor, 5)
        assert len(trades(pipeline)) == 5
        assert len(pipeline.queue.unknown_tokens(10)) == 5


def test_a_stop_gives_the_name_back_at_once(pipeline: Pipeline) -> None:
    processor = pipeline.processor()
    processor.close()
    assert not pipeline.queue.call("EXISTS", pipeline.queue.keys.lease(f"{COMPONENT}-1"))
