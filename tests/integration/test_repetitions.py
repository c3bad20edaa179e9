"""Rows that a loss of Redis' data stored twice: noticed by the writer, counted until they are merged, never guessed."""

from collections.abc import Iterator
from typing import Any

import pytest

from common.errors import Unavailable
from common.records import encode
from common.tables import ORDER_FILLED
from monitoring.health import judge
from monitoring.reading import Reading, absent
from monitoring.repetitions import COUNT_S, SETTLED_S, Repeated, RepetitionCounter
from monitoring.status import collect
from processors.repetitions import FIRST
from tests.builders import EPOCH, Pipeline, make_fill, remove_keys, step_until
from tests.pipelines import pipeline

__all__ = ["pipeline"]

FILLS = 100
LATER_S = 1_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counter(pipeline: Pipeline, clock: Clock) -> RepetitionCounter:
    clock.now = LATER_S
    return RepetitionCounter(pipeline.clickhouse, clock)


@pytest.fixture
def stages(pipeline: Pipeline) -> Iterator[list[Any]]:
    """A processor and a writer, and tables whose repetitions stay."""
    pipeline.stop_merges("order_filled", "trades")
    made: list[Any] = [pipeline.processor(), pipeline.writer()]
    pipeline.add_markets(range(10))
    yield made
    for stage in made:
        stage.close()


def run(pipeline: Pipeline, stages: list[Any], numbers: range) -> None:
    pipeline.add_fills(numbers)
    step_until(stages, lambda: pipeline.unfinished() == 0, "all is written")


def write(pipeline: Pipeline, stages: list[Any], numbers: range) -> None:
    """Have the writer alone store fills: no trades come of them."""
    rows = pipeline.count("order_filled") + len(numbers)
    pipeline.add_fills(numbers)
    step_until(stages[1:], lambda: pipeline.count("order_filled") == rows and not pending(pipeline), "all is written")


def pending(pipeline: Pipeline) -> int:
    groups = {group.name: group.pending for group in pipeline.queue.stream_info(pipeline.events).groups}
    return groups[pipeline.settings.group_order_events_writers]


def lose_redis(pipeline: Pipeline, stages: list[Any]) -> None:
    """Forget every key, as a lost append-only file does, and start the processes again."""
    for stage in stages:
        stage.close()
    remove_keys(pipeline.queue)
    stages[:] = [pipeline.processor(), pipeline.writer()]


def count_later(counter: RepetitionCounter, clock: Clock) -> Reading[list[Repeated]]:
    clock.now += COUNT_S
    counter.count()
    return counter.latest


def merge(pipeline: Pipeline, repeated: Repeated) -> None:
    for table in ("order_filled", "trades"):
        pipeline.clickhouse.command(f"SYSTEM START MERGES {pipeline.settings.clickhouse_database}.{table}")
    pipeline.clickhouse.command(repeated.remedy)


def age_notes(pipeline: Pipeline) -> None:
    """Let the notes be older than what can still be on its way."""
    notes = f"{pipeline.settings.clickhouse_database}.repeated_hours"
    for statement in (
        f"CREATE TABLE {notes}_aged AS {notes}",
        f"INSERT INTO {notes}_aged SELECT table_name, hour, noticed_at - INTERVAL {SETTLED_S:.0f} SECOND FROM {notes}",
        f"DROP TABLE {notes}",
        f"RENAME TABLE {notes}_aged TO {notes}",
    ):
        pipeline.clickhouse.command(statement)


def rows_of(found: Reading[list[Repeated]]) -> dict[str, int | None]:
    assert found.value is not None
    return {each.table: each.rows.value for each in found.value}


def test_a_pipeline_without_loss_is_never_counted(
    pipeline: Pipeline, stages: list[Any], counter: RepetitionCounter, clock: Clock
) -> None:
    run(pipeline, stages, range(FILLS))
    run(pipeline, stages, range(FILLS, 2 * FILLS))
    assert pipeline.count("repeated_hours") == 0
    assert count_later(counter, clock).value == []
    assert counter._counts == {}


def test_what_a_loss_stored_twice_is_counted_until_it_is_merged(
    pipeline: Pipeline, stages: list[Any], counter: RepetitionCounter, clock: Clock
) -> None:
    run(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    pipeline.add_markets(range(10))
    run(pipeline, stages, range(FILLS // 2, 2 * FILLS))  # half of it again, and as many new ones
    found = count_later(counter, clock)
    assert rows_of(found) == {"order_filled": FILLS // 2, "trades": FILLS // 2}
    status = collect(pipeline.queue, pipeline.clickhouse, pipeline.settings, EPOCH, found)
    reasons = {each.about: each for each in judge(status).reasons}
    database = pipeline.settings.clickhouse_database
    assert reasons["trades"].severity == "degraded"
    assert reasons["trades"].text == (
        "has 50 rows stored twice, as after a loss of Redis' data; merges remove them; to do so at once: "
        f"OPTIMIZE TABLE {database}.trades PARTITION 202511 FINAL"
    )
    for repeated in found.value or []:
        merge(pipeline, repeated)
    assert rows_of(count_later(counter, clock)) == {"order_filled": 0, "trades": 0}
    age_notes(pipeline)
    count_later(counter, clock)
    assert count_later(counter, clock).value == []


def test_it_is_noticed_while_no_dashboard_runs_and_survives_the_next_loss(
    pipeline: Pipeline, stages: list[Any], counter: RepetitionCounter, clock: Clock
) -> None:
    run(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    write(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    assert rows_of(count_later(counter, clock)) == {"order_filled": FILLS}


def test_only_acknowledgements_that_were_lost_are_noticed_as_well(pipeline: Pipeline, stages: list[Any]) -> None:
    """As by a crash that loses the last second: nothing is read from a source again."""
    write(pipeline, stages, range(FILLS // 2))  # which nobody has made trades of, so that the stream keeps them
    write(pipeline, stages, range(FILLS // 2, FILLS))  # two batches, which come again as one
    pipeline.queue.call("XGROUP", "DESTROY", pipeline.events, pipeline.settings.group_order_events_writers)
    with pytest.raises(Unavailable, match="was missing"):
        step_until(stages[1:], lambda: False, "the group is found missing")
    rows = 2 * FILLS
    step_until(stages[1:], lambda: pipeline.count("order_filled") == rows and not pending(pipeline), "they come again")
    assert pipeline.count("repeated_hours", "countIf(table_name = 'order_filled')") > 0


def test_few_rows_at_the_beginning_of_a_large_batch_are_noticed(pipeline: Pipeline, stages: list[Any]) -> None:
    write(pipeline, stages, range(FIRST))
    lose_redis(pipeline, stages)
    write(pipeline, stages, range(10 * FILLS))
    assert pipeline.count("repeated_hours") == 1


def test_a_batch_that_was_sent_again_under_its_token_is_no_repetition(pipeline: Pipeline, stages: list[Any]) -> None:
    run(pipeline, stages, range(FILLS))
    rows = b"\n".join(encode(make_fill(i)) for i in range(5))
    for _ in range(2):
        pipeline.clickhouse.batch_insert(ORDER_FILLED, rows, "token")
    assert pipeline.count("repeated_hours") == 0


def test_a_note_that_cannot_be_written_costs_no_row(pipeline: Pipeline, stages: list[Any]) -> None:
    run(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    pipeline.add_markets(range(10))
    pipeline.clickhouse.command(f"DROP TABLE {pipeline.settings.clickhouse_database}.repeated_hours")
    run(pipeline, stages, range(2 * FILLS))
    assert pipeline.count("trades", "uniqExact(id)") == 2 * FILLS
    assert pipeline.dead(pipeline.events) == []


def test_what_cannot_be_counted_is_unknown_and_not_zero(
    pipeline: Pipeline, stages: list[Any], counter: RepetitionCounter, clock: Clock
) -> None:
    write(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    write(pipeline, stages, range(FILLS))
    database = pipeline.settings.clickhouse_database
    pipeline.clickhouse.command(f"RENAME TABLE {database}.order_filled TO {database}.elsewhere")
    [repeated] = count_later(counter, clock).value or []
    assert (repeated.rows.state, repeated.rows.value) == ("unknown", None)
    status = collect(pipeline.queue, pipeline.clickhouse, pipeline.settings, EPOCH, counter.latest)
    [text] = [each.text for each in judge(status).reasons if each.about == "order_filled" and "twice" in each.text]
    assert text.startswith("may have rows stored twice")
    pipeline.clickhouse.command(f"DROP TABLE {database}.repeated_hours")
    assert count_later(counter, clock).state == "unknown"


def test_before_the_first_count_nothing_is_reported(counter: RepetitionCounter) -> None:
    assert counter.latest == absent("not counted yet")


def test_a_day_is_counted_once_a_minute_at_most(
    pipeline: Pipeline, stages: list[Any], counter: RepetitionCounter, clock: Clock
) -> None:
    write(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    write(pipeline, stages, range(FILLS))
    first = count_later(counter, clock).value
    write(pipeline, stages, range(FILLS))
    clock.now += COUNT_S / 2
    counter.count()
    assert rows_of(counter.latest) == {each.table: each.rows.value for each in first or []}
    assert rows_of(count_later(counter, clock)) == {"order_filled": 2 * FILLS}


def test_an_hour_that_is_noted_again_is_counted_again(
    pipeline: Pipeline, stages: list[Any], counter: RepetitionCounter, clock: Clock
) -> None:
    write(pipeline, stages, range(FILLS))
    lose_redis(pipeline, stages)
    write(pipeline, stages, range(FILLS))
    [repeated] = count_later(counter, clock).value or []
    merge(pipeline, repeated)
    age_notes(pipeline)
    count_later(counter, clock)
    assert count_later(counter, clock).value == []
    pipeline.stop_merges("order_filled")
    lose_redis(pipeline, stages)
    write(pipeline, stages, range(FILLS))
    assert rows_of(count_later(counter, clock)) == {"order_filled": FILLS}
