"""The verdict: what is broken, what only needs attention."""

import pytest

from common.dead_letters import DeadLetter
from common.redis_queue import StreamInfo
from monitoring.health import judge
from monitoring.reading import unknown
from monitoring.status import Status
from monitoring.tables import TableState
from tests.statuses import AWAY, CLICKHOUSE_AWAY, NOW, a_status, beats, group, table

LETTER = DeadLetter(
    "1763749000000-0", b"{}", "broken", "stream:trades", "1763748000000-0", 1, "2025-11-21T18:16:40+00:00"
)


def told(status: Status) -> list[str]:
    return [f"{reason.severity}: {reason.about} {reason.text}" for reason in judge(status).reasons]


def test_a_pipeline_in_which_everything_works_is_ok_without_reasons() -> None:
    assert judge(a_status()).verdict == "ok"
    assert told(a_status()) == []


@pytest.mark.parametrize(
    "component", ["polymarket_ingester", "goldsky_ingester", "trade_processor", "clickhouse_writer"]
)
def test_a_stage_without_a_heartbeat_is_broken(component: str) -> None:
    assert told(a_status(heartbeats=beats(**{component: None}))) == [
        f"broken: {component} has no heartbeat: it is not running"
    ]


def test_a_stage_with_an_old_heartbeat_is_broken_and_its_age_is_told() -> None:
    status = a_status(heartbeats=beats(trade_processor={"updated_at": str(NOW - 91)}))
    assert told(status) == ["broken: trade_processor is silent: last heartbeat 1\u202fmin 31\u202fs ago"]


def test_a_heartbeat_just_within_the_limit_is_alive() -> None:
    assert judge(a_status(heartbeats=beats(trade_processor={"updated_at": str(NOW - 90)}))).verdict == "ok"


def test_a_stage_that_was_stopped_is_broken() -> None:
    status = a_status(heartbeats=beats(clickhouse_writer={"state": "stopped"}))
    assert told(status) == ["broken: clickhouse_writer has stopped: last heartbeat 1\u202fs ago"]


def test_one_living_process_keeps_its_component_alive() -> None:
    dead = beats(trade_processor={"instance": "trade_processor-1", "updated_at": str(NOW - 3000)})
    living = [beat for beat in beats() if beat["component"] == "trade_processor"]
    assert judge(a_status(heartbeats=dead + living)).verdict == "ok"


def test_a_running_stage_that_reports_a_limit_is_degraded_with_its_words() -> None:
    limited = {"degraded": "fills arrive two minutes late: no finalized block"}
    assert told(a_status(heartbeats=beats(polygon_ingester=limited))) == [
        "degraded: polygon_ingester fills arrive two minutes late: no finalized block"
    ]


def test_a_source_that_is_away_degrades_with_reason_and_next_attempt() -> None:
    waiting = {"state": "waiting", "reason": "Goldsky answers 503", "next_attempt_at": str(NOW + 8)}
    assert told(a_status(heartbeats=beats(goldsky_ingester=waiting))) == [
        "degraded: goldsky_ingester waits: Goldsky answers 503; next attempt in 8\u202fs"
    ]


def test_a_source_that_answers_without_anything_new_is_told_from_a_live_one() -> None:
    quiet = {"source_state": "idle", "newest_event_at": str(NOW - 207 * 86_400)}
    assert told(a_status(heartbeats=beats(goldsky_ingester=quiet))) == [
        "degraded: goldsky_ingester api.goldsky.com has nothing new: its newest event is 207\u202fd ago"
    ]


GONE = {"source_reason": "its newest block (7) is of 2025-11-21 18:00:00 UTC"}
LIVE, IDLE, ENDED, BEHIND = ({"source_state": state} for state in ("live", "idle", "ended", "catching up"))
STALE = {"source_state": "stale", **GONE}
UNREACHABLE = {"source_state": "unreachable", "state": "waiting", "reason": "503", "source_reason": "answers 503"}


@pytest.mark.parametrize(
    ("goldsky", "polygon", "verdict"),
    [
        (ENDED, LIVE, "ok"),
        (ENDED, BEHIND, "ok"),
        (ENDED, IDLE, "degraded"),
        (ENDED, STALE, "broken"),
        (ENDED, UNREACHABLE, "broken"),
        (LIVE, STALE, "degraded"),
        (LIVE, UNREACHABLE, "degraded"),
        (STALE, LIVE, "degraded"),
        (UNREACHABLE, BEHIND, "degraded"),
        (IDLE, STALE, "degraded"),
        (STALE, STALE, "broken"),
        (STALE, UNREACHABLE, "broken"),
        (UNREACHABLE, UNREACHABLE, "broken"),
        (BEHIND, STALE, "broken"),  # what it catches up with ends at the cut-over
        (BEHIND, BEHIND, "ok"),
    ],
)
def test_without_a_source_that_brings_new_fills_the_pipeline_is_broken(
    goldsky: dict[str, str], polygon: dict[str, str], verdict: str
) -> None:
    status = a_status(heartbeats=beats(goldsky_ingester=goldsky, polygon_ingester=polygon))
    assert judge(status).verdict == verdict


def test_the_reason_names_every_source_of_fills_with_its_state() -> None:
    status = a_status(heartbeats=beats(goldsky_ingester=ENDED, polygon_ingester=STALE))
    why = GONE["source_reason"]
    assert told(status) == [
        f"broken: sources of fills bring nothing new: Goldsky is ended; Polygon is stale ({why})",
        f"degraded: polygon_ingester polygon-rpc.com is stale: {why}",
    ]


def test_sources_that_are_away_are_told_apart_from_what_runs_here() -> None:
    away = {"goldsky_ingester": UNREACHABLE, "polygon_ingester": UNREACHABLE}
    health = judge(a_status(heartbeats=beats(**away)))
    assert (health.verdict, health.of_pipeline) == ("broken", "degraded")
    health = judge(a_status(heartbeats=beats(**away, clickhouse_writer=None)))
    assert (health.verdict, health.of_pipeline) == ("broken", "broken")


def test_markets_alone_are_no_source_of_fills() -> None:
    status = a_status(heartbeats=beats(polymarket_ingester=UNREACHABLE))
    assert told(status) == ["degraded: polymarket_ingester waits: 503"]


def test_an_outage_between_two_attempts_is_told_though_the_stage_runs() -> None:
    away = UNREACHABLE | {"state": "running", "reason": ""}
    assert told(a_status(heartbeats=beats(goldsky_ingester=away))) == [
        "degraded: goldsky_ingester api.goldsky.com is unreachable: answers 503"
    ]


def test_redis_away_is_broken_and_named_once() -> None:
    status = a_status(redis=AWAY)
    assert told(status) == [f"broken: Redis can't be used: {AWAY.reason}"]


def test_clickhouse_away_is_broken_and_named_once() -> None:
    assert told(a_status(clickhouse=CLICKHOUSE_AWAY)) == [f"broken: ClickHouse can't be used: {CLICKHOUSE_AWAY.reason}"]


def test_a_missing_consumer_group_is_broken() -> None:
    status = a_status(streams={"stream:trades": StreamInfo(12, None, None, 12, [])})
    assert told(status) == [
        "broken: stream:trades has no consumer group trades_writers: it is neither read nor trimmed"
    ]


def test_a_missing_table_is_broken_though_clickhouse_answers() -> None:
    missing = unknown("there is no table polymarket.trades: run setup_schema.py")
    status = a_status(tables=[table("markets", 3), TableState("trades", missing, missing, missing)])
    assert told(status) == [f"broken: trades {missing.reason}"]


def test_dead_letters_degrade() -> None:
    assert told(a_status(letters={"stream:trades": [LETTER]})) == ["degraded: stream:trades has 1 dead letter"]


def test_lost_entries_degrade() -> None:
    assert told(a_status(lost_entries=7)) == [
        "degraded: Redis 7 entries left Redis before every group had processed them"
    ]


def test_a_backlog_above_the_limit_degrades() -> None:
    stream = StreamInfo(600_000, None, None, 600_000, [group("trades_writers", lag=600_000, pending=0)])
    assert told(a_status(streams={"stream:trades": stream})) == [
        "degraded: stream:trades group trades_writers is 600,000 entries behind; ingesters pause above 500,000"
    ]


def test_an_unknown_lag_is_neither_zero_nor_a_fault() -> None:
    stream = StreamInfo(5, None, None, 5, [group("trades_writers", lag=None)])
    status = a_status(streams={"stream:trades": stream})
    assert status.streams[2].groups[0].lag.state == "unknown"
    assert status.streams[2].groups[0].behind.value is None
    assert judge(status).verdict == "ok"


def test_the_worst_reason_comes_first_and_decides() -> None:
    status = a_status(letters={"stream:trades": [LETTER]}, heartbeats=beats(clickhouse_writer=None))
    health = judge(status)
    assert [reason.severity for reason in health.reasons] == ["broken", "degraded"]
    assert health.verdict == "broken"
