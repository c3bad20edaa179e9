"""Random ranges of simulated sources read again: what differs from the tables is found, and nothing else ever."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest

from common.config import Settings
from common.errors import Unavailable
from common.helper_process import HelperProcess, RangeRead
from common.leases import take_lease
from common.progress import Progress
from common.records import OrderFilled, encode
from common.tables import ORDER_FILLED
from ingesters import goldsky_ingester, polygon_ingester, polymarket_ingester
from ingesters.reread import Rereader
from monitoring import audit
from monitoring.source_audit import SourceQuestion, Tools, audit_sources
from monitoring.source_reading import read_covered
from monitoring.source_report import SourceAudit, is_complete, source_problems
from tests.builders import Pipeline, context_of, open_pipeline, own_name, settings_for
from tests.servers import ClickHouseServer, RedisServer
from tests.simulator import SimulatorServer
from tests.waiting import wait_until

T = TypeVar("T")
SETTLE_S = 8.0  # the newest final block is 4 s old, the newest one published some more
SERVERS = ("redis_host", "redis_port", "key_prefix", "clickhouse_host", "clickhouse_port", "clickhouse_database")


class Stages:
    """The whole pipeline of one simulator, stepped by the test."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        context = context_of(pipeline.settings, pipeline.new_queue())
        self.ingesters = [build(context) for build in (goldsky_ingester.build, polygon_ingester.build)]
        self.markets = polymarket_ingester.build(context)
        self.processor, self.writer = pipeline.processor(), pipeline.writer()

    def step(self, *stages: Any) -> None:
        for stage in stages or (*self.ingesters, self.markets, self.processor, self.writer):
            with suppress(Unavailable):  # a provider rests
                stage.step()

    def read(self, simulator: SimulatorServer) -> None:
        """Step until all that exists is published."""
        wanted = {"goldsky": simulator.cutover_settings()["cutover_timestamp"] - 2, "polygon": self.head(simulator) - 6}
        names = ("goldsky_last_timestamp", "polygon_last_timestamp")
        keys = [self.pipeline.queue.keys.state(name) for name in names]

        def is_there() -> bool:
            self.step(*self.ingesters)
            at = [int(value or 0) for value in self.pipeline.queue.call("MGET", *keys)]
            return at[0] >= wanted["goldsky"] and at[1] >= wanted["polygon"]

        wait_until(is_there, "the sources are read")

    def head(self, simulator: SimulatorServer) -> int:
        return int(simulator.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)  # noqa: FBT003 - the protocol's

    def finish(self) -> None:
        """Step until all that was published is written, with the trades of those whose market is listed by now."""

        def is_done() -> bool:
            self.step(self.markets, self.processor, self.writer)
            is_swept = not self.markets._sweep.round.is_first
            return is_swept and self.pipeline.unfinished() == self.processor.report()["waiting"]

        wait_until(is_done, "everything is written")

    def close(self) -> None:
        for stage in (*self.ingesters, self.markets, self.processor, self.writer):
            stage.close()


class InThisProcess(HelperProcess):
    """What ingesters.reread would answer; `change` spoils an answer."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("")
        self._rereader = Rereader(settings)
        self.change: Callable[[int, RangeRead], RangeRead] = lambda _number, read: read
        self.answers: list[RangeRead] = []

    def ask(self, request: Any, kind: type[T]) -> T:
        read = self._rereader.answer(msgspec.json.encode(request))
        self.answers.append(self.change(len(self.answers), read))
        return msgspec.json.decode(msgspec.json.encode(self.answers[-1]), type=kind)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    options: dict[str, Any] = {
        "history_hours": 0.05,
        "history_rate": 3,
        "live_rate": 3,
        "markets": 30,
        "cutover": "-90s",
    }
    with SimulatorServer(tmp_path_factory.mktemp("simulator"), rate_limits=False, **options) as server:
        yield server


@pytest.fixture(scope="module")
def settings(simulator: SimulatorServer, redis_server: RedisServer, clickhouse_server: ClickHouseServer) -> Settings:
    """Return those of a pipeline that reads from one provider; another one numbers logs otherwise."""
    own = {
        "polymarket_api_url": simulator.gamma_url,
        "polymarket_poll_interval": 0.2,
        "goldsky_url": simulator.goldsky_url,
        "polygon_rpc_url": f"{simulator.polygon_url},{simulator.polygon_url}/renumbered",
        "goldsky_poll_interval": 0.2,
        "polygon_poll_interval": 0.2,
        "goldsky_requests_per_10s": 10_000,
        "backfill_requests_per_10s": 10_000,
        "polygon_requests_per_10s": 10_000,
        "order_events_start": str(simulator.get_json("/health")["history_start"]),
        **simulator.cutover_settings(),
    }
    return settings_for(redis_server, clickhouse_server, own_name(), **own)


@pytest.fixture(scope="module")
def stages(settings: Settings, simulator: SimulatorServer) -> Iterator[Stages]:
    """Yield the pipeline of all tests here. Each leaves it as it was."""
    with open_pipeline(settings) as pipeline:
        pipeline.make_tables()
        stages = Stages(pipeline)
        stages.read(simulator)
        yield stages
        stages.close()


@pytest.fixture
def written(stages: Stages) -> Pipeline:
    """Return it with everything in its tables."""
    stages.finish()
    return stages.pipeline


def compare(
    pipeline: Pipeline,
    samples: int = 2,
    ingesters: HelperProcess | None = None,
    now: float | None = None,
    **changes: Any,
) -> SourceAudit:
    settings = pipeline.settings.model_copy(update=changes)
    tools = Tools(settings, pipeline.queue, pipeline.clickhouse, ingesters or InThisProcess(settings))
    question = SourceQuestion(samples, 7, SETTLE_S)
    return audit_sources(tools, question, time.time() if now is None else now, lambda drawn: drawn)


def assert_all_right(found: SourceAudit) -> None:
    assert source_problems(found) == []
    assert is_complete(found)
    assert {each.source for each in found.read} == {"goldsky", "polygon"}
    assert sum(each.fills for each in found.read) > 100


class Target(NamedTuple):
    """A stored fill that an audit at that time reads again."""

    fill: OrderFilled
    now: float


def target(pipeline: Pipeline, source: str, where: str = "true") -> Target:
    """Return one, of the first sample of that source, which is drawn whatever is stored."""
    now = time.time()
    [sample] = [each for each in compare(pipeline, now=now).read if each.source == source]
    place = "block_number" if source == "polygon" else "block_number IS NULL AND toUnixTimestamp(timestamp)"
    return Target(stored(pipeline, f"{where} AND {place} >= {sample.begin} AND {place} < {sample.end}"), now)


def stored(pipeline: Pipeline, where: str) -> OrderFilled:
    names = OrderFilled.__struct_fields__
    columns = ", ".join("toUnixTimestamp(timestamp)" if name == "timestamp" else name for name in names)
    table = f"{pipeline.clickhouse.database}.order_filled"
    return OrderFilled(
        *pipeline.clickhouse.query(f"SELECT {columns} FROM {table} WHERE {where} ORDER BY timestamp DESC LIMIT 1")[0]
    )


def delete(pipeline: Pipeline, table: str, identity: str) -> None:
    name = f"{pipeline.clickhouse.database}.{table}"
    pipeline.clickhouse.command(f"ALTER TABLE {name} DELETE WHERE id = '{identity}' SETTINGS mutations_sync = 1")


def insert(pipeline: Pipeline, fill: OrderFilled) -> None:
    pipeline.clickhouse.batch_insert(ORDER_FILLED, encode(fill), f"{fill.id} {time.time()}")


def ids(differ: Sequence[Any]) -> set[str]:
    return {each.id for each in differ}


def test_what_is_on_its_way_to_a_table_is_not_missing(stages: Stages) -> None:
    """Neither before a writer has read it, nor while it is pending, nor before it is a trade."""
    assert stages.pipeline.count("order_filled") == 0
    assert_all_right(compare(stages.pipeline, 4))
    stages.writer.step()
    assert_all_right(compare(stages.pipeline, 4))


def test_nothing_is_found_where_nothing_is_wrong(written: Pipeline) -> None:
    ingesters = InThisProcess(written.settings)
    assert_all_right(compare(written, 12, ingesters))
    assert {each.provider for each in ingesters.answers} == {0, 1}  # the subgraph; the provider that is not read from
    assert written.count("trades") > 100


def test_nothing_is_found_while_it_runs(stages: Stages, written: Pipeline) -> None:
    for _ in range(3):
        stages.step()
        assert_all_right(compare(written, 4))


@pytest.mark.parametrize("source", ["goldsky", "polygon"])
def test_a_fill_deleted_by_hand_is_found(written: Pipeline, source: str) -> None:
    fill, now = target(written, source)
    delete(written, "order_filled", fill.id)
    found = compare(written, now=now)
    insert(written, fill)
    told = fill.id if fill.log_index is None else f"{fill.transaction_hash}_{fill.log_index // 2 + 7}"
    assert (ids(found.missing), found.surplus) == ({told}, [])
    [problem] = source_problems(found)
    assert problem.text == f"1 fill missing in order_filled: {told}"
    assert "-m ingesters.backfill --from" in problem.remedy


@pytest.mark.parametrize("source", ["goldsky", "polygon"])
def test_a_fill_inserted_by_hand_is_found(written: Pipeline, source: str) -> None:
    """Even one that is equal to another: n equal logs are n fills, not n + 1."""
    fill, now = target(written, source)
    insert(written, msgspec.structs.replace(fill, id="by hand"))
    found = compare(written, now=now)
    delete(written, "order_filled", "by hand")
    assert (ids(found.surplus), found.missing) == ({"by hand"}, [])


def test_a_fill_of_the_subgraph_s_kind_after_the_cut_over_is_surplus(written: Pipeline) -> None:
    fill, now = target(written, "polygon")
    insert(written, msgspec.structs.replace(fill, id="by hand", block_number=None, log_index=None))
    found = compare(written, now=now)
    delete(written, "order_filled", "by hand")
    assert ids(found.surplus) == {"by hand"}


def test_a_trade_deleted_by_hand_is_found_unless_its_fill_waits_for_a_processor(
    stages: Stages, written: Pipeline
) -> None:
    fill, now = target(written, "polygon", f"id IN (SELECT id FROM {written.clickhouse.database}.trades)")
    delete(written, "trades", fill.id)
    found = compare(written, now=now)
    assert (ids(found.without_trade), found.missing, found.surplus) == ({fill.id}, [], [])
    [problem] = source_problems(found)
    assert problem.text == f"1 fill without a trade, though the market is known: {fill.id}"
    group = written.settings.group_events_processors
    written.queue.call("XADD", written.events, "*", "data", encode(fill), "for", group)
    assert compare(written, now=now).without_trade == []
    stages.finish()
    assert compare(written, now=now).without_trade == []


def test_a_provider_that_leaves_out_a_log_raises_no_alarm(written: Pipeline) -> None:
    ingesters = InThisProcess(written.settings)

    def leave_out(number: int, read: RangeRead) -> RangeRead:
        return msgspec.structs.replace(read, fills=read.fills[1:]) if not number % 2 else read

    ingesters.change = leave_out
    assert_all_right(compare(written, 4, ingesters))


def test_another_provider_is_asked_where_one_is_away_and_the_reason_is_shown_where_all_are(
    written: Pipeline, simulator: SimulatorServer
) -> None:
    away = f"{simulator.polygon_url}/down"
    assert_all_right(compare(written, 4, polygon_rpc_url=f"{simulator.polygon_url},{away}"))
    found = compare(written, 2, polygon_rpc_url=away)
    assert [(each.source, "503" in each.reason) for each in found.not_read] == [("polygon", True)]
    assert source_problems(found) == []
    assert not is_complete(found)


def test_only_what_was_read_and_is_old_enough_is_covered(written: Pipeline, simulator: SimulatorServer) -> None:
    now = int(time.time())
    history, cutover = simulator.get_json("/health")["history_start"], written.settings.cutover_timestamp
    covered = {each.source: each for each in read_covered(written.queue, written.settings, now - 20)}
    assert cutover - 10 < covered["goldsky"].end <= cutover + 1
    assert covered["goldsky"].begin == history
    assert covered["polygon"].begin == written.settings.cutover_block
    assert covered["polygon"].until <= now - 20
    assert read_covered(written.queue, written.settings, history - 10_000) == []


def test_a_backfill_covers_its_range_once_it_is_complete(written: Pipeline) -> None:
    lease = take_lease(written.queue, "backfill_goldsky", 60.0)
    assert lease is not None
    progress = Progress(written.queue, lease, source="goldsky", name="1000..2000", stream=written.events)
    progress.begin(1000, 2000, 1000, 2000)
    assert 1000 not in {each.begin for each in read_covered(written.queue, written.settings, 3000)}
    progress.complete()
    assert 1000 in {each.begin for each in read_covered(written.queue, written.settings, 3000)}
    written.queue.call("DEL", progress.key)
    lease.release()


class TestCommand:
    """`.venv/bin/python3 -m monitoring.audit --against-source`, which runs ingesters.reread as a process."""

    @pytest.fixture
    def run(self, written: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
        settings = written.settings
        for name in (*SERVERS, "goldsky_url", "polygon_rpc_url", "cutover_block", "cutover_timestamp"):
            monkeypatch.setenv(name.upper(), str(getattr(settings, name)))
        return lambda *words: audit.main(["--against-source", "--settle", "8", *words])

    def test_all_right_ends_with_0_and_a_summary(
        self, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--samples", "4", "--seed", "5") == 0
        told = capsys.readouterr()
        assert told.out.startswith("Read again with --seed 5:\n  goldsky: 2 samples, 80 seconds, ")
        assert told.out.endswith("All right.\n")
        assert told.err == ""

    def test_a_difference_ends_with_1_and_its_id(
        self, written: Pipeline, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = f"{written.clickhouse.database}.order_filled"
        columns = ", ".join(OrderFilled.__struct_fields__)
        others = columns.replace("id, ", "concat(id, ' by hand'), ", 1)
        written.clickhouse.command(f"INSERT INTO {table} ({columns}) SELECT {others} FROM {table}")
        status = run("--samples", "2", "--json")
        written.clickhouse.command(f"ALTER TABLE {table} DELETE WHERE id LIKE '% by hand' SETTINGS mutations_sync = 1")
        told = json.loads(capsys.readouterr().out)
        assert (status, told["ok"]) == (1, False)
        assert all(each["id"].endswith(" by hand") for each in told["surplus"])
        assert len(told["surplus"]) == sum(each["fills"] for each in told["read"])

    def test_nothing_old_enough_ends_with_3(self, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--settle", "100000") == 3
        assert "no range that the pipeline has read is old enough yet" in capsys.readouterr().out

    def test_a_setting_that_only_ingesters_understand_ends_with_2_as_well(
        self, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("POLYGON_RPC_URL", "http://a,b")
        assert run() == 2
        assert "POLYGON_RPC_URL: expected addresses" in capsys.readouterr().err
