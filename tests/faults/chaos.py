"""Real processes under random faults: after every fault has passed, each fill is in every table, once.

    python -m tests.faults.chaos --seed 1 --seconds 120 --kills 30

Ends with one line of JSON and 0 when nothing is missing, doubled or stuck and no process crashed by itself. The logs of
a run that failed stay; the line before the last one says where.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from redis import exceptions

from tests.faults.append_only_file import Mark, forget_since, mark, written_since
from tests.faults.plan import HOLDING, Event, plan
from tests.faults.processes import Finding, Program
from tests.faults.stack import COMPARED_TABLES, HISTORY_RATE, QUICK, Size, Stack, running_stack
from tests.faults.verdict import (
    NO_FAULTS,
    Verdict,
    entries_added,
    holds_entries,
    judge,
    missing_markets,
    unfinished,
    unfinished_batches,
)

if TYPE_CHECKING:
    from tests.faults.tcp_proxy import Direction

FILLS_A_SECOND = 300  # of history for each second of the run, so that both ingesters catch up for most of it
LEAST_HISTORY_S = 180
FREEZE_BEFORE_END_S = 20  # fills that end earlier leave time for markets that are listed up to 40 s late
SETTLE_LIMIT_S = 240.0
QUIET_S = 1.5  # a settled pipeline has to stay settled for so long
PAUSE_S = 0.02
LOOK_S = 0.3
LOSES_EVERY = 5  # one seed in so many loses the last second of Redis' data
LOSES_S = 1.0
LEAST_LOSS_BYTES = 100_000  # some 50 fills with all that follows from them; heartbeats alone write less
HOLDING_LIMIT_S = 3.0  # for a moment when a process holds entries; then it is struck as it is
OVERDUE_S = 60.0  # an event whose target is not up by then is left out
LOSS_LIMIT_S = 15.0  # for a second in which enough was written; then less is forgotten
WATCHDOG_SPARE_S = 120.0  # beyond the run and the settling: start, comparison, end


class Options(NamedTuple):
    seed: int
    seconds: float
    kills: int
    loses: bool
    rate_limits: bool
    source_seed: int
    freeze_after: float
    keep: bool


class Driver:
    """Carries a plan out, and keeps the processes going meanwhile."""

    def __init__(self, stack: Stack, events: Sequence[Event], folder: Path) -> None:
        self.done: Counter[str] = Counter()
        self.lost_bytes = 0
        self.under_fire = 0  # trades made before the faults were over: how much they could hit
        self._stack = stack
        self._agenda = deque(events)
        self._due: list[Event] = []  # whose target has to come up first
        self._marks: deque[tuple[float, float, Mark]] = deque()
        self._journal = (folder / "driver.log").open("a")
        self._started = time.monotonic()

    def rage(self, seconds: float, freeze_after: float) -> None:
        """Let everything that is planned happen."""
        is_frozen = False
        while (now := self._now()) < seconds or (
            (self._agenda or self._due or self._marks) and now < seconds + OVERDUE_S
        ):
            if now >= freeze_after and not is_frozen:
                self._stack.source.freeze()
                is_frozen = True
            self._turn(now)
            time.sleep(PAUSE_S)
        self._calm()

    def _turn(self, now: float) -> None:
        self._stack.fleet.tick()
        if self._marks and now >= self._marks[0][0]:
            self._lose(*self._marks.popleft(), now)
        while self._agenda and now >= self._agenda[0].at_s:
            self._due.append(self._agenda.popleft())
        self._due = [event for event in self._due if not self._strike(event) and now < event.at_s + OVERDUE_S]

    def _calm(self) -> None:
        with suppress(exceptions.RedisError):
            self.under_fire = entries_added(self._stack.redis, "stream:trades")
        for proxy in self._stack.proxies.values():
            proxy.clear()
        self._stack.source.clear_faults()
        self._stack.source.freeze()
        self._stack.fleet.resume_all()
        self._say("calm")

    def settle(self) -> float:
        """Wait until there is nothing left to do; returns the seconds that it took, at most the limit."""
        since = time.monotonic()
        quiet_since = None
        while time.monotonic() < since + SETTLE_LIMIT_S:
            self._stack.fleet.tick()
            if not is_settled(self._stack):
                quiet_since = None
            elif quiet_since is None:
                quiet_since = time.monotonic()
            elif time.monotonic() >= quiet_since + QUIET_S:
                break
            time.sleep(LOOK_S)
        return round(time.monotonic() - since, 1)

    # --- faults ---------------------------------------------------------------------------------------------------

    def _strike(self, event: Event) -> bool:
        """Whether it could be done; a process that is not up at the moment has to come up first."""
        is_done = self._do(event)
        if is_done:
            self.done[event.name] += 1
            self._say(f"{event.name} {event.seconds:g} {dict(event.details)}")
        return is_done

    def _do(self, event: Event) -> bool:
        if event.kind in {"cut", "stall", "refuse"}:
            self._disturb(event)
            return True
        if event.kind == "source":
            orders = cast("dict[str, float]", dict(event.details))
            self._stack.source.add_fault(event.target, event.what, **orders)
            return True
        if event.kind == "lose":
            return self._begin_loss()
        return self._strike_program(event)

    def _strike_program(self, event: Event) -> bool:
        program = self._stack.fleet[event.target]
        if event.what == HOLDING and self._now() < event.at_s + HOLDING_LIMIT_S:
            return self._strike_holding(program, event)
        if event.kind == "kill":
            return program.kill()
        if event.kind == "pause":
            return program.pause(event.seconds)
        return program.terminate(away_s=event.seconds)

    def _strike_holding(self, program: Program, event: Event) -> bool:
        """Stop it first, then look: a moment later it could have finished what it had."""
        if not program.pause(event.seconds):
            return False
        if not holds_entries(self._stack.redis, program.pid):
            program.resume()
            return False
        return event.kind == "pause" or program.kill()

    def _disturb(self, event: Event) -> None:
        proxy, details = self._stack.proxies[event.target], dict(event.details)
        if event.kind == "cut":
            share, times, marker = float(details["share"]), int(details["times"]), str(details["marker"]).encode()
            proxy.cut(cast("Direction", event.what), share, times, marker)
        elif event.kind == "stall":
            proxy.stall(event.seconds)
        else:
            proxy.refuse(event.seconds)

    def _begin_loss(self) -> bool:
        if not self._stack.fleet["redis"].is_up():
            return False
        self._mark(self._now(), self._now() + LOSS_LIMIT_S)
        return True

    def _mark(self, now: float, give_up_at: float) -> None:
        self._marks.append((now + LOSES_S, give_up_at, mark(self._stack.redis_folder)))

    def _lose(self, _due: float, give_up_at: float, moment: Mark, now: float) -> None:
        """Forget the last second, or wait for one in which something was written: the loss of nothing shows nothing."""
        if written_since(moment) < LEAST_LOSS_BYTES and now < give_up_at:
            self._mark(now, give_up_at)
            return
        self._stack.fleet["redis"].kill()
        lost = forget_since(moment)
        self.lost_bytes += lost
        self._say(f"lost {lost} bytes")

    # --- record ---------------------------------------------------------------------------------------------------

    def _say(self, what: str) -> None:
        """What was done when, by the clock of the processes' logs."""
        self._journal.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {self._now():7.2f} {what}\n")
        self._journal.flush()

    def _now(self) -> float:
        return time.monotonic() - self._started

    def close(self) -> None:
        self._journal.close()


def is_settled(stack: Stack) -> bool:
    """Whether every fill and market has arrived, and nobody has anything left to do."""
    try:
        if unfinished(stack.redis) or unfinished_batches(stack.redis):
            return False
        fills = len(stack.source.truth_fills(since=stack.start))
        arrived = [stack.number(f"SELECT uniqExact(id) FROM {table}") for table in COMPARED_TABLES]
        return arrived == [fills] * len(arrived) and not missing_markets(stack)
    except (OSError, exceptions.RedisError):
        return False  # a server that was killed last is starting again


class Outcome(NamedTuple):
    """Everything that is known of a run."""

    options: Options
    faults: Counter[str]
    verdict: Verdict
    findings: list[Finding]
    lost_bytes: int
    under_fire: int
    settle_s: float

    def failures(self) -> list[str]:
        """What is not as it should be."""
        wrong = {name: count for name, count in self.verdict._asdict().items() if name not in NO_FAULTS}
        if self.options.loses:  # then what is written a second time is removed by ReplacingMergeTree
            for name in ("duplicates_raw", "duplicates_streamed"):
                del wrong[name]
        kills = sum(count for name, count in self.faults.items() if name.startswith("kill "))
        bad = [f"{name} = {count}" for name, count in wrong.items() if count]
        bad += [f"{finding.program} {finding.what}" for finding in self.findings]
        return bad + ([f"{kills} kills of {self.options.kills}"] if kills < self.options.kills else [])

    def as_json(self) -> str:
        told: dict[str, Any] = {
            "seed": self.options.seed,
            "seconds": self.options.seconds,
            "kills": sum(count for name, count in self.faults.items() if name.startswith("kill ")),
            "faults": dict(sorted(self.faults.items())),
            **self.verdict._asdict(),
            "lost_redis_data": self.options.loses,
            "lost_redis_bytes": self.lost_bytes,
            "crashes": [finding._asdict() for finding in self.findings],
            "trades_under_fire": self.under_fire,
            "settle_s": self.settle_s,
            "failures": self.failures(),
        }
        return json.dumps(told)


def run(options: Options, folder: Path) -> Outcome:
    """One run, from the start of the servers to the comparison."""
    history_s = max(LEAST_HISTORY_S, options.seconds * FILLS_A_SECOND / HISTORY_RATE)
    events = plan(options.seed, options.seconds, options.kills, lease_s=float(QUICK["LEASE_S"]), loses=options.loses)
    with running_stack(folder, Size(history_s, options.source_seed, options.rate_limits)) as stack:
        driver = Driver(stack, events, folder)
        try:
            driver.rage(options.seconds, options.freeze_after)
            settle_s = driver.settle()
            verdict = judge(stack, options.seed)
        finally:
            driver.close()
        return Outcome(
            options, driver.done, verdict, stack.fleet.findings(), driver.lost_bytes, driver.under_fire, settle_s
        )


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="./test.sh chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="decides what goes wrong when")
    parser.add_argument("--seconds", type=float, default=60, help="how long things go wrong")
    parser.add_argument("--kills", type=int, default=15, help="processes killed with SIGKILL in that time")
    parser.add_argument(
        "--lose",
        action=argparse.BooleanOptionalAction,
        help=f"Redis loses its last second now and then; by default with every seed that {LOSES_EVERY} divides",
    )
    parser.add_argument(
        "--rate-limits",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="the source's, as documented: fills then come in bursts, every ten seconds",
    )
    parser.add_argument("--source-seed", type=int, help="decides the source's data; by default the seed")
    parser.add_argument("--freeze-after", type=float, help="seconds after which the source has no new fills")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a good run, too")
    chosen = parser.parse_args(arguments)
    freeze_after = max(chosen.seconds - FREEZE_BEFORE_END_S, chosen.seconds / 2)
    return Options(
        seed=chosen.seed,
        seconds=chosen.seconds,
        kills=chosen.kills,
        loses=chosen.seed % LOSES_EVERY == 0 if chosen.lose is None else chosen.lose,
        rate_limits=chosen.rate_limits,
        source_seed=chosen.seed if chosen.source_seed is None else chosen.source_seed,
        freeze_after=freeze_after if chosen.freeze_after is None else chosen.freeze_after,
        keep=chosen.keep,
    )


def interrupt(number: int, _frame: FrameType | None) -> None:
    """End the run as Ctrl-C does: every process is ended on the way out."""
    signal.alarm(0)
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, interrupt)
    signal.alarm(int(options.seconds + OVERDUE_S + SETTLE_LIMIT_S + WATCHDOG_SPARE_S))
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{options.seed}-"))
    try:
        outcome = run(options, folder)
    except BaseException:
        say(f"logs: {folder}")
        raise
    failures = outcome.failures()
    if failures or options.keep:
        (folder / "result.json").write_text(outcome.as_json())
        say(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    say(outcome.as_json())
    return 1 if failures else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
