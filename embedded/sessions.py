"""Sessions: connections that outlive a request, for clients that rely on SET, USE or temporary tables.

A session is kept from its first statement that leaves something behind. Until then a fresh connection is the same, so
clients that send a session_id out of habit cost nothing.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from embedded import errors
from embedded.engine import Connection, Engine
from embedded.http_request import Request, Session
from embedded.statement import leaves_state

MAX_SESSIONS = 1000
MAX_CHANGES = 1000  # SET and USE in one session


@dataclass(slots=True)
class _Kept:
    connection: Connection
    expires_at: float = 0.0  # monotonic clock, seconds
    changes: list[str] = field(default_factory=list)  # its SET and USE, to restore what one request's URL changed
    busy: bool = True


class Sessions:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for kept in self._kept.values():
            kept.connection.close()

    @contextmanager
    def connection(self, request: Request, sql: bytes) -> Iterator[Connection]:
        """Lend the connection of the request's session, or a fresh one, prepared for the request."""
        kept = self._checked_out(request.session, starts=leaves_state(sql)) if request.session else None
        if kept and request.session:
            with self._in_session(kept, request.session, request, sql) as connection:
                yield connection
            return
        connection = self._engine.connect()
        try:
            connection.prepare(request.database, request.settings, request.parameters)
            yield connection
        finally:
            connection.close()

    def _checked_out(self, session: Session, *, starts: bool) -> _Kept | None:
        with self._lock:
            self._drop_expired()
            kept = self._kept.get(session.session_id)
            if kept is None and session.must_exist:
                raise errors.refusal("SESSION_NOT_FOUND", f"Session {session.session_id!r} not found")
            if kept is None:
                return self._started(session) if starts else None
            if kept.busy:
                raise errors.refusal("SESSION_IS_LOCKED", f"Session {session.session_id!r} is locked by another query")
            kept.busy = True
            return kept

    def _started(self, session: Session) -> _Kept:
        if len(self._kept) >= MAX_SESSIONS:
            raise errors.refusal("TOO_MANY_SIMULTANEOUS_QUERIES", f"{MAX_SESSIONS} sessions are open")
        kept = self._kept[session.session_id] = _Kept(self._engine.connect())
        return kept

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for session_id in [name for name, kept in self._kept.items() if not kept.busy and kept.expires_at < now]:
            self._kept.pop(session_id).connection.close()

    @contextmanager
    def _in_session(self, kept: _Kept, session: Session, request: Request, sql: bytes) -> Iterator[Connection]:
        connection = kept.connection
        try:
            connection.prepare(request.database, request.settings, request.parameters)
            yield connection
            if leaves_state(sql) and not sql.lstrip()[:6].upper().startswith(b"CREATE"):
                kept.changes.append(sql.decode(errors="surrogateescape"))
                if len(kept.changes) > MAX_CHANGES:
                    raise errors.refusal("TOO_MANY_SIMULTANEOUS_QUERIES", f"More than {MAX_CHANGES} SETs in a session")
        finally:
            self._give_back(kept, session, request)

    def _give_back(self, kept: _Kept, session: Session, request: Request) -> None:
        """Make the session free for the next request; one that can't be restored (SET readonly = 1) ends."""
        try:
            self._restore(kept, request)
        except errors.ClickHouseError:
            with self._lock:
                self._kept.pop(session.session_id, None)
            kept.connection.close()
        kept.expires_at = time.monotonic() + session.timeout_s
        kept.busy = False

    def _restore(self, kept: _Kept, request: Request) -> None:
        if request.settings:
            kept.connection.run("SET " + ", ".join(f"{name}=DEFAULT" for name in request.settings))
        if request.database:
            kept.connection.run("USE default")
        if request.settings or request.database:
            for change in kept.changes:
                kept.connection.run(change)
