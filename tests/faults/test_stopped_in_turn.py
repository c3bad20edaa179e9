"""100,000 fills through two processors and two writers as real processes, each of them stopped in turn under load."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from common.config import Settings
from common.records import encode
from common.redis_queue import Offer, Position
from tests.builders import Pipeline, make_fill
from tests.faults.processes import Fleet, Program
from tests.faults.stack import QUICK, WITHOUT_MERGES, program_spec
from tests.waiting import wait_until

FILLS = 100_000
PAGE = 1000
MODULES = {"processor": "processors.trade_processor", "writer": "processors.clickhouse_writer"}
NAMES = ("processor-1", "writer-1", "processor-2", "writer-2")
SHARE = FILLS // (2 * len(NAMES))  # of the fills for each stop
LIMIT_S = 120.0


@pytest.fixture
def fleet(pipeline: Pipeline, tmp_path: Path) -> Iterator[Fleet]:
    """Yield two processors and two writers that are up."""
    settings = pipeline.settings
    env = {
        **QUICK,
        "KEY_PREFIX": settings.key_prefix,
        "REDIS_HOST": settings.redis_host,
        "REDIS_PORT": str(settings.redis_port),
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "PIPELINE_MODE": settings.pipeline_mode,
        "LOG_TO_FILE": "false",
    }
    with Fleet(tmp_path) as fleet:
        for name in NAMES:
            module = MODULES[name.partition("-")[0]]
            fleet.add(program_spec(name, [module], env, "starting, pid {pid},")).start()
        wait_for(fleet, fleet.are_up, "all four are up")
        yield fleet


def wait_for(fleet: Fleet, condition: Callable[[], bool], what: str) -> None:
    """Look after the processes until it is so."""

    def is_so() -> bool:
        fleet.tick()
        return condition()

    wait_until(is_so, what, LIMIT_S)


def push(pipeline: Pipeline, numbers: range) -> None:
    """Publish fills as an ingester does."""
    for start in range(numbers.start, numbers.stop, PAGE):
        fills = [make_fill(i) for i in range(start, min(start + PAGE, numbers.stop))]
        offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in fills]
        position = Position(fills[-1].timestamp, fills[-1].id)
        pipeline.queue.push_batch(pipeline.events, offers, source="goldsky", position=position, window_s=120)


def keep_parts(pipeline: Pipeline, settings: Settings) -> None:
    """Keep merges from removing a row that was inserted twice before it can be counted."""
    changes = ", ".join(f"{name} = {value}" for name, value in WITHOUT_MERGES.items())
    for table in ("order_filled", "trades"):
        pipeline.clickhouse.command(f"ALTER TABLE {settings.clickhouse_database}.{table} MODIFY SETTING {changes}")


def has_more_trades(pipeline: Pipeline, before: int) -> bool:
    return pipeline.count("trades") > before


def is_back(program: Program, starts: int) -> bool:
    return program.starts > starts and program.is_up()


@pytest.mark.timeout(4 * LIMIT_S)
def test_every_fill_is_there_once_whichever_process_is_stopped(pipeline: Pipeline, fleet: Fleet) -> None:
    keep_parts(pipeline, pipeline.settings)
    pipeline.add_markets(range(10))
    pushed = 0
    for stop in ("terminate", "kill"):
        for name in NAMES:
            done, middle = pipeline.count("trades"), pushed + SHARE // 2
            push(pipeline, range(pushed, middle))
            wait_for(fleet, partial(has_more_trades, pipeline, done), "the work on these fills has begun")
            push(pipeline, range(middle, pushed + SHARE))  # so that there is work left, however fast they are
            pushed += SHARE
            assert pipeline.unfinished() > 0
            starts = fleet[name].starts
            assert getattr(fleet[name], stop)()
            wait_for(fleet, partial(is_back, fleet[name], starts), f"{name} is up again")
    wait_for(fleet, lambda: pipeline.unfinished() == 0, "everything is done")
    assert fleet.findings() == []  # such as a stop that took too long or did not end with 0
    served = {make_fill(i).id for i in range(FILLS)}
    assert pushed == FILLS
    for table in ("order_filled", "trades"):
        assert pipeline.count(table) == pipeline.count(table, "uniqExact(id)") == FILLS
        assert set(pipeline.ids(table)) == served
    assert pipeline.dead(pipeline.events) == pipeline.dead(pipeline.trades) == []
