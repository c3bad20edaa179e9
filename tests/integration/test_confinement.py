"""Where the system has Landlock, the embedded ClickHouse can open no file but its data, whatever it is made to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from embedded.access import confinement
from tests.servers import ROOT, ClickHouseServer

# The engine itself, without any check of statements.
SCRIPT = """
import sys
from pathlib import Path
from embedded.access.confinement import confine
from embedded.engine import Engine
data, sql = Path(sys.argv[1]), sys.argv[2]
assert confine(data)
connection = Engine(data, 2 * 1024**3, unrestricted=True).connect()
connection.prepare("", {}, {})
sys.stdout.buffer.write(b"".join(bytes(piece) for piece in connection.query(sql.encode(), "TSVRaw")))
"""

pytestmark = pytest.mark.skipif(
    not confinement.is_available(), reason="this system has no Landlock: Linux 6.2 or newer has"
)


def run(folder: Path, sql: str) -> "subprocess.CompletedProcess[str]":
    data = folder / "data"
    data.mkdir()
    (folder / "secret").write_text("f2c94a0be1")
    command = [sys.executable, "-c", SCRIPT, str(data), sql.format(folder=folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT file('{folder}/secret')",
        "SELECT * FROM file('{folder}/secret', 'LineAsString')",
        "SELECT 1 INTO OUTFILE '{folder}/secret' TRUNCATE",
        "SELECT 1 INTO OUTFILE '{folder}/written'",
        "INSERT INTO FUNCTION file('{folder}/written', 'TSV', 'a Int8') SELECT 1",
        "SELECT file('/proc/1/environ')",
        f"SELECT file('{ROOT}/README.md')",
    ],
)
def test_no_file_of_the_operator_can_be_opened(tmp_path: Path, sql: str) -> None:
    result = run(tmp_path, sql)
    assert "Permission denied" in result.stderr
    assert result.stdout == ""
    assert (tmp_path / "secret").read_text() == "f2c94a0be1"
    assert not (tmp_path / "written").exists()


def test_no_command_can_be_run(tmp_path: Path) -> None:
    result = run(tmp_path, "SELECT * FROM executable('/bin/true', 'TSV', 'a String')")
    assert result.returncode != 0
    code = f"import subprocess; from pathlib import Path; from embedded.access.confinement import confine; \
confine(Path({str(tmp_path)!r})); subprocess.run(['/bin/true'], check=True)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "PermissionError" in ended.stderr


def test_its_own_data_can_be_written_and_read(tmp_path: Path) -> None:
    sql = "CREATE TABLE t ENGINE = MergeTree ORDER BY n AS SELECT number AS n FROM numbers(1000)"
    assert run(tmp_path, sql).returncode == 0, sql


def test_the_server_confines_itself(clickhouse_server: ClickHouseServer) -> None:
    status = Path(f"/proc/{clickhouse_server.pid}/status").read_text()
    assert "NoNewPrivs:\t1\n" in status


def test_the_server_of_an_operator_who_has_lifted_the_limits_does_not(unrestricted_server: ClickHouseServer) -> None:
    status = Path(f"/proc/{unrestricted_server.pid}/status").read_text()
    assert "NoNewPrivs:\t0\n" in status
