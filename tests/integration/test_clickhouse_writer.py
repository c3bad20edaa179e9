"""The writer between real servers."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from common.clickhouse import ClickHouse
from common.config import Settings
from common.dead_letters import newest_dead_letters
from common.errors import Unavailable
from common.keys import Route
from common.records import encode
from common.tables import ORDER_FILLED, Table
from processors.batches import Manifest
from processors.clickhouse_writer import Channel, ClickHouseWriter, channels_of
from tests.builders import (
    Pipeline,
    context_of,
    make_fill,
    open_pipeline,
    own_name,
    settings_for,
)
from tests.sabotage import FAILURES, Died, Failure, Saboteur, every_call, sabotaged_writer
from tests.servers import ClickHouseServer, RedisServer
from tests.waiting import wait_until


@pytest.fixture
def own_clickhouse(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[Pipeline, ClickHouseServer]]:
    """Yield a pipeline whose ClickHouse may be killed."""
    with ClickHouseServer(tmp_path) as server, open_pipeline(settings_for(redis_server, server, own_name())) as own:
        own.make_tables()
        yield own, server


class Inserts(ClickHouse):
    """A ClickHouse that counts what it is sent, and fails as the test says."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.sizes: list[int] = []
        self.tokens: list[str] = []
        self.failures: list[Exception] = []

    def batch_insert(self, table: Table, rows: bytes, token: str) -> None:
        self.sizes.append(rows.count(b"\n") + 1)
        self.tokens.append(token)
        if failures := self.failures:
            raise failures.pop(0)
        super().batch_insert(table, rows, token)


def watched_writer(pipeline: Pipeline, **changes: Any) -> tuple[ClickHouseWriter, Inserts]:
    settings = pipeline.settings.model_copy(update=changes)
    inserts = Inserts(settings)
    return ClickHouseWriter(context_of(settings, pipeline.new_queue()), inserts), inserts


def cut_off_writer(pipeline: Pipeline) -> tuple[ClickHouseWriter, Callable[[], None]]:
    """A writer whose insert of fills 0 to 19 had no answer, and how that insert arrives after all."""
    pipeline.add_fills(range(20))
    writer, inserts = watched_writer(pipeline)
    inserts.failures = [Unavailable("still on its way")]
    with pytest.raises(Unavailable):
        run(pipeline, writer)
    rows = b"\n".join(encode(make_fill(i)) for i in range(20))
    return writer, lambda: pipeline.clickhouse.batch_insert(ORDER_FILLED, rows, inserts.tokens[0])


def all_done(pipeline: Pipeline) -> bool:
    """Whether the writers' groups have read and acknowledged everything."""
    writers = {channel.route.group for channel in channels(pipeline)}
    groups = [
        group
        for stream in (pipeline.markets, pipeline.events, pipeline.trades)
        for group in pipeline.queue.stream_info(stream).groups
        if group.name in writers
    ]
    return bool(groups) and all(group.pending == 0 and group.lag == 0 for group in groups)


def channels(pipeline: Pipeline) -> list[Channel]:
    return channels_of(pipeline.settings, pipeline.queue)


def run(pipeline: Pipeline, *writers: ClickHouseWriter) -> None:
    """Step until everything is read and acknowledged."""

    def advance() -> bool:
        for writer in writers:
            writer.step()
        return all_done(pipeline)

    wait_until(advance, "everything is in the tables")


def events_of(pipeline: Pipeline, writer: ClickHouseWriter) -> Channel:
    return next(channel for channel in writer._channels if channel.route.stream == pipeline.events)


def step_until_answered(pipeline: Pipeline, writer: ClickHouseWriter) -> None:
    """Step until ClickHouse has the first batch of fills and the writer has not looked at the answer yet."""

    def answered() -> bool:
        insert = events_of(pipeline, writer).insert
        if insert is None:
            writer.step()
        return insert is not None and insert.answer.done()

    wait_until(answered, "an insert is answered")


def pending_fills(pipeline: Pipeline) -> int:
    return sum(
        group.pending
        for group in pipeline.queue.stream_info(pipeline.events).groups
        if group.name == pipeline.settings.group_order_events_writers
    )


def assert_fills_once(pipeline: Pipeline, numbers: range) -> None:
    """Compare every id as stored, without FINAL."""
    assert pipeline.ids("order_filled") == sorted(make_fill(i).id for i in numbers)


def care_now(writer: ClickHouseWriter) -> None:
    writer._next_care_at = 0.0


def wait_has_passed(pipeline: Pipeline, writer: ClickHouseWriter, seconds: float) -> None:
    """Let the first buffered fill have waited so much longer."""
    events_of(pipeline, writer).buffer._since -= seconds


class TestBatches:
    """When rows go, and how many together."""

    def test_each_stream_ends_up_in_its_table(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(50))
        processor, writer = pipeline.processor(), pipeline.writer()
        processor.step()
        run(pipeline, writer)
        assert pipeline.count("markets") == 10
        assert_fills_once(pipeline, range(50))
        assert pipeline.ids("trades") == pipeline.ids("order_filled")
        assert writer.report()["records_out"] == 110

    def test_a_batch_goes_when_it_has_enough_rows(self, pipeline: Pipeline) -> None:
        writer, inserts = watched_writer(pipeline, clickhouse_writer_batch_size=10, clickhouse_writer_max_wait=30)
        pipeline.add_fills(range(9))
        for _ in range(5):
            writer.step()
        assert inserts.sizes == []
        pipeline.add_fills(range(9, 10))
        run(pipeline, writer)
        assert inserts.sizes == [10]

    def test_a_batch_goes_when_its_first_row_has_waited_long_enough(self, pipeline: Pipeline) -> None:
        writer, inserts = watched_writer(pipeline, clickhouse_writer_batch_size=10, clickhouse_writer_max_wait=1000)
        pipeline.add_fills(range(3))
        writer.step()
        assert inserts.sizes == []
        wait_has_passed(pipeline, writer, 1000)
        run(pipeline, writer)
        assert inserts.sizes == [3]

    def test_a_backlog_goes_in_large_batches_up_to_the_limit(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(120))
        writer, inserts = watched_writer(pipeline, clickhouse_writer_batch_size=10, clickhouse_writer_max_batch_size=50)
        run(pipeline, writer)
        assert inserts.sizes == [50, 50, 20]
        assert_fills_once(pipeline, range(120))

    def test_what_is_no_row_is_a_dead_letter_and_the_rest_goes_in(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(5))
        pipeline.add(pipeline.events, b"", b"null", b"[1]")
        pipeline.add_fills(range(5, 10))
        writer = pipeline.writer()
        run(pipeline, writer)
        assert_fills_once(pipeline, range(10))
        assert sorted(letter.data for letter in pipeline.dead(pipeline.events)) == [b"", b"[1]", b"null"]

    def test_the_report_tells_how_long_rows_took(self, pipeline: Pipeline) -> None:
        writer = pipeline.writer()
        assert writer.report()["latency_p99_s"] == ""
        pipeline.add_fills(range(10))
        run(pipeline, writer)
        report = writer.report()
        assert (report["records_in"], report["records_out"], report["batches"]) == (10, 10, 1)
        assert 0 <= float(report["latency_p50_s"]) <= float(report["latency_p99_s"]) < 30

    def test_streams_are_trimmed_of_what_everybody_has_finished(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(50))
        writer = pipeline.writer()
        run(pipeline, writer)
        writer.step()
        assert pipeline.queue.stream_info(pipeline.events).length == 50  # the processors have not read them
        processor = pipeline.processor()
        processor.step()

        def trimmed() -> bool:
            writer.step()
            return pipeline.queue.stream_info(pipeline.events).length == 1

        wait_until(trimmed, "the events are trimmed")


class TestAcknowledging:
    """Entries are acknowledged only once ClickHouse has their rows."""

    def test_while_clickhouse_is_away_they_stay_pending_and_then_go_in_once(
        self, own_clickhouse: tuple[Pipeline, ClickHouseServer]
    ) -> None:
        pipeline, server = own_clickhouse
        writer = pipeline.writer()
        pipeline.add_fills(range(20))
        server.kill()
        with pytest.raises(Unavailable, match="ClickHouse"):
            run(pipeline, writer)
        for _ in range(3):
            with pytest.raises(Unavailable, match="ClickHouse"):
                writer.step()
        assert pending_fills(pipeline) == 20
        server.start()
        run(pipeline, writer)
        assert_fills_once(pipeline, range(20))

    def test_while_clickhouse_is_away_no_step_passes_for_recovery(self, pipeline: Pipeline) -> None:
        """Else the back-off would never grow, and the log would say 'waiting' and 'available again' in turns."""
        writer, inserts = watched_writer(pipeline)
        pipeline.add_fills(range(3))
        inserts.failures = [Unavailable("ClickHouse is away")] * 100
        with pytest.raises(Unavailable):
            run(pipeline, writer)
        for _ in range(5):
            with pytest.raises(Unavailable):
                writer.step()
        inserts.failures = []
        run_through_failures(pipeline, writer)
        assert len(set(inserts.tokens)) == 1
        assert_fills_once(pipeline, range(3))

    def test_a_process_that_dies_between_insert_and_acknowledgement_doubles_nothing(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        dead = pipeline.writer()
        step_until_answered(pipeline, dead)
        assert pipeline.count("order_filled") == 20
        assert pending_fills(pipeline) == 20
        pipeline.expire_leases()
        run(pipeline, pipeline.writer())
        assert_fills_once(pipeline, range(20))

    def test_its_batch_is_adopted_by_a_writer_that_was_there_all_along(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        dead, alive = pipeline.writer(), pipeline.writer()
        step_until_answered(pipeline, dead)
        pipeline.queue.call("DEL", dead._lease.key)
        pipeline.add_fills(range(20, 30))
        care_now(alive)
        run(pipeline, alive)
        assert_fills_once(pipeline, range(30))
        assert alive.instance == "clickhouse_writer-2"

    def test_one_that_dies_after_fixing_a_batch_and_before_sending_it_loses_nothing(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        dead, inserts = watched_writer(pipeline)
        inserts.failures = [Unavailable("nothing arrives")] * 100
        with pytest.raises(Unavailable):
            run(pipeline, dead)
        assert pipeline.count("order_filled") == 0
        assert pipeline.queue.call("HLEN", pipeline.queue.keys.manifests(dead.instance)) == 1
        pipeline.expire_leases()
        run(pipeline, pipeline.writer())
        assert_fills_once(pipeline, range(20))

    def test_one_that_dies_with_rows_it_has_only_read_loses_nothing(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        dead = pipeline.writer(clickhouse_writer_max_wait=30)
        dead.step()
        assert len(events_of(pipeline, dead).buffer) == 20
        pipeline.expire_leases()
        run(pipeline, pipeline.writer())
        assert_fills_once(pipeline, range(20))

    def test_more_rows_than_one_claim_takes_are_taken_over_without_waiting(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(2500))
        dead = pipeline.writer(clickhouse_writer_max_wait=30, clickhouse_writer_max_batch_size=10_000)
        dead.step()
        pipeline.expire_leases()
        alive = pipeline.writer(lease_s=1000)
        alive._lease.release()
        alive = pipeline.writer(lease_s=1000)
        run(pipeline, alive)
        assert_fills_once(pipeline, range(2500))

    def test_a_batch_that_lost_entries_is_given_up_and_the_rest_goes_in(self, pipeline: Pipeline) -> None:
        ids = pipeline.add_fills(range(10))
        dead, inserts = watched_writer(pipeline)
        inserts.failures = [Unavailable("nothing arrives")] * 100
        with pytest.raises(Unavailable):
            run(pipeline, dead)
        pipeline.queue.call("XDEL", pipeline.events, *ids[:2])
        pipeline.expire_leases()
        writer = pipeline.writer()
        wait_until(
            lambda: writer.step() >= 0 and pending_fills(pipeline) == 0 and pipeline.count("order_filled") == 8,
            "the rest is in",
        )
        assert_fills_once(pipeline, range(2, 10))
        assert pipeline.queue.lost_entries() == 2


class TestRefusedRows:
    """Rows that ClickHouse won't have."""

    BAD = (
        b'{"unheard_of":1}',
        b'{"id":}',
        json.dumps({**json.loads(encode(make_fill(1))), "maker_amount_filled": "many"}).encode(),
        json.dumps({**json.loads(encode(make_fill(1))), "id": ""}).encode(),
        json.dumps({k: v for k, v in json.loads(encode(make_fill(1))).items() if k != "id"}).encode(),
        b'{"a":\xff}',
        b"{}",
    )

    @pytest.mark.parametrize("bad", BAD, ids=["field", "broken", "type", "empty id", "no id", "bytes", "nothing"])
    def test_one_bad_row_of_a_thousand_is_a_dead_letter_and_the_others_go_in(
        self, pipeline: Pipeline, bad: bytes
    ) -> None:
        pipeline.add_fills(range(617))
        [entry_id] = pipeline.add(pipeline.events, bad)
        pipeline.add_fills(range(617, 999))
        writer = pipeline.writer(clickhouse_writer_max_wait=30, clickhouse_writer_batch_size=1000)
        run(pipeline, writer)
        assert_fills_once(pipeline, range(999))
        [letter] = pipeline.dead(pipeline.events)
        assert (letter.data, letter.entry_id, letter.source_stream) == (bad, entry_id.decode(), pipeline.events)
        assert letter.reason
        assert letter.attempts >= 1
        assert not pipeline.queue.call("HLEN", pipeline.queue.keys.manifests(writer.instance))

    def test_many_bad_rows_all_become_dead_letters(self, pipeline: Pipeline) -> None:
        rows = [b'{"bad":%d}' % i if i % 7 == 0 else encode(make_fill(i)) for i in range(100)]
        pipeline.add(pipeline.events, *rows)
        writer = pipeline.writer(clickhouse_writer_batch_size=100)
        run(pipeline, writer)
        assert pipeline.ids("order_filled") == sorted(make_fill(i).id for i in range(100) if i % 7)
        assert len(pipeline.dead(pipeline.events)) == 15
        assert writer.report()["dead_letters"] == 15

    @pytest.mark.parametrize("failure", FAILURES[1:], ids=str)
    def test_any_call_of_a_split_may_fail(self, pipeline: Pipeline, failure: Failure) -> None:
        runs = 0
        for saboteur in every_call(failure):
            pipeline.add_fills(range(runs * 10, runs * 10 + 3))
            pipeline.add(pipeline.events, b'{"bad":%d}' % runs)
            writer = SplittingWriter(pipeline, saboteur)
            writer.run()
            writer.finish_in_peace()
            runs += 1
        assert runs > 20
        assert pipeline.ids("order_filled") == sorted(make_fill(r * 10 + i).id for r in range(runs) for i in range(3))
        letters = [letter.data for letter in newest_dead_letters(pipeline.queue, pipeline.events, 1000)[1]]
        assert sorted(letters) == sorted(b'{"bad":%d}' % i for i in range(runs))


class SplittingWriter:
    """A writer that meets a bad row and one failure, and whoever comes after it."""

    def __init__(self, pipeline: Pipeline, saboteur: Saboteur) -> None:
        settings = {"clickhouse_writer_max_wait": 1e-9, "lease_s": 1000, "trim_interval_s": 1000}
        self._pipeline = pipeline
        self._own = Pipeline(pipeline.settings.model_copy(update=settings))
        self._saboteur = saboteur

    def run(self) -> None:
        with suppress(Died):
            self._until_done(self._saboteur)

    def finish_in_peace(self) -> None:
        self._own.expire_leases()
        self._until_done(Saboteur(FAILURES[0], 0))
        self._own.expire_leases()
        self._own.close()

    def _until_done(self, saboteur: Saboteur) -> None:
        writer: ClickHouseWriter | None = None
        for _ in range(200):
            with suppress(Unavailable):
                writer = writer or sabotaged_writer(self._own, saboteur)
                writer.step()
                if all_done(self._own):
                    return
        raise AssertionError("not done after 200 steps")


def heir_of_a_batch(pipeline: Pipeline, first: int) -> tuple[ClickHouseWriter, ClickHouseWriter]:
    """A writer whose batch of five fills is in the table and not acknowledged, and one beside it whose calls may fail.

    The first has read three more: who took all eight for new ones would make another batch. The second looks after the
    others only when it is told to, or has failed to.
    """
    settings = pipeline.settings.model_copy(update={"clickhouse_writer_max_wait": 1e-9, "lease_s": 1000})
    dead = pipeline.writer(clickhouse_writer_max_wait=1e-9, lease_s=1000)
    pipeline.add_fills(range(first, first + 5))
    step_until_answered(pipeline, dead)
    pipeline.add_fills(range(first + 5, first + 8))
    queue, route = pipeline.new_queue(), events_of(pipeline, dead).route
    assert [len(queue.read_from_stream(route, dead.instance, 10)) for _ in range(2)] == [5, 3]
    heir = sabotaged_writer(Pipeline(settings), Saboteur(FAILURES[0], 0))
    heir.step()
    return dead, heir


def finish(pipeline: Pipeline, writer: ClickHouseWriter) -> None:
    """Step until all is done. A lease that was taken without its holder's knowledge runs out meanwhile."""
    for number in range(1, 100):
        with suppress(Unavailable):
            writer.step()
            if all_done(pipeline):
                return
        if number % 5 == 0:
            care_now(writer)
        if number == 50:
            pipeline.expire_leases()
    raise AssertionError("not done after 100 steps")


def run_through_failures(pipeline: Pipeline, writer: ClickHouseWriter) -> None:
    def advance() -> bool:
        care_now(writer)
        try:
            writer.step()
        except Unavailable:
            return False
        return all_done(pipeline)

    wait_until(advance, "everything is in the tables")


class TestLeases:
    """Writers that were silent too long, and writers beside one another."""

    def test_one_that_lost_its_lease_drops_its_buffer_and_doubles_nothing(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        slow = pipeline.writer(clickhouse_writer_max_wait=30)
        slow.step()
        pipeline.expire_leases()
        quick = pipeline.writer()
        run(pipeline, quick)
        slow.drain()
        care_now(slow)
        slow.step()
        assert len(events_of(pipeline, slow).buffer) == 0
        assert_fills_once(pipeline, range(20))

    def test_one_that_lost_its_lease_fixes_no_batch_of_rows_that_others_cut_otherwise(self, pipeline: Pipeline) -> None:
        """Another batch has another token, which ClickHouse would take for other rows."""
        pipeline.add_fills(range(20))
        slow = pipeline.writer(clickhouse_writer_max_wait=1000, lease_s=1000)
        slow.step()
        assert len(events_of(pipeline, slow).buffer) == 20
        pipeline.expire_leases()
        run(pipeline, pipeline.writer(clickhouse_writer_max_batch_size=7))
        wait_has_passed(pipeline, slow, 1000)

        def noticed() -> bool:
            slow.step()
            return not events_of(pipeline, slow).is_busy()

        wait_until(noticed, "it has dropped the batch")
        assert_fills_once(pipeline, range(20))

    def test_one_that_lost_its_lease_while_clickhouse_worked_acknowledges_nothing(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        slow = pipeline.writer()
        step_until_answered(pipeline, slow)
        pipeline.expire_leases()
        slow.step()
        assert pending_fills(pipeline) == 20
        run(pipeline, slow)
        assert_fills_once(pipeline, range(20))

    def test_an_insert_that_arrives_after_the_take_over_changes_nothing(self, pipeline: Pipeline) -> None:
        _, arrive = cut_off_writer(pipeline)
        pipeline.expire_leases()
        run(pipeline, pipeline.writer())
        arrive()
        assert_fills_once(pipeline, range(20))

    def test_rows_whose_token_outlived_them_are_inserted(self, pipeline: Pipeline) -> None:
        """ClickHouse was killed in between: it remembers a batch that it has not got. Deleted rows stand for that."""
        writer, arrive = cut_off_writer(pipeline)
        arrive()
        stored = f"{pipeline.settings.clickhouse_database}.order_filled"
        pipeline.clickhouse.command(f"ALTER TABLE {stored} DELETE WHERE 1 SETTINGS mutations_sync = 1")
        run(pipeline, writer)
        assert_fills_once(pipeline, range(20))

    def test_two_share_the_work(self, pipeline: Pipeline) -> None:
        writers = [pipeline.writer(clickhouse_writer_max_batch_size=10) for _ in range(2)]
        pipeline.add_fills(range(200))
        run(pipeline, *writers)
        assert_fills_once(pipeline, range(200))
        assert all(writer.report()["records_out"] for writer in writers)

    def test_of_two_that_outlive_a_third_one_alone_sends_its_batch(self, pipeline: Pipeline) -> None:
        """While one has adopted the manifest, the other must not come by its entries another way."""
        pipeline.add_fills(range(20))
        dead, adopter, other = (pipeline.writer() for _ in range(3))
        step_until_answered(pipeline, dead)
        pipeline.queue.call("DEL", dead._lease.key)
        routes = {channel.table.name: channel.route for channel in adopter._channels}
        assert adopter._manifests.adopt(dead.instance, routes) == 1
        adopter._load_manifests()
        care_now(other)
        for _ in range(10):
            other.step()
        run(pipeline, adopter, other)
        assert_fills_once(pipeline, range(20))

    def test_entries_that_came_in_under_its_name_without_its_knowledge_are_found(self, pipeline: Pipeline) -> None:
        """A lost reply, or a former holder of the name that woke up late: both leave entries that nobody has."""
        writer = pipeline.writer()
        writer.step()
        pipeline.add_fills(range(10))
        assert len(pipeline.queue.read_from_stream(events_of(pipeline, writer).route, writer.instance, 10)) == 10
        care_now(writer)
        run(pipeline, writer)
        assert_fills_once(pipeline, range(10))

    @pytest.mark.parametrize("name", ["the dead one's name", "its own name"])
    @pytest.mark.parametrize("failure", FAILURES[2:], ids=str)
    def test_any_call_of_taking_over_a_batch_may_fail(self, pipeline: Pipeline, failure: Failure, name: str) -> None:
        """The batch is in the table and not acknowledged. Who has lost its own name takes the smallest free one."""
        pipeline.stop_merges("order_filled")
        runs = 0
        for saboteur in every_call(failure):
            pipeline.expire_leases()
            dead, heir = heir_of_a_batch(pipeline, runs * 10)
            pipeline.queue.call("DEL", dead._lease.key)
            if name != "its own name":
                pipeline.queue.call("DEL", heir._lease.key)
            heir._queue.saboteur = heir._clickhouse.saboteur = saboteur  # type: ignore[attr-defined]
            care_now(heir)
            finish(pipeline, heir)
            pipeline.expire_leases()
            finish(pipeline, pipeline.writer())
            assert not pipeline.queue.call("KEYS", pipeline.queue.keys.manifests("*"))
            runs += 1
        assert runs > 5
        assert pipeline.ids("order_filled") == sorted(make_fill(r * 10 + i).id for r in range(runs) for i in range(8))

    def test_looking_for_them_does_not_keep_a_batch_from_filling(self, pipeline: Pipeline) -> None:
        writer, inserts = watched_writer(pipeline, clickhouse_writer_batch_size=10, clickhouse_writer_max_wait=30)
        for start in range(0, 10, 2):
            pipeline.add_fills(range(start, start + 2))
            care_now(writer)
            writer.step()
        run(pipeline, writer)
        assert inserts.sizes == [10]

    def test_a_manifest_outlives_its_writer_under_the_same_name(self, pipeline: Pipeline) -> None:
        pipeline.add_fills(range(20))
        dead = pipeline.writer()
        step_until_answered(pipeline, dead)
        pipeline.queue.call("DEL", dead._lease.key)
        again = pipeline.writer()
        assert again.instance == dead.instance
        assert [len(manifest.entry_ids) for manifest in again._manifests.load()] == [20]
        run(pipeline, again)
        assert_fills_once(pipeline, range(20))


class TestDrain:
    """A clean stop."""

    def test_what_was_read_is_written_and_nothing_stays_pending(self, pipeline: Pipeline) -> None:
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(500))
        processor = pipeline.processor()
        processor.step()
        writer = pipeline.writer(clickhouse_writer_max_wait=30, clickhouse_writer_max_batch_size=200)
        for _ in range(2):
            writer.step()
        pipeline.add_fills(range(500, 600))
        writer.drain()
        assert pending_fills(pipeline) == 0
        writer.close()
        stored = pipeline.ids("order_filled")
        assert len(stored) == len(set(stored)) >= 200
        run(pipeline, pipeline.writer())
        assert_fills_once(pipeline, range(600))

    def test_without_clickhouse_it_ends_and_leaves_the_rest_for_the_next_start(
        self, own_clickhouse: tuple[Pipeline, ClickHouseServer]
    ) -> None:
        pipeline, server = own_clickhouse
        pipeline.add_fills(range(20))
        writer = pipeline.writer(clickhouse_writer_max_wait=30)
        writer.step()
        server.kill()
        with pytest.raises(Unavailable):
            writer.drain()
        writer.close()
        assert pending_fills(pipeline) == 20
        server.start()
        run(pipeline, pipeline.writer())
        assert_fills_once(pipeline, range(20))

    def test_its_name_is_free_at_once(self, pipeline: Pipeline) -> None:
        first = pipeline.writer()
        first.drain()
        first.close()
        assert pipeline.writer().instance == first.instance


class TestRedisTrouble:
    """A Redis that comes, goes, forgets or is full."""

    @pytest.fixture
    def pair(self, clickhouse_server: ClickHouseServer, tmp_path: Path) -> Iterator[tuple[Pipeline, RedisServer]]:
        with RedisServer(tmp_path) as server:
            pipeline = Pipeline(settings_for(server, clickhouse_server, own_name()))
            pipeline.make_tables()
            yield pipeline, server
            pipeline.close()

    def test_nothing_is_lost_or_doubled_over_a_restart(self, pair: tuple[Pipeline, RedisServer]) -> None:
        pipeline, server = pair
        pipeline.add_fills(range(10))
        writer = pipeline.writer()
        step_until_answered(pipeline, writer)
        server.stop()
        for _ in range(2):
            with pytest.raises(Unavailable, match="Redis"):
                writer.step()
        server.start()
        pipeline.add_fills(range(10, 20))
        run_through_failures(pipeline, writer)
        assert_fills_once(pipeline, range(20))

    def test_a_group_that_vanishes_is_made_again_and_buffered_rows_are_not_doubled(
        self, pair: tuple[Pipeline, RedisServer]
    ) -> None:
        pipeline, _ = pair
        pipeline.add_fills(range(10))
        writer = pipeline.writer(clickhouse_writer_max_wait=1)
        writer.step()
        route = events_of(pipeline, writer).route
        pipeline.queue.call("XGROUP", "DESTROY", route.stream, route.group)
        care_now(writer)
        with pytest.raises(Unavailable, match="made again"):
            writer.step()
        run_through_failures(pipeline, writer)
        assert_fills_once(pipeline, range(10))

    def test_a_full_redis_is_emptied_even_by_a_writer_that_starts_anew(
        self, pair: tuple[Pipeline, RedisServer]
    ) -> None:
        pipeline, _ = pair
        for channel in channels(pipeline):
            pipeline.queue.ensure_group(channel.route)
        pipeline.queue.ensure_group(Route(pipeline.events, pipeline.settings.group_events_processors))
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(50))
        pipeline.add(pipeline.events, b'{"bad":1}', b"no row")
        pipeline.queue.call("CONFIG", "SET", "maxmemory", "1")
        processor, writer = pipeline.processor(), pipeline.writer()
        processor.step()
        run(pipeline, writer)
        assert_fills_once(pipeline, range(50))
        assert pipeline.ids("trades") == pipeline.ids("order_filled")

        def emptied() -> bool:
            writer.step()
            lengths = [pipeline.queue.stream_info(s).length for s in (pipeline.events, pipeline.trades)]
            return lengths == [1, 1]

        wait_until(emptied, "the streams are trimmed")


def test_a_manifest_of_nothing_pending_is_forgotten(pipeline: Pipeline) -> None:
    """Acknowledged, yet not forgotten: only by hand or by a loss of Redis' data."""
    ids = pipeline.add_fills(range(3))
    manifest = Manifest.of(pipeline.events, "order_filled", ids)
    key = pipeline.queue.keys.manifests("clickhouse_writer-1")
    pipeline.queue.call("HSET", key, manifest.token, manifest.encode())
    writer = pipeline.writer()
    run(pipeline, writer)
    assert_fills_once(pipeline, range(3))
    assert not pipeline.queue.call("EXISTS", key)
