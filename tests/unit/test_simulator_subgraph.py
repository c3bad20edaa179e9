"""The simulated subgraph: its answers, its refusals, and the short cut that equals the executor."""

from typing import Any

import pytest

from simulator import chain, selection, subgraph
from simulator.faults import FaultBook
from simulator.fills import Fill
from simulator.world import World
from tests.simulator import Clock, small_world

COLUMNS = (
    "id transactionHash timestamp orderHash maker taker makerAssetId takerAssetId "
    "makerAmountFilled takerAmountFilled fee"
)
PAGE = (
    "query Page($first: Int!, $t: BigInt!, $id: ID!) { orderFilledEvents(first: $first, orderBy: timestamp, "
    f"orderDirection: asc, where: {{or: [{{timestamp_gt: $t}}, {{timestamp: $t, id_gt: $id}}]}}) {{ {COLUMNS} }} }}"
)


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(age_s=100)[0]


@pytest.fixture(scope="module")
def fills(world: World) -> list[Fill]:
    return list(world.fills())


def ask(world: World, query: str, **variables: Any) -> dict[str, Any]:
    return subgraph.answer(selection.Request(world), query, variables)


def ids(world: World, arguments: str) -> list[str]:
    body = ask(world, f"{{ orderFilledEvents({arguments}) {{ id }} }}")
    return [row["id"] for row in body["data"]["orderFilledEvents"]]


def error(world: World, query: str, **variables: Any) -> str:
    body = ask(world, query, **variables)
    assert set(body) == {"errors"}
    return str(body["errors"][0]["message"])


def sweep(world: World, first: int) -> list[str]:
    """Every id, read as the documentation tells: the pair of timestamp and id as cursor."""
    found: list[str] = []
    time_s, last = "0", ""
    while rows := ask(world, PAGE, first=first, t=time_s, id=last)["data"]["orderFilledEvents"]:
        found += [row["id"] for row in rows]
        time_s, last = rows[-1]["timestamp"], rows[-1]["id"]
    return found


def test_a_sweep_by_time_and_id_sees_every_fill_once_in_order(world: World, fills: list[Fill]) -> None:
    assert sweep(world, 1000) == [fill.id for fill in fills]
    assert sweep(world, 333) == [fill.id for fill in fills]


def test_a_cursor_of_time_alone_loses_the_rest_of_a_second(world: World, fills: list[Fill]) -> None:
    last = fills[999]
    following = ids(world, f'first: 1, orderBy: timestamp, where: {{timestamp_gt: "{last.timestamp}"}}')
    assert following != [fills[1000].id]


def test_every_value_is_a_string(world: World) -> None:
    row = ask(world, PAGE, first=1, t="0", id="")["data"]["orderFilledEvents"][0]
    assert set(row) == set(COLUMNS.split())
    assert all(isinstance(value, str) for value in row.values())


def test_descending_order_is_the_reverse(world: World, fills: list[Fill]) -> None:
    assert ids(world, "first: 300, orderBy: timestamp, orderDirection: desc") == [f.id for f in fills[::-1][:300]]


def test_the_default_order_is_by_id(world: World, fills: list[Fill]) -> None:
    assert ids(world, "first: 500") == sorted(fill.id for fill in fills)[:500]


def test_skip_leaves_out_rows(world: World, fills: list[Fill]) -> None:
    assert ids(world, "first: 10, skip: 700, orderBy: timestamp") == [fill.id for fill in fills[700:710]]


def test_filters_select_as_they_say(world: World, fills: list[Fill]) -> None:
    some = fills[500]
    cases: dict[str, selection.Predicate] = {
        f'maker: "{some.maker}"': lambda fill: fill.maker == some.maker,
        f'makerAssetId: "0", taker: "{some.taker}"': lambda fill: (
            fill.maker_asset_id == "0" and fill.taker == some.taker
        ),
        f'timestamp_in: ["{some.timestamp}", {some.timestamp - 10}]': lambda fill: (
            fill.timestamp in {some.timestamp, some.timestamp - 10}
        ),
        f'timestamp_gte: {some.timestamp}, timestamp_lt: "{some.timestamp + 10}"': lambda fill: (
            0 <= fill.timestamp - some.timestamp < 10
        ),
        f'id_in: ["{some.id}", "{fills[7].id}", "0x00_0x00"]': lambda fill: fill.id in {some.id, fills[7].id},
        f'transactionHash: "{some.transaction_hash.upper().replace("0X", "0x")}"': lambda fill: (
            fill.transaction_hash == some.transaction_hash
        ),
        f'and: [{{timestamp_lte: "{some.timestamp}"}}, {{id_not: "{some.id}"}}], makerAmountFilled_gt: 300000000': (
            lambda fill: (
                fill.timestamp <= some.timestamp and fill.id != some.id and fill.maker_amount_filled > 300000000
            )
        ),
    }
    for where, wanted in cases.items():
        expected = [fill.id for fill in fills if wanted(fill)]
        assert expected
        assert ids(world, f"first: 1000, orderBy: timestamp, where: {{{where}}}") == expected[:1000]


QUERIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (PAGE, {"first": 1000, "t": "0", "id": ""}),
    (PAGE, {"first": 7, "t": "1767600010", "id": "0x8"}),
    (PAGE, {"first": 7, "t": 1767600010, "id": "0x8"}),
    (PAGE, {"first": 1001, "t": "0", "id": ""}),
    (PAGE, {"first": 10, "t": "soon", "id": ""}),
    (PAGE, {"first": 10}),
    ("{ orderFilledEvents { id } }", {}),
    ("{ rows: orderFilledEvents(first: 3, orderBy: fee, orderDirection: desc) { fee key: id __typename } }", {}),
    ("{ orderFilledEvents(first: 2, skip: 5001) { id } }", {}),
    ("{ orderFilledEvents(first: null) { id } }", {}),
    ('{ orderFilledEvents(where: {timestamp_gt: "1", or: [{id: "x"}]}) { id } }', {}),
    ("{ orderFilledEvents(first: 2) { id nonsense } }", {}),
    ("{ orderFilledEvents(first: 2) { id ", {}),
    ("query A($all: Boolean!) { orderFilledEvents(first: 2) { id fee @include(if: $all) } }", {"all": False}),
    ("{ orderFilledEvents(first: 2) { ...Row } } fragment Row on OrderFilledEvent { id maker }", {}),
    ("{ a: orderFilledEvents(first: 1) { id } b: orderFilledEvents(first: 2) { id } _meta { block { number } } }", {}),
)


@pytest.mark.parametrize(("query", "variables"), QUERIES)
def test_the_short_cut_equals_the_executor(world: World, query: str, variables: dict[str, Any]) -> None:
    quick, slow = selection.Request(world), selection.Request(world)
    assert subgraph.answer(quick, query, variables) == subgraph.execute(slow, query, variables)
    assert quick.selected == slow.selected


def test_the_page_query_takes_the_short_cut() -> None:
    assert subgraph.plan(PAGE).plain is not None


def test_limits_are_errors(world: World) -> None:
    assert "between 0 and 1000" in error(world, PAGE, first=1001, t="0", id="")
    assert "between 0 and 5000" in error(world, "{ orderFilledEvents(skip: 5001) { id } }")


def test_columns_beside_or_are_refused(world: World) -> None:
    query = '{ orderFilledEvents(where: {timestamp_gt: "1", or: [{id: "x"}]}) { id } }'
    assert "Cannot mix column filters" in error(world, query)


def test_looking_at_too_many_rows_ends_in_a_statement_timeout(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_MOST_SCANNED", 500)
    assert error(world, "{ orderFilledEvents(first: 1) { id } }") == "statement timeout"


def test_meta_tells_the_newest_block(world: World) -> None:
    body = ask(world, "{ _meta { block { number timestamp hash } hasIndexingErrors } }")
    block = body["data"]["_meta"]["block"]
    assert block["number"] == world.last_block()
    assert block["timestamp"] == chain.time_of(world.last_block())
    assert body["data"]["_meta"]["hasIndexingErrors"] is False


def test_a_single_fill_by_id(world: World, fills: list[Fill]) -> None:
    query = "query ($id: ID!) { orderFilledEvent(id: $id) { id maker } }"
    found = ask(world, query, id=fills[3].id)["data"]["orderFilledEvent"]
    assert found == {"id": fills[3].id, "maker": fills[3].maker}
    assert ask(world, query, id="0x1")["data"]["orderFilledEvent"] is None


def test_after_the_cut_over_nothing_new_comes_and_the_block_goes_on() -> None:
    birth = small_world()[0].settings.birth
    world, clock = small_world(age_s=100, cutover=birth + 30)
    served = sweep(world, 1000)
    assert served == [fill.id for fill in world.fills() if fill.is_v1]
    assert max(fill.timestamp for fill in world.fills() if fill.is_v1) == birth + 30
    before = ask(world, "{ _meta { block { number timestamp } } }")["data"]["_meta"]["block"]
    clock.now += 100
    after = ask(world, "{ _meta { block { number timestamp } } }")["data"]["_meta"]["block"]
    assert sweep(world, 1000) == served
    assert after["number"] > before["number"]
    assert after["timestamp"] is None


def late_sweep(world: World, clock: Clock, book: FaultBook) -> set[str]:
    request = selection.Request(world, book.late(clock.now))
    query = f'{{ orderFilledEvents(first: 1000, where: {{timestamp_gte: "{world.settings.birth + 60}"}}) {{ id }} }}'
    return {row["id"] for row in subgraph.answer(request, query, {})["data"]["orderFilledEvents"]}


def test_late_rows_stay_away_for_a_bounded_while() -> None:
    world, clock = small_world(age_s=60)
    book = FaultBook()
    book.add({"target": "goldsky", "kind": "late_rows", "probability": 0.3, "count": 2, "seconds": 10}, clock.now)
    clock.now += 3
    there = {fill.id for fill in world.fills() if fill.timestamp >= world.settings.birth + 60}
    early = late_sweep(world, clock, book)
    assert early < there
    assert len(early) > len(there) / 2
    clock.now += 10
    assert late_sweep(world, clock, book) > there


def test_late_rows_come_at_once_when_the_order_is_withdrawn() -> None:
    world, clock = small_world(age_s=60)
    book = FaultBook()
    book.add({"target": "goldsky", "kind": "late_rows", "probability": 1}, clock.now)
    clock.now += 3
    assert not late_sweep(world, clock, book)
    book.clear()
    assert late_sweep(world, clock, book)


# --- the later exchanges' subgraph -----------------------------------------------------------------------------------

COLUMNS_V2 = "id side tokenId collateralAmount tokenAmount price size exchange blockNumber builder timestamp"


@pytest.fixture(scope="module")
def seamed() -> World:
    return small_world(age_s=100, cutover=small_world()[0].settings.birth)[0]


def ask_v2(world: World, query: str) -> dict[str, Any]:
    return subgraph.answer(selection.Request(world, edition=selection.V2), query, {})


def test_the_two_subgraphs_share_the_fills_between_them_without_overlap(seamed: World) -> None:
    everything = "{ orderFilledEvents(first: 1000, orderBy: timestamp, where: {timestamp_gte: %s}) { id } }"
    since = seamed.settings.birth - 20
    rows = [
        [row["id"] for row in answer["data"]["orderFilledEvents"]]
        for answer in (ask(seamed, everything % since), ask_v2(seamed, everything % since))
    ]
    truth = [fill for fill in seamed.fills() if fill.timestamp >= since]
    assert rows[0] == [fill.id for fill in truth if fill.is_v1]
    assert rows[1] == [fill.id.replace("_", "-") for fill in truth if not fill.is_v1][:1000]
    assert all(rows)


def test_a_later_fill_tells_side_token_and_amounts(seamed: World) -> None:
    query = f"{{ orderFilledEvents(first: 50, orderBy: timestamp) {{ {COLUMNS_V2} }} }}"
    request = selection.Request(seamed, edition=selection.V2)
    rows = subgraph.answer(request, query, {})["data"]["orderFilledEvents"]
    assert rows == subgraph.execute(request, query, {})["data"]["orderFilledEvents"]
    assert {row["side"] for row in rows} == {"BUY", "SELL"}
    for row in rows:
        fill = seamed.fill(row["id"].replace("-", "_"))
        assert fill is not None
        gives_collateral = fill.maker_asset_id == "0"
        assert row["side"] == ("BUY" if gives_collateral else "SELL")
        amounts = (fill.maker_amount_filled, fill.taker_amount_filled)
        assert (int(row["collateralAmount"]), int(row["tokenAmount"])) == (
            amounts if gives_collateral else amounts[::-1]
        )


def test_each_subgraph_refuses_the_other_s_fields(seamed: World) -> None:
    assert "Cannot query field 'tokenId'" in error(seamed, "{ orderFilledEvents { tokenId } }")
    answer = ask_v2(seamed, "{ orderFilledEvents { makerAssetId } }")
    assert "Cannot query field 'makerAssetId'" in answer["errors"][0]["message"]
    assert ask_v2(seamed, "{ _meta { block { timestamp } } }")["data"]["_meta"]["block"]["timestamp"]
