"""When a process counts as frozen: an old heartbeat, no question for entries, and work that waits for it."""

from collections.abc import Mapping

import pytest

from common.redis_queue import ConsumerInfo
from monitoring.health import judge
from monitoring.status import Status
from monitoring.streams import Work
from tests.statuses import CLICKHOUSE_AWAY, GROUPS, NOW, REPORTS, a_status, beat, beats, member

RECENT, OLD = f"{int(NOW * 1000) - 500}-0", f"{int(NOW * 1000) - 21_000}-0"
FROZEN_WRITER = member("clickhouse_writer-1", idle_s=21.0, held_s=22.0)
FROZEN_PROCESSOR = member("trade_processor-1", idle_s=21.0, held_s=22.0)


def reported(status: Status) -> list[str]:
    return [f"{reason.severity}: {reason.about} {reason.text}" for reason in judge(status).reasons]


def work(*members: ConsumerInfo, unread: str | None = RECENT) -> dict[str, dict[str, Work]]:
    """What all groups hold, when these are their members' figures."""
    return {
        stream: {
            group: Work(unread, [each for each in members if each.name.startswith(reader.component)])
            for group, reader in groups.items()
        }
        for stream, groups in GROUPS.items()
    }


def silent(component: str, age_s: float = 21.0, **fields: str) -> dict[str, Mapping[str, str]]:
    return {component: {"updated_at": f"{NOW - age_s}", **fields}}


def test_a_writer_that_holds_entries_and_does_nothing_is_frozen() -> None:
    status = a_status(
        heartbeats=beats(**silent("clickhouse_writer")), work=work(FROZEN_WRITER, member("trade_processor-1"))
    )
    [text] = reported(status)
    assert text == (
        "broken: clickhouse_writer is frozen: clickhouse_writer-1 (pid 4711 on pipeline-1) has been silent for "
        "21\u202fs while it holds 36 entries"
    )


def test_a_processor_that_leaves_entries_unread_is_frozen_though_it_holds_none() -> None:
    idle = member("trade_processor-1", pending=0, idle_s=21.0, held_s=None)
    status = a_status(
        heartbeats=beats(**silent("trade_processor")), work=work(idle, member("clickhouse_writer-1"), unread=OLD)
    )
    [text] = reported(status)
    assert text.startswith("broken: trade_processor is frozen")
    assert text.endswith("while the oldest unread entry has waited 21\u202fs")


@pytest.mark.parametrize(
    ("heartbeat_s", "consumer"),
    [
        (21.0, member("trade_processor-1", idle_s=0.2, held_s=3000.0)),  # a full Redis refuses heartbeats alone
        (19.0, FROZEN_PROCESSOR),
        (21.0, member("trade_processor-1", pending=0, idle_s=21.0, held_s=None)),  # nothing to do
        (21.0, member("trade_processor-1", idle_s=21.0, held_s=9.0)),  # claimed a moment ago
    ],
    ids=["asks for entries", "beats", "holds nothing", "holds for seconds"],
)
def test_it_is_not_frozen_while_something_speaks_against_it(heartbeat_s: float, consumer: ConsumerInfo) -> None:
    status = a_status(heartbeats=beats(**silent("trade_processor", heartbeat_s)), work=work(consumer))
    assert reported(status) == []


@pytest.mark.parametrize("age_s", [21.0, 59.0])
def test_a_stage_that_reports_that_it_waits_or_stops_is_not_called_frozen(age_s: float) -> None:
    for state in ("waiting", "draining"):
        status = a_status(heartbeats=beats(**silent("clickhouse_writer", age_s, state=state)), work=work(FROZEN_WRITER))
        assert [reason.severity for reason in judge(status).reasons] == ["degraded"]


def test_what_others_take_over_is_not_waiting() -> None:
    other = beat("clickhouse_writer", **{**REPORTS["clickhouse_writer"], "instance": "clickhouse_writer-2"})
    heartbeats = [*beats(**silent("clickhouse_writer", 59.0)), other]
    living = member("clickhouse_writer-2")
    assert reported(a_status(heartbeats=heartbeats, work=work(FROZEN_WRITER, living, unread=OLD))) == []


def test_what_others_do_not_take_over_is() -> None:
    other = beat("clickhouse_writer", **{**REPORTS["clickhouse_writer"], "instance": "clickhouse_writer-2"})
    heartbeats = [*beats(**silent("clickhouse_writer", 61.0)), other]
    [text] = reported(a_status(heartbeats=heartbeats, work=work(FROZEN_WRITER, member("clickhouse_writer-2"))))
    assert "clickhouse_writer-1" in text
    assert "holds 36 entries" in text


def test_old_entries_that_are_being_read_are_a_backlog_and_nobody_is_frozen() -> None:
    members = (member("clickhouse_writer-1"), member("trade_processor-1"))
    assert reported(a_status(work=work(*members, unread=f"{int(NOW * 1000) - 86_400_000}-0"))) == []


def test_fills_that_wait_an_hour_for_their_market_are_no_standstill() -> None:
    waits = member("trade_processor-1", held_s=3600.0)
    assert reported(a_status(work=work(waits, member("clickhouse_writer-1")))) == []


def test_work_that_a_live_process_has_left_untouched_degrades() -> None:
    stuck = member("clickhouse_writer-1", pending=1, held_s=130.0)
    assert reported(a_status(work=work(stuck)))[0] == (
        "degraded: clickhouse_writer clickhouse_writer-1 has held 1 entry of markets_writers for 2\u202fmin 10\u202fs"
    )
    deaf = member("clickhouse_writer-1", pending=0, idle_s=130.0, held_s=None)
    assert reported(a_status(work=work(deaf)))[0] == (
        "degraded: clickhouse_writer has read nothing from markets_writers for 2\u202fmin 10\u202fs, "
        "though entries are waiting"
    )
    assert reported(a_status(work=work(deaf, unread=None))) == []


def test_while_clickhouse_is_away_it_alone_is_named() -> None:
    status = a_status(
        heartbeats=beats(**silent("trade_processor")), work=work(FROZEN_PROCESSOR), clickhouse=CLICKHOUSE_AWAY
    )
    assert [reason.about for reason in judge(status).reasons] == ["ClickHouse"]
