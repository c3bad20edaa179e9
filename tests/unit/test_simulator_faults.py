"""Faults on order and rate limits: what hits, how often, and that it repeats."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from simulator.__main__ import cutover_settings, parse_cutover, settle
from simulator.faults import FaultBook
from simulator.limits import Limiter
from simulator.world import Settings
from tests.simulator import Clock

ROWS = [
    {"id": f"0x{number:064x}_0x{number:064x}", "timestamp": "5", "maker": "0x1", "makerAmountFilled": "7"}
    for number in range(20)
]


def book(**order: Any) -> FaultBook:
    made = FaultBook(seed=1)
    made.add({"target": "goldsky", **order}, now=0)
    return made


def spoiled(made: FaultBook, rows: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    return made.spoil("goldsky", ROWS if rows is None else rows, now=1)


def hits(made: FaultBook, kind: str, asks: int, now: float = 1) -> int:
    return sum(made.take("goldsky", {kind}, now) is not None for _ in range(asks))


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"target": "redis", "kind": "http_429"},
        {"target": "gamma", "kind": "late_rows"},
        {"target": "gamma", "kind": "graphql_errors"},
        {"target": "polygon", "kind": "graphql_errors"},
        {"target": "polygon", "kind": "short_page"},
        {"target": "goldsky", "kind": "rpc_errors"},
        {"target": "goldsky", "kind": "http_429", "count": 0},
        {"target": "goldsky", "kind": "http_429", "count": True},
        {"target": "goldsky", "kind": "http_429", "probability": 1.5},
        {"target": "goldsky", "kind": "http_429", "seconds": "5"},
        {"target": "goldsky", "kind": "http_429", "amount": 5},
        {"target": "goldsky", "kind": "http_500", "token": "5"},
        {"target": "gamma", "kind": "http_500", "token": 5},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        FaultBook().add(order, now=0)


def test_an_order_for_a_token_hits_its_look_ups_alone_and_stays() -> None:
    made = FaultBook(seed=1)
    made.add({"target": "gamma", "kind": "http_500", "token": "5"}, now=0)
    asked = [made.take("gamma", {"http_500"}, 1, tokens) for tokens in ((), ("4",), ("4", "5"), ("5",))]
    assert [fault is not None for fault in asked] == [False, False, True, True]


def test_an_order_without_a_number_hits_once() -> None:
    assert hits(book(kind="http_500"), "http_500", 5) == 1


def test_a_count_hits_that_often_and_is_over() -> None:
    made = book(kind="http_500", count=3)
    assert hits(made, "http_500", 10) == 3
    assert made.listing(now=1) == []


def test_a_probability_hits_about_that_share_and_repeats() -> None:
    counts = [hits(book(kind="http_500", probability=0.25), "http_500", 1000) for _ in range(2)]
    assert counts[0] == counts[1]
    assert 200 < counts[0] < 300


def test_seconds_end_an_order() -> None:
    made = book(kind="http_500", seconds=5)
    assert hits(made, "http_500", 10, now=4.9) == 10
    assert hits(made, "http_500", 10, now=5) == 0


def test_the_seconds_of_a_timeout_are_its_silence() -> None:
    fault = book(kind="timeout", seconds=5).take("goldsky", {"timeout"}, now=100)
    assert fault is not None
    assert fault.silence_s == 5


def test_another_target_is_left_alone() -> None:
    assert book(kind="http_500").take("gamma", {"http_500"}, now=1) is None


def test_a_page_without_orders_is_left_alone() -> None:
    assert spoiled(FaultBook()) is ROWS


def test_a_short_page_has_fewer_rows_from_the_start() -> None:
    rows = spoiled(book(kind="short_page"))
    assert 0 < len(rows) < len(ROWS)
    assert rows == ROWS[: len(rows)]


def test_a_short_page_waits_for_a_page_that_can_be_shortened() -> None:
    made = book(kind="short_page")
    assert spoiled(made, ROWS[:1]) == ROWS[:1]
    assert len(spoiled(made)) < len(ROWS)


def test_duplicate_rows_come_twice_in_order() -> None:
    rows = spoiled(book(kind="duplicate_rows"))
    assert len(rows) > len(ROWS)
    assert rows == sorted(rows, key=lambda row: row["id"])
    assert [row for place, row in enumerate(rows) if place == 0 or rows[place - 1] is not row] == ROWS


def test_malformed_records_have_ids_of_their_own_in_the_order_of_the_page() -> None:
    made = book(kind="malformed_record", count=3)
    known = {row["id"] for row in ROWS}
    for number in range(1, 4):
        rows = spoiled(made)
        strangers = [row for row in rows if row["id"] not in known]
        assert len(strangers) == 1
        assert strangers[0]["id"] in made.malformed
        assert len(made.malformed) == number
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert len(set(made.malformed.values())) == 3


def test_an_empty_page_cannot_go_wrong() -> None:
    made = book(kind="malformed_record")
    assert spoiled(made, []) == []
    assert made.listing(now=1)


def test_a_rate_limit_admits_so_many_in_any_ten_seconds() -> None:
    clock = Clock(0)
    limiter = Limiter({"all": 5, "few": 2}, clock)
    assert [limiter.admit("all", "few") for _ in range(3)] == [0, 0, 10]
    assert [limiter.admit("all") for _ in range(4)] == [0, 0, 0, 10]
    clock.now = 9.5
    assert limiter.admit("all") == 0.5
    clock.now = 10
    assert limiter.admit("all", "few") == 0
    assert limiter.refused == 3


@pytest.mark.parametrize(
    "text", ["2026-04-28T11:00:40Z", "2026-04-28T11:00:40", "2026-04-28T13:00:40+02:00", "1777374040"]
)
def test_a_cut_over_is_read_as_utc(text: str) -> None:
    assert parse_cutover(text) == int(datetime(2026, 4, 28, 11, 0, 40, tzinfo=UTC).timestamp())


def test_a_cut_over_may_be_relative_to_birth() -> None:
    assert parse_cutover("-600s") == -600


def test_the_pipeline_s_cut_over_is_the_first_block_of_the_later_exchanges() -> None:
    settings = Settings(birth=1_800_000_000, cutover=1_777_374_039)
    assert cutover_settings(settings) == "CUTOVER_BLOCK=86126998\nCUTOVER_TIMESTAMP=1777374040"


def test_without_a_cut_over_the_subgraph_has_everything() -> None:
    assert int(cutover_settings(Settings()).rpartition("=")[2]) > 4_000_000_000


def test_no_cut_over() -> None:
    assert parse_cutover("none") is None


def test_the_state_file_keeps_what_determines_the_data(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "state.json"
    first = settle(Settings(seed=7, birth=1_800_000_000), file)
    assert settle(Settings(seed=8, birth=1_900_000_000), file) == first
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"weather": 1}', "not json"])
def test_a_state_file_of_other_origin_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        settle(Settings(), file)
