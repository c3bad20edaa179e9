"""Processes that are killed, paused and told to stop, and started again as supervisord would.

What ends without having been told to is a finding, as is a stop that takes too long or does not end with 0.
"""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from tests.faults.guard import Guard

RESTART_PAUSE_S = 0.2
TERMINAL_LINES = 15  # of the log, in a finding


class Finding(NamedTuple):
    """Something that a process did and should not have done."""

    program: str
    what: str
    at_s: float
    log: str  # its last lines


class Spec(NamedTuple):
    """How to run a program, and how to tell from its log that it is up."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    up: str  # a text in its log; {pid} stands for its process id
    stop_limit_s: float


class Program:
    """One program over its many lives. Nothing happens by itself: `tick` looks after it."""

    def __init__(self, spec: Spec, folder: Path, guard: Guard, started_at: float) -> None:
        self.name = spec.name
        self.log_path = folder / f"{spec.name}.log"
        self.starts = 0
        self.findings: list[Finding] = []
        self._spec = spec
        self._folder = folder
        self._guard = guard
        self._epoch = started_at
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0  # where the log of this life begins
        self._start_at = 0.0
        self._continue_at: float | None = None
        self._stop_by: float | None = None

    # --- orders ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                self._spec.command,
                cwd=self._folder,
                env=dict(self._spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the driver alone
            )
        self._guard.add(self._process.pid)
        self.starts += 1
        self._continue_at = self._stop_by = None

    def kill(self, away_s: float = 0.0) -> bool:
        """SIGKILL. False when it does not run at the moment."""
        if not self.is_running():
            return False
        self._running().kill()
        self._running().wait()
        self._reap(away_s)
        return True

    def pause(self, seconds: float) -> bool:
        """SIGSTOP, and SIGCONT after a while."""
        if not self._can_be_told():
            return False
        self._running().send_signal(signal.SIGSTOP)
        self._continue_at = time.monotonic() + seconds
        return True

    def terminate(self, away_s: float = 0.0) -> bool:
        """SIGTERM; it has to end with 0 within its limit. False before it has installed its handlers."""
        if not self._can_be_told():
            return False
        self._running().terminate()
        self._stop_by = time.monotonic() + self._spec.stop_limit_s
        self._start_at = time.monotonic() + away_s
        return True

    def _can_be_told(self) -> bool:
        return self.is_up() and self._continue_at is None and self._stop_by is None

    def resume(self) -> None:
        """End a pause early."""
        if self._continue_at is not None and self.is_running():
            self._running().send_signal(signal.SIGCONT)
            self._continue_at = None

    @property
    def pid(self) -> int:
        return self._running().pid

    # --- looking after it -----------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_up(self) -> bool:
        """Whether this life has got as far as handling signals and requests."""
        return self.is_running() and self._spec.up.format(pid=self._running().pid) in self._log_of_this_life()

    def tick(self) -> None:
        """Start it when it is due, end a pause that is over, look whether it has ended."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self.start()
        elif self._process.poll() is not None:
            self._judge(self._process.returncode)
            self._reap(max(0.0, self._start_at - now))
        elif self._continue_at is not None and now >= self._continue_at:
            self.resume()
        elif self._stop_by is not None and now >= self._stop_by:
            self._find(f"still runs {self._spec.stop_limit_s:g} s after SIGTERM")
            self.kill()

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, f"{self.name} does not run"
        return self._process

    def _reap(self, away_s: float) -> None:
        self._guard.remove(self._running().pid)
        self._process = None
        self._start_at = time.monotonic() + max(RESTART_PAUSE_S, away_s)

    def _judge(self, code: int) -> None:
        if self._stop_by is not None:
            if code != 0:
                self._find(f"ended with {code} after SIGTERM")
        else:
            self._find(f"ended with {code} by itself")

    def _find(self, what: str) -> None:
        last = self._log_of_this_life().splitlines()[-TERMINAL_LINES:]
        self.findings.append(Finding(self.name, what, round(time.monotonic() - self._epoch, 1), "\n".join(last)))

    def _log_of_this_life(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")


class Fleet:
    """All programs of a run, ended together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.guard = Guard()
        self._programs: dict[str, Program] = {}
        self._epoch = time.monotonic()

    def add(self, spec: Spec) -> Program:
        program = self._programs[spec.name] = Program(spec, self._folder, self.guard, self._epoch)
        return program

    def __getitem__(self, name: str) -> Program:
        return self._programs[name]

    def tick(self) -> None:
        for program in self._programs.values():
            program.tick()

    def resume_all(self) -> None:
        for program in self._programs.values():
            program.resume()

    def are_up(self) -> bool:
        return all(program.is_up() for program in self._programs.values())

    def findings(self) -> list[Finding]:
        return [finding for program in self._programs.values() for finding in program.findings]

    def end(self) -> None:
        """Kill everything: what is left is scratch."""
        for program in self._programs.values():
            program.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            self.guard.__exit__()
