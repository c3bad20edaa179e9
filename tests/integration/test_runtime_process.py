"""A stage as a process: signals, exit codes, log, heartbeat."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import Settings
from common.redis_queue import RedisQueue
from tests.servers import ROOT, RedisServer
from tests.waiting import wait_until

SCRIPT = '''
"""A stage of a few lines."""
import sys
from common.errors import ConfigError, Unavailable
from common.runtime import main


class Stage:
    instance = "tiny-1"

    def __init__(self, context):
        self.context = context
        self.steps = 0

    def step(self):
        self.steps += 1
        if "crash" in sys.argv:
            raise ZeroDivisionError("a bug")
        if "wrong" in sys.argv:
            raise ConfigError("SOME_SETTING: is wrong")
        if "away" in sys.argv:
            raise Unavailable("the source answers 503", retry_after_s=3600)
        return 3600.0

    def drain(self):
        self.context.queue.call("SET", self.context.queue.keys("drained"), "yes")
        if "slow" in sys.argv:
            import time
            time.sleep(3600)

    def close(self):
        print("closed")

    def report(self):
        return {"records_in": self.steps}


if __name__ == "__main__":
    raise SystemExit(main("tiny", Stage, leased="leased" in sys.argv))
'''


class Tiny:
    """The process and what can be seen of it from outside."""

    def __init__(self, folder: Path, settings: Settings, queue: RedisQueue) -> None:
        self._folder = folder
        self._settings = settings
        self._queue = queue
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        script = self._folder / "tiny.py"
        script.write_text(SCRIPT, "utf-8")
        settings = {
            "PYTHONPATH": str(ROOT),
            "REDIS_HOST": self._settings.redis_host,
            "REDIS_PORT": str(self._settings.redis_port),
            "KEY_PREFIX": self._settings.key_prefix,
            "LOG_DIR": str(self._folder / "logs"),
            "LOG_TO_FILE": "true",
        }
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=self._folder,
            env={**os.environ, **settings, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def heartbeat(self) -> dict[str, str]:
        return next(iter(self._queue.heartbeats()), {})

    def wait_for_state(self, state: str) -> dict[str, str]:
        wait_until(lambda: self.heartbeat().get("state") == state, f"the heartbeat says {state}")
        return self.heartbeat()

    def log(self) -> str:
        return (self._folder / "logs" / "tiny.log").read_text("utf-8")

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate(timeout=60)


@pytest.fixture
def tiny(tmp_path: Path, queue: RedisQueue, queue_settings: Settings) -> Iterator[Tiny]:
    tiny = Tiny(tmp_path, queue_settings, queue)
    yield tiny
    tiny.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_long_wait_at_once_with_a_drain_and_exit_status_0(
    tiny: Tiny, queue: RedisQueue, number: signal.Signals
) -> None:
    process = tiny.start()
    tiny.wait_for_state("running")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert queue.call("GET", queue.keys("drained")) == b"yes"
    assert tiny.heartbeat()["state"] == "stopped"
    assert out.index("stopping") < out.index("closed") < out.index("stopped")


def test_a_signal_during_a_back_off_ends_it_at_once(tiny: Tiny) -> None:
    process = tiny.start("away")
    beat = tiny.wait_for_state("waiting")
    assert beat["reason"] == "the source answers 503"
    assert float(beat["next_attempt_at"]) > float(beat["updated_at"]) + 3000
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_second_signal_ends_a_drain_that_takes_too_long(tiny: Tiny) -> None:
    process = tiny.start("slow")
    tiny.wait_for_state("running")
    process.terminate()
    tiny.wait_for_state("draining")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_a_crash_has_exit_status_1_and_its_traceback_in_the_log(tiny: Tiny) -> None:
    process = tiny.start("crash")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    for told in (out, tiny.log()):
        assert "tiny - ERROR - crashed" in told
        assert "Traceback" in told
        assert "ZeroDivisionError: a bug" in told
    assert "closed" in out


def test_a_wrong_configuration_has_exit_status_2_and_one_line_without_traceback(tiny: Tiny) -> None:
    process = tiny.start("wrong")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "tiny - ERROR - configuration: SOME_SETTING: is wrong" in out
    assert "Traceback" not in out + err


def test_a_wrong_setting_is_named_before_anything_starts(tiny: Tiny) -> None:
    process = tiny.start(REDIS_DB="one")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "REDIS_DB: expected an integer, got 'one'\n"


def test_a_wrong_password_has_exit_status_2(tiny: Tiny) -> None:
    process = tiny.start("crash", REDIS_PASSWORD="nobody asked")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "REDIS_PASSWORD" in out


def test_starts_are_counted_but_for_those_that_ended_as_told_and_the_log_has_times_in_utc(tiny: Tiny) -> None:
    for count, end in ((1, signal.SIGKILL), (2, signal.SIGTERM), (2, signal.SIGTERM)):
        process = tiny.start()
        alive = {"starts": str(count), "state": "running", "pid": str(process.pid)}
        wait_until(lambda: alive.items() <= tiny.heartbeat().items(), "it is counted")  # noqa: B023
        process.send_signal(end)
        process.communicate(timeout=60)
    assert tiny.heartbeat()["starts"] == "1"
    beat = tiny.heartbeat()
    assert (beat["component"], beat["instance"], beat["records_in"]) == ("tiny", "tiny-1", "1")
    first = tiny.log().splitlines()[0]
    assert first[10] == "T"
    assert first.split(" - ")[0].endswith("Z")
    assert first.split(" - ")[1:3] == ["tiny", "INFO"]


def test_a_process_of_the_other_mode_leaves_the_data_alone(redis_server: RedisServer) -> None:
    """Started by hand beside a demo, an ingester would mix Polymarket's data into the simulated."""
    prefix = f"mode-{uuid.uuid4().hex}:"
    settings = Settings(redis_host=redis_server.host, redis_port=redis_server.port, key_prefix=prefix)
    queue = RedisQueue(settings)
    queue.call("SET", queue.keys.state("mode"), "demo")
    told = {"REDIS_HOST": redis_server.host, "REDIS_PORT": str(redis_server.port), "KEY_PREFIX": prefix}
    command = [sys.executable, "-m", "ingesters.goldsky_ingester"]
    environment = {**os.environ, **told, "LOG_TO_FILE": "false", "PIPELINE_MODE": "live"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    queue.call("DEL", queue.keys.state("mode"))
    queue.close()
    assert run.returncode == 2
    assert "PIPELINE_MODE: Redis holds demo data" in run.stdout
