"""What the servers report about themselves: disks, append-only file, rows that are stored twice."""

import pytest

from monitoring.disks import GB, Disk
from monitoring.health import judge
from monitoring.page import render_page
from monitoring.reading import Reading, known, unknown
from monitoring.repetitions import Repeated
from monitoring.snapshot import Watch
from monitoring.status import Status
from tests.statuses import CLICKHOUSE_AWAY, NOW, a_status


def reported(status: Status) -> list[str]:
    return [f"{reason.severity}: {reason.about} {reason.text}" for reason in judge(status).reasons]


def disk(free: float, total: float) -> list[Disk]:
    return [Disk("default", "/data/", int(free), int(total))]


@pytest.mark.parametrize(
    ("free", "total", "verdict"),
    [
        (400 * GB, 1000 * GB, "ok"),
        (50 * GB, 1000 * GB, "ok"),  # a small share of much is enough
        (9 * GB, 60 * GB, "ok"),  # little, and not nearly all of it taken
        (9.9 * GB, 100 * GB, "degraded"),
        (GB, 100 * GB, "degraded"),
        (GB - 1, 100 * GB, "broken"),
        (0.5 * GB, 1 * GB, "broken"),
        (0, 1, "broken"),
    ],
)
def test_a_disk_is_judged_by_its_share_and_its_bytes(free: float, total: float, verdict: str) -> None:
    assert judge(a_status(disks=disk(free, total))).verdict == verdict


def test_a_nearly_full_disk_is_named_with_what_is_free() -> None:
    assert reported(a_status(disks=disk(5 * GB, 100 * GB))) == [
        "degraded: ClickHouse its disk default is nearly full: 5.0\u202fGB of 100.0\u202fGB free at /data/"
    ]


def test_a_disk_that_cannot_be_read_is_unknown_and_not_full() -> None:
    status = a_status(clickhouse=CLICKHOUSE_AWAY)
    assert status.disks.state == "unknown"
    assert [reason.about for reason in judge(status).reasons] == ["ClickHouse"]


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("aof_last_write_status", "broken"),
        ("aof_last_bgrewrite_status", "degraded"),
        ("rdb_last_bgsave_status", "degraded"),
    ],
)
def test_a_redis_that_cannot_write_to_its_disk_is_reported(name: str, severity: str) -> None:
    [text] = reported(a_status(redis_info={name: "err"}))
    assert text.startswith(f"{severity}: Redis ")
    assert "disk" in text


def test_a_redis_without_an_append_only_file_has_none_to_write() -> None:
    status = a_status(redis_info={"aof_enabled": "0", "aof_last_write_status": "err"})
    assert status.redis_state.append_only_file.state == "absent"
    assert reported(status) == []


def repeated(rows: Reading[int]) -> list[Repeated]:
    return [Repeated("trades", rows, [202511], NOW, "OPTIMIZE TABLE polymarket.trades PARTITION 202511 FINAL")]


def test_rows_stored_twice_degrade_and_none_do_not() -> None:
    assert judge(a_status(repeated=repeated(known(3)))).verdict == "degraded"
    assert judge(a_status(repeated=repeated(known(0)))).verdict == "ok"
    [text] = reported(a_status(repeated=repeated(unknown("it took too long"))))
    assert "how many is unknown (it took too long)" in text


def page(status: Status) -> str:
    return " ".join(render_page(Watch(lambda _: status, lambda: NOW).interpret(status)).split())


def test_the_page_shows_disks_policy_and_repeated_rows() -> None:
    shown = page(a_status(disks=disk(5 * GB, 100 * GB), repeated=repeated(known(1234))))
    for text in ("noeviction", "5.0 GB of 100.0 GB free", "rows stored twice in trades", "1,234"):
        assert text in shown


def test_the_page_shows_unknown_where_it_is_and_none_where_there_are_none() -> None:
    assert "none noted" in page(a_status())
    assert "none noted" not in page(a_status(clickhouse=CLICKHOUSE_AWAY))
