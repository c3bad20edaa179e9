"""The way through the fills of a subgraph, page by page, ties included. Pure.

Fills come in the order of (timestamp, id). A page may end inside a second, a short page is never the end, and the
filter that would say it in one piece (`or: [{timestamp_gt}, {timestamp, id_gt}]`) is known to time out. So a scan asks
for `timestamp_gte` of its position, which reads the rest of the position's second and repeats a little of it: some
5 % of a full page at 40 fills/s, against twice the requests for asking for the second's rest and for later ones apart.
Only where such a page brings nothing new does it ask these two questions, each answered by an empty page before it
goes on. Rows that were read before are passed over by the queue.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from common.redis_queue import Position

Where = dict[str, str]


class Phase(Enum):
    """What the next page is asked for."""

    FROM = "from the position's second on"
    TIES = "the rest of the position's second"
    LATER = "after the position's second"


class Scan(NamedTuple):
    """A place between two pages: everything up to and including `position` has been read."""

    position: Position
    phase: Phase = Phase.FROM
    until: int | None = None  # the last second to read; None: no end

    def where(self) -> Where:
        """The filter of the next page, to be ordered by timestamp and id."""
        second = str(self.position.timestamp)
        if self.phase is Phase.TIES:
            return {"timestamp": second, "id_gt": self.position.id}
        bound = {} if self.until is None else {"timestamp_lte": str(self.until)}
        return {"timestamp_gte" if self.phase is Phase.FROM else "timestamp_gt": second, **bound}


def begin(timestamp: int, until: int | None = None) -> Scan:
    """A scan that reads everything from this second on, up to and including the last one."""
    return Scan(Position(timestamp, ""), until=until)


def advance(scan: Scan, rows: Iterable[Position], *, is_full: bool) -> Scan | None:
    """Where to go on after a page with these rows; None when everything that exists has been read.

    `is_full`: the page has as many rows as were asked for. A short one only makes the end likely.
    """
    furthest = max(rows, default=scan.position)
    if furthest > scan.position:
        return Scan(furthest, _phase_after_progress(scan, furthest, is_full=is_full), scan.until)
    if scan.phase is Phase.TIES:
        return scan._replace(phase=Phase.LATER)
    if scan.phase is Phase.FROM and scan.position.id:
        return scan._replace(phase=Phase.TIES)
    return None


def _phase_after_progress(scan: Scan, furthest: Position, *, is_full: bool) -> Phase:
    """A page that does not leave its second would only be repeated by FROM, and a short one leaves little to read."""
    return Phase.FROM if is_full and furthest.timestamp > scan.position.timestamp else Phase.TIES
