"""Engine: the one ClickHouse engine of this process, used through a connection per request.

Connections are independent of one another (settings, current database, temporary tables) and run in parallel; opening
one takes less than a millisecond. The bindings raise RuntimeError for everything that the engine refuses.
"""

import importlib
import os
import shutil
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from embedded import errors, statement
from embedded.access import grants
from embedded.access.parser import Parser
from embedded.access.policy import Policy, TablesOnly, Unrestricted
from embedded.statement import Insert

# By default the library lets SELECT be left out, so that a typing error is reported as an unknown column.
_LIKE_THE_SERVER = {"implicit_select": "0"}
_MARK_CACHE_BYTES = 256 * 1024 * 1024  # the default, 5 GiB, suits machines of another size


@dataclass(slots=True)
class Statistics:
    """What a statement has done so far, in the terms of the X-ClickHouse-Summary header."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0

    def add(self, result: Any) -> None:
        self.read_rows += result.storage_rows_read()
        self.read_bytes += result.storage_bytes_read()
        self.written_rows += result.rows_written()
        self.written_bytes += result.bytes_written()
        self.result_rows += result.rows_read()
        self.result_bytes += result.size()


class Connection:
    """One connection to the engine, for one thread at a time. Its methods raise ClickHouseError."""

    def __init__(self, raw: Any, incoming: Path, policy: Policy) -> None:
        self._raw = raw
        self._incoming = incoming
        self._policy = policy
        self._parameters: Mapping[str, str] = {}
        self._permitted = b""
        self.statistics = Statistics()

    def close(self) -> None:
        self._raw.close()

    def prepare(self, database: str, settings: Mapping[str, str], parameters: Mapping[str, str]) -> None:
        """Make the database, the settings and the query parameters those of the next statement."""
        self.statistics = Statistics()
        self._policy.permit_settings(settings)
        self._parameters, self._permitted = parameters, b""
        values = {**_LIKE_THE_SERVER, **settings, **{f"param_{name}": value for name, value in parameters.items()}}
        self.run("SET " + ", ".join(f"{name}={quoted(value)}" for name, value in values.items()))
        if database:
            self.run(f"USE {quoted(database, '`')}")

    def run(self, sql: str) -> None:
        """Execute a statement whose result nobody reads: one of our own, or one that was permitted before."""
        with _engine_errors():
            self._raw.query(sql, "Null")

    def permit(self, sql: bytes) -> bytes:
        """Check a statement; returns what is executed of it. ClickHouseError: access is denied."""
        sql = statement.without_hints(sql)
        if sql != self._permitted:
            self._policy.permit(sql, self._parameters)
            self._permitted = sql
        return sql

    def query(self, sql: bytes, format_name: str) -> Generator[memoryview]:
        """Execute any statement and return its result, encoded, as one piece that lives in the engine's memory."""
        sql = self.permit(sql)
        with _engine_errors():
            result = self._raw.query(sql, format_name)
            self.statistics.add(result)
        if result.size():
            yield result.get_memview().view()

    def stream(self, sql: bytes, format_name: str) -> Generator[bytes]:
        """Execute a SELECT and yield its result block by block, in bounded memory; closing the iterator cancels it."""
        sql = self.permit(sql)
        with _engine_errors():
            running = self._raw.send_query(sql, format_name)
        try:
            while piece := self._next_piece(running):
                yield piece
        finally:
            self._raw.streaming_cancel_query(running)

    def _next_piece(self, running: Any) -> bytes | None:
        with _engine_errors():
            block = self._raw.streaming_fetch_result(running)
        if block is None or block.rows_read() == 0:
            return None
        self.statistics.add(block)
        data: bytes = block.bytes()
        return data

    def insert(self, insert: Insert, pieces: Iterable[bytes]) -> None:
        """Insert the rows that the pieces contain. Nothing is written when a piece can't be had, parsed or stored.

        True for inserts up to `min_insert_block_size_rows` and `_bytes` (a million rows, 256 MB): they are one block.

        The rows go through a file. The bindings' streaming insert is a little faster, but it drops the errors of
        storing: rows that violate a constraint vanished and the insert was reported as done (chdb 4.4.0).
        """
        with NamedTemporaryFile(dir=self._incoming) as file:
            sql = statement.without_hints(insert.reading_from(quoted(file.name).encode()))
            self._policy.permit(sql, self._parameters, file.name)
            file.writelines(pieces)
            file.flush()
            if insert.format.lower() == "values":
                self._policy.permit_values(Path(file.name), self._parameters)
            with _engine_errors():
                self.statistics.add(self._raw.query(sql, "Null"))


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except errors.ENGINE_ERRORS as error:
        raise errors.from_engine(error) from error


def quoted(text: str, quote: str = "'") -> str:
    """Quote a string literal, or an identifier with backticks, as the engine's parser reads it."""
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


class Engine:
    """The running engine; one per process and path, which the caller has to make sure of."""

    def __init__(self, path: Path, max_memory_bytes: int, *, unrestricted: bool = False) -> None:
        """`unrestricted`: clients may use all that the engine can do, with the rights of this process."""
        self._incoming = path / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)  # what a killed process left there was never answered
        self._incoming.mkdir(mode=0o700, parents=True)
        # Only now, since importing it starts an engine of its own, with threads and a temporary folder: they have to be
        # those of a process that is confined already.
        os.environ["TMPDIR"] = str(self._incoming)
        self._chdb: Any = importlib.import_module("chdb._chdb")  # its type stub leaves the connections out
        self._chdb.set_signal_handlers_enabled(False)  # signals belong to the server around the engine
        self._url = f"file:{path}?max_server_memory_usage={max_memory_bytes}&mark_cache_size={_MARK_CACHE_BYTES}"
        if not unrestricted:
            self._url += f"&config-file={grants.write_configuration(path / 'access')}"
        self._anchor = self._chdb.connect(self._url)  # the engine runs as long as one connection is open
        if not unrestricted:
            self._leave_files_out()
        self._parser = self._chdb.connect(self._url)
        self._policy: Policy = Unrestricted() if unrestricted else TablesOnly(Parser(self._parser))
        self._classifying = threading.Lock()
        self.timezone = self._anchor.query("SELECT timezone()", "TSVRaw").bytes().decode().strip()

    def _leave_files_out(self) -> None:
        """Make `default` an ordinary database. The library lays it over the file system: any path is a table in it."""
        found = self._anchor.query(
            "SELECT uuid FROM system.databases WHERE name = 'default' AND engine = 'Overlay'", "TSVRaw"
        )
        if identity := found.bytes().decode().strip():
            self._anchor.query("DETACH DATABASE default", "Null")
            self._anchor.query(f"ATTACH DATABASE default UUID '{identity}' ENGINE = Atomic", "Null")

    def close(self) -> None:
        """Close every connection of our own: one that is left to the interpreter's end may crash it."""
        self._parser.close()
        self._anchor.close()

    def connect(self) -> Connection:
        return Connection(self._chdb.connect(self._url), self._incoming, self._policy)

    def only_reads(self, sql: bytes) -> bool:
        """Tell whether the statement changes nothing. One that doesn't parse changes nothing either."""
        with self._classifying:
            return self._anchor.classify_query(sql)["query_class"].name in {"READ_ONLY", "UNKNOWN"}
