"""The whole product as its user meets it: ./start.sh --demo, a process killed now and then, ./stop.sh, and again.

The tests of the demo are one story and run in the order of this file, on a pipeline with data, logs and ports of its
own.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from common.config import Settings
from tests.faults.append_only_file import finish_loading, load_slowly
from tests.servers import environment, free_port
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
INGESTERS = ["polymarket_ingester", "goldsky_ingester", "polygon_ingester"]
PRIVATE = ["data", "data/run", "data/demo", "data/demo/redis", "data/demo/clickhouse"]
STAGES = ["clickhouse_writer", "trade_processor", *INGESTERS, "dashboard"]
SERVERS = ["embedded_redis", "embedded_clickhouse", "simulator"]
SCRIPT_LIMIT_S = 300.0
UP_LIMIT_S = 120.0
# A market may be listed 40 s after its first fill, and its trade is made a little later.
SETTLED_LIMIT_S = 240.0
# Half an hour of history, some 20,000 fills, is plenty for a comparison and keeps the test short.
SIMULATOR_OPTIONS = "--history-hours 0.5"

pytestmark = pytest.mark.timeout(900)


class Process(NamedTuple):
    """A line of `supervisorctl status`."""

    state: str
    pid: int  # 0 when it does not run


class Installation:
    """A pipeline of this checkout, apart from any other copy on the machine. `settings` are variables."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self._begun: dict[int, Path] = {}
        ports = ("REDIS_PORT", "CLICKHOUSE_PORT", "DASHBOARD_PORT", "SIMULATOR_PORT")
        self.port = {name: free_port() for name in ports}
        self.env = environment(
            _defaults()
            | {name: str(port) for name, port in self.port.items()}
            | {"DATA_DIR": str(directory / "data"), "LOG_DIR": str(directory / "logs")}
            | {"SIMULATOR_OPTIONS": SIMULATOR_OPTIONS}
            | settings
        )

    def run(self, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(ROOT / script), *arguments]
        return subprocess.run(
            command,
            cwd=self.directory,  # any directory: the scripts find their own
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SCRIPT_LIMIT_S,
        )

    def begin(self, script: str, *arguments: str) -> "subprocess.Popen[str]":
        """The script at work; its output goes to a file of its name beside the data."""
        with (self.directory / f"{script}.{len(self._begun)}").open("w") as output:
            begun = subprocess.Popen(
                [str(ROOT / script), *arguments],
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._begun[begun.pid] = Path(output.name)
        return begun

    def printed(self, begun: "subprocess.Popen[str]") -> str:
        return self._begun[begun.pid].read_text()

    def start(self, *arguments: str) -> str:
        result = self.run("start.sh", *arguments)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def stop(self) -> str:
        result = self.run("stop.sh")
        assert result.returncode == 0, result.stdout
        return result.stdout

    def processes(self) -> dict[str, Process]:
        socket = self.directory / "data" / "run" / "supervisor.sock"
        command = [str(ROOT / ".venv/bin/supervisorctl"), "-s", f"unix://{socket}", "status"]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60).stdout
        found = re.findall(r"^(\S+) +([A-Z]+) +(?:pid (\d+))?", printed, re.MULTILINE)
        return {name: Process(state, int(pid or 0)) for name, state, pid in found}

    def pids_ever(self) -> set[int]:
        """Return the process ids of supervisord and of all that it has ever started."""
        log = self.directory / "data" / "run" / "supervisord.log"
        text = log.read_text() if log.exists() else ""
        return {int(pid) for pid in re.findall(r"(?:spawned: '\S+'|supervisord started) with pid (\d+)", text)}

    def pids_running(self) -> set[int]:
        supervisor = int((self.directory / "data" / "run" / "supervisord.pid").read_text())
        return {supervisor, *(process.pid for process in self.processes().values())}

    def query(self, sql: str) -> list[str]:
        query = urllib.parse.urlencode({"query": sql})
        return self._read(f"http://127.0.0.1:{self.port['CLICKHOUSE_PORT']}/?{query}").splitlines()

    def command(self, sql: str) -> None:
        where = f"http://127.0.0.1:{self.port['CLICKHOUSE_PORT']}/"
        urllib.request.urlopen(where, data=sql.encode(), timeout=60).close()

    def count(self, table: str) -> int:
        return int(self.query(f"SELECT count() FROM polymarket.{table}")[0])

    def ids(self, table: str) -> list[str]:
        return sorted(self.query(f"SELECT id FROM polymarket.{table}"))

    def freeze(self) -> None:
        """No new fill from now on, so that there is something to compare with."""
        urllib.request.urlopen(f"{self._simulator}/control/freeze", data=b"{}", timeout=60).close()

    def truth(self, what: str) -> list[str]:
        return sorted(self._read(f"{self._simulator}/truth/{what}").split())

    def health(self) -> dict[str, Any]:
        """What the dashboard says, also when something is broken."""
        try:
            return dict(json.loads(self._read(f"http://127.0.0.1:{self.port['DASHBOARD_PORT']}/health")))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def is_whole(self) -> bool:
        """Tell whether ClickHouse answers and the dashboard finds nothing broken."""
        try:
            self._read(f"http://127.0.0.1:{self.port['CLICKHOUSE_PORT']}/ping")
            self._read(f"http://127.0.0.1:{self.port['DASHBOARD_PORT']}/health")
        except OSError:
            return False
        return True

    def holds_the_truth(self) -> bool:
        """Tell whether both tables have each fill of the simulator, once."""
        truth = self.truth("fills")
        return self.count("trades") == len(truth) and self.ids("trades") == truth == self.ids("order_filled")

    def holds_the_markets(self) -> bool:
        """Tell whether the table has the markets that the simulator has served."""
        markets = self.query("SELECT DISTINCT id FROM polymarket.markets")
        return sorted(markets) == self.truth("served/markets")

    def left_alive(self) -> list[int]:
        """Return those processes of ours that still run; a number may be somebody else's by now."""
        return [pid for pid in self.pids_ever() if is_alive(pid) and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        processes = Path("/proc")
        if not (processes / str(os.getpid())).exists():
            return True  # this system does not tell
        try:
            return str(self.directory).encode() in (processes / str(pid) / "environ").read_bytes()
        except OSError:
            return False  # it has ended, or is another user's

    @property
    def _simulator(self) -> str:
        return f"http://127.0.0.1:{self.port['SIMULATOR_PORT']}"

    @staticmethod
    def _read(url: str) -> str:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())


def _defaults() -> dict[str, str]:
    """Return the settings' defaults as variables, which win over a developer's .env."""
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    # What start.sh --demo chooses itself, unless told otherwise.
    chosen = {"ORDER_EVENTS_START", "POLYMARKET_POLL_INTERVAL", "GOLDSKY_POLL_INTERVAL", "POLYGON_POLL_INTERVAL"}
    return {name: str(value) for name, value in defaults.items() if name not in chosen and value is not None}


def is_alive(pid: int) -> bool:
    """Tell whether the process runs; one that has ended and waits for its parent to notice does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@contextmanager
def installation(**settings: str) -> Iterator[Installation]:
    """One that is stopped afterwards. Its path is short: that of a socket has to fit in 100 characters.

    It has what paths of people have, and folders that anybody may read, as older revisions made them.
    """
    directory = Path(tempfile.mkdtemp(prefix="it's a demo-", dir="/tmp"))
    for made_before in PRIVATE:
        (directory / made_before).mkdir(mode=0o755, parents=True)
    pipeline = Installation(directory, **settings)
    try:
        yield pipeline
    finally:
        pipeline.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def demo() -> Iterator[Installation]:
    with installation() as pipeline:
        pipeline.start("--demo")
        yield pipeline


def test_start_ends_with_every_process_running(demo: Installation) -> None:
    processes = demo.processes()
    assert set(processes) == {*STAGES, *SERVERS}
    assert {process.state for process in processes.values()} == {"RUNNING"}


def test_data_and_sockets_belong_to_their_owner_alone(demo: Installation) -> None:
    for name in PRIVATE:
        assert (demo.directory / name).stat().st_mode & 0o777 == 0o700, name


def test_trades_arrive_and_grow(demo: Installation) -> None:
    wait_until(lambda: demo.count("trades") > 5000, "thousands of trades", UP_LIMIT_S)
    wait_for_more_trades(demo)


def wait_for_more_trades(demo: Installation) -> int:
    before = demo.count("trades")
    wait_until(lambda: demo.count("trades") > before, "more trades", UP_LIMIT_S)
    return demo.count("trades")


def test_starting_again_changes_nothing_and_says_what_runs(demo: Installation) -> None:
    before = demo.processes()
    printed = demo.start("--demo")
    assert demo.processes() == before
    assert "simulated" in printed
    assert f"http://127.0.0.1:{demo.port['DASHBOARD_PORT']}" in printed


def test_live_mode_is_refused_while_the_demo_runs(demo: Installation) -> None:
    result = demo.run("start.sh")
    assert result.returncode == 1
    assert "the pipeline is running in demo mode; run ./stop.sh first" in result.stdout


@pytest.mark.parametrize("name", [*STAGES, "embedded_redis", "embedded_clickhouse"])
def test_a_killed_process_is_replaced(demo: Installation, name: str) -> None:
    killed = demo.processes()[name].pid
    os.kill(killed, signal.SIGKILL)
    wait_until_replaced(demo, name, killed)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_ended_by_sigterm_is_replaced(demo: Installation, name: str) -> None:
    ended = demo.processes()[name].pid
    os.kill(ended, signal.SIGTERM)
    wait_until_replaced(demo, name, ended)


def test_a_server_that_is_shut_down_by_its_own_command_is_replaced(demo: Installation) -> None:
    before = demo.processes()
    demo.command("SYSTEM SHUTDOWN")
    with socket.create_connection(("127.0.0.1", demo.port["REDIS_PORT"])) as connection:
        connection.sendall(b"SHUTDOWN\r\n")
    for name in ("embedded_clickhouse", "embedded_redis"):
        wait_until_replaced(demo, name, before[name].pid)


def wait_until_replaced(demo: Installation, name: str, ended: int) -> None:
    def is_replaced() -> bool:
        process = demo.processes()[name]
        return process.state == "RUNNING" and process.pid not in {0, ended}

    wait_until(is_replaced, f"{name} runs again", UP_LIMIT_S)
    wait_until(demo.is_whole, "the pipeline is whole again", UP_LIMIT_S)


def test_deleted_log_files_are_recreated(demo: Installation) -> None:
    paths = [demo.directory / "logs" / f"{name}.log" for name in (*STAGES, *SERVERS)]
    paths.append(demo.directory / "data" / "run" / "supervisord.log")
    pids = demo.pids_ever()
    shutil.rmtree(demo.directory / "logs")
    paths[-1].unlink()
    wait_until(lambda: all(path.exists() for path in paths), "every log file is there again", UP_LIMIT_S)
    os.kill(demo.processes()["goldsky_ingester"].pid, signal.SIGTERM)
    wait_until(lambda: "spawned: 'goldsky_ingester'" in paths[-1].read_text(), "supervisord writes its own", UP_LIMIT_S)
    log = demo.directory / "logs" / "goldsky_ingester.log"
    wait_until(lambda: "starting, pid" in log.read_text(), "a process's new lines are in its new file", UP_LIMIT_S)
    assert not [pid for pid in pids if is_alive(pid) and pid not in demo.pids_running()]


def test_every_fill_is_there_once_after_all_those_kills(demo: Installation) -> None:
    demo.freeze()
    wait_until(demo.holds_the_truth, "every fill in order_filled and trades, once", SETTLED_LIMIT_S)
    # Markets that have no fill yet are still being listed.
    wait_until(demo.holds_the_markets, "every market that was served, and no other", SETTLED_LIMIT_S)


def test_older_fills_come_from_the_subgraph_and_later_ones_from_the_chain(demo: Installation) -> None:
    for table in ("order_filled", "trades"):
        times = "max(timestamp), min(timestamp)"
        older = demo.query(f"SELECT {times} FROM polymarket.{table} WHERE block_number IS NULL FORMAT TSV")[0].split(
            "\t"
        )
        later = demo.query(f"SELECT {times} FROM polymarket.{table} WHERE block_number > 0 FORMAT TSV")[0].split("\t")
        assert older[0] == later[1]  # the block of the cut-over has fills of both


def test_stop_leaves_nothing_running_and_the_next_start_goes_on(demo: Installation) -> None:
    held = demo.count("trades")
    for _ in range(3):
        assert "stopping clickhouse_writer" in demo.stop()
        assert demo.left_alive() == []
        assert "Nothing is running" in demo.stop()
        start_on_a_loading_server(demo)
        assert demo.count("trades") >= held > 5000
        held = wait_for_more_trades(demo)
    demo.freeze()
    wait_until(demo.holds_the_truth, "every fill in order_filled and trades, once", SETTLED_LIMIT_S)


def start_on_a_loading_server(demo: Installation) -> None:
    load_slowly(demo.directory / "data" / "demo" / "redis")
    start = demo.begin("start.sh", "--demo")
    wait_until(lambda: "is loading its data; waiting for it" in demo.printed(start), "it waits", UP_LIMIT_S)
    finish_loading(demo.port["REDIS_PORT"])
    assert start.wait(SCRIPT_LIMIT_S) == 0, demo.printed(start)


def test_what_a_killed_supervisor_left_behind_is_stopped_too(demo: Installation) -> None:
    supervisor = int((demo.directory / "data" / "run" / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not is_alive(supervisor), "supervisord is gone")
    assert "Stopped" in demo.stop()
    assert demo.left_alive() == []


def test_without_its_sources_all_of_it_starts_and_tells_which_are_away() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    away = {"POLYMARKET_API_URL": nobody, "GOLDSKY_URL": nobody, "POLYGON_RPC_URL": nobody}
    with installation(**away) as live:
        printed = live.start()
        assert {live.processes()[name].state for name in STAGES} == {"RUNNING"}
        assert "Health " in printed
        wait_until(lambda: live.health()["status"] == "broken", "the sources are told to be away", UP_LIMIT_S)
        wait_until(lambda: "next attempt" in str(live.health()["reasons"]), "the next attempt is told", UP_LIMIT_S)
        assert live.health()["pipeline"] == "degraded"
        assert "What runs here works" in live.start()
        live.stop()
        assert live.left_alive() == []


def test_a_setting_that_a_stage_refuses_is_told() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    away = {"POLYMARKET_API_URL": nobody, "GOLDSKY_URL": nobody, "POLYGON_RPC_URL": f"{nobody},somewhere"}
    with installation(**away) as live:
        result = live.run("start.sh")
        assert result.returncode == 1
        assert "POLYGON_RPC_URL: expected" in result.stdout
        assert "a process has ended" in result.stdout


def test_of_two_starts_at_once_the_second_waits_even_when_the_first_was_killed() -> None:
    with installation() as demo:
        first = demo.begin("start.sh", "--demo")
        wait_until(lambda: "Redis answers" in demo.printed(first), "the first start is under way", UP_LIMIT_S)
        first.kill()  # what it had begun goes on
        assert first.wait() == -signal.SIGKILL
        printed = demo.start("--demo")
        assert "Another ./start.sh or ./stop.sh is under way" in printed
        assert "The pipeline is running already" in printed
        assert {demo.processes()[name].state for name in (*STAGES, *SERVERS)} == {"RUNNING"}


@pytest.mark.parametrize("moment", ["Demo: ", "Redis answers", "made      polymarket.trades"])
def test_stop_ends_a_start_and_those_that_wait_for_it(moment: str) -> None:
    with installation() as demo:
        starts = [demo.begin("start.sh", "--demo")]
        wait_until(lambda: moment in demo.printed(starts[0]), "the start has got so far", UP_LIMIT_S)
        lock = demo.directory / "data" / "run" / "scripts.lock"
        wait_until(lambda: lock.exists() and "start" in lock.read_text(), "it holds the lock", UP_LIMIT_S)
        starts.append(demo.begin("start.sh", "--demo"))
        wait_until(lambda: "waiting for it to end" in demo.printed(starts[1]), "another start waits", UP_LIMIT_S)
        assert "A ./start.sh is under way; ending it." in demo.stop()
        for start in starts:
            assert start.wait(UP_LIMIT_S) == 1
            assert demo.printed(start).endswith("start.sh: ended by ./stop.sh\n")
        assert demo.processes() == {}
        assert demo.left_alive() == []


@pytest.mark.parametrize(
    ("name", "folder"), [("DATA_DIR", "100%"), ("DATA_DIR", 'a "b"'), ("LOG_DIR", "%s"), ("DATA_DIR", "x" * 90)]
)
def test_a_path_that_supervisord_cannot_use_is_one_clear_line(name: str, folder: str) -> None:
    with installation() as demo:
        demo.env[name] = str(demo.directory / folder)
        result = demo.run("start.sh")
        assert result.returncode == 2
        [line] = result.stdout.splitlines()
        assert name in line
        assert "Traceback" not in line


def test_a_shared_folder_is_refused_as_data_directory() -> None:
    with installation() as demo:
        shared = demo.directory / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        demo.env["DATA_DIR"] = str(shared)
        result = demo.run("start.sh")
        assert (result.returncode, shared.stat().st_mode & 0o7777) == (2, 0o1777)
        assert "is shared by all users" in result.stdout


def test_of_two_first_starts_one_makes_the_environment(tmp_path: Path) -> None:
    for name in ("functions.sh", "common/__init__.py", "common/script_lock.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "requirements.txt", "requirements-embedded.txt", "requirements-dev.txt"):
        (tmp_path / name).touch()
    script = "set -euo pipefail; . ./functions.sh; prepare_venv requirements-embedded.txt"
    command = ["bash", "-c", script]
    starts = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    printed = [start.communicate(timeout=SCRIPT_LIMIT_S)[0] for start in starts]
    assert [start.returncode for start in starts] == [0, 0], printed
    assert sorted("Making .venv" in each for each in printed) == [False, True], printed
    assert sum("Another command is installing" in each for each in printed) == 1, printed
