"""Readings: known, absent and unknown stay apart, and one failure hides no more than itself."""

import math

from common.errors import RefusedRows, Unavailable
from monitoring.reading import Server, absent, known, unknown
from monitoring.stages import read_stage
from tests.statuses import NOW, STALE_AFTER_S, beat


def refuse() -> int:
    raise RefusedRows("Unknown expression")


class Away:
    """A server that does not answer, and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        raise Unavailable("connection refused")


def test_a_value_that_fails_is_unknown_with_the_reason() -> None:
    assert Server(lambda: "PONG").read(refuse) == unknown("Unknown expression")


def test_one_failed_value_does_not_hide_the_others() -> None:
    server = Server(lambda: "PONG")
    server.read(refuse)
    assert server.read(lambda: 3) == known(3)
    assert server.reachable() == known(value=True)


def test_a_server_that_is_away_is_not_asked_for_every_value() -> None:
    away = Away()
    server = Server(away)
    first, second = server.read(away), server.read(lambda: 3)
    assert first == second == unknown("connection refused")
    assert server.reachable() == unknown("connection refused")
    assert away.asked == 2  # the value, and whether it is the server or the value


def test_what_is_derived_from_an_unknown_value_is_unknown_for_the_same_reason() -> None:
    assert unknown("away").map(lambda value: value + 1) == unknown("away")
    assert absent("no rows").map(lambda value: value + 1) == absent("no rows")
    assert known(0).map(lambda value: value + 1) == known(1)


def test_a_known_zero_is_known() -> None:
    assert known(0).then(known) == known(0)


def test_nothing_is_known_of_stages_while_redis_is_away() -> None:
    stage = read_stage("trade_processor", unknown("connection refused"), STALE_AFTER_S, NOW)
    assert stage.state == "unknown"
    assert stage.restarts == stage.records_in == stage.heartbeat_age_s == unknown("connection refused")


def test_a_stage_without_heartbeat_has_no_figures_rather_than_zeros() -> None:
    stage = read_stage("trade_processor", known([]), STALE_AFTER_S, NOW)
    assert stage.state == "missing"
    assert stage.records_in.state == stage.restarts.state == "absent"


def test_a_component_adds_up_its_living_processes() -> None:
    told = [
        beat(
            "clickhouse_writer", instance=f"clickhouse_writer-{place}", records_in=f"{place}", latency_p99_s=f"{place}"
        )
        for place in (1, 2)
    ]
    dead = beat("clickhouse_writer", instance="clickhouse_writer-3", records_in="100", updated_at=f"{NOW - 500}")
    stage = read_stage("clickhouse_writer", known([*told, dead]), STALE_AFTER_S, NOW)
    assert stage.records_in == known(3)
    assert stage.latency_p99_s == known(2.0)
    assert [each.fresh for each in stage.instances] == [True, True, False]


def test_a_component_that_was_told_to_stop_has_not_restarted() -> None:
    stopped = beat("trade_processor", starts="0", state="stopped")
    assert read_stage("trade_processor", known([stopped]), STALE_AFTER_S, NOW).restarts == known(0)
    crashed = beat("trade_processor", starts="1", updated_at=str(NOW - 3000))
    assert read_stage("trade_processor", known([crashed]), STALE_AFTER_S, NOW).restarts == known(0)


def test_starts_beyond_the_running_processes_are_restarts() -> None:
    first = beat("trade_processor", instance="trade_processor-1", starts="1")
    second = beat("trade_processor", instance="trade_processor-2", starts="5")
    assert read_stage("trade_processor", known([first]), STALE_AFTER_S, NOW).restarts == known(0)
    assert read_stage("trade_processor", known([first, second]), STALE_AFTER_S, NOW).restarts == known(3)


def test_the_process_that_waits_speaks_for_its_component() -> None:
    running = beat("goldsky_ingester", instance="a")
    waiting = beat("goldsky_ingester", instance="b", state="waiting", reason="429", next_attempt_at=f"{NOW + 5}")
    stage = read_stage("goldsky_ingester", known([running, waiting]), STALE_AFTER_S, NOW)
    assert (stage.state, stage.reason, stage.next_attempt_at) == ("waiting", "429", known(NOW + 5))


def test_nonsense_in_a_heartbeat_is_no_value() -> None:
    fields = {"starts": "many", "records_in": "nan", "newest_event_at": "1e300", "updated_at": "yesterday"}
    stage = read_stage("goldsky_ingester", known([beat("goldsky_ingester", **fields)]), STALE_AFTER_S, NOW)
    assert stage.state == "silent"
    assert stage.heartbeat_age_s == known(math.inf)
    assert stage.restarts.value is stage.records_in.value is stage.newest_event_at.value is None
