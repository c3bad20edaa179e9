"""An append-only file whose end is damaged: reported by every client, repaired by the command that they report."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from common.clickhouse import ClickHouse
from common.errors import Unavailable
from common.probe import FAULTY, ask_redis
from common.redis_queue import RedisQueue
from embedded.append_only_file import find_damage, newest_file
from embedded.redis_server import binary_path
from monitoring.status import collect
from tests.builders import make_settings
from tests.faults.append_only_file import mark
from tests.servers import ROOT, RedisServer, environment, free_port
from tests.waiting import wait_until

KEYS = 200
GARBAGE = [b"\0" * 100, b"hello\n", b"*3\r\n$3\r\nSET\r\n$1\r\nkey\r\n", b"*1\r\nhello\r\n"]


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[RedisServer]:
    """A stopped server with some data."""
    server = RedisServer(tmp_path).start()
    with closing(client_of(server)) as client:
        for number in range(KEYS):
            client.set(f"key-{number}", number)
        with client.pipeline() as transaction:
            transaction.set("last", "transaction")
            transaction.execute()
    server.stop()
    yield server
    server.stop()


def client_of(server: RedisServer) -> "redis.Redis":
    return redis.Redis(server.host, server.port, decode_responses=True)


def append_only_file(server: RedisServer) -> Path:
    return mark(server.directory / "redis").path


def append(server: RedisServer, garbage: bytes) -> bytes:
    """Return the damaged file."""
    path = append_only_file(server)
    path.write_bytes(path.read_bytes() + garbage)
    return path.read_bytes()


def start_after_failed_start(server: RedisServer) -> None:
    """As a supervisor does: again and again, until something answers at the port."""
    with pytest.raises(RuntimeError, match="ended with 1"):
        server.start()
    server.launch()
    wait_until(lambda: ask_redis(server.host, server.port).code == FAULTY, "the damage is reported")


def repair(server: RedisServer, folder: Path) -> str:
    """Paste the command that the server reports into a shell in some other folder."""
    found = re.search(r"keeps a copy: (.*)$", ask_redis(server.host, server.port).text)
    assert found is not None
    env = environment({"PYTHONPATH": str(ROOT)})  # this very revision, also where another one is installed
    done = subprocess.run(found[1], shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("garbage", GARBAGE, ids=["zeros", "text", "too few words", "no length"])
def test_a_damaged_end_is_reported_and_repaired_while_the_server_waits(
    stopped: RedisServer, tmp_path: Path, garbage: bytes
) -> None:
    damaged = append(stopped, garbage)
    start_after_failed_start(stopped)
    assert "is damaged" in stopped.log()
    printed = repair(stopped, tmp_path)
    wait_until(stopped.answers, "the server goes on by itself")
    with closing(client_of(stopped)) as client:
        assert [client.get(f"key-{number}") for number in range(KEYS)] == [str(number) for number in range(KEYS)]
        assert client.get("last") == "transaction"
    [copy] = (stopped.directory / "redis").glob("*.damaged-*")
    assert copy.read_bytes() == damaged
    assert str(copy) in printed


def test_every_client_gets_the_reason_and_none_takes_the_server_for_a_working_one(stopped: RedisServer) -> None:
    append(stopped, GARBAGE[0])
    start_after_failed_start(stopped)
    with closing(client_of(stopped)) as client, client.pipeline(transaction=False) as pipeline:
        pipeline.get("a")
        pipeline.set("b", "c")
        with pytest.raises(redis.exceptions.ResponseError, match="MISCONF"):
            pipeline.execute()
    settings = make_settings(redis_host=stopped.host, redis_port=stopped.port, clickhouse_port=free_port())
    with closing(RedisQueue(settings)) as queue, closing(ClickHouse(settings)) as clickhouse:
        with pytest.raises(Unavailable, match=r"is damaged.*--repair"):
            queue.heartbeats()
        on_dashboard = collect(queue, clickhouse, settings, 0.0).redis
    assert re.search(r"is damaged.*--repair", on_dashboard.reason)


def test_a_damaged_end_is_reported_by_the_next_start_as_well(stopped: RedisServer) -> None:
    append(stopped, GARBAGE[0])
    start_after_failed_start(stopped)
    stopped.kill()
    stopped.launch()
    wait_until(lambda: ask_redis(stopped.host, stopped.port).code == FAULTY, "the damage is reported")


def test_an_end_that_was_cut_off_anywhere_is_left_to_the_server(stopped: RedisServer, tmp_path: Path) -> None:
    whole = append_only_file(stopped).read_bytes()
    for size in range(len(whole) - 150, len(whole) + 1):
        path = tmp_path / "cut.aof"
        path.write_bytes(whole[:size])
        assert find_damage(path, str(binary_path())) is None, whole[size - 20 : size]


@pytest.mark.parametrize("starts", [1, 2])
def test_a_server_whose_file_was_cut_off_starts_by_itself(stopped: RedisServer, starts: int) -> None:
    """Also if the previous start was killed while it was loading."""
    path = append_only_file(stopped)
    path.write_bytes(path.read_bytes()[:-3])
    if starts == 2:
        (stopped.directory / "redis" / "last_start").write_text(f"{path.name} {path.stat().st_size}")
    stopped.start()
    with closing(client_of(stopped)) as client:
        assert client.get(f"key-{KEYS - 1}") == str(KEYS - 1)


def test_repairing_what_is_sound_changes_nothing_and_a_wrong_folder_is_an_error(
    stopped: RedisServer, tmp_path: Path
) -> None:
    before = append_only_file(stopped).read_bytes()
    command = [sys.executable, "-m", "embedded.redis_server", "--repair", "--dir"]
    folder = stopped.directory / "redis"
    sound = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert (sound.returncode, append_only_file(stopped).read_bytes()) == (0, before)
    assert "nothing to repair" in sound.stdout
    wrong = subprocess.run([*command, str(tmp_path / "x")], capture_output=True, text=True, check=False, timeout=60)
    assert wrong.returncode == 2
    assert not (tmp_path / "x").exists()


def test_a_running_server_is_not_repaired(stopped: RedisServer) -> None:
    stopped.start()
    command = [sys.executable, "-m", "embedded.redis_server", "--repair", "--dir", str(stopped.directory / "redis")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert "another process serves this directory" in refused.stderr


def test_before_the_first_start_there_is_no_file(tmp_path: Path) -> None:
    assert newest_file(tmp_path) is None
