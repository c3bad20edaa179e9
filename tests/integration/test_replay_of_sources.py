"""Dead letters of the sources, parsed again by a version that can read them: each becomes its record once."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import msgspec
import pytest

from common.config import Settings
from common.dead_letters import DeadLetter, InClickHouse, Window, page_of_dead_letters, replay_fill
from common.helper_process import ReplayedLetter, ReplayRequest
from common.keys import Route
from common.leases import take_lease
from common.parsing import identity_of_bytes
from common.redis_queue import Height, Offer, Position
from ingesters import replay
from ingesters.backfill_known import without_known
from ingesters.goldsky_ingester import offer_fill
from ingesters.log_decoder import V1_TOPIC, V2_TOPIC
from ingesters.market_parser import offer_faulty, offer_market
from ingesters.polygon_window import settle_older_state
from ingesters.replay import Replayers
from processors import dead_letters
from simulator import chain
from tests.builders import EXCHANGE_V1, Pipeline, open_pipeline, own_name, settings_for, step_until, token_id, wallet
from tests.integration.backfilling import write_all, written
from tests.integration.ingesting import Asked, Reply, as_json, upstream
from tests.integration.test_dead_letters import bury, everything
from tests.sabotage import FAILURES, Died, Failure, SabotagedQueue, Saboteur, every_call
from tests.servers import ClickHouseServer, RedisServer

NOW = 1_763_000_000  # the cursor of the subgraph
CUTOVER, SECOND = 86_126_998, 1_777_374_040
HEAD = CUTOVER + 1000  # the cursor of the chain
WINDOW = 120  # seconds; of the subgraph's live ingester
SERVERS = ("redis_host", "redis_port", "key_prefix", "clickhouse_host", "clickhouse_port", "clickhouse_database")

Run = Callable[..., int]


@pytest.fixture
def pipeline_settings(redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
    return settings_for(redis_server, clickhouse_server, own_name(), polygon_rpc_url="http://127.0.0.1:1")


@pytest.fixture
def pipeline(pipeline_settings: Settings) -> Iterator[Pipeline]:
    """Yield streams alone: most tests here need no tables."""
    with open_pipeline(pipeline_settings) as pipeline:
        settle_older_state(pipeline.queue, pipeline_settings)
        yield pipeline


@pytest.fixture
def tables(pipeline: Pipeline) -> None:
    pipeline.make_tables()


def row(number: int, timestamp: int = NOW - 5, **changes: Any) -> bytes:
    """Return a fill as the subgraph tells it, in the bytes that an earlier version refused."""
    fields = {
        "id": f"0x{number:064x}_0x{number:064x}",
        "transactionHash": f"0x{number:064x}",
        "timestamp": str(timestamp),
        "orderHash": f"0x{number:064x}",
        "maker": wallet(1),
        "taker": EXCHANGE_V1,
        "makerAssetId": "0",
        "takerAssetId": token_id(1),
        "makerAmountFilled": "1000000",
        "takerAmountFilled": "2000000",
        "fee": "0",
    }
    return json.dumps(fields | changes).encode()


def log(number: int, block: int = HEAD - 5, *, v1: bool = False, **changes: Any) -> bytes:
    words = [0, 7, 5, 9, 0] if v1 else [0, 7, 5, 9, 0, 0, 0]
    fields = {
        "address": chain.EXCHANGE_V2,
        "topics": [V1_TOPIC if v1 else V2_TOPIC, f"0x{number:064x}", f"0x{1:064x}", f"0x{2:064x}"],
        "data": "0x" + "".join(f"{word:064x}" for word in words),
        "blockNumber": hex(block),
        "blockTimestamp": hex(chain.time_of(block)),
        "transactionHash": f"0x{number:064x}",
        "logIndex": "0x2",
        "removed": False,
    }
    return json.dumps({name: value for name, value in (fields | changes).items() if value is not ...}).encode()


def market(number: int = 1, **changes: Any) -> bytes:
    fields = {"id": str(number), "question": "?", "updatedAt": "2026-02-07T20:57:04.974481Z", "clobTokenIds": '["7"]'}
    return json.dumps(fields | changes).encode()


def publish_rows(pipeline: Pipeline, *offers: Offer, at: int = NOW) -> None:
    """Have the subgraph's live ingester publish a page."""
    pipeline.queue.push_batch(pipeline.events, offers, source="goldsky", position=Position(at, "z"), window_s=WINDOW)


def bury_rows(pipeline: Pipeline, *raws: bytes, at: int = NOW) -> None:
    """Have it publish rows that its version can't read."""
    publish_rows(pipeline, *(Offer(identity_of_bytes(raw), raw, at, fault="unreadable") for raw in raws), at=at)


def bury_logs(pipeline: Pipeline, *raws: bytes) -> None:
    offers = [Offer(identity_of_bytes(raw), raw, HEAD, fault="unreadable") for raw in raws]
    height = Height(HEAD, chain.time_of(HEAD))
    pipeline.queue.push_blocks(pipeline.events, offers, source="polygon", height=height, window_blocks=64)


def bury_markets(pipeline: Pipeline, *raws: bytes, reason: str = "unreadable") -> None:
    offers = [offer_faulty(json.loads(raw)["id"], raw, reason) for raw in raws]
    pipeline.queue.push_changed(pipeline.markets, offers, source="polymarket", state={})


def good(raw: bytes) -> Offer:
    return offer_fill(raw, NOW).offer


def letters(pipeline: Pipeline, stream: str) -> list[DeadLetter]:
    return page_of_dead_letters(pipeline.queue, stream, "-", "+", 1000)


def replayed(
    pipeline: Pipeline,
    stream: str,
    wanted: Sequence[DeadLetter] | None = None,
    *,
    dry_run: bool = False,
    **changes: Any,
) -> list[ReplayedLetter]:
    """Replay all letters of a stream, or these; in a process's place."""
    ids = [letter.id for letter in (letters(pipeline, stream) if wanted is None else wanted)]
    with closing(Replayers(pipeline.settings.model_copy(update=changes))) as replayers:
        return replayers.answer(json.dumps({"stream": stream, "ids": ids, "dry_run": dry_run}).encode())


def outcomes(found: Sequence[ReplayedLetter]) -> list[str]:
    return [each.outcome for each in found]


def ids(pipeline: Pipeline) -> list[str]:
    return [json.loads(entry)["id"] for entry in pipeline.rows(pipeline.events)]


def fill_ids(*numbers: int) -> list[str]:
    return [f"0x{number:064x}_0x{number:064x}" for number in numbers]


class TestOfTheWindow:
    """What the live ingester may still publish by itself: the seen-set decides."""

    def test_each_becomes_its_fill_and_the_source_s_own_copy_is_known_afterwards(self, pipeline: Pipeline) -> None:
        bury_rows(pipeline, row(1), row(2))
        assert outcomes(replayed(pipeline, pipeline.events)) == ["published"] * 2
        assert letters(pipeline, pipeline.events) == []
        publish_rows(pipeline, good(row(1)), good(row(2)))
        assert ids(pipeline) == fill_ids(1, 2)

    def test_what_the_source_has_published_since_does_not_come_again(self, pipeline: Pipeline) -> None:
        bury_rows(pipeline, row(1))
        publish_rows(pipeline, good(row(1)))
        [found] = replayed(pipeline, pipeline.events)
        assert (found.outcome, found.text) == ("dropped", "published meanwhile")
        assert letters(pipeline, pipeline.events) == []
        assert ids(pipeline) == fill_ids(1)

    def test_what_still_cannot_be_read_stays_with_the_reason(self, pipeline: Pipeline) -> None:
        bury_rows(pipeline, row(1, maker="?"))
        [found] = replayed(pipeline, pipeline.events)
        assert found.outcome == "stays"
        assert "maker: expected" in found.text
        assert len(letters(pipeline, pipeline.events)) == 1

    def test_a_fill_of_the_other_source_s_side_is_dropped(self, pipeline: Pipeline) -> None:
        bury_rows(pipeline, row(1))
        [found] = replayed(pipeline, pipeline.events, cutover_timestamp=NOW - 6)
        assert found.outcome == "dropped"
        assert (letters(pipeline, pipeline.events), ids(pipeline)) == ([], [])

    def test_many_replays_at_once_publish_each_once(self, pipeline: Pipeline) -> None:
        bury_rows(pipeline, *map(row, range(40)))
        found, wanted = list[str](), letters(pipeline, pipeline.events)

        def run() -> None:
            found.extend(outcomes(replayed(pipeline, pipeline.events, wanted)))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ids(pipeline)) == sorted(fill_ids(*range(40)))
        assert (found.count("published"), found.count("gone")) == (40, 120)


@pytest.mark.usefixtures("tables")
class TestOfThePast:
    """From below the live ingester's floor: ClickHouse decides, while no backfill can publish."""

    OLD = NOW - 10_000

    def bury(self, pipeline: Pipeline, *raws: bytes) -> None:
        bury_rows(pipeline, *raws, at=self.OLD)
        publish_rows(pipeline, good(row(1000, NOW)))
        pipeline.queue.ensure_group(self.route(pipeline))

    def route(self, pipeline: Pipeline) -> Route:
        return Route(pipeline.events, pipeline.settings.group_order_events_writers)

    def test_it_becomes_its_fill(self, pipeline: Pipeline) -> None:
        self.bury(pipeline, row(1, self.OLD), row(2, self.OLD))
        write_all(pipeline)
        assert outcomes(replayed(pipeline, pipeline.events)) == ["published"] * 2
        write_all(pipeline)
        assert pipeline.ids("order_filled") == fill_ids(1, 2, 1000)

    def test_what_clickhouse_has_does_not_come_again(self, pipeline: Pipeline) -> None:
        self.bury(pipeline, row(1, self.OLD))
        pipeline.add(pipeline.events, good(row(1, self.OLD)).data)
        write_all(pipeline)
        assert outcomes(replayed(pipeline, pipeline.events)) == ["dropped"]
        write_all(pipeline)
        assert pipeline.ids("order_filled") == fill_ids(1, 1000)

    def test_what_is_on_its_way_to_clickhouse_is_waited_for(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replay, "BARRIER_S", 0.0)
        self.bury(pipeline, row(1, self.OLD), row(2, self.OLD))
        pipeline.add(pipeline.events, good(row(1, self.OLD)).data)
        found = replayed(pipeline, pipeline.events)
        assert outcomes(found) == ["stays"] * 2
        assert "on its way to ClickHouse" in found[0].text
        write_all(pipeline)
        assert outcomes(replayed(pipeline, pipeline.events)) == ["dropped", "published"]

    def test_the_same_fill_in_two_letters_is_published_once(self, pipeline: Pipeline) -> None:
        self.bury(pipeline, row(1, self.OLD), row(1, self.OLD, extra=1))
        write_all(pipeline)
        assert outcomes(replayed(pipeline, pipeline.events)) == ["published", "dropped"]
        assert ids(pipeline)[-1:] == fill_ids(1)

    def test_it_stays_while_a_backfill_of_the_source_runs(self, pipeline: Pipeline) -> None:
        self.bury(pipeline, row(1, self.OLD))
        write_all(pipeline)
        lease = take_lease(pipeline.queue, "backfill_goldsky", 60.0)
        assert lease is not None
        [found] = replayed(pipeline, pipeline.events)
        assert (found.outcome, found.text) == (
            "stays",
            "a backfill of goldsky is running; replay it again afterwards",
        )
        lease.release()
        assert outcomes(replayed(pipeline, pipeline.events)) == ["published"]

    def test_one_that_lost_its_lease_publishes_nothing(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.bury(pipeline, row(1, self.OLD))
        write_all(pipeline)
        monkeypatch.setattr(replay, "without_known", self.after(pipeline.expire_leases))
        assert outcomes(replayed(pipeline, pipeline.events)) == ["stays"]
        assert fill_ids(1)[0] not in ids(pipeline)

    def test_a_window_that_has_moved_on_has_clickhouse_asked_again(self, pipeline: Pipeline) -> None:
        """A fill was in the window when the barrier was passed; the source publishes it, and the window passes it."""
        self.bury(pipeline, row(1, self.OLD), row(2, NOW - 5))
        write_all(pipeline)
        with closing(Replayers(pipeline.settings)) as replayers:
            first, second = letters(pipeline, pipeline.events)
            assert self.answer(replayers, pipeline, first) == ["published"]
            publish_rows(pipeline, good(row(2, NOW - 5)))
            publish_rows(pipeline, good(row(1001, NOW + WINDOW + 1)), at=NOW + WINDOW + 1)
            write_all(pipeline)
            assert self.answer(replayers, pipeline, second) == ["dropped"]

    def test_an_answer_from_before_the_floor_reached_the_fill_does_not_count(self, pipeline: Pipeline) -> None:
        self.bury(pipeline, row(1, self.OLD))
        lease = take_lease(pipeline.queue, "backfill_goldsky", 60.0)
        assert lease is not None
        window = Window("goldsky", pipeline.queue.cursor_keys("goldsky")[0], WINDOW)
        [letter] = letters(pipeline, pipeline.events)

        def move(floor: int) -> str:
            older = InClickHouse(has_fill=False, holder=lease.holder, floor=floor)
            offer = good(row(1, self.OLD))
            return replay_fill(pipeline.queue, pipeline.events, letter.id, offer, window=window, older=older)

        assert [move(self.OLD), move(self.OLD + 1)] == ["older", "published"]
        lease.release()

    def answer(self, replayers: Replayers, pipeline: Pipeline, letter: DeadLetter) -> list[str]:
        return outcomes(replayers.answer(msgspec.json.encode(ReplayRequest(pipeline.events, [letter.id]))))

    def after(self, work: Callable[[], None]) -> Any:
        def ask(*arguments: Any) -> Any:
            answer = without_known(*arguments)
            work()
            return answer

        return ask


class TestOfTheChain:
    """Logs, as polygon_ingester parses them."""

    def node(self, asked: Asked) -> Reply:
        calls = json.loads(asked.body)
        block = HEAD if calls["params"][:1] == ["finalized"] else HEAD - 5
        found = {"number": hex(block), "timestamp": hex(chain.time_of(block))}
        return as_json({"id": calls["id"], "result": "0x89" if calls["method"] == "eth_chainId" else found})

    def test_a_log_becomes_its_fill(self, pipeline: Pipeline) -> None:
        bury_logs(pipeline, log(1), log(2))
        assert outcomes(replayed(pipeline, pipeline.events)) == ["published"] * 2
        assert ids(pipeline) == [f"0x{number:064x}_2" for number in (1, 2)]

    def test_the_block_is_asked_for_the_time_that_a_log_does_not_tell(self, pipeline: Pipeline) -> None:
        bury_logs(pipeline, log(1, blockTimestamp=...))
        [found] = replayed(pipeline, pipeline.events)
        assert found.outcome == "stays"
        assert f"the time of block {HEAD - 5} could not be looked up: cannot reach Polygon" in found.text
        with upstream(self.node) as url:
            assert outcomes(replayed(pipeline, pipeline.events, polygon_rpc_url=url)) == ["published"]
        assert json.loads(pipeline.rows(pipeline.events)[0])["timestamp"] == chain.time_of(HEAD - 5)

    @pytest.mark.parametrize(
        "raw",
        [
            log(1, removed=True),
            log(1, CUTOVER, v1=True),
            log(1, CUTOVER - 1, blockTimestamp=...),
        ],
        ids=["taken back", "of the subgraph", "before the cut-over"],
    )
    def test_what_the_live_stage_passes_over_is_dropped(self, pipeline: Pipeline, raw: bytes) -> None:
        bury_logs(pipeline, raw)
        assert outcomes(replayed(pipeline, pipeline.events)) == ["dropped"]
        assert (letters(pipeline, pipeline.events), ids(pipeline)) == ([], [])

    @pytest.mark.parametrize("raw", [b'{"id":\xff', log(1, blockNumber="x"), log(1, data="0x12")], ids=str)
    def test_what_still_cannot_be_read_stays(self, pipeline: Pipeline, raw: bytes) -> None:
        bury_logs(pipeline, raw)
        assert outcomes(replayed(pipeline, pipeline.events)) == ["stays"]


class TestOfMarkets:
    """Markets, by the version that was published last."""

    def sweep(self, pipeline: Pipeline, raw: bytes) -> None:
        pipeline.queue.push_changed(
            pipeline.markets, [offer_market(raw, listed_at=int(time.time())).offer], source="polymarket", state={}
        )

    def test_it_becomes_its_market_which_the_next_sweep_knows(self, pipeline: Pipeline) -> None:
        bury_markets(pipeline, market())
        assert outcomes(replayed(pipeline, pipeline.markets)) == ["published"]
        self.sweep(pipeline, market())
        assert [json.loads(entry)["id"] for entry in pipeline.rows(pipeline.markets)] == ["1"]

    def test_a_version_that_a_sweep_has_published_since_is_not_replaced(self, pipeline: Pipeline) -> None:
        bury_markets(pipeline, market(question="old"))
        self.sweep(pipeline, market(question="new"))
        assert outcomes(replayed(pipeline, pipeline.markets)) == ["dropped"]
        assert [json.loads(entry)["question"] for entry in pipeline.rows(pipeline.markets)] == ["new"]

    def test_an_event_is_left_to_the_next_sweep(self, pipeline: Pipeline) -> None:
        bury_markets(pipeline, market(markets=[{}]), reason="event: expected an array")
        assert outcomes(replayed(pipeline, pipeline.markets)) == ["stays"]

    def test_what_still_cannot_be_read_stays(self, pipeline: Pipeline) -> None:
        bury_markets(pipeline, market(clobTokenIds="no list"))
        assert outcomes(replayed(pipeline, pipeline.markets)) == ["stays"]


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("failure", [each for each in FAILURES if each.error is Died], ids=str)
def test_each_goes_once_wherever_the_replay_or_redis_fails(pipeline: Pipeline, failure: Failure) -> None:
    writer, runs, old = pipeline.writer(), 0, NOW - 10_000

    def write() -> None:
        step_until([writer], lambda: written(pipeline), "everything is written")

    for saboteur in every_call(failure):
        bury_rows(pipeline, row(2 * runs, old), row(2 * runs + 1, NOW + runs), at=NOW + runs)
        bury_markets(pipeline, market(runs))
        write()
        with suppress(Died):
            sabotaged_replay(pipeline, saboteur)
        pipeline.queue.call("DEL", pipeline.queue.keys.lease("backfill_goldsky"))
        write()
        for stream in (pipeline.events, pipeline.markets):
            replayed(pipeline, stream)
            assert letters(pipeline, stream) == []
        runs += 1
    write()
    writer.close()
    assert pipeline.ids("order_filled") == fill_ids(*range(2 * runs))
    assert pipeline.queue.stream_info(pipeline.markets).entries_added == runs
    assert runs > 8


def sabotaged_replay(pipeline: Pipeline, saboteur: Saboteur) -> None:
    with closing(Replayers(pipeline.settings)) as replayers:
        replayers._queue.close()
        replayers._clickhouse = pipeline.clickhouse
        replayers._queue = queue = SabotagedQueue(pipeline.settings)
        queue.saboteur = saboteur
        for stream in (pipeline.events, pipeline.markets):
            request = ReplayRequest(stream, [letter.id for letter in letters(pipeline, stream)])
            replayers.answer(msgspec.json.encode(request))


class TestCommand:
    """`processors.dead_letters`, which runs ingesters.replay as a process."""

    @pytest.fixture
    def command(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
        for name, value in pipeline.settings.model_dump().items():
            if name in SERVERS:
                monkeypatch.setenv(name.upper(), str(value))
        return lambda *words: dead_letters.main(words)

    @pytest.fixture
    def mixed(self, pipeline: Pipeline) -> list[DeadLetter]:
        """Return a letter to be published, one that is published already, and one that stays."""
        bury_rows(pipeline, row(1), row(2), row(3, maker="?"))
        publish_rows(pipeline, good(row(2)))
        return letters(pipeline, pipeline.events)

    def test_a_dry_run_changes_nothing_and_shows_what_would_happen(
        self,
        pipeline: Pipeline,
        command: Run,
        mixed: list[DeadLetter],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = everything(pipeline)
        assert command("replay", "--all", "--dry-run") == 1
        said = capsys.readouterr()
        assert said.out.splitlines() == [
            f"{mixed[0].id} -> {pipeline.events}",
            f"{mixed[1].id} would be dropped: published meanwhile",
        ]
        assert "goldsky: still can't be read: maker: expected" in said.err
        assert everything(pipeline) == before

    def test_it_moves_what_can_be_read_and_reports_the_rest(
        self,
        pipeline: Pipeline,
        command: Run,
        mixed: list[DeadLetter],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert command("replay", "--all") == 1
        said = capsys.readouterr()
        assert f"replayed to {pipeline.events}, as a new record of goldsky: 1 dead letter" in said.err
        assert "dropped, since published meanwhile: 1 dead letter" in said.err
        assert [letter.id for letter in letters(pipeline, pipeline.events)] == [mixed[2].id]
        assert ids(pipeline) == fill_ids(2, 1)
        bury_rows(pipeline, row(4))
        assert command("replay", letters(pipeline, pipeline.events)[1].id) == 0
        assert ids(pipeline) == fill_ids(2, 1, 4)

    def test_list_and_show_tell_that_they_can_be_replayed(
        self, command: Run, mixed: list[DeadLetter], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command("list") == 0
        assert "replay parses what polymarket, goldsky, polygon refused again" in capsys.readouterr().out
        assert command("show", mixed[0].id) == 0
        assert "parses these bytes again, as goldsky's ingester does by now" in capsys.readouterr().out

    def test_with_the_settings_of_another_mode_they_stay_and_the_other_letters_go(
        self, pipeline: Pipeline, command: Run, mixed: list[DeadLetter], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Those of the sources would be wrong for them, the cut-over as well."""
        pipeline.queue.call("SET", pipeline.queue.keys.state("mode"), "demo")
        bury(pipeline, b"{}")
        assert command("replay", "--all") == 1
        assert "goldsky: PIPELINE_MODE: Redis holds demo data" in capsys.readouterr().err
        assert letters(pipeline, pipeline.events) == mixed
