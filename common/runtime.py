"""The life of a process: loop, back-off, signals, drain, exit code, heartbeat.

A stage does one bounded piece of work per step and raises `Unavailable` when something outside is not there; waiting,
saying so and going on is done here. Anything unexpected ends the process with a traceback and exit code 1: the
supervisor starts it again, and what was not acknowledged is its state.
"""

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import FrameType
from typing import NamedTuple, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from common.config import Settings, doubtful_names, load_settings
from common.errors import ConfigError, Unavailable
from common.eviction import EvictionWatch
from common.logging_config import setup_logging
from common.redis_queue import RedisQueue
from common.state import check_mode

EXIT_CLEAN, EXIT_CRASH, EXIT_CONFIG = 0, 1, 2
HEARTBEAT_S = 1.0  # at most one heartbeat a second
HEARTBEAT_TTL_S = 3600  # a heartbeat that nobody refreshes is history after an hour
WAITING_HEARTBEAT_S = 10.0  # and every so often while waiting out something unavailable
# Containers more than before, after which Python looks for cycles. Its default is 700, which the lists of one large
# reply exceed many times: looking took a sixth of the writer's time.
GARBAGE_THRESHOLD = 50_000
REMIND_S = 60.0  # what keeps being unavailable is said once a minute

T = TypeVar("T")


class Context(NamedTuple):
    """What a stage is built with."""

    settings: Settings
    queue: RedisQueue
    log: logging.Logger
    stopping: Callable[[], bool]


class Stage(Protocol):
    """One process of the pipeline."""

    @property
    def instance(self) -> str:
        """Name of its heartbeat: the component, or the component and its number."""

    def step(self) -> float:
        """One bounded piece of work; returns the seconds to wait before the next. Raises Unavailable."""

    def drain(self) -> None:
        """Finish what is in hand within `drain_s`, on a clean stop. May give up with Unavailable: nothing is lost."""

    def close(self) -> None:
        """Let go of connections."""

    def report(self) -> Mapping[str, str | int | float]:
        """What the heartbeat tells beside the state."""


class Signals:
    """SIGTERM and SIGINT: the first one asks for a clean stop and ends a wait, the second one aborts."""

    def __init__(self) -> None:
        self.stopping = False  # a plain attribute: a handler that sets a threading.Event can deadlock
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def wait(self, seconds: float) -> None:
        """Sleep until the time is over or a signal has arrived."""
        if seconds > 0 and not self.stopping:
            select.select([self._readable], [], [], seconds)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.stopping = True
        os.write(self._writable, b"x")
        signal.signal(number, signal.SIG_DFL)


class Heartbeat:
    """What the process tells about itself in Redis, at most once a second unless its state changes."""

    def __init__(self, component: str, settings: Settings, queue: RedisQueue, now: Callable[[], float]) -> None:
        self._queue = queue
        self._now = now
        self._written_at = 0.0
        self._state = ""
        self._fields = {
            "component": component,
            "pid": str(os.getpid()),
            "host": socket.gethostname(),
            "mode": settings.pipeline_mode,
            "started_at": f"{now():.3f}",
        }

    def beat(self, stage: Stage, state: str, reason: str = "", next_attempt_at: float | None = None) -> None:
        """Raises Unavailable when Redis is away."""
        now = self._now()
        if state == self._state and not reason and now - self._written_at < HEARTBEAT_S:
            return
        if "starts" not in self._fields:
            self._fields["starts"] = str(self._queue.count_start(self._fields["component"]))
        told = {
            **self._fields,
            "instance": stage.instance,
            "state": state,
            "reason": reason,
            "next_attempt_at": "" if next_attempt_at is None else f"{next_attempt_at:.3f}",
            "updated_at": f"{now:.3f}",
        }
        told.update((name, str(value)) for name, value in stage.report().items())
        self._queue.beat(stage.instance, told, HEARTBEAT_TTL_S)
        self._written_at, self._state = now, state

    def end(self, stage: Stage) -> None:
        """The last one, of a process that ends because it was told to: its start no longer counts.

        Starts beyond the running processes are restarts after a crash. Raises Unavailable when Redis is away.
        """
        if "starts" in self._fields:
            self._fields["starts"] = str(self._queue.count_start(self._fields["component"], -1))
        self.beat(stage, "stopped")


class Runner:
    """Steps a stage until it is told to stop, then drains it."""

    def __init__(
        self,
        component: str,
        context: Context,
        signals: Signals,
        *,
        longest_wait_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._context = context
        self._signals = signals
        self._now = now
        self._heartbeat = Heartbeat(component, context.settings, context.queue, now)
        self._eviction = EvictionWatch(context.queue, context.log)
        self._waiting_since: float | None = None
        self._reminded_at = 0.0
        self._reason = ""
        initial_s = context.settings.backoff_initial_s
        self._backoff = wait_exponential(initial_s, longest_wait_s) + wait_random(0, initial_s)

    def run(self, build: Callable[[Context], Stage]) -> None:
        """From the first step to the end of the drain."""
        stage = self._patiently(lambda: build(self._context))
        if stage is None:
            return
        try:
            while not self._signals.stopping:
                wait_s = self._patiently(lambda: self._step(stage), stage)
                self._signals.wait(self._until_next_beat(stage, wait_s or 0.0))
            self._drain(stage)
        finally:
            stage.close()

    def _step(self, stage: Stage) -> float:
        if self._waiting_since is None:
            self._tell(stage, "running")  # not even a full Redis, which refuses it, may keep the stage from its work
        wait_s = stage.step()
        self._recovered()
        return wait_s

    def _until_next_beat(self, stage: Stage, wait_s: float) -> float:
        """Waits out all but the last part of a long wait, so that the heartbeat stays fresh meanwhile."""
        until = self._now() + wait_s
        while until - self._now() > HEARTBEAT_S and not self._signals.stopping:
            self._signals.wait(HEARTBEAT_S)
            self._tell(stage, "running")
        return until - self._now()

    def _patiently(self, work: Callable[[], T], stage: Stage | None = None) -> T | None:
        """The result of the work, however long it takes until it is available; None when told to stop before."""
        retrying = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=self._wait_s,
            stop=lambda _: self._signals.stopping,
            before_sleep=self._say_unavailable,
            sleep=lambda seconds: self._sit_out(stage, self._now() + seconds),
            retry_error_callback=lambda _: None,
        )
        return retrying(lambda: None if self._signals.stopping else work())

    def _wait_s(self, attempt: RetryCallState) -> float:
        return max(self._backoff(attempt), _unavailable(attempt).retry_after_s)

    def _say_unavailable(self, attempt: RetryCallState) -> None:
        gc.collect()  # a failed insert's traceback holds its rows, 35 MB, in a cycle; there may be hundreds of failures
        self._reason = _unavailable(attempt).reason
        now = self._now()
        if self._waiting_since is None:
            self._waiting_since = self._reminded_at = now
            self._context.log.warning("waiting: %s; next attempt in %.1f s", self._reason, attempt.upcoming_sleep)
        elif now - self._reminded_at >= REMIND_S:
            self._reminded_at = now
            waited_s = now - self._waiting_since
            self._context.log.warning("still waiting after %.0f s: %s", waited_s, self._reason)

    def _sit_out(self, stage: Stage | None, until: float) -> None:
        while (left := until - self._now()) > 0 and not self._signals.stopping:
            self._tell(stage, "waiting", self._reason, until)
            self._signals.wait(min(left, WAITING_HEARTBEAT_S))

    def _tell(self, stage: Stage | None, state: str, reason: str = "", next_attempt_at: float | None = None) -> None:
        """A heartbeat that may be missed: Redis itself can be what is away."""
        if stage is None:
            return
        try:
            self._heartbeat.beat(stage, state, reason, next_attempt_at)
        except Unavailable:
            self._context.log.debug("no heartbeat: Redis is away")
        if state == "running":
            self._eviction.check(self._now())

    def _recovered(self) -> None:
        if self._waiting_since is not None:
            self._context.log.info("available again after %.1f s", self._now() - self._waiting_since)
            self._waiting_since = None
            self._eviction.check_soon()

    def _drain(self, stage: Stage) -> None:
        self._context.log.info("stopping: finishing what is in hand")
        deadline = self._now() + self._context.settings.drain_s
        self._tell(stage, "draining")
        try:
            stage.drain()
        except Unavailable as error:
            # Nothing is lost: what is not acknowledged is delivered again after the next start.
            self._context.log.warning("stopped before the drain was complete: %s", error.reason)
        if self._now() > deadline:
            self._context.log.warning("the drain took longer than drain_s")
        try:
            self._heartbeat.end(stage)
        except Unavailable:
            self._context.log.debug("no heartbeat: Redis is away")


def fulfil(future: Future[T], work: Callable[[], T]) -> None:
    """Do a future's work in this thread. Whatever goes wrong is raised in the one that asks for the result."""
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - the stage's own thread crashes with it, and with its traceback
        future.set_exception(error)


def _in_own_mode(build: Callable[[Context], Stage]) -> Callable[[Context], Stage]:
    """Builds the stage unless Redis holds the other mode's data: demo and live data never mix. Raises ConfigError."""

    def checked(context: Context) -> Stage:
        check_mode(context.queue, context.settings.pipeline_mode)
        return build(context)

    return checked


def _unavailable(attempt: RetryCallState) -> Unavailable:
    error = attempt.outcome.exception() if attempt.outcome else None
    assert isinstance(error, Unavailable)
    return error


def main(component: str, build: Callable[[Context], Stage], *, leased: bool = False) -> int:
    """Run a component until a signal; the process's exit status.

    A leased component must not fall silent for as long as its lease lasts, so its back-off stays well below it.
    """
    try:
        settings, doubts = load_settings(), doubtful_names()
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - there is no logger without settings
        return EXIT_CONFIG
    log = setup_logging(component, settings)
    signals = Signals()
    signals.install()
    queue = RedisQueue(settings)
    longest_wait_s = min(settings.backoff_max_s, settings.lease_s / 3) if leased else settings.backoff_max_s
    context = Context(settings, queue, log, lambda: signals.stopping)
    gc.set_threshold(GARBAGE_THRESHOLD)
    log.info("starting, pid %d, %s mode", os.getpid(), settings.pipeline_mode)
    for doubt in doubts:
        log.warning("%s", doubt)
    try:
        Runner(component, context, signals, longest_wait_s=longest_wait_s).run(_in_own_mode(build))
    except ConfigError as error:
        log.error("configuration: %s", error)  # noqa: TRY400 - a traceback would hide what to change
        return EXIT_CONFIG
    except Exception:
        log.exception("crashed; the supervisor starts it again")
        return EXIT_CRASH
    finally:
        queue.close()
    log.info("stopped")
    return EXIT_CLEAN
