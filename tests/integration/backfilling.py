"""Backfills under test: in a thread or as a process, with a simulated past and a writer that empties the stream."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from common.clickhouse import ClickHouse
from common.config import Settings
from common.redis_queue import RedisQueue
from common.runtime import Context, Signals, Stage
from ingesters.backfill import Order, run
from ingesters.backfill_run import Stopped, Tools
from ingesters.backfill_text import Display
from tests.builders import LOG, Pipeline, step_until
from tests.servers import ROOT, environment
from tests.simulator import SimulatorServer
from tests.waiting import wait_until

LIMIT_S = 120.0


class Backfilling:
    """One backfill in a thread. Ends the thread when the context does."""

    def __init__(self, settings: Settings, order: Order) -> None:
        self._settings = settings
        self._order = order
        self._output = io.StringIO()
        self.signals = Signals()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    @property
    def output(self) -> str:
        return self._output.getvalue()

    def _run(self) -> None:
        queue, clickhouse = RedisQueue(self._settings), ClickHouse(self._settings)
        console = Console(file=self._output, width=120)
        try:
            with Display(console) as display:
                tools = Tools(self._settings, queue, clickhouse, self.signals, display)
                run(tools, display, console, self._order)
        except Exception as error:  # noqa: BLE001 - raised again in the test's thread
            self.failure = error
        finally:
            queue.close()
            clickhouse.close()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.signals.stopping = True
        self._thread.join(LIMIT_S)

    def finish(self) -> str:
        """What it has told, once it is over. Raises what it has raised."""
        wait_until(self.is_over, "the backfill is over", LIMIT_S)
        if self.failure is not None:
            raise self.failure
        return self.output


@contextmanager
def backfilling(settings: Settings, begin: int, end: int, **options: Any) -> Iterator[Backfilling]:
    running = Backfilling(settings, Order(begin, end, **options))
    running.start()
    try:
        yield running
    finally:
        running.stop()


def backfill(settings: Settings, begin: int, end: int, **options: Any) -> str:
    """Run it to its end; what it has told."""
    with backfilling(settings, begin, end, **options) as running:
        return running.finish()


def stopped_at(settings: Settings, begin: int, end: int, condition: Callable[[], bool], **options: Any) -> None:
    """Run it until the condition holds, and stop it there."""
    with backfilling(settings, begin, end, **options) as running:
        wait_until(condition, "the backfill is under way", LIMIT_S)
        running.stop()
        assert isinstance(running.failure, Stopped)


class Command:
    """`python -m ingesters.backfill` as a process."""

    def __init__(self, settings: Settings, folder: Path, *arguments: str) -> None:
        self._log = folder / "backfill.log"
        changed = {name: value for name, value in settings.model_dump().items() if value is not None}
        told = {name.upper(): str(value) for name, value in changed.items() if "password" not in name}
        told = {name: value for name, value in told.items() if not name.endswith("_KEY")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ingesters.backfill", *arguments],
                cwd=ROOT,
                env=environment({**told, "PYTHONUNBUFFERED": "1"}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self._log.read_text()

    def end(self, number: int | None = None) -> int:
        """Its exit status, after this signal."""
        if number is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT_S)
            raise


def settings_of(settings: Settings, simulator: SimulatorServer, **changes: Any) -> Settings:
    """A pipeline's settings for this simulator: pages small enough for a short past to have many."""
    own: dict[str, Any] = {
        "goldsky_url": simulator.goldsky_url,
        "polygon_rpc_url": simulator.polygon_url,
        "goldsky_page_size": 200,
        "polygon_max_blocks": 60,
        "backfill_requests_per_10s": 10_000,
        "backfill_polygon_requests_per_10s": 10_000,
        "backfill_workers": 4,
        "order_events_start": str(simulator.get_json("/health")["birth"]),
        "lease_s": 60.0,  # a paused machine does not lose it, unless the test takes it away
        **simulator.cutover_settings(),
    }
    return settings.model_copy(update={**own, **changes})


def published(pipeline: Pipeline) -> Counter[str]:
    """How often each fill was published."""
    return Counter(id_of(row) for row in pipeline.rows(pipeline.events))


def assert_each_once(pipeline: Pipeline, expected: set[str]) -> None:
    """Exactly these fills were published, none of them twice."""
    counted = published(pipeline)
    assert set(counted) == expected
    assert set(counted.values()) == {1}


def id_of(row: bytes) -> str:
    return row.partition(b'"id":"')[2].partition(b'"')[0].decode()


def step_beside(running: Backfilling, *stages: Stage) -> str:
    """Step the stages until the backfill is over; what it has told."""

    def turn() -> bool:
        for stage in stages:
            stage.step()
        return running.is_over()

    wait_until(turn, "the backfill is over", LIMIT_S)
    for stage in stages:
        stage.drain()
        stage.close()
    return running.finish()


def write_all(pipeline: Pipeline) -> None:
    """Have everything that is in the stream written to ClickHouse."""
    writer = pipeline.writer()
    try:
        step_until([writer], lambda: written(pipeline), "everything is written")
    finally:
        writer.drain()
        writer.close()


def written(pipeline: Pipeline) -> bool:
    groups = pipeline.queue.stream_info(pipeline.events).groups
    return any(
        group.name == pipeline.settings.group_order_events_writers and group.pending == 0 and group.lag == 0
        for group in groups
    )


def truth(simulator: SimulatorServer, begin: int, end: int) -> set[str]:
    return set(simulator.truth_fills(since=begin, until=end))


def assert_live_has_the_rest(
    build: Callable[[Context], Stage], pipeline: Pipeline, simulator: SimulatorServer, settings: Settings, begin: int
) -> None:
    """A live ingester that starts now reads what the backfill has left to it, and everything is there once."""
    live = build(Context(settings, pipeline.queue, LOG, lambda: False))
    frozen_at = int(simulator.freeze())
    expected = truth(simulator, begin, frozen_at + 1)

    def has_all() -> bool:
        live.step()
        write_all(pipeline)
        return set(pipeline.ids("order_filled")) >= expected

    try:
        wait_until(has_all, "the live ingester has the rest", LIMIT_S)
    finally:
        live.close()
    assert sorted(pipeline.ids("order_filled")) == sorted(expected)
