"""Every command of README.md and QUICKSTART.md, pasted in order into shells on a clone of its own, does what it says.

The clone has the files of this checkout and its installed packages. Its ports are put in place of the default ones, and
Polymarket's addresses are those of a simulator. Each block of a document is a new shell.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
import redis

from common.records import encode
from tests.builders import make_fill
from tests.faults.mutations import copy_project
from tests.servers import ROOT, ClickHouseServer, RedisServer, free_port
from tests.simulator import SimulatorServer

LIMIT_S = 300.0
SIMULATOR_OPTIONS = "--history-hours 0.2"  # of each demo
DOCUMENTS = ("README.md", "QUICKSTART.md")
DEFAULT_PORTS = {"REDIS_PORT": 6379, "CLICKHOUSE_PORT": 8123, "DASHBOARD_PORT": 8000, "SIMULATOR_PORT": 8900}
# Background jobs ignore SIGINT, and hand that down; this test may run in one.
AS_IN_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
SECOND_PORTS = (6380, 8124, 8001, 8901)  # README.md's, for a demo beside live data

# Commands that are not run here, by their beginning, and why.
LEFT_OUT = {
    "./start.sh --docker": "needs a Docker engine and images from the network",
    "./stop.sh --docker": "needs a Docker engine",
    "python3 -m venv .venv && .venv/bin/pip install": "installs from the network what the clone has already",
}
# Commands that go on until Ctrl-C, by their beginning; the status that they then end with.
BLOCKING = {
    "tail -f": -signal.SIGINT,
    ".venv/bin/python3 ingesters/": 0,
    ".venv/bin/python3 processors/": 0,
    ".venv/bin/python3 monitoring/dashboard.py": 0,
}
# What may end with a status other than 0, as documented.
STATUSES = {".venv/bin/python3 -m monitoring.audit": {0, 1}}  # 1: the simulated past lacks the document's days

pytestmark = pytest.mark.timeout(900)


T = TypeVar("T")


class Command(NamedTuple):
    """A line of a document's bash block."""

    document: str
    block: int
    text: str

    def __str__(self) -> str:
        return f"{self.document} {self.text.split('  ')[0]}"


def commands(document: str) -> Iterator[Command]:
    """The lines of its bash blocks, in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / document).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks):
        for line in block.splitlines():
            assert not line.endswith("\\"), "a command is a line here"
            if line.strip() and not line.startswith("#"):
                yield Command(document, number, line)


def of(command: Command, table: Mapping[str, T]) -> T | None:
    """The entry of a table whose key the command begins with."""
    return next((value for start, value in table.items() if command.text.startswith(start)), None)


def is_blocking(command: Command) -> bool:
    return of(command, BLOCKING) is not None


ALL = [command for document in DOCUMENTS for command in commands(document)]


class Clone:
    """A clone of the checkout, the shells in it, and what the documents expect around it."""

    def __init__(self, folder: Path, simulator: SimulatorServer) -> None:
        self.folder = folder
        self._ports = {str(port): str(free_port()) for port in (*DEFAULT_PORTS.values(), *SECOND_PORTS)}
        self._own = {name: self._ports[str(port)] for name, port in DEFAULT_PORTS.items()}
        cutover = {name.upper(): str(value) for name, value in simulator.cutover_settings().items()}
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(folder)),
            "SIMULATOR_OPTIONS": SIMULATOR_OPTIONS,
            "POLYMARKET_API_URL": simulator.gamma_url,
            "GOLDSKY_URL": simulator.goldsky_url,
            "POLYGON_RPC_URL": simulator.polygon_url,
            **cutover,
            **self._own,
        }
        self._shell: tuple[str, int] | None = None
        self._stack = ExitStack()  # servers of the reader's own
        copy_project(folder)
        self._install()

    def port(self, name: str) -> int:
        return int(self._own[name])

    def _install(self) -> None:
        """What start.sh would install, from this checkout's packages."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=self.folder, check=True)
        [packages] = (self.folder / ".venv" / "lib").glob("python3*/site-packages")
        packages.joinpath("checkout.pth").write_text(f"{self.folder}\n{sysconfig.get_path('purelib')}\n", "utf-8")
        for name in ("supervisord", "supervisorctl"):
            script = (Path(sys.executable).parent / name).read_text("utf-8").split("\n", 1)[1]
            installed = self.folder / ".venv" / "bin" / name
            installed.write_text(f"#!{self.folder}/.venv/bin/python\n{script}", "utf-8")
            installed.chmod(0o755)
        mark = ". ./functions.sh && requirements_mark >.venv/requirements-embedded.txt.mark"
        subprocess.run(["bash", "-c", mark], cwd=self.folder, check=True)

    def stop(self) -> None:
        """Also the demo that README.md starts beside the live pipeline."""
        for variables in ({}, {"DATA_DIR": "data2"}):
            subprocess.run([self.folder / "stop.sh"], cwd=self.folder, env=self._environment | variables, check=True)
        self._stack.close()

    def prepare(self, command: Command) -> None:
        """What the document assumes to exist."""
        if command.text.startswith("cp env.example .env"):  # under "Your own Redis and ClickHouse"
            self._start_servers()
        if command.text.endswith("# how many, by reason"):
            self._bury()

    def _start_servers(self) -> None:
        for kind, port in ((RedisServer, "REDIS_PORT"), (ClickHouseServer, "CLICKHOUSE_PORT")):
            server = kind(self.folder / "own")
            server.port = self.port(port)
            self._stack.enter_context(server)

    def _bury(self) -> None:
        """Dead letters as the document's examples have them."""
        with redis.Redis("127.0.0.1", self.port("REDIS_PORT")) as client:
            for stream, reason, group in (
                ("order_events", "no market lists it", "events_processors"),
                ("markets", "", ""),
            ):
                letter = {"data": encode(make_fill(1)), "reason": reason, "source_stream": f"stream:{stream}"}
                letter |= {"entry_id": "1-0", "attempts": "1", "at": "2026-01-01T00:00:00Z", "group": group}
                client.xadd(f"stream:{stream}_dlq", letter, "1-0")

    def popen(self, command: Command) -> "subprocess.Popen[str]":
        """The command in the shell of its block: variables that the block has exported before stay set."""
        exported = self.folder / ".exported"
        if self._shell != command[:2]:
            self._shell = command[:2]
            exported.write_text("", "utf-8")
        text = self._translated(command.text)
        script = f". ./.exported; set -o pipefail; {text}\nstatus=$?; export -p >.exported; exit $status"
        return subprocess.Popen(
            [sys.executable, "-c", AS_IN_A_TERMINAL, "bash", "-c", f"exec {text}" if is_blocking(command) else script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _translated(self, text: str) -> str:
        """The command on the clone's ports; tools that report success on an error are made to fail."""
        text = text.replace("redis-cli ", f"redis-cli -e -p {self._own['REDIS_PORT']} ")
        text = text.replace("curl ", "curl -sSf ")
        return re.sub(r"\b\d{4}\b", lambda found: self._ports.get(found[0], found[0]), text)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorServer]:
    """What stands in for Polymarket, Goldsky and Polygon."""
    with SimulatorServer(tmp_path_factory.mktemp("simulator"), history_hours=0.2, cutover="-300s") as server:
        yield server


class Clones:
    """A clone for each document in turn. Their paths are short, for sockets lie in them."""

    def __init__(self, simulator: SimulatorServer) -> None:
        self._simulator = simulator
        self._clones: dict[str, Clone] = {}

    def of(self, document: str) -> Clone:
        """Its clone; the previous document's is stopped and removed."""
        if document not in self._clones:
            self.close()
            self._clones[document] = Clone(Path(tempfile.mkdtemp(prefix="clone-", dir="/tmp")), self._simulator)
        return self._clones[document]

    def close(self) -> None:
        while self._clones:
            _, clone = self._clones.popitem()
            clone.stop()
            shutil.rmtree(clone.folder)


@pytest.fixture(scope="module")
def clones(simulator: SimulatorServer) -> Iterator[Clones]:
    with closing(Clones(simulator)) as found:
        yield found


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_command_does_what_the_document_says(clones: Clones, command: Command) -> None:
    if reason := of(command, LEFT_OUT):
        pytest.skip(reason)
    if "redis-cli" in command.text and shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed on this machine")
    clone = clones.of(command.document)
    clone.prepare(command)
    process = clone.popen(command)
    if is_blocking(command):
        press_ctrl_c(process, of(command, BLOCKING))
    else:
        printed, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode in (of(command, STATUSES) or {0}), printed
        assert "Traceback" not in printed


def press_ctrl_c(process: "subprocess.Popen[str]", status: int | None) -> None:
    """Once it has shown that it is alive."""
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first, "it ended at once"
    assert process.poll() is None, first + process.stdout.read()
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status, printed
    assert "Traceback" not in printed


def test_what_is_left_out_or_expected_to_differ_stands_in_the_documents() -> None:
    for table in (LEFT_OUT, BLOCKING, STATUSES):
        for each in table:
            assert any(command.text.startswith(each) for command in ALL), each
