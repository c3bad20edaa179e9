"""Dead letters sent through the pipeline again, looked at and thrown away, on real servers."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from common.config import Settings
from common.dead_letters import discard_dead_letters, page_of_dead_letters, replay_dead_letters
from common.errors import Unavailable
from common.keys import Route
from common.records import encode
from common.redis_queue import Offer, Position
from processors.dead_letter_selection import PAGE, Selection, letters_that_fit
from processors.dead_letters import main, parser, run
from tests.builders import Pipeline, make_fill, make_market, own_name, settings_for, step_until
from tests.sabotage import FAILURES, Died, Failure, SabotagedQueue, every_call, sabotaged_processor, sabotaged_writer
from tests.servers import ROOT, ClickHouseServer, RedisServer
from tests.waiting import wait_until

Command = Callable[..., int]
EXPIRED = "1700000000000"  # an arrival so long ago that the fill no longer waits for its market
HOSTILE = b'\x1b[2J\xff\xfe{"a":1}\r\n\x07'


@pytest.fixture
def command(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the tool on the pipeline's servers: words to exit status."""
    for name, value in environment(pipeline).items():
        monkeypatch.setenv(name, value)
    return lambda *words: main(words)


def environment(pipeline: Pipeline) -> dict[str, str]:
    settings = pipeline.settings
    return {
        "REDIS_HOST": settings.redis_host,
        "REDIS_PORT": str(settings.redis_port),
        "KEY_PREFIX": settings.key_prefix,
    }


def run_pipeline(pipeline: Pipeline) -> None:
    """Let a processor and a writer do all there is to do, and stop."""
    processor, writer = pipeline.processor(), pipeline.writer()

    def advance() -> bool:
        processor._next_care_at = 0.0  # expired fills are looked for at every step
        processor.step()
        writer.step()
        return pipeline.unfinished() == 0

    wait_until(advance, "everything is done")
    for stage in (processor, writer):
        stage.drain()
        stage.close()


def bury_expired_fills(pipeline: Pipeline, *numbers: int) -> None:
    """Have fills become rows of order_filled and dead letters of the processor."""
    for place, number in enumerate(numbers):
        pipeline.queue.call("XADD", pipeline.events, f"{EXPIRED}-{place + 1}", "data", encode(make_fill(number)))
    run_pipeline(pipeline)
    assert len(pipeline.dead(pipeline.events)) == len(numbers)


def bury(pipeline: Pipeline, *rows: bytes, group: str = "", reason: str = "no") -> list[str]:
    """Write dead letters as the scripts do; returns their ids."""
    group = group or pipeline.settings.group_events_processors
    fields = ["reason", reason, "source_stream", pipeline.events, "entry_id", "1-0", "attempts", 1, "at", "now"]
    key = pipeline.queue.keys.dead_letters(pipeline.events)
    return [pipeline.queue.call("XADD", key, "*", "data", row, *fields, "group", group).decode() for row in rows]


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def everything(pipeline: Pipeline) -> dict[bytes, Any]:
    """Return all that Redis holds of the pipeline."""
    keys = sorted(pipeline.queue.call("KEYS", pipeline.queue.keys("*")))
    return {key: pipeline.queue.call("DUMP", key) for key in keys}


def fill_ids(*numbers: int) -> list[str]:
    return sorted(make_fill(i).id for i in numbers)


class TestReplayOfFills:
    """Fills whose market was listed too late: what the tool is for."""

    def test_such_a_fill_becomes_a_trade_once_and_is_not_stored_again(
        self, pipeline: Pipeline, command: Command
    ) -> None:
        bury_expired_fills(pipeline, 3, 13)
        assert pipeline.ids("order_filled") == fill_ids(3, 13)
        assert pipeline.ids("trades") == []
        pipeline.add_markets([3])
        assert command("replay", "--reason", "no market lists") == 0
        assert pipeline.dead(pipeline.events) == []
        run_pipeline(pipeline)
        assert pipeline.ids("trades") == pipeline.ids("order_filled") == fill_ids(3, 13)

    def test_replayed_again_there_is_nothing_to_do(self, pipeline: Pipeline, command: Command) -> None:
        bury_expired_fills(pipeline, 3)
        pipeline.add_markets([3])
        assert command("replay", "--all") == 0
        assert command("replay", "--all") == 1
        run_pipeline(pipeline)
        assert pipeline.ids("trades") == fill_ids(3)

    def test_its_time_to_wait_begins_anew(self, pipeline: Pipeline, command: Command) -> None:
        bury_expired_fills(pipeline, 3)
        assert command("replay", "--all") == 0
        processor = pipeline.processor()
        step_until([processor], lambda: processor.report()["waiting"] == 1, "it waits")
        processor._next_care_at = 0.0
        processor.step()
        assert processor.report()["waiting"] == 1
        assert pipeline.dead(pipeline.events) == []
        pipeline.add_markets([3])
        step_until([processor], lambda: len(pipeline.rows(pipeline.trades)) == 1, "the trade is made")

    def test_refused_again_it_is_a_dead_letter_again(self, pipeline: Pipeline, command: Command) -> None:
        no_price = encode(make_fill(3, maker_amount_filled=0))
        pipeline.add_markets([3])
        pipeline.add(pipeline.events, no_price)
        run_pipeline(pipeline)
        [before] = pipeline.dead(pipeline.events)
        command("replay", before.id)
        run_pipeline(pipeline)
        [after] = pipeline.dead(pipeline.events)
        assert after.id != before.id
        assert after[1:4] == before[1:4]
        assert after.group == before.group == pipeline.settings.group_events_processors

    def test_many_replays_at_once_make_one_trade_of_each(self, pipeline: Pipeline, command: Command) -> None:
        pipeline.add_markets(range(10))
        bury(pipeline, *(encode(make_fill(i)) for i in range(350)))
        ready = threading.Barrier(4)

        def replay() -> None:
            ready.wait()
            command("replay", "--all")

        threads = [threading.Thread(target=replay) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(pipeline.rows(pipeline.events)) == 350
        run_pipeline(pipeline)
        assert pipeline.ids("trades") == fill_ids(*range(350))
        assert pipeline.count("order_filled") == 0

    def test_of_two_that_read_the_same_letters_one_moves_them(self, pipeline: Pipeline) -> None:
        ids = bury(pipeline, b"1", b"2", b"3")
        letters = page_of_dead_letters(pipeline.queue, pipeline.events, "-", "+", 10)
        assert replay_dead_letters(pipeline.queue, pipeline.events, letters[:1]) == ids[:1]
        assert replay_dead_letters(pipeline.queue, pipeline.events, letters) == ids[1:]
        assert pipeline.rows(pipeline.events) == [b"1", b"2", b"3"]

    @pytest.mark.parametrize("failure", FAILURES, ids=str)
    def test_each_goes_once_wherever_the_tool_or_redis_fails(self, pipeline: Pipeline, failure: Failure) -> None:
        rows = [b"%d" % i for i in range(PAGE + 5)]
        replays = 0
        for saboteur in every_call(failure):
            bury(pipeline, *rows)
            queue = SabotagedQueue(pipeline.settings)
            queue.saboteur = saboteur
            words = parser().parse_args(["replay", "--all"])
            with suppress(Unavailable, Died):
                run(words, pipeline.settings, queue)
            run(words, pipeline.settings, pipeline.queue)
            queue.close()
            replays += 1
            assert pipeline.rows(pipeline.events) == rows * replays
            assert pipeline.dead(pipeline.events) == []
        assert replays > 5


class TestReplayOfRows:
    """Rows that ClickHouse refused, once it would take them."""

    @pytest.mark.parametrize("table", ["order_filled", "trades"])
    def test_such_a_row_goes_in_once_and_the_other_table_is_untouched(
        self, pipeline: Pipeline, command: Command, table: str
    ) -> None:
        name = f"{pipeline.settings.clickhouse_database}.{table}"
        pipeline.clickhouse.command(f"ALTER TABLE {name} ADD CONSTRAINT no_three CHECK id != '{make_fill(3).id}'")
        pipeline.add_markets(range(10))
        pipeline.add_fills(range(10))
        run_pipeline(pipeline)
        stream = pipeline.events if table == "order_filled" else pipeline.trades
        assert pipeline.ids(table) == fill_ids(0, 1, 2, *range(4, 10))
        [letter] = pipeline.dead(stream)
        assert letter.group in {
            pipeline.settings.group_order_events_writers,
            pipeline.settings.group_trades_writers,
        }
        pipeline.clickhouse.command(f"ALTER TABLE {name} DROP CONSTRAINT no_three")
        assert command("replay", letter.id) == 0
        run_pipeline(pipeline)
        assert pipeline.ids("order_filled") == pipeline.ids("trades") == fill_ids(*range(10))
        assert pipeline.dead(stream) == []

    def test_what_both_groups_refused_goes_back_to_both_once(self, pipeline: Pipeline, command: Command) -> None:
        pipeline.add(pipeline.events, b"poison")
        run_pipeline(pipeline)
        groups = {letter.group for letter in pipeline.dead(pipeline.events)}
        assert groups == {
            pipeline.settings.group_events_processors,
            pipeline.settings.group_order_events_writers,
        }
        assert command("replay", "--all") == 0
        run_pipeline(pipeline)
        letters = pipeline.dead(pipeline.events)
        assert {letter.group for letter in letters} == groups
        assert len(letters) == 2


class TestAddressedEntries:
    """A replayed entry as the groups of its stream see it."""

    @pytest.fixture
    def pipeline_settings(self, redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
        """Return settings under which a step always has something due, and care is taken once a process."""
        always = {"clickhouse_writer_max_wait": 1e-9, "trim_interval_s": 1e-9, "lease_s": 1000}
        return settings_for(redis_server, clickhouse_server, own_name(), **always)

    @pytest.fixture
    def routes(self, pipeline: Pipeline) -> tuple[Route, Route]:
        settings = pipeline.settings
        groups = settings.group_events_processors, settings.group_order_events_writers
        for group in groups:
            pipeline.queue.ensure_group(Route(pipeline.events, group))
        return Route(pipeline.events, groups[0]), Route(pipeline.events, groups[1])

    def replay_one(self, pipeline: Pipeline) -> None:
        bury(pipeline, b"{}")
        letters = page_of_dead_letters(pipeline.queue, pipeline.events, "-", "+", 1)
        replay_dead_letters(pipeline.queue, pipeline.events, letters)

    def test_only_the_group_that_refused_it_gets_it(self, pipeline: Pipeline, routes: tuple[Route, Route]) -> None:
        self.replay_one(pipeline)
        processors, writers = routes
        assert pipeline.queue.read_from_stream(writers, "w", 10) == []
        [entry] = pipeline.queue.read_from_stream(processors, "p", 10)
        assert entry.data == b"{}"
        assert [group.pending for group in pipeline.queue.stream_info(pipeline.events).groups] == [1, 0]

    def test_one_that_died_before_it_could_pass_it_over_leaves_it_to_nobody(
        self, pipeline: Pipeline, routes: tuple[Route, Route]
    ) -> None:
        self.replay_one(pipeline)
        _, writers = routes
        pipeline.queue.call("XREADGROUP", "GROUP", writers.group, "dead", "STREAMS", pipeline.events, ">")
        assert pipeline.pending(pipeline.events) == 1
        assert pipeline.queue.claim(writers, "dead", "w") == ([], 0)
        assert pipeline.pending(pipeline.events) == 0

    def test_started_again_it_passes_it_over(self, pipeline: Pipeline, routes: tuple[Route, Route]) -> None:
        self.replay_one(pipeline)
        _, writers = routes
        pipeline.queue.call("XREADGROUP", "GROUP", writers.group, "w", "STREAMS", pipeline.events, ">")
        assert pipeline.new_queue().read_from_stream(writers, "w", 10) == []
        assert pipeline.pending(pipeline.events) == 0

    def test_it_is_trimmed_like_any_other(self, pipeline: Pipeline, routes: tuple[Route, Route]) -> None:
        self.replay_one(pipeline)
        for route in routes:
            entries = pipeline.queue.read_from_stream(route, "c", 10)
            pipeline.queue.ack(route, [entry.id for entry in entries])
        pipeline.queue.call("XADD", pipeline.events, "*", "data", b"next")
        for route in routes:
            pipeline.queue.read_from_stream(route, "c", 10)
        assert pipeline.queue.trim(pipeline.events, [route.group for route in routes]) == 1

    @pytest.mark.parametrize("failure", FAILURES, ids=str)
    def test_a_writer_that_fails_anywhere_stores_what_is_not_its_own_never(
        self, pipeline: Pipeline, failure: Failure
    ) -> None:
        stored: list[int] = []
        for number, saboteur in enumerate(every_call(failure)):
            bury(pipeline, encode(make_fill(1000 + number)))
            letters = page_of_dead_letters(pipeline.queue, pipeline.events, "-", "+", 9)
            replay_dead_letters(pipeline.queue, pipeline.events, letters)
            pipeline.add_fills([number])
            stored.append(number)
            with suppress(Died):
                live(lambda: sabotaged_writer(pipeline, saboteur), lambda: writers_are_done(pipeline))  # noqa: B023
            pipeline.expire_leases()
            write_the_rest(pipeline)
        assert pipeline.ids("order_filled") == fill_ids(*stored)
        assert len(stored) > 10

    @pytest.mark.parametrize("failure", FAILURES, ids=str)
    def test_a_processor_that_fails_anywhere_makes_one_trade_of_it(self, pipeline: Pipeline, failure: Failure) -> None:
        pipeline.add_markets(range(10))
        made: list[int] = []
        for number, saboteur in enumerate(every_call(failure)):
            bury(pipeline, encode(make_fill(number)))
            bury(pipeline, encode(make_fill(1000)), group=pipeline.settings.group_order_events_writers)
            letters = page_of_dead_letters(pipeline.queue, pipeline.events, "-", "+", 9)
            replay_dead_letters(pipeline.queue, pipeline.events, letters)
            made.append(number)
            with suppress(Died):
                live(lambda: sabotaged_processor(pipeline, saboteur), lambda: processors_are_done(pipeline))  # noqa: B023
            pipeline.expire_leases()
            processor = pipeline.processor()
            step_until([processor], lambda: processors_are_done(pipeline), "the rest is done")
            processor.close()
        assert sorted(json.loads(row)["id"] for row in pipeline.rows(pipeline.trades)) == fill_ids(*made)
        assert len(made) > 10


def live(build: Callable[[], Any], is_done: Callable[[], bool]) -> None:
    """Run a stage over failures of single calls until it is done; a Died ends it."""
    stage = None
    for _ in range(1000):
        with suppress(Unavailable):
            stage = stage or build()
            stage.step()
            if is_done():
                return
    raise AssertionError("not done")


def groups_are_done(pipeline: Pipeline, group: str) -> bool:
    infos = pipeline.queue.stream_info(pipeline.events).groups
    return all(info.pending == 0 and info.lag == 0 for info in infos if info.name == group)


def writers_are_done(pipeline: Pipeline) -> bool:
    return groups_are_done(pipeline, pipeline.settings.group_order_events_writers)


def processors_are_done(pipeline: Pipeline) -> bool:
    return groups_are_done(pipeline, pipeline.settings.group_events_processors)


def write_the_rest(pipeline: Pipeline) -> None:
    writer = pipeline.writer()

    def advance() -> bool:
        writer.step()
        return writers_are_done(pipeline)

    wait_until(advance, "the rest is stored")
    writer.close()


class TestWhatStays:
    """Letters that can't be replayed are said and left."""

    def test_what_an_ingester_refused_and_still_cannot_be_read_stays(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        offers = [Offer("fault:1", b'{"id":\xff', 100, fault="no id")]
        position = Position(100, "a")
        pipeline.queue.push_batch(pipeline.events, offers, source="goldsky", position=position, window_s=60)
        bury(pipeline, b"{}")
        assert command("replay", "--all") == 1
        [letter] = pipeline.dead(pipeline.events)
        assert letter.data == b'{"id":\xff'
        said = capsys.readouterr().err
        assert "goldsky: still can't be read: record: expected JSON" in said
        assert letter.id in said
        assert pipeline.rows(pipeline.events) == [b"{}"]

    def test_an_id_that_is_not_there_is_said_and_the_others_go(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        [there] = bury(pipeline, b"{}")
        assert command("replay", "5-5", there) == 1
        assert "5-5: no such dead letter" in capsys.readouterr().err
        assert pipeline.rows(pipeline.events) == [b"{}"]

    def test_an_id_that_two_streams_have_needs_its_stream(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for stream in (pipeline.events, pipeline.trades):
            pipeline.queue.call("XADD", pipeline.queue.keys.dead_letters(stream), "5-5", "data", "x", "reason", "no")
        assert command("discard", "5-5") == 2
        assert "--stream" in capsys.readouterr().err
        assert command("discard", "5-5", "--stream", "trades") == 0
        assert (len(pipeline.dead(pipeline.events)), len(pipeline.dead(pipeline.trades))) == (1, 0)

    def test_a_letter_that_is_written_meanwhile_does_not_come_round(self, pipeline: Pipeline) -> None:
        ids = bury(pipeline, *(b"{}" for _ in range(PAGE + 1)))
        pages = letters_that_fit(pipeline.queue, Selection([pipeline.events]))
        seen = [letter.id for letter in next(pages).letters]
        bury(pipeline, b"late")
        seen += [letter.id for page in pages for letter in page.letters]
        assert seen == ids

    def test_a_full_redis_keeps_the_letters(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bury(pipeline, b"{}")
        _, before = pipeline.queue.call("CONFIG", "GET", "maxmemory")
        pipeline.queue.call("CONFIG", "SET", "maxmemory", "1")
        try:
            assert command("replay", "--all") == 1
        finally:
            pipeline.queue.call("CONFIG", "SET", "maxmemory", before)
        assert "used memory > 'maxmemory'" in capsys.readouterr().err
        assert len(pipeline.dead(pipeline.events)) == 1
        assert pipeline.rows(pipeline.events) == []


class TestFilters:
    """Which letters a command means."""

    @pytest.fixture
    def letters(self, pipeline: Pipeline) -> None:
        """Write one letter a stream and second, with reasons that differ."""
        streams = {"markets": pipeline.markets, "order_events": pipeline.events, "trades": pipeline.trades}
        for second, (name, stream) in enumerate(streams.items(), 1_700_000_000):
            key = pipeline.queue.keys.dead_letters(stream)
            fields = ["data", name, "reason", f"Row {second} is BAD: {name}", "source_stream", stream]
            pipeline.queue.call("XADD", key, f"{second}999-7", *fields)

    @pytest.mark.parametrize(
        ("words", "names"),
        [
            ("", ["markets", "order_events", "trades"]),
            ("--stream markets", ["markets"]),
            ("--stream stream:order_events", ["order_events"]),
            ("--stream stream:trades_dlq", ["trades"]),
            ("--reason bad:", ["markets", "order_events", "trades"]),
            ("--reason TRADES", ["trades"]),
            ("--reason nothing-like-it", []),
            ("--since 1700000001", ["order_events", "trades"]),
            ("--until 1700000001", ["markets"]),
            ("--since 1700000001 --until 1700000002", ["order_events"]),
            ("--since 1h", []),
            ("--until 1700000002 --reason order", ["order_events"]),
            ("--limit 2", ["markets", "order_events"]),
            ("1700000000999-7 1700000002999-7", ["markets", "trades"]),
            ("1700000000999-7 1700000002999-7 --reason trades", ["trades"]),
            ("1700000000999-7 --since 1700000001", []),
            ("1700000000999-7 --until 1700000001", ["markets"]),
        ],
    )
    @pytest.mark.usefixtures("letters")
    def test_they_narrow_what_is_shown(
        self, command: Command, capsys: pytest.CaptureFixture[str], words: str, names: list[str]
    ) -> None:
        status = command("show", "--json", *words.split())
        assert [line["data"] for line in lines_of(capsys.readouterr().out)] == names
        asked = sum(word.endswith("999-7") for word in words.split())
        assert status == (0 if names and asked <= len(names) else 1)

    @pytest.mark.usefixtures("letters")
    def test_and_what_is_discarded(self, pipeline: Pipeline, command: Command) -> None:
        assert command("discard", "--since", "1700000001", "--reason", "order") == 0
        left = [len(pipeline.dead(stream)) for stream in (pipeline.markets, pipeline.events, pipeline.trades)]
        assert left == [1, 0, 1]

    def test_the_newest_are_shown_first_and_that_there_are_more(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ids = bury(pipeline, *(b"%d" % i for i in range(250)))
        assert command("show", "--json") == 0
        said = capsys.readouterr()
        assert [line["id"] for line in lines_of(said.out)] == ids[:-11:-1]
        assert "there are more" in said.err
        command("show", "--json", "--limit", "250")
        said = capsys.readouterr()
        assert [line["id"] for line in lines_of(said.out)] == ids[::-1]
        assert said.err == ""

    def test_a_limit_bounds_what_is_replayed(self, pipeline: Pipeline, command: Command) -> None:
        bury(pipeline, *(b"%d" % i for i in range(250)))
        assert command("replay", "--all", "--limit", "150") == 0
        assert pipeline.rows(pipeline.events) == [b"%d" % i for i in range(150)]
        assert len(pipeline.dead(pipeline.events)) == 100


class TestList:
    """What there is, by reason."""

    def test_reasons_are_counted_with_their_numbers_folded(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for i in range(120):
            bury(pipeline, b"{}", reason=f"row {i} is no good")
        bury(pipeline, b"{}", reason="else")
        assert command("list") == 0
        said = capsys.readouterr().out
        assert f"{pipeline.events}_dlq: 121 dead letters" in said
        assert f"{pipeline.trades}_dlq: 0 dead letters" in said
        [row] = [line for line in said.splitlines() if "row N is no good" in line]
        assert row.split()[0] == "120"
        assert command("list", "--json", "--reason", "ELSE") == 0
        [line] = lines_of(capsys.readouterr().out)
        assert (line["stream"], line["count"], line["reason"]) == (pipeline.events, 1, "else")
        assert line["refused_by"] == pipeline.settings.group_events_processors
        assert line["oldest"] == line["newest"]

    def test_no_dead_letters_are_no_failure_and_no_match_is_one(self, command: Command) -> None:
        assert command("list") == 0
        assert command("list", "--reason", "x") == 1
        assert command("show") == command("replay", "--all") == command("discard", "--all") == 1

    def test_many_reasons_are_cut_and_said(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for word in ("one", "two", "three"):
            bury(pipeline, b"{}", reason=word)
        assert command("list", "--limit", "1") == 0
        assert "and 2 more reasons" in capsys.readouterr().out


class TestHostileBytes:
    """Whatever was sent reaches the person's eye and file whole, and the terminal harmless."""

    def test_they_are_shown_kept_and_replayed_as_they_are(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        [entry_id] = bury(pipeline, HOSTILE, reason="\x1b]0;pwned\x07")
        assert command("show", entry_id) == command("list") == 0
        said = capsys.readouterr().out
        assert all(line.isprintable() for line in said.split("\n"))
        assert repr(HOSTILE) in said
        assert command("discard", "--dry-run", entry_id) == 0
        [kept] = lines_of(capsys.readouterr().out)
        assert base64.b64decode(kept["data_base64"]) == HOSTILE
        assert command("replay", entry_id) == 0
        assert pipeline.rows(pipeline.events) == [HOSTILE]

    def test_a_letter_that_somebody_wrote_by_hand_is_shown(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pipeline.queue.call(
            "XADD", pipeline.queue.keys.dead_letters(pipeline.events), "*", b"\xff", b"\xfe", "attempts", "many"
        )
        assert command("show") == command("list") == 0
        assert command("replay", "--all") == 1
        assert "left, 1 dead letter" in capsys.readouterr().err
        assert command("discard", "--all", "--quiet") == 0


class TestDiscard:
    """Letters thrown away."""

    def test_they_are_gone_and_their_bytes_are_on_stdout(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [b"%d" % i for i in range(PAGE + 20)]
        ids = bury(pipeline, *rows)
        assert command("discard", "--all") == 0
        said = capsys.readouterr()
        assert [(line["id"], line["data"].encode()) for line in lines_of(said.out)] == list(zip(ids, rows, strict=True))
        assert f"discarded from {pipeline.events}_dlq: {len(rows)} dead letters" in said.err
        assert pipeline.dead(pipeline.events) == []

    def test_quietly_nothing_is_on_stdout(
        self, pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bury(pipeline, b"{}")
        assert command("discard", "--all", "--quiet") == 0
        said = capsys.readouterr()
        assert said.out == ""
        assert "1 dead letter" in said.err

    def test_of_two_that_read_the_same_letters_one_removes_them(self, pipeline: Pipeline) -> None:
        ids = bury(pipeline, b"1", b"2")
        assert discard_dead_letters(pipeline.queue, pipeline.events, ids[:1]) == ids[:1]
        assert discard_dead_letters(pipeline.queue, pipeline.events, ids) == ids[1:]

    def test_two_at_once_remove_each_letter_once(self, pipeline: Pipeline, command: Command) -> None:
        bury(pipeline, *(b"%d" % i for i in range(350)), reason="spam")
        kept = bury(pipeline, b"kept")
        words = ("discard", "--quiet", "--reason", "spam")
        threads = [threading.Thread(target=command, args=words) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [letter.id for letter in pipeline.dead(pipeline.events)] == kept

    def test_nothing_is_removed_that_stdout_did_not_take(self, pipeline: Pipeline) -> None:
        bury(pipeline, b"fits into a buffer that nobody has flushed")
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as broken:
            words = ("-m", "processors.dead_letters", "discard", "--all")
            ended = tool(pipeline, *words, stdout=broken, env={"PYTHONUNBUFFERED": ""})
        assert ended.returncode == 1
        assert b"Traceback" not in ended.stderr
        assert len(pipeline.dead(pipeline.events)) == 1


def test_a_dry_run_changes_nothing_and_says_what_would_happen(
    pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = bury(pipeline, b"1", b"2")
    before = everything(pipeline)
    assert command("replay", "--all", "--dry-run") == 0
    group = pipeline.settings.group_events_processors
    assert capsys.readouterr().out.splitlines() == [f"{entry} -> {pipeline.events} for {group}" for entry in ids]
    assert command("discard", "--all", "--dry-run") == 0
    assert [line["id"] for line in lines_of(capsys.readouterr().out)] == ids
    assert everything(pipeline) == before


def test_memory_stays_bounded_by_pages(pipeline: Pipeline) -> None:
    bury(pipeline, *(b"{}" for _ in range(2 * PAGE + 1)))
    pages = letters_that_fit(pipeline.queue, Selection([pipeline.events]))
    assert [len(page.letters) for page in pages] == [PAGE, PAGE, 1]


class TestProcess:
    """The tool as an operator starts it."""

    @pytest.mark.parametrize("how", [["-m", "processors.dead_letters"], ["processors/dead_letters.py"]], ids=str)
    def test_it_runs_as_a_module_and_as_a_file(self, pipeline: Pipeline, how: list[str]) -> None:
        bury(pipeline, b"{}")
        ended = tool(pipeline, *how, "list")
        assert ended.returncode == 0, ended.stderr
        assert b"1 dead letter\n" in ended.stdout

    def test_a_terminal_that_knows_only_ascii_is_enough(self, pipeline: Pipeline) -> None:
        bury(pipeline, encode(make_market(1, question="žluťoučký?")))
        ended = tool(pipeline, "-m", "processors.dead_letters", "show", env={"PYTHONIOENCODING": "ascii"})
        assert ended.returncode == 0, ended.stderr
        assert b"lu\\u0165ou\\u010dk\\xfd?" in ended.stdout

    def test_without_redis_it_says_so(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
        monkeypatch.setenv("REDIS_PORT", "1")
        assert main(["replay", "--all"]) == 1
        assert "127.0.0.1:1" in capsys.readouterr().err


def tool(
    pipeline: Pipeline, *arguments: str, stdout: Any = subprocess.PIPE, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment(pipeline), **(env or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
