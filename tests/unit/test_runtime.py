"""The life of a stage, on a clock of its own."""

import gc
import logging
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest

from common.errors import ConfigError, Unavailable
from common.redis_queue import RedisQueue
from common.runtime import HEARTBEAT_TTL_S, Context, Runner, Signals
from tests.builders import make_settings

START = 1_763_000_000.0
Work = Callable[[], float]


class Rows:
    """Something that refers to itself."""

    itself: "Rows"


class Clock(Signals):
    """Time that passes only while somebody waits, and a stop at a time of choice."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.stop_at = float("inf")
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        if seconds > 0 and not self.stopping:
            self.waits.append(seconds)
            self.now = min(self.now + seconds, self.stop_at)
        if self.now >= self.stop_at:
            self.stopping = True


class Beats(RedisQueue):
    """A queue that keeps the heartbeats, and is away on demand."""

    def __init__(self) -> None:
        super().__init__(make_settings())
        self.told: list[dict[str, str]] = []
        self.ttls: set[int] = set()
        self.started: list[str] = []
        self.starts = 6
        self.away = False
        self.info = {"run_id": "first", "maxmemory_policy": "noeviction"}

    def beat(self, instance: str, fields: Mapping[str, str], ttl_s: int) -> None:
        self._check()
        assert fields["instance"] == instance
        self.told.append(dict(fields))
        self.ttls.add(ttl_s)

    def count_start(self, component: str, change: int = 1) -> int:
        self._check()
        self.started += [component] * change
        self.starts += change
        return self.starts

    def server_info(self) -> dict[str, str]:
        self._check()
        return self.info

    def _check(self) -> None:
        if self.away:
            raise Unavailable("Redis is away")

    def states(self) -> list[str]:
        """Return the states told, without repetitions."""
        states = [beat["state"] for beat in self.told]
        return [state for i, state in enumerate(states) if i == 0 or states[i - 1] != state]


class Script:
    """A stage that does what the test says, and then idles until it is stopped."""

    instance = "script-1"

    def __init__(self, clock: Clock, *steps: Work) -> None:
        self._clock = clock
        self._steps = list(steps)
        self.stepped_at: list[float] = []
        self.drained = self.closed = 0
        self.on_drain: Callable[[], None] = lambda: None

    def step(self) -> float:
        self.stepped_at.append(self._clock.now)
        return self._steps.pop(0)() if self._steps else 3600.0

    def drain(self) -> None:
        self.drained += 1
        self.on_drain()

    def close(self) -> None:
        self.closed += 1

    def report(self) -> Mapping[str, str | int | float]:
        return {"records_in": len(self.stepped_at)}

    def gaps(self) -> list[float]:
        """Return the seconds between steps."""
        return [later - earlier for earlier, later in pairwise(self.stepped_at)]


def unavailable(reason: str = "Gamma answers 503", retry_after_s: float = 0.0) -> Work:
    def step() -> float:
        raise Unavailable(reason, retry_after_s=retry_after_s)

    return step


def fine(wait_s: float = 0.0) -> Work:
    return lambda: wait_s


class Life:
    """A clock, a queue, a log and settings, ready to run a stage."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.beats = Beats()
        self.settings = make_settings(**{"backoff_initial_s": 0.5, "backoff_max_s": 30.0, **settings})

    def run(self, stage: Script, stop_after_s: float, build: Callable[[Context], Script] | None = None) -> None:
        self.clock.stop_at = START + stop_after_s
        context = Context(self.settings, self.beats, logging.getLogger("script"), lambda: self.clock.stopping)
        runner = Runner("script", context, self.clock, longest_wait_s=self.settings.backoff_max_s, now=self.clock)
        runner.run(build or (lambda _: stage))


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "script")
    return caplog


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == logging.WARNING]


def test_steps_follow_at_once_or_after_the_time_that_the_stage_asks_for(life: Life) -> None:
    stage = Script(life.clock, fine(), fine(2.5), fine())
    life.run(stage, 100)
    assert stage.gaps()[:2] == [0, 2.5]


def test_a_stop_drains_once_and_closes_once(life: Life) -> None:
    stage = Script(life.clock, fine())
    life.run(stage, 10)
    assert (stage.drained, stage.closed) == (1, 1)
    assert life.beats.states()[-2:] == ["draining", "stopped"]


def test_a_stop_during_a_long_wait_is_not_waited_out(life: Life) -> None:
    stage = Script(life.clock, fine(3600))
    life.run(stage, 5)
    assert life.clock.now == START + 5
    assert stage.drained == 1


def test_a_stop_during_the_back_off_still_drains(life: Life) -> None:
    stage = Script(life.clock, unavailable(retry_after_s=600))
    life.run(stage, 5)
    assert (life.clock.now, stage.drained, stage.closed) == (START + 5, 1, 1)
    assert len(stage.stepped_at) == 1


def test_the_back_off_doubles_with_jitter_up_to_its_limit(life: Life) -> None:
    stage = Script(life.clock, *[unavailable()] * 15)
    life.run(stage, 3600)
    for attempt, gap in enumerate(stage.gaps()[:14]):
        shortest = min(0.5 * 2**attempt, 30.0)
        assert shortest <= gap <= shortest + 0.5 + 1e-6


def test_processes_that_wait_for_the_same_thing_do_not_all_come_back_at_once() -> None:
    """At the limit as well: that is where they meet."""
    gaps = []
    for _ in range(5):
        life = Life()
        stage = Script(life.clock, *[unavailable()] * 12)
        life.run(stage, 3600)
        gaps.append(stage.gaps()[10])
    assert len(set(gaps)) > 1


def test_a_source_that_says_when_to_come_back_is_heeded(life: Life) -> None:
    stage = Script(life.clock, unavailable(retry_after_s=17.0))
    life.run(stage, 100)
    assert stage.gaps()[0] == pytest.approx(17.0)


def test_the_back_off_begins_anew_after_a_success(life: Life) -> None:
    stage = Script(life.clock, *[unavailable()] * 6, fine(), unavailable())
    life.run(stage, 600)
    assert stage.gaps()[7] <= 1.0 + 1e-6


def test_an_outage_is_said_at_once_then_once_a_minute_and_its_end_as_well(
    life: Life, log: pytest.LogCaptureFixture
) -> None:
    stage = Script(life.clock, *[unavailable()] * 12, fine())
    life.run(stage, 3600)
    first, *reminders = warnings(log)
    assert first.startswith("waiting: Gamma answers 503; next attempt in ")
    outage_s = stage.stepped_at[12] - START
    assert outage_s / 100 <= len(reminders) <= outage_s / 60
    assert all("Gamma answers 503" in reminder for reminder in reminders)
    assert any(message.startswith("available again after") for message in log.messages)


def test_a_short_outage_is_said_once(life: Life, log: pytest.LogCaptureFixture) -> None:
    life.run(Script(life.clock, *[unavailable()] * 5, fine()), 50)
    assert len(warnings(log)) == 1


def test_an_outage_is_told_in_the_heartbeat_with_its_reason_and_the_next_attempt(life: Life) -> None:
    life.run(Script(life.clock, fine(), unavailable(retry_after_s=25), fine(1.5), fine()), 100)
    waiting = [beat for beat in life.beats.told if beat["state"] == "waiting"]
    assert {beat["reason"] for beat in waiting} == {"Gamma answers 503"}
    assert {beat["next_attempt_at"] for beat in waiting} == {f"{START + 25:.3f}"}
    assert len(waiting) >= 3  # fresh meanwhile
    after = life.beats.told[life.beats.told.index(waiting[-1]) + 1]
    assert (after["state"], after["reason"], after["next_attempt_at"]) == ("running", "", "")


def test_the_heartbeat_tells_who_where_since_when_and_what_the_stage_reports(life: Life) -> None:
    life.run(Script(life.clock, fine()), 10)
    beat = life.beats.told[0]
    assert beat["component"] == "script"
    assert beat["pid"] == str(os.getpid())
    assert beat["state"] == "running"
    assert beat["starts"] == "7"
    assert beat["mode"] == "live"
    assert beat["started_at"] == beat["updated_at"] == f"{START:.3f}"
    assert beat["records_in"] == "0"
    assert life.beats.started == ["script"]
    assert {"host", "reason", "next_attempt_at", "instance"} <= set(beat)
    assert life.beats.ttls == {HEARTBEAT_TTL_S}


def test_a_process_that_was_told_to_end_takes_its_start_back(life: Life) -> None:
    life.run(Script(life.clock, fine()), 10)
    assert [beat["starts"] for beat in life.beats.told if beat["state"] == "running"][-1] == "7"
    assert (life.beats.told[-1]["state"], life.beats.told[-1]["starts"]) == ("stopped", "6")


def test_a_process_that_crashes_leaves_its_start_counted(life: Life) -> None:
    def crash() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        life.run(Script(life.clock, crash), 10)
    assert life.beats.starts == 7


def test_a_busy_stage_beats_once_a_second_at_most(life: Life) -> None:
    life.run(Script(life.clock, *[fine(0.01)] * 1000), 8)
    assert 8 <= sum(beat["state"] == "running" for beat in life.beats.told) <= 10


def test_the_heartbeat_stays_fresh_over_a_long_wait(life: Life) -> None:
    life.run(Script(life.clock, fine(60)), 60)
    times = [float(beat["updated_at"]) for beat in life.beats.told]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 2.0


def test_a_stage_works_on_while_its_heartbeat_can_not_be_written(life: Life) -> None:
    """A full Redis refuses heartbeats, and it is the stages' work that makes room in it."""
    life.beats.away = True
    stage = Script(life.clock, *[fine(1)] * 5)
    life.run(stage, 10)
    assert len(stage.stepped_at) >= 5
    assert stage.drained == 1


def test_what_a_stage_needs_to_be_built_is_waited_for(life: Life, log: pytest.LogCaptureFixture) -> None:
    stage = Script(life.clock)
    failures = iter([Unavailable("Redis is away"), Unavailable("Redis is away")])

    def build(_: Context) -> Script:
        for failure in failures:
            raise failure
        return stage

    life.run(stage, 100, build)
    assert stage.stepped_at
    assert len(warnings(log)) == 1


def test_what_failures_hold_does_not_pile_up_in_an_outage(life: Life) -> None:
    """As a failed insert's traceback holds its rows: in a cycle. They are more than Python notices by itself."""
    held: list[weakref.ref[Rows]] = []
    alive: list[int] = []

    def fail() -> float:
        alive.append(sum(rows() is not None for rows in held))
        rows = Rows()
        rows.itself = rows
        held.append(weakref.ref(rows))
        raise Unavailable("ClickHouse is away")

    gc.disable()
    try:
        life.run(Script(life.clock, *[fail] * 50), 3600)
    finally:
        gc.enable()
    assert len(alive) == 50
    assert max(alive) <= 1


def test_a_stop_before_a_stage_could_be_built_ends_quietly(life: Life) -> None:
    def build(_: Context) -> Script:
        raise Unavailable("Redis is away")

    life.run(Script(life.clock), 100, build)
    assert life.clock.now == START + 100


def test_a_drain_that_meets_an_outage_gives_up_and_closes(life: Life, log: pytest.LogCaptureFixture) -> None:
    stage = Script(life.clock)

    def fail() -> None:
        raise Unavailable("ClickHouse is away")

    stage.on_drain = fail
    life.run(stage, 1)
    assert stage.closed == 1
    assert warnings(log) == ["stopped before the drain was complete: ClickHouse is away"]


def test_a_drain_beyond_its_limit_is_said(life: Life, log: pytest.LogCaptureFixture) -> None:
    stage = Script(life.clock)

    def take_long() -> None:
        life.clock.now += life.settings.drain_s + 1

    stage.on_drain = take_long
    life.run(stage, 1)
    assert warnings(log) == ["the drain took longer than drain_s"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), ConfigError("wrong"), KeyError("bug")])
def test_anything_else_ends_the_run_and_closes_the_stage(life: Life, error: Exception) -> None:
    def crash() -> float:
        raise error

    stage = Script(life.clock, crash)
    with pytest.raises(type(error)):
        life.run(stage, 100)
    assert (stage.closed, stage.drained) == (1, 0)


class TestSignals:
    """Real signals in this process, which is the main thread's business."""

    @pytest.fixture
    def signals(self) -> Iterator[Signals]:
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        signals = Signals()
        signals.install()
        yield signals
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_first_signal_ends_a_wait_and_later_waits_do_not_begin(self, signals: Signals, number: int) -> None:
        signal.raise_signal(number)
        signals.wait(3600)
        assert signals.stopping

    @pytest.mark.usefixtures("signals")
    def test_the_second_signal_of_a_kind_aborts(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL


def change(life: Life, **info: str) -> Work:
    def step() -> float:
        life.beats.info = life.beats.info | info
        return 60.0

    return step


def test_an_eviction_policy_that_loses_fills_is_warned_about_once(life: Life, log: pytest.LogCaptureFixture) -> None:
    life.beats.info["maxmemory_policy"] = "allkeys-lru"
    life.run(Script(life.clock, *[fine(1.0)] * 600), 600)
    [warning] = warnings(log)
    assert "maxmemory-policy is allkeys-lru" in warning
    assert warning.endswith("run redis-cli CONFIG SET maxmemory-policy noeviction")


def test_it_is_warned_about_again_when_it_changes_and_not_when_it_is_fixed(
    life: Life, log: pytest.LogCaptureFixture
) -> None:
    policies = ("allkeys-lru", "volatile-ttl", "noeviction", "allkeys-lru")
    life.run(Script(life.clock, *[change(life, maxmemory_policy=policy) for policy in policies]), 600)
    reported = [warning.split(":")[0] for warning in warnings(log)]
    assert reported == [f"maxmemory-policy is {policy}" for policy in ("allkeys-lru", "volatile-ttl", "allkeys-lru")]


def test_it_is_warned_about_again_on_another_server(life: Life, log: pytest.LogCaptureFixture) -> None:
    life.beats.info["maxmemory_policy"] = "allkeys-lru"
    life.run(Script(life.clock, fine(1.0), unavailable(), change(life, run_id="second")), 100)
    assert [warning.startswith("maxmemory-policy") for warning in warnings(log)] == [True, False, True]


def test_a_server_that_does_not_report_its_policy_is_no_reason_to_stop(
    life: Life, log: pytest.LogCaptureFixture
) -> None:
    life.beats.info = {}
    stage = Script(life.clock, *[fine(1.0)] * 5)
    life.run(stage, 100)
    assert (len(stage.stepped_at) > 5, warnings(log)) == (True, [])
