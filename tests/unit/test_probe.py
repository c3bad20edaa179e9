"""What health checks and start.sh conclude, without a server."""

import subprocess

import pytest
from pydantic import SecretStr

from common import probe
from common.config import Settings
from common.probe import LOADING, NO, TAKEN, YES, Answer, judge_heartbeat, settings_for_shell, wait_for

NOW = 1_763_750_000.0


def beat(**fields: str) -> dict[str, str]:
    return {"component": "trade_processor", "host": "box", "state": "running", "updated_at": str(NOW - 5)} | fields


def test_a_fresh_heartbeat_of_this_host_is_a_sign_of_life() -> None:
    assert judge_heartbeat([beat()], "trade_processor", "box", NOW, 90).code == YES


@pytest.mark.parametrize(
    "other",
    [
        beat(updated_at=str(NOW - 91)),
        beat(host="another box"),
        beat(component="clickhouse_writer"),
        beat(state="stopped"),
    ],
)
def test_an_old_heartbeat_or_somebody_elses_is_not(other: dict[str, str]) -> None:
    assert judge_heartbeat([other], "trade_processor", "box", NOW, 90).code == NO


def test_one_of_several_instances_is_enough() -> None:
    beats = [beat(updated_at=str(NOW - 500)), beat()]
    assert judge_heartbeat(beats, "trade_processor", "box", NOW, 90).code == YES


@pytest.mark.parametrize("password", ["", "plain", 'it\'s; $(touch /tmp/x) "quoted" \\ `id`\nsecond line'])
def test_the_shell_reads_every_password_back_unchanged(password: str) -> None:
    lines = settings_for_shell(Settings(redis_password=SecretStr(password)))
    script = f'{lines}\nprintf %s "$REDIS_PASSWORD"'
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout == password


def test_waiting_ends_with_the_first_yes() -> None:
    answers = iter([Answer(NO, "not yet"), Answer(YES, "there"), Answer(NO, "not asked again")])
    assert wait_for(lambda: next(answers), limit_s=10).text == "there"


def test_a_port_that_something_else_holds_is_not_waited_for() -> None:
    answers = iter([Answer(TAKEN, "in use"), Answer(YES, "not asked")])
    assert wait_for(lambda: next(answers), limit_s=10).code == TAKEN


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "RETRY_S", 0.001)


def test_a_server_that_is_loading_is_waited_for_beyond_the_limit_and_reported_once() -> None:
    answers = iter([Answer(LOADING, "it loads")] * 5 + [Answer(NO, "restarted"), Answer(YES, "there")])
    reported: list[str] = []
    assert wait_for(lambda: next(answers), limit_s=0.5, report=reported.append).text == "there"
    assert reported == ["it loads; waiting for it\n"]


def test_a_server_that_ends_while_it_loads_is_waited_for() -> None:
    answers = iter([Answer(LOADING, "it loads"), Answer(TAKEN, "connection reset"), Answer(YES, "there")])
    assert wait_for(lambda: next(answers), limit_s=10, report=len).text == "there"


def test_loading_is_not_waited_for_without_end_and_not_at_all_when_nobody_waits() -> None:
    assert wait_for(lambda: Answer(LOADING, "for ever"), 10, 0.01, report=len).code == LOADING
    answers = iter([Answer(LOADING, "it loads"), Answer(YES, "not asked")])
    reported: list[str] = []
    assert wait_for(lambda: next(answers), 0, 0, report=reported.append).code == LOADING
    assert reported == []
