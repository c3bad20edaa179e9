"""Real processes, frozen with SIGSTOP while fills arrive: reported in time, and without false alarms."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from common.records import encode
from common.redis_queue import Offer, Position
from monitoring.health import judge
from monitoring.status import collect
from tests.builders import Pipeline, make_fill
from tests.faults.processes import Fleet
from tests.faults.stack import program_spec
from tests.waiting import wait_until

MODULES = {"trade_processor": "processors.trade_processor", "clickhouse_writer": "processors.clickhouse_writer"}
LIMIT_S = 30.0  # within which a frozen process has to be reported
AT_ONCE = 50  # fills a look, some 20 looks a second


class Demo:
    """A processor and a writer on fills that never end."""

    def __init__(self, pipeline: Pipeline, fleet: Fleet) -> None:
        self.pipeline = pipeline
        self.fleet = fleet
        self.pushed = 0
        settings = pipeline.settings
        self._env = {
            "KEY_PREFIX": settings.key_prefix,
            "REDIS_HOST": settings.redis_host,
            "REDIS_PORT": str(settings.redis_port),
            "CLICKHOUSE_HOST": settings.clickhouse_host,
            "CLICKHOUSE_PORT": str(settings.clickhouse_port),
            "CLICKHOUSE_DATABASE": settings.clickhouse_database,
            "PIPELINE_MODE": settings.pipeline_mode,
            "LOG_TO_FILE": "false",
        }

    def start(self, name: str) -> None:
        component = name.partition("-")[0]
        self.fleet.add(program_spec(name, [MODULES[component]], self._env, "starting, pid {pid},")).start()

    def publish(self, count: int) -> None:
        fills = [make_fill(i) for i in range(self.pushed, self.pushed + count)]
        offers = [Offer(fill.id, encode(fill), fill.timestamp) for fill in fills]
        position = Position(fills[-1].timestamp, fills[-1].id)
        self.pipeline.queue.push_batch(self.pipeline.events, offers, source="g", position=position, window_s=10**6)
        self.pushed += count

    def about(self, component: str) -> list[str]:
        """The verdict's reasons about a component, while fills keep arriving."""
        self.publish(AT_ONCE)
        self.fleet.tick()
        pipeline = self.pipeline
        status = collect(pipeline.queue, pipeline.clickhouse, pipeline.settings, time.time())
        return [f"{each.severity}: {each.text}" for each in judge(status).reasons if each.about == component]

    def is_fine(self) -> bool:
        return not any(self.about(component) for component in MODULES)

    def has_stored(self, count: int) -> bool:
        self.fleet.tick()
        return self.pipeline.count("trades", "uniqExact(id)") >= count


@pytest.fixture
def demo(pipeline: Pipeline, tmp_path: Path) -> Iterator[Demo]:
    pipeline.add_markets(range(10))
    with Fleet(tmp_path) as fleet:
        made = Demo(pipeline, fleet)
        for name in MODULES:
            made.start(name)
        wait_until(made.is_fine, "both run")
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MODULES)
def test_a_frozen_process_is_broken_within_half_a_minute_and_fine_when_it_goes_on(demo: Demo, name: str) -> None:
    assert demo.fleet[name].pause(3600)
    wait_until(lambda: demo.about(name), f"{name} is reported", LIMIT_S)
    [text] = demo.about(name)
    assert text.startswith(f"broken: is frozen: {name}-1 (pid {demo.fleet[name].pid} ")
    assert not demo.about(next(other for other in MODULES if other != name))
    demo.fleet[name].resume()
    wait_until(demo.is_fine, f"{name} is fine again", LIMIT_S)
    wait_until(partial(demo.has_stored, demo.pushed), "everything is stored")


@pytest.mark.timeout(300)
def test_a_frozen_writer_whose_work_another_takes_over_is_no_alarm(demo: Demo) -> None:
    demo.start("clickhouse_writer-second")
    wait_until(lambda: len(demo.pipeline.queue.heartbeats()) == 3, "all three beat")
    assert demo.fleet["clickhouse_writer"].pause(3600)
    frozen_at = time.monotonic()

    def is_over_without_alarm() -> bool:
        assert demo.is_fine()
        return time.monotonic() - frozen_at > LIMIT_S

    wait_until(is_over_without_alarm, "half a minute")
    wait_until(partial(demo.has_stored, demo.pushed), "everything is stored by the other one")


@pytest.mark.timeout(300)
def test_a_backlog_of_old_entries_that_is_worked_off_is_no_alarm(demo: Demo) -> None:
    for name in MODULES:
        assert demo.fleet[name].terminate(away_s=3600)
    wait_until(lambda: not any(demo.fleet[name].is_running() for name in MODULES), "both have ended")
    for _ in range(30):
        demo.publish(2000)
    for name in MODULES:
        demo.start(name)
    wait_until(demo.is_fine, "both run again")

    def is_stored_without_alarm() -> bool:
        assert demo.is_fine()
        return demo.pipeline.count("trades") >= 60_000

    wait_until(is_stored_without_alarm, "the backlog is stored")
