"""A simulated upstream for a test: a process on a free port, or a world with a clock of the test's own."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simulator.world import Settings, World

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 60.0
_ANSWER_LIMIT_S = 60.0
_ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """A clock that moves when told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def small_world(age_s: float = 60, **settings: float) -> tuple[World, Clock]:
    """A world with 0.1 hours of history that was born `age_s` ago, and its clock."""
    chosen = Settings(**{"history_hours": 0.1, **settings})  # type: ignore[arg-type] # a test names integers as such
    clock = Clock(chosen.birth + age_s)
    return World(chosen, clock), clock


class SimulatorServer:
    """`SimulatorServer(tmp_path, history_hours=0.1)` starts `python -m simulator --history-hours 0.1`.

    Options are the command's own, with underscores; True and False become --x and --no-x. The state file lies in the
    folder, so that `restart` serves the same data at the same address. Use it as a context manager, or call `stop`.
    """

    def __init__(self, folder: Path, **options: str | float | bool) -> None:
        self._log = folder / "simulator.log"
        self._options = {"state_file": str(folder / "simulator.json"), "port": 0, **options}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.start()

    @property
    def gamma_url(self) -> str:
        return f"{self.url}/gamma"

    @property
    def goldsky_url(self) -> str:
        return f"{self.url}/goldsky"

    @property
    def goldsky_v2_url(self) -> str:
        """Of the subgraph that has the later exchanges' fills, in their own shape."""
        return f"{self.url}/goldsky-v2"

    @property
    def polygon_url(self) -> str:
        """Of the chain's JSON-RPC; a provider with habits of its own lies below it, e.g. /cap10."""
        return f"{self.url}/polygon"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Starts the process and returns once it is healthy."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "simulator", *_flags(self._options)],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the simulator did not start:\n{self._log.read_text()}")
            self._pause()
        self._options["port"] = int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """Asks it to stop with SIGTERM and returns its exit code."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        process = self._running()
        process.kill()
        process.wait(_STOP_LIMIT_S)

    def restart(self) -> None:
        if self._running().poll() is None:
            self.stop()
        self.start()

    def freeze(self) -> float:
        """No new fill from now on; returns the moment. Markets that the fills have reached still get listed."""
        return float(self._post("/control/freeze", {})["frozen_at"])

    def resume(self) -> None:
        self._post("/control/resume", {})

    def set_rate_limits(self, *, enabled: bool) -> None:
        self._post("/control/rate-limits", {"enabled": enabled})

    def truth_fills(self, **bounds: float) -> list[str]:
        """Ids of all fills with since <= timestamp < until, by time and id."""
        query = "&".join(f"{name}={value}" for name, value in bounds.items())
        return self.get_text(f"/truth/fills?{query}").split()

    def truth_served_fills(self) -> list[str]:
        return self.get_text("/truth/served/fills").split()

    def truth_markets(self) -> list[str]:
        return self.get_text("/truth/markets").split()

    def truth_served_markets(self) -> list[str]:
        return self.get_text("/truth/served/markets").split()

    def truth_tokens(self) -> dict[str, dict[str, Any]]:
        return dict(self.get_json("/truth/tokens"))

    def truth_fill(self, fill_id: str) -> dict[str, Any]:
        return dict(self.get_json(f"/truth/fill/{fill_id}"))

    def truth_malformed(self) -> dict[str, str]:
        return dict(self.get_json("/truth/malformed"))

    def add_fault(self, target: str, kind: str, **details: float | str) -> None:
        """Orders a fault: count=, probability=, seconds=, retry_after_s=, token= (see FaultBook.add)."""
        self._post("/faults", {"target": target, "kind": kind, **details})

    def faults(self) -> list[dict[str, Any]]:
        return list(self.get_json("/faults"))

    def clear_faults(self) -> None:
        self._read(urllib.request.Request(f"{self.url}/faults", method="DELETE"))

    def get_text(self, path: str) -> str:
        return self._read(urllib.request.Request(f"{self.url}{path}")).decode()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get_text(path))

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer of the subgraph."""
        return dict(self._post("/goldsky", {"query": query, "variables": variables}))

    def rpc(self, method: str, *params: Any, provider: str = "") -> Any:
        """The result of one call to the chain; RuntimeError with the error instead of one."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._post(f"/polygon/{provider}".rstrip("/"), body)
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer["result"]

    def cutover_settings(self) -> dict[str, int]:
        """The pipeline's settings for this data set's cut-over."""
        health = self.get_json("/health")
        if health["cutover_block"] is None:
            return {"cutover_block": 2**31, "cutover_timestamp": 2**32 - 1}
        return {name: int(health[name]) for name in ("cutover_block", "cutover_timestamp")}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        return json.loads(self._read(urllib.request.Request(f"{self.url}{path}", data, headers)))

    def _read(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=_ANSWER_LIMIT_S) as answer:
            return bytes(answer.read())

    def _is_healthy(self) -> bool:
        urls = [line.split()[1] for line in self._log.read_text().splitlines() if line.startswith("  page ")]
        if not urls:
            return False
        self.url = urls[0].rstrip("/")
        try:
            return bool(self.get_json("/health")["status"] == "ok")
        except (urllib.error.URLError, ConnectionError):
            return False

    def _pause(self) -> None:
        """A moment between two looks, cut short when the process ends."""
        try:
            self._running().wait(0.05)
        except subprocess.TimeoutExpired:
            return

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running().poll() is None:
            self.stop()


def _flags(options: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag}={value}")
    return flags
