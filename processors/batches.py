"""What a writer holds between reading and inserting: decisions only, no input or output."""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from common.redis_queue import Entry

# Between two batches of one table. ClickHouse merges every part that an insert makes with others, again and again: in
# batches of 10,000 a row costs it 1.6 times as much as in batches of 50,000.
PAUSE_S = 2.0
SCHEMA_VERSION = 1  # part of every token: raised when the same entries become other rows


def token_of(stream: str, table: str, entry_ids: Sequence[bytes]) -> str:
    """The insert token of a batch: the same entries in the same order give the same token, anything else another."""
    digest = hashlib.blake2b(f"{SCHEMA_VERSION} {stream} {table} ".encode(), digest_size=16)
    digest.update(b" ".join(entry_ids))
    return digest.hexdigest()


class Manifest(NamedTuple):
    """A batch, fixed: what is sent to which table under which token. It outlives the writer that wrote it."""

    token: str
    table: str
    entry_ids: tuple[bytes, ...]

    @classmethod
    def of(cls, stream: str, table: str, entry_ids: Sequence[bytes]) -> "Manifest":
        return cls(token_of(stream, table, entry_ids), table, tuple(entry_ids))

    def encode(self) -> bytes:
        """As it stands in Redis: the table, then the ids, separated by spaces."""
        return b" ".join((self.table.encode(), *self.entry_ids))

    @classmethod
    def decode(cls, token: bytes, text: bytes) -> "Manifest":
        table, *entry_ids = text.split(b" ")
        return cls(token.decode(), table.decode(), tuple(entry_ids))

    def halves(self, stream: str) -> tuple["Manifest", "Manifest"]:
        """The two batches that a refused one becomes; of at least two entries."""
        middle = len(self.entry_ids) // 2
        first, second = self.entry_ids[:middle], self.entry_ids[middle:]
        return Manifest.of(stream, self.table, first), Manifest.of(stream, self.table, second)


class Buffer:
    """Entries that were read and are not yet in a batch."""

    def __init__(self, batch_size: int, max_batch_size: int, max_wait_s: float) -> None:
        self._batch_size = batch_size
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._entries: list[Entry] = []
        self._since = 0.0
        self._taken_at = -math.inf

    def __len__(self) -> int:
        return len(self._entries)

    def room(self) -> int:
        """How many more entries may be read."""
        return max(0, self._max_batch_size - len(self._entries))

    def add(self, entries: Sequence[Entry], now: float) -> None:
        if entries and not self._entries:
            self._since = now
        self._entries += entries

    def is_due(self, now: float) -> bool:
        """Whether a batch should go: the oldest row has waited long enough, or there are enough rows.

        Enough for a second batch within PAUSE_S is as many as one may hold: a backlog makes batches large, not many.
        """
        if not self._entries:
            return False
        if now - self._since >= self._max_wait_s or not self.room():
            return True
        return len(self._entries) >= self._batch_size and now - self._taken_at >= PAUSE_S

    def take(self, now: float) -> list[Entry]:
        """The entries of the next batch: all of them, unless a take-over brought more than a batch may hold."""
        taken, self._entries = self._entries[: self._max_batch_size], self._entries[self._max_batch_size :]
        self._since = self._taken_at = now
        return taken

    def clear(self) -> None:
        self._entries = []


def is_row(data: bytes) -> bool:
    """Whether the bytes can be one row of JSONEachRow. Empty ones would vanish in the batch without a trace."""
    return data[:1] == b"{" and data[-1:] == b"}"
