"""How a backfill asks the subgraph: pauses that the source asks for, page sizes, and no row more often than needed."""

import json
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from common.config import Settings
from common.http import RateLimit
from common.progress import DONE, Portion, Slice
from ingesters.backfill_goldsky import SubgraphStation
from ingesters.backfill_plan import CATCH_UP, Spacing
from tests.builders import EXCHANGE_V1, Pipeline, token_id, wallet
from tests.integration.backfilling import assert_each_once, backfill, published, stopped_at, write_all
from tests.integration.ingesting import Asked, Reply, as_json, upstream

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN = 1_763_000_000
FILLS_A_SECOND = 7


def row(number: int) -> dict[str, str]:
    """Fill number i of a source that has FILLS_A_SECOND in every second."""
    transaction = f"0x{number:064x}"
    return {
        "id": f"{transaction}_{transaction}",
        "transactionHash": transaction,
        "timestamp": str(BEGIN + number // FILLS_A_SECOND),
        "orderHash": transaction,
        "maker": wallet(1),
        "taker": EXCHANGE_V1,
        "makerAssetId": "0",
        "takerAssetId": token_id(1),
        "makerAmountFilled": "1000000",
        "takerAmountFilled": "2000000",
        "fee": "0",
    }


class Subgraph:
    """Answers questions about its rows, and remembers them."""

    def __init__(self, count: int) -> None:
        self.rows = [row(number) for number in range(count)]
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.head: int | None = None  # what it tells of itself
        self.in_the_way: Callable[[dict[str, Any]], Reply | None] = lambda _variables: None
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        question = json.loads(asked.body)
        if "_meta" in question["query"]:
            return as_json({"data": {"_meta": {"block": {"timestamp": self.head}}}})
        variables = question["variables"]
        with self._lock:
            self.asked.append(variables)
            self.times.append(time.monotonic())
            refusal = self.in_the_way(variables)
        return refusal or as_json({"data": {"orderFilledEvents": self._page(variables)}})

    def _page(self, variables: dict[str, Any]) -> list[dict[str, str]]:
        where, skip = variables["where"], variables.get("skip", 0)
        tests: dict[str, Callable[[dict[str, str], str], bool]] = {
            "timestamp_gte": lambda row, bound: int(row["timestamp"]) >= int(bound),
            "timestamp_gt": lambda row, bound: int(row["timestamp"]) > int(bound),
            "timestamp": lambda row, bound: row["timestamp"] == bound,
            "id_gt": lambda row, bound: row["id"] > bound,
        }
        found = [row for row in self.rows if all(tests[name](row, bound) for name, bound in where.items())]
        return found[skip : skip + variables["first"]]


def settings_for(settings: Settings, url: str, **changes: Any) -> Settings:
    own: dict[str, Any] = {
        "goldsky_url": url,
        "goldsky_page_size": 100,
        "backfill_requests_per_10s": 10_000,
        "backfill_workers": 4,
        "order_events_start": str(BEGIN + 10**6),
    }
    return settings.model_copy(update={**own, **changes})


def read_all(settings: Settings, slice_: Slice) -> list[Portion]:
    station = SubgraphStation(settings, RateLimit(10_000), Spacing(10_000), time.time)
    reader = station.open(slice_)
    portions: list[Portion] = []
    while not portions or portions[-1].cursor != DONE:
        portions += reader.read()
    station.close()
    return portions


def numbers(portions: list[Portion]) -> list[int]:
    return [int(offer.identity.partition("_")[0], 16) for portion in portions for offer in portion.new]


@pytest.fixture
def settings(pipeline_settings: Settings) -> Settings:
    return pipeline_settings


class TestAReader:
    def test_a_slice_ends_with_the_first_row_beyond_it(self, settings: Settings) -> None:
        source = Subgraph(2000)
        with upstream(source) as url:
            portions = read_all(settings_for(settings, url), Slice(BEGIN, BEGIN + 100, str(BEGIN)))
        assert numbers(portions) == list(range(700))
        assert len(source.asked) == 8, "each page repeats one row, and the eighth shows that the seconds are over"

    def test_where_the_source_ends_an_empty_answer_has_to_say_so(self, settings: Settings) -> None:
        source = Subgraph(150)
        with upstream(source) as url:
            portions = read_all(settings_for(settings, url), Slice(BEGIN, BEGIN + 10_000, str(BEGIN)))
        assert numbers(portions) == list(range(150))
        assert [sorted(asked["where"]) for asked in source.asked[-2:]] == [["id_gt", "timestamp"], ["timestamp_gt"]]

    def test_it_goes_on_from_a_cursor_in_the_middle_of_a_second(self, settings: Settings) -> None:
        source = Subgraph(400)
        with upstream(source) as url:
            own = settings_for(settings, url)
            cursor = f"{BEGIN + 24} {row(170)['id']}"
            assert numbers(read_all(own, Slice(BEGIN, BEGIN + 50, cursor))) == list(range(171, 350))

    def test_rows_that_were_skipped_for_others_are_read_after_all(self, settings: Settings) -> None:
        """A row that appears late moves the others: the page begins with another row than expected."""
        source = Subgraph(400)
        late = source.rows.pop(98)
        assert late["timestamp"] == source.rows[99]["timestamp"]

        def appear(variables: dict[str, Any]) -> None:
            if variables.get("skip") and late not in source.rows:
                source.rows.insert(98, late)

        source.in_the_way = appear
        with upstream(source) as url:
            portions = read_all(settings_for(settings, url), Slice(BEGIN, BEGIN + 50, str(BEGIN)))
        read = numbers(portions)
        assert read == [number for number in range(350) if number != 98], "none twice, none skipped but the late one"

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
    def test_pages_may_be_smaller_than_a_second(self, settings: Settings, size: int) -> None:
        source = Subgraph(100)
        with upstream(source) as url:
            own = settings_for(settings, url, goldsky_page_size=size)
            assert numbers(read_all(own, Slice(BEGIN, BEGIN + 4, str(BEGIN)))) == list(range(28))

    def test_pages_are_halved_while_they_are_too_much(self, settings: Settings) -> None:
        source = Subgraph(400)

        def refuse(variables: dict[str, Any]) -> Reply | None:
            return as_json({"errors": [{"message": "statement timeout"}]}) if variables["first"] > 25 else None

        source.in_the_way = refuse
        with upstream(source) as url:
            portions = read_all(settings_for(settings, url), Slice(BEGIN, BEGIN + 50, str(BEGIN)))
        assert numbers(portions) == list(range(350))
        assert [asked["first"] for asked in source.asked[:4]] == [100, 50, 25, 25]


def test_a_429_pauses_all_workers_for_as_long_as_it_says(pipeline: Pipeline, settings: Settings) -> None:
    source = Subgraph(3000)
    refused_at: list[float] = []

    def refuse(_variables: dict[str, Any]) -> Reply | None:
        if len(source.asked) != 20:
            return None
        refused_at.append(time.monotonic())
        return Reply(b"slow down", 429, (("Retry-After", "5"),))

    source.in_the_way = refuse
    with upstream(source) as url:
        backfill(settings_for(settings, url), BEGIN, BEGIN + 400)
    # What was under way arrives within the pause, and not at once on a busy machine.
    in_the_pause = [at for at in source.times if refused_at[0] + 2.5 < at < refused_at[0] + 4.9]
    assert in_the_pause == []
    assert len(published(pipeline)) == 2800


class Turns(Spacing):
    """Remembers when each turn was taken: on a busy machine, requests arrive a while later."""

    taken: ClassVar[list[float]] = []

    def take_s(self, now: float) -> float:
        wait_s = super().take_s(now)
        if not wait_s:
            self.taken.append(now)
        return wait_s


def test_all_workers_together_keep_to_the_limit(
    pipeline: Pipeline, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Turns, "taken", [])
    monkeypatch.setattr("ingesters.backfill_goldsky.Spacing", Turns)
    source = Subgraph(3000)
    with upstream(source) as url:
        backfill(settings_for(settings, url, backfill_requests_per_10s=50), BEGIN, BEGIN + 200)
    assert len(published(pipeline)) == 1400
    assert len(source.asked) == len(Turns.taken)
    in_a_second = [sum(first <= at < first + 1 for at in Turns.taken) for first in Turns.taken]
    assert max(in_a_second) <= 5 + 1 + CATCH_UP


def test_what_the_subgraph_has_not_read_yet_is_left_for_another_run(pipeline: Pipeline, settings: Settings) -> None:
    """It is hours behind, and no live ingester has begun: a run that ended where that will begin would leave a gap."""
    source = Subgraph(3000)
    everything, source.rows = source.rows, source.rows[:700]
    source.head = BEGIN + 99
    with upstream(source) as url:
        first = backfill(settings_for(settings, url), BEGIN, BEGIN + 400)
        assert "got as far as" in first
        assert len(published(pipeline)) == 700
        source.rows, source.head = everything, BEGIN + 10_000
        write_all(pipeline)
        second = backfill(settings_for(settings, url), BEGIN, BEGIN + 400)
    assert "got as far as" not in second
    assert_each_once(pipeline, {row["id"] for row in everything[:2800]})


def test_a_subgraph_that_has_nothing_of_the_range_yet_is_not_asked_for_it(
    pipeline: Pipeline, settings: Settings
) -> None:
    source = Subgraph(10)
    source.head = BEGIN - 1000
    with upstream(source) as url:
        assert "nothing to read" in backfill(settings_for(settings, url), BEGIN, BEGIN + 400)
    assert source.asked == []
    assert published(pipeline) == {}


@pytest.mark.parametrize("moved_s", [300, -2])
def test_an_interrupted_run_goes_as_far_as_the_subgraph_has_got_by_then(
    pipeline: Pipeline, settings: Settings, moved_s: int
) -> None:
    """Or where it was to end, where the subgraph tells of less than before. What was read is not asked for again."""
    source = Subgraph(3000)
    everything, source.rows = source.rows, source.rows[:700]
    source.head = BEGIN + 99
    with upstream(source) as url:
        small = settings_for(settings, url, backfill_workers=1, goldsky_page_size=20, stream_backlog_limit=200)
        stopped_at(small, BEGIN, BEGIN + 400, lambda: len(published(pipeline)) > 100)
        assert len(published(pipeline)) < 600
        write_all(pipeline)
        source.rows, source.head = everything, source.head + moved_s
        source.asked.clear()
        told = backfill(settings_for(settings, url), BEGIN, BEGIN + 400)
    assert "going on where an earlier run was" in told
    assert str(BEGIN) not in {question["where"].get("timestamp_gte") for question in source.asked}
    seconds = 400 if moved_s > 0 else 100
    assert_each_once(pipeline, {row["id"] for row in everything[: FILLS_A_SECOND * seconds]})


def test_a_subgraph_that_refuses_to_tell_its_head_is_read_all_the_same(pipeline: Pipeline, settings: Settings) -> None:
    source = Subgraph(700)

    def answer(asked: Asked) -> Reply:
        return Reply(b"no", 400) if "_meta" in json.loads(asked.body)["query"] else source(asked)

    with upstream(answer) as url:
        backfill(settings_for(settings, url), BEGIN, BEGIN + 50)
    assert len(published(pipeline)) == 350
