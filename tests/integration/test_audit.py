"""The audit on real tables: every fault is found where it is, and nothing else."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from common.keys import Route
from common.leases import take_lease
from common.progress import Progress, Slice
from common.records import OrderFilled, Token, encode
from common.tables import MARKETS, ORDER_FILLED, TRADES
from monitoring.audit import Question, audit, last_block, silently, unread_of
from monitoring.audit_reading import CHAIN, DAY_S, SUBGRAPH, Day, Span, Volume, read_clock, read_day
from monitoring.audit_report import Audit, notes, problems
from monitoring.coverage import Gap
from monitoring.reading import absent
from processors.trades import trade_of
from tests.builders import EPOCH, EXCHANGE_V1, Pipeline, make_fill, make_market, step_until, wallet
from tests.servers import ROOT

MIDNIGHT = 1_762_992_000  # 2025-11-13T00:00:00Z
NOON = MIDNIGHT + DAY_S // 2
BLOCK = 86_126_998


def fill(i: int, **changes: Any) -> OrderFilled:
    """Return fill number i: at noon and i seconds, of market i % 2; the taker's row when i is even.

    2 USD for 4 tokens: its price is 0.5.
    """
    fields: dict[str, Any] = {
        "timestamp": NOON + i,
        "maker_asset_id": "0",
        "taker_asset_id": f"{7 + i % 2}",
        "maker_amount_filled": 2_000_000,
        "taker_amount_filled": 4_000_000,
        "taker": EXCHANGE_V1 if i % 2 == 0 else wallet(i),
    }
    return make_fill(i, **{**fields, **changes})


def on_chain(i: int, **changes: Any) -> OrderFilled:
    return fill(i, id=f"0x{i:064x}_{i}", block_number=BLOCK + i, log_index=i, exchange=EXCHANGE_V1, **changes)


def add_fills(pipeline: Pipeline, *fills: OrderFilled, token: str = "fills") -> None:
    pipeline.clickhouse.batch_insert(ORDER_FILLED, b"\n".join(map(encode, fills)), token)


def add_trades(pipeline: Pipeline, *fills: OrderFilled, token: str = "trades") -> None:
    rows = [encode(trade_of(fill, token_of(fill))) for fill in fills]
    pipeline.clickhouse.batch_insert(TRADES, b"\n".join(rows), token)


def token_of(fill: OrderFilled) -> Token:
    """Return the token: 7 and 8 belong to the markets 1000 and 1001."""
    place = int(fill.taker_asset_id) - 7
    return Token(str(1000 + place), f"0x{place:064x}", "Yes", "token1")


def add_markets(pipeline: Pipeline, *numbers: int, **changes: Any) -> None:
    rows = [encode(make_market(i, **changes)) for i in numbers]
    pipeline.clickhouse.batch_insert(MARKETS, b"\n".join(rows), f"markets {numbers}")


def ask(pipeline: Pipeline, begin: int | None = None, end: int = NOON + 60, **changes: Any) -> Audit:
    """Audit up to a minute after noon, with everything settled unless told otherwise."""
    question = Question(begin, end, **{"settle_s": 0.0, **changes})
    return audit(pipeline.clickhouse, question, lambda: absent("not asked"), silently)


def the_day(found: Audit) -> Day:
    [day] = found.days
    return day


def texts(found: Audit) -> list[str]:
    return [problem.text for problem in problems(found)]


@pytest.fixture
def complete(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline with two markets, and ten fills with their trades."""
    fills = [fill(i) for i in range(10)]
    add_markets(pipeline, 0, 1)
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    return pipeline


def test_ten_good_fills_are_all_right(complete: Pipeline) -> None:
    found = ask(complete)
    assert problems(found) == []
    assert the_day(found) == Day(
        begin=NOON,  # of the first fill
        source=SUBGRAPH,
        fills=10,
        distinct_fills=10,
        trades=10,
        distinct_trades=10,
        fills_without_trade=0,
        trades_without_fill=0,
        on_their_way=0,
        trades_without_market=0,
        prices_outside=0,
        volume=Decimal(10),  # five rows of takers' orders with 2 USD each
        first_block=None,
        last_block=None,
    )
    assert (found.begin, found.end) == (NOON, NOON + 60)


def test_an_empty_database_has_nothing_wrong(pipeline: Pipeline) -> None:
    found = ask(pipeline)
    assert (found.days, found.gaps, problems(found)) == ([], [], [])


def test_an_empty_database_lacks_the_time_that_was_asked_for(pipeline: Pipeline) -> None:
    found = ask(pipeline, MIDNIGHT, NOON)
    assert found.days == []
    assert found.gaps == [Gap("", MIDNIGHT, NOON)]


def test_time_before_the_first_exchange_is_not_missed(pipeline: Pipeline) -> None:
    found = ask(pipeline, 0, 1_669_000_000)
    assert found.gaps == [Gap("", 1_668_988_800, 1_669_000_000)]


def test_rows_inserted_twice_are_counted_and_change_no_other_number(complete: Pipeline) -> None:
    complete.stop_merges("trades", "order_filled")
    before = the_day(ask(complete))
    add_fills(complete, fill(2), token="again")
    add_trades(complete, fill(2), fill(4), token="again")
    found = ask(complete)
    day = the_day(found)
    assert (day.repeated_fills, day.repeated_trades) == (1, 2)
    assert (day.fills, day.trades) == (11, 12)
    assert (day.distinct_fills, day.distinct_trades, day.volume) == (10, 10, before.volume)
    assert texts(found) == [
        "1 row of order_filled repeat others: 2025-11-13",
        "2 rows of trades repeat others: 2025-11-13",
    ]


def test_a_fill_without_a_trade_is_found(complete: Pipeline) -> None:
    add_fills(complete, fill(10), fill(11), token="more")
    found = ask(complete)
    assert the_day(found).fills_without_trade == 2
    assert the_day(found).trades_without_fill == 0
    assert texts(found) == ["2 fills without a trade: 2025-11-13"]


def test_a_trade_without_a_fill_is_found(complete: Pipeline) -> None:
    add_trades(complete, fill(10), token="more")
    found = ask(complete)
    assert the_day(found).trades_without_fill == 1
    assert the_day(found).fills_without_trade == 0
    [problem] = problems(found)
    assert problem.text == "1 trade without a fill in order_filled: 2025-11-13"
    assert problem.remedy == (
        ".venv/bin/python3 -m ingesters.backfill --from 2025-11-13T12:00:00Z --to 2025-11-13T12:01:00Z"
    )


def test_a_trade_without_its_market_is_found(pipeline: Pipeline) -> None:
    fills = [fill(i) for i in range(10)]
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    add_markets(pipeline, 0)
    found = ask(pipeline)
    assert the_day(found).trades_without_market == 5
    assert texts(found) == ["5 trades whose market is not in markets: 2025-11-13"]


def test_a_price_above_1_is_told_and_one_of_exactly_1_is_not(complete: Pipeline) -> None:
    dear = [
        fill(10, maker_amount_filled=4_000_001),
        fill(11, maker_amount_filled=4_000_000),
        fill(12, maker_amount_filled=0),
    ]
    add_fills(complete, *dear, token="more")
    add_trades(complete, *dear, token="more")
    found = ask(complete)
    assert the_day(found).prices_outside == 1
    assert problems(found) == []


def test_what_was_written_just_now_is_on_its_way(complete: Pipeline) -> None:
    """A backlog brings fills of long ago, so that the time of writing counts and not the block's."""
    add_fills(complete, fill(10), fill(11), token="more")
    add_trades(complete, fill(12), token="more")
    found = ask(complete, settle_s=3600.0)
    day = the_day(found)
    assert (day.on_their_way, day.fills_without_trade, day.trades_without_fill) == (3, 0, 0)
    assert problems(found) == []


def test_a_market_may_be_written_after_its_trade(pipeline: Pipeline) -> None:
    add_fills(pipeline, fill(0))
    add_trades(pipeline, fill(0))
    assert the_day(ask(pipeline, settle_s=3600.0)).trades_without_market == 0


def test_what_settled_decides_to_the_millisecond(complete: Pipeline) -> None:
    add_fills(complete, fill(10), token="more")
    [(written_at,)] = complete.clickhouse.query(
        f"SELECT toUnixTimestamp64Milli(max(ingested_at)) FROM {complete.clickhouse.database}.order_filled"
    )
    span = Span(MIDNIGHT, MIDNIGHT + DAY_S)
    [settled] = read_day(complete.clickhouse, span, written_at / 1000)
    [fresh] = read_day(complete.clickhouse, span, (written_at - 1) / 1000)
    assert (settled.fills_without_trade, settled.on_their_way) == (1, 0)
    assert (fresh.fills_without_trade, fresh.on_their_way) == (0, 1)


def test_the_newest_fills_are_left_for_later(complete: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their time has not settled, so that silence up to now is no gap yet."""
    now = int(read_clock(complete.clickhouse))
    monkeypatch.setattr("monitoring.audit.read_clock", lambda _: now + 0.5)
    fresh = fill(20, timestamp=now - 5)
    add_fills(complete, fresh, token="more")
    found = ask(complete, now - 60, now + 3600, settle_s=30.0)
    assert found.end == now - 30
    assert (found.days, found.gaps) == ([], [])


def test_silence_is_a_gap_with_the_range_to_backfill(pipeline: Pipeline) -> None:
    times = [NOON, NOON + 900, NOON + 1801, NOON + 1802]
    fills = [fill(i, timestamp=time) for i, time in enumerate(times)]
    add_markets(pipeline, 0, 1)
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    found = ask(pipeline, end=NOON + 1860)
    assert found.gaps == [Gap(SUBGRAPH, NOON + 900, NOON + 1801)]
    assert [problem.remedy for problem in problems(found)] == [
        ".venv/bin/python3 -m ingesters.backfill --from 2025-11-13T12:15:00Z --to 2025-11-13T12:30:02Z"
    ]
    assert ask(pipeline, end=NOON + 1860, gap_s=901).gaps == []


def test_a_gap_over_midnight_is_one(pipeline: Pipeline) -> None:
    fills = [fill(0), fill(1, timestamp=NOON + 2 * DAY_S)]
    add_markets(pipeline, 0, 1)
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    found = ask(pipeline, end=NOON + 2 * DAY_S + 1)
    assert found.gaps == [Gap(SUBGRAPH, NOON, NOON + 2 * DAY_S)]
    assert [day.begin for day in found.days] == [NOON, MIDNIGHT + 2 * DAY_S]


def test_silence_at_the_ends_is_missed_where_a_range_is_asked_for(complete: Pipeline) -> None:
    found = ask(complete, MIDNIGHT, MIDNIGHT + DAY_S)
    assert found.gaps == [Gap(SUBGRAPH, MIDNIGHT, NOON), Gap(SUBGRAPH, NOON + 9, MIDNIGHT + DAY_S)]


def test_the_seam_of_two_sources_shows_each_with_its_own_numbers(pipeline: Pipeline) -> None:
    history, live = [fill(i) for i in range(6)], [on_chain(i) for i in range(6, 10)]
    add_markets(pipeline, 0, 1)
    add_fills(pipeline, *history, *live)
    add_trades(pipeline, *history, *live[:-1])
    found = ask(pipeline)
    assert [day.source for day in found.days] == [SUBGRAPH, CHAIN]
    subgraph, chain = found.days
    assert (subgraph.fills, subgraph.trades, subgraph.fills_without_trade, subgraph.volume) == (6, 6, 0, Decimal(6))
    assert (chain.fills, chain.trades, chain.fills_without_trade, chain.volume) == (4, 3, 1, Decimal(4))
    assert (chain.first_block, chain.last_block) == (BLOCK + 6, BLOCK + 9)
    assert (subgraph.first_block, found.gaps) == (None, [])


def test_a_gap_at_the_seam_names_both_sources(pipeline: Pipeline) -> None:
    fills = [fill(0), on_chain(1, timestamp=NOON + 7200)]
    add_markets(pipeline, 0, 1)
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    assert ask(pipeline, end=NOON + 7260).gaps == [Gap("subgraph to chain", NOON, NOON + 7200)]


def test_days_are_counted_apart_and_only_those_asked_for(pipeline: Pipeline) -> None:
    times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + DAY_S - 1, MIDNIGHT + DAY_S]
    fills = [fill(i, timestamp=time) for i, time in enumerate(times)]
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    counted = ask(pipeline, MIDNIGHT - 10, MIDNIGHT + DAY_S + 10).days
    assert [(day.begin, day.fills, day.trades) for day in counted] == [
        (MIDNIGHT - 10, 1, 1),
        (MIDNIGHT, 2, 2),
        (MIDNIGHT + DAY_S, 1, 1),
    ]
    [day] = ask(pipeline, MIDNIGHT, MIDNIGHT + DAY_S).days
    assert (day.fills, day.fills_without_trade, day.trades_without_fill) == (2, 0, 0)


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_volume_is_compared_over_markets_that_lived_within_the_range(complete: Pipeline) -> None:
    """Market 0 did: five takers' rows of 2 USD. Market 1 is open; 2 is older; 3 closed later; 4 has no volume."""
    born, died = {"created_at": at(NOON - 60)}, {"closed": True, "closed_time": at(NOON + 30)}
    newer = {"updated_at": datetime(2025, 11, 14, tzinfo=UTC)}
    add_markets(complete, 0, **born, **died, **newer, volume=Decimal("10.5"))
    add_markets(complete, 1, **born, **newer, volume=Decimal(1000))
    add_markets(complete, 2, created_at=at(NOON - DAY_S), **died, volume=Decimal(1000))
    add_markets(complete, 3, **born, closed=True, closed_time=at(NOON + 60), volume=Decimal(1000))
    add_markets(complete, 4, **born, **died)
    found = ask(complete, NOON - 60)
    assert found.volume == Volume(1, Decimal(10), Decimal("10.5"))
    assert problems(found) == []


def test_a_market_without_trades_counts_with_none(pipeline: Pipeline) -> None:
    add_markets(pipeline, 5, created_at=at(NOON), closed=True, closed_time=at(NOON + 1), volume=Decimal(3))
    assert ask(pipeline, NOON).volume == Volume(1, Decimal(0), Decimal(3))


def test_a_day_of_more_than_fits_into_memory_is_counted_as_well(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills = [fill(i, timestamp=NOON + i % 60) for i in range(5000)]
    add_markets(pipeline, 0, 1)
    add_fills(pipeline, *fills)
    add_trades(pipeline, *fills)
    monkeypatch.setattr("monitoring.audit_reading._MEMORY_BYTES", 1)
    day = the_day(ask(pipeline))
    assert (day.distinct_fills, day.distinct_trades, day.fills_without_trade) == (5000, 5000, 0)


def test_what_the_pipeline_itself_writes_is_all_right(pipeline: Pipeline) -> None:
    processor, writer = pipeline.processor(), pipeline.writer()
    pipeline.add_markets(range(10))
    pipeline.add_fills(range(500))
    step_until(
        [processor, writer],
        lambda: pipeline.count("trades") == pipeline.count("order_filled") == 500,
        "all is written",
    )
    processor.close()
    writer.close()
    found = ask(pipeline, end=EPOCH + 100)
    assert (the_day(found).fills, the_day(found).trades, problems(found)) == (500, 500, [])


def test_how_far_the_chain_was_read_is_asked_of_redis(pipeline: Pipeline) -> None:
    assert last_block(pipeline.settings).state == "absent"
    pipeline.queue.call("SET", pipeline.queue.keys.state("polygon_last_block"), str(BLOCK))
    assert last_block(pipeline.settings).value == str(BLOCK)


def test_a_redis_that_is_away_leaves_it_unknown(pipeline: Pipeline) -> None:
    away = pipeline.settings.model_copy(update={"redis_port": 1})
    assert last_block(away).state == "unknown"


class TestCommand:
    """`.venv/bin/python3 -m monitoring.audit` as an operator runs it."""

    def run(self, pipeline: Pipeline, *options: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        settings = pipeline.settings
        variables = {
            "REDIS_HOST": settings.redis_host,
            "REDIS_PORT": str(settings.redis_port),
            "KEY_PREFIX": settings.key_prefix,
            "CLICKHOUSE_HOST": settings.clickhouse_host,
            "CLICKHOUSE_PORT": str(settings.clickhouse_port),
            "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        }
        return subprocess.run(
            [sys.executable, "-m", "monitoring.audit", *options],
            cwd=ROOT,
            env={**os.environ, **variables, **changes},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    RANGE: Sequence[str] = ("--from", "2025-11-13T12:00", "--to", "2025-11-13T12:01", "--settle", "0")

    def test_all_right_ends_with_0_and_a_table(self, complete: Pipeline) -> None:
        answer = self.run(complete, *self.RANGE)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert "2025-11-13  subgraph     10" in answer.stdout
        assert "All right." in answer.stdout

    def test_a_gap_ends_with_1_and_the_range_to_backfill(self, complete: Pipeline) -> None:
        answer = self.run(complete, "--from", "2025-11-13", "--to", "2025-11-13T12:01", "--settle", "0")
        assert (answer.returncode, answer.stderr) == (1, "")
        command = ".venv/bin/python3 -m ingesters.backfill --from 2025-11-13T00:00:00Z --to 2025-11-13T12:00:01Z"
        assert command in answer.stdout

    def test_json_is_one_object_with_the_same_numbers(self, complete: Pipeline) -> None:
        add_fills(complete, on_chain(10), token="more")
        answer = self.run(complete, *self.RANGE, "--json")
        assert answer.returncode == 1
        told = json.loads(answer.stdout)
        assert [(day["source"], day["fills"], day["fills_without_trade"]) for day in told["days"]] == [
            (SUBGRAPH, 10, 0),
            (CHAIN, 1, 1),
        ]
        assert told["polygon_last_block"] == {"state": "absent", "value": None, "reason": "not written yet"}

    def test_just_written_is_not_missing_unless_told_so(self, pipeline: Pipeline) -> None:
        add_markets(pipeline, 0)
        add_fills(pipeline, fill(0))
        assert self.run(pipeline, *self.RANGE).returncode == 1
        assert self.run(pipeline, *self.RANGE[:-2]).returncode == 0

    @pytest.mark.parametrize(
        ("change", "returncode", "text"),
        [
            ({"CLICKHOUSE_PORT": "1"}, 1, "ClickHouse at 127.0.0.1:1"),
            ({"CLICKHOUSE_PASSWORD": "wrong"}, 2, "CLICKHOUSE_PASSWORD"),
            ({"CLICKHOUSE_DATABASE": "nowhere"}, 1, "setup_schema.py"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_said_and_the_exit_status_tells(
        self, pipeline: Pipeline, change: dict[str, str], returncode: int, text: str
    ) -> None:
        answer = self.run(pipeline, **change)
        assert (answer.returncode, answer.stdout) == (returncode, "")
        assert text in answer.stderr
        assert "Traceback" not in answer.stderr


class TestStillToCome:
    """Beside a source that is still catching up, a backfill, and a writer with a backlog."""

    HOUR = 3600

    def beat(self, pipeline: Pipeline, component: str, **fields: str) -> None:
        now = f"{time.time():.3f}"
        fields = {"component": component, "instance": component, "state": "running", "updated_at": now, **fields}
        pipeline.queue.beat(component, fields, 3600)

    def catch_up(self, pipeline: Pipeline, read_to: int, state: str = "catching up") -> None:
        self.beat(pipeline, "polygon_ingester", source_state=state)
        self.beat(pipeline, "goldsky_ingester", source_state="ended")
        pipeline.queue.call("SET", pipeline.queue.keys.state("polygon_last_timestamp"), read_to)

    def ask(self, pipeline: Pipeline, begin: int = NOON, end: int = NOON + 2 * HOUR, **changes: Any) -> Audit:
        settings = pipeline.settings.model_copy(update={"cutover_timestamp": MIDNIGHT, **changes})
        question = Question(begin, end, settle_s=0.0)
        return audit(pipeline.clickhouse, question, lambda: absent("not asked"), silently, lambda: unread_of(settings))

    def gaps(self, found: Audit) -> list[tuple[int, int]]:
        return [(each.begin, each.end) for each in found.gaps]

    def test_what_an_ingester_has_not_read_yet_is_no_gap_and_a_note_shows_how_far_it_is(
        self, complete: Pipeline
    ) -> None:
        self.catch_up(complete, NOON + 9)
        found = self.ask(complete)
        assert problems(found) == []
        assert (
            "polygon_ingester has read up to 2025-11-13 12:00:09 UTC and is still catching up; what comes after is not "
            "audited yet"
        ) in list(notes(found))

    def test_a_gap_before_the_place_that_it_has_reached_is_one(self, complete: Pipeline) -> None:
        self.catch_up(complete, NOON + self.HOUR)
        assert self.gaps(self.ask(complete)) == [(NOON + 9, NOON + self.HOUR)]

    @pytest.mark.parametrize("state", ["live", "idle", "stale", "unreachable"])
    def test_silence_at_the_end_of_a_source_that_does_not_catch_up_is_a_gap(
        self, complete: Pipeline, state: str
    ) -> None:
        self.catch_up(complete, NOON + 9, state)
        assert self.gaps(self.ask(complete)) == [(NOON + 9, NOON + 2 * self.HOUR)]

    def test_an_ingester_that_no_longer_runs_fetches_nothing(self, complete: Pipeline) -> None:
        self.catch_up(complete, NOON + 9)
        self.beat(complete, "polygon_ingester", source_state="catching up", updated_at=f"{time.time() - 1000:.3f}")
        assert self.gaps(self.ask(complete)) == [(NOON + 9, NOON + 2 * self.HOUR)]

    def test_the_subgraph_is_still_to_come_up_to_the_cut_over_only(self, complete: Pipeline) -> None:
        self.beat(complete, "polygon_ingester", source_state="live")
        self.beat(complete, "goldsky_ingester", source_state="catching up")
        complete.queue.call("SET", complete.queue.keys.state("goldsky_last_timestamp"), NOON + 9)
        found = self.ask(complete, cutover_timestamp=NOON + self.HOUR - 1)
        assert self.gaps(found) == [(NOON + self.HOUR, NOON + 2 * self.HOUR)]

    def test_without_redis_nothing_is_hidden_and_a_note_explains_it(self, complete: Pipeline) -> None:
        self.catch_up(complete, NOON + 9)
        found = self.ask(complete, redis_port=1)
        assert self.gaps(found) == [(NOON + 9, NOON + 2 * self.HOUR)]
        assert any("how far the sources have been read is unknown" in note for note in notes(found))

    def test_what_waits_for_a_live_writer_is_no_gap(self, complete: Pipeline) -> None:
        self.catch_up(complete, NOON + 2 * self.HOUR)
        route = Route(complete.events, complete.settings.group_order_events_writers)
        complete.queue.ensure_group(route)
        old = on_chain(11, timestamp=MIDNIGHT)  # a backfill's: below the floor
        late = on_chain(12, timestamp=NOON + 60)
        complete.queue.call("SET", complete.queue.keys.state("polygon_floor"), BLOCK + 12)
        complete.add(complete.events, b"not a fill", encode(old), encode(late))
        complete.queue.read_from_stream(route, "clickhouse_writer-1", 2)
        assert self.gaps(self.ask(complete)) == [(NOON + 9, NOON + 2 * self.HOUR)]  # no writer lives
        self.beat(complete, "clickhouse_writer")
        found = self.ask(complete)
        assert problems(found) == []
        assert any("from 2025-11-13 12:01:00 UTC on are still to be written" in note for note in notes(found))

    def test_what_a_running_backfill_has_not_read_is_no_gap(self, complete: Pipeline) -> None:
        lease = take_lease(complete.queue, "backfill_goldsky", 60.0)
        assert lease is not None
        name, end = f"{NOON}..{NOON + 2 * self.HOUR}", NOON + 2 * self.HOUR
        progress = Progress(complete.queue, lease, source="goldsky", name=name, stream=complete.events)
        progress.begin(NOON, end, NOON, end)
        progress.take(Slice(NOON, NOON + self.HOUR, ""))
        found = self.ask(complete)
        assert problems(found) == []
        assert any("a backfill of goldsky is under way" in note for note in notes(found))
        lease.release()
        assert self.gaps(self.ask(complete)) == [(NOON + 9, end)]
