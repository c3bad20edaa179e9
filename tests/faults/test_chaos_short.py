"""A short chaos run: real processes, killed and disconnected. `./test.sh chaos` makes longer ones."""

import json
import subprocess
import sys
from itertools import count
from typing import Any

import pytest

from simulator.markets import SERIES_BEFORE_BIRTH_S, SERIES_STEP_S, series_market
from tests.faults.plan import SERVERS, STAGES
from tests.servers import ROOT

PROCESSES = {*STAGES, *SERVERS}
SECONDS, KILLS = 12, len(PROCESSES)
FREEZE_AFTER_S = 6
LIMIT_S = 500  # above what the driver allows itself


def late_listing_s(seed: int, step: int) -> int:
    """Return how long after its first fill this five-minute market is listed."""
    market = series_market(seed, step, 0, 0)
    return market.listed_at - market.opens_at


def source_seed() -> int:
    """Return a seed whose data needs no long wait at the end.

    Fills reach a market that is listed late, about when the run begins, but none of those that open later is late.
    """
    at_birth = SERIES_BEFORE_BIRTH_S // SERIES_STEP_S
    for seed in count(1):
        delays = [late_listing_s(seed, at_birth + step) for step in (-1, 0, 1, 2)]
        if delays[0] > 30 and max(delays[1:]) < 0:
            return seed
    raise AssertionError


def run_chaos(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the driver; return its exit status and the line that it ended with."""
    command = [sys.executable, "-m", "tests.faults.chaos", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.timeout(LIMIT_S + 10)
def test_every_fill_arrives_once_in_a_short_chaos_run() -> None:
    size = ["--seconds", str(SECONDS), "--kills", str(KILLS), "--freeze-after", str(FREEZE_AFTER_S)]
    status, told = run_chaos("--seed", "7", "--source-seed", str(source_seed()), *size)
    assert told["failures"] == []
    assert status == 0
    assert told["kills"] == KILLS
    assert {fault.split()[1] for fault in told["faults"] if fault.startswith("kill ")} == PROCESSES
    assert told["served_by_chain"] > 1000
    assert told["served"] - told["served_by_chain"] > 1000
    assert told["missing"] == told["duplicates_raw"] == told["duplicates_final"] == told["stuck_pending"] == 0
