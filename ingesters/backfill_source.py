"""What a backfill needs of a source of fills: the range that it may take, and slices read page by page."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from common.clickhouse import ClickHouse
from common.progress import Portion, Slice


class Bounds(NamedTuple):
    """What a backfill takes: begin <= place < end, in seconds or blocks; nothing where end <= begin."""

    begin: int
    end: int
    since: int  # the same in Unix seconds
    until: int
    note: str = ""  # why it is less than was asked for

    @property
    def is_empty(self) -> bool:
        return self.end <= self.begin


class Reader(Protocol):
    """One slice, from its cursor on."""

    def read(self) -> Sequence[Portion]:
        """One request more, as portions in their order; none when it brought nothing. Raises Unavailable, AskAgain.

        The slice ends with a portion whose cursor is DONE. After an exception the same is read again.
        """


class Station(Protocol):
    """One worker's connection to the source."""

    def wait_s(self) -> float:
        """Seconds until the limit on requests, common to all workers, allows the next one."""

    def open(self, slice_: Slice) -> Reader:
        """The way through a slice."""

    def close(self) -> None:
        """Let go of connections."""


class Source(Protocol):
    """A source of fills."""

    name: str
    unit: str  # what places are: "seconds" or "blocks"
    first_width: int  # of the first slices, before anything is known
    most_width: int

    def bounds(self, begin: int, end: int) -> Bounds:
        """What of these Unix seconds lies on the source's side of the cut-over and is not the live ingester's.

        Where that has no cursor yet, its start is claimed: see `claim_start`. Raises Unavailable, AskAgain, and
        ConfigError.
        """

    def known_between(self, clickhouse: ClickHouse, first: int, last: int) -> set[str]:
        """Identities of the fills that order_filled holds of these seconds, both included. Raises Unavailable."""

    def station(self) -> Station:
        """A connection for one more worker."""

    def close(self) -> None:
        """Let go of connections."""
