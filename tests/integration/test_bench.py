"""The benchmarks that do with few records run; how fast is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")
ROOT = Path(__file__).parents[2]
FIELDS = {"name", "value", "unit", "floor", "ratio", "goal", "reached"}


def bench(*arguments: str, python: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*python, "-m", "bench", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "option", "records"),
    [
        ("publish", "--fills", 3000),
        ("process", "--fills", 3000),
        ("write", "--rows", 6000),
        ("pipeline", "--fills", 3000),
        ("storage", "--fills", 3000),
        ("query", "--trades", 3000),
        ("dashboard", "--requests", 20),
    ],
)
def test_it_ends_with_its_figure_beside_the_floor(name: str, option: str, records: int) -> None:
    ran = bench(name, option, str(records))
    assert ran.returncode == 0, ran.stderr
    *lines, last = ran.stdout.splitlines()
    assert lines, "a table comes first"
    told = json.loads(last)
    assert told.keys() == FIELDS
    assert told["name"] == name
    assert told["value"] > 0
    assert told["floor"] > 0


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    ran = bench("pipelines")
    assert ran.returncode == 2
    assert "publish, process, write, pipeline" in ran.stderr


def test_outside_of_its_environment_it_says_where_that_is() -> None:
    ran = bench("publish", python=(sys.executable, "-S"))  # without installed packages
    assert ran.returncode == 2
    assert ".venv/bin/python -m bench publish" in ran.stderr
    assert "Traceback" not in ran.stderr
