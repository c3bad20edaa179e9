"""The state of a sweep through all markets: where it is, whether it advances, what it has seen. No requests here."""

import logging
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from common.errors import Unavailable
from common.fallback import Fallback
from common.records import Market
from ingesters.gamma import Page

STUCK_RETRY_S = 30.0  # a listing that goes round in circles does not mend in a second
REFUSALS = 4  # of one cursor, over some three minutes, until it is in doubt
REFUSED_RETRY_S = 60.0  # at most, until a list that is refused is asked for again
SETTLING_S = 24 * 3600.0  # a closed market may wait that long for its resolution before we stop asking
MOST_SETTLING = 20_000  # and so many markets at most

CURSOR = "polymarket_cursor"  # name of the state that tells where the sweep is

_CURSOR = re.compile(
    r"listing=(?P<listing>\S+) sweep=(?P<number>\d{1,9})"
    r"(?: closed=false (?:after=(?P<open>\S*)|(?P<open_done>done)))?"
    r"(?: closed=true (?:after=(?P<closed>\S*)|(?P<closed_done>done)))?"
    r"(?: ids=(?P<floor>\d{1,18})-(?P<top>\d{1,18}))?",
    re.ASCII,
)


class Place(NamedTuple):
    """Where the sweep is in one list."""

    after: str = ""  # what the listing takes for its next page
    is_done: bool = False

    @property
    def has_begun(self) -> bool:
        return self.is_done or self.after != ""

    def beyond(self, page: Page) -> "Place":
        """The place after a page that was read from here."""
        return Place(is_done=True) if page.following is None else Place(page.following)

    def text(self, *, closed: bool) -> str:
        where = "done" if self.is_done else f"after={self.after}"
        return f" closed={'true' if closed else 'false'} {where}"


class Span(NamedTuple):
    """Ids whose closed markets have been read, apart from the list: all from `floor` to `top`."""

    floor: int
    top: int


class Round(NamedTuple):
    """Where a sweep is. Sweep 1 reads open markets and closed ones; every later one the closed ones again."""

    listing: str
    number: int = 1
    read: int = 0  # markets read in this sweep
    open: Place = Place()
    closed: Place = Place()
    span: Span | None = None

    @property
    def is_done(self) -> bool:
        """The next page begins another sweep."""
        return self.open.is_done and self.closed.is_done

    @property
    def is_first(self) -> bool:
        """Whether not every market has been read yet."""
        return self.number == 1 and not self.is_done

    def cursor(self) -> str:
        """For a restart and for a person. It tells what is left, and the end."""
        where = "" if self.open.is_done else self.open.text(closed=False)
        if self.open.is_done or self.closed.has_begun:
            where += self.closed.text(closed=True)
        if self.span is not None and not self.closed.is_done:
            where += f" ids={self.span.floor}-{self.span.top}"
        return f"listing={self.listing} sweep={self.number}{where}"

    def state(self) -> dict[str, str]:
        """What is kept in Redis."""
        return {"polymarket_offset": str(self.read), CURSOR: self.cursor()}

    def following(self) -> "Round":
        return Round(self.listing, self.number + 1, open=Place(is_done=True))

    def place(self, *, closed: bool) -> Place:
        return self.closed if closed else self.open

    def moved(self, place: Place, read: int, *, closed: bool) -> "Round":
        """After so many more markets of one list."""
        moved = self._replace(closed=place) if closed else self._replace(open=place)
        return moved._replace(read=self.read + read)


class Restored(NamedTuple):
    """What a sweep goes on from."""

    cursor: str  # as it stands in Redis; "" where there is none
    place: Round


def restored(listing: str, cursor: str | None, read: str | None) -> Round:
    """The place that the state tells; the beginning when it tells none, or one of another listing."""
    match = _CURSOR.fullmatch(cursor or "")
    if match is None or match["listing"] != listing:
        return Round(listing)
    count = int(read) if read and read.isascii() and read.isdigit() else 0
    opened = Place(match["open"] or "", is_done=match["open"] is None)
    closed = Place(match["closed"] or "", is_done=match["closed_done"] is not None)
    span = Span(int(match["floor"]), int(match["top"])) if match["floor"] else None
    return Round(listing, int(match["number"]), count, opened, closed, span)


class Progress:
    """Whether the pages of one listing lead anywhere."""

    def __init__(self) -> None:
        self._previous: frozenset[str] = frozenset()
        self._visited: set[int] = set()  # hashes of the cursors, some megabyte for the longest sweep

    def check(self, after: str, page: Page) -> None:
        """Raises Unavailable when the page repeats what was read, as when Gamma passes over the cursor it is sent."""
        if page.following is not None and (page.following == after or hash(page.following) in self._visited):
            raise _stuck("the cursor comes round again")
        if page.identities <= self._previous and page.following is not None:
            raise _stuck("the page brings nothing new")

    def note(self, after: str, page: Page) -> None:
        """The page has been published."""
        self._visited.add(hash(after))
        self._previous = page.identities
        if page.following is None:
            self._visited.clear()
            self._previous = frozenset()


def _stuck(why: str) -> Unavailable:
    return Unavailable(f"Gamma's listing does not advance: {why}", retry_after_s=STUCK_RETRY_S)


class Refusals:
    """A page that Gamma refuses: asked for again after a while, like any other failure.

    Where a filter in front of Gamma has a bad moment, the cursor is still good. Only after some minutes is the first
    page asked for in place of it; where that passes, it was the cursor, and the list starts over.
    """

    def __init__(self, what: str, log: logging.Logger, clock: Callable[[], float]) -> None:
        """`what`: which list stands still."""
        self._what = what
        self._log = log
        self._fallback = Fallback(f"{what} stand still", log, clock, longest_s=REFUSED_RETRY_S)
        self._count = 0  # of this cursor, in a row

    @property
    def is_on(self) -> bool:
        """Whether to wait before the list is asked for again."""
        return self._fallback.is_on

    def place(self, place: Place) -> Place:
        """From where to ask: the place itself, or the beginning where that is to be tried."""
        return Place() if self._count >= REFUSALS else place

    def refused(self, asked: Place, place: Place, reason: str) -> None:
        """The page from `asked` was refused; `place` is where the list is."""
        self._count = self._count + 1 if asked == place else 0  # the first page is refused as well: not the cursor
        self._fallback.begin(reason)

    def passed(self, asked: Place, place: Place) -> bool:
        """The page from `asked` has come; whether the list starts over with it."""
        self._count = 0
        self._fallback.end()
        if asked == place:
            return False
        self._log.warning("%s start over: their cursor is refused, the first page is not", self._what)
        return True

    def describe(self) -> str:
        return self._fallback.describe()


class Watch:
    """Ids of the markets whose next change matters: the open ones, and closed ones that are not resolved yet.

    Some 50,000 integers, a few megabytes. Kept in Redis as well, so that what closes while this process is away is
    noticed afterwards.
    """

    def __init__(self, text: str | None = None) -> None:
        self.ids = {int(part) for part in (text or "").split(",") if part.isascii() and part.isdigit()}
        self._closed_at: dict[int, float] = {}

    def note(self, market: Market, now: float) -> None:
        """Take in what a listing says of a market."""
        market_id = int(market.id)
        if not market.closed:
            self.ids.add(market_id)
        elif market_id in self.ids and not self._is_settling(market_id, market, now):
            self.forget([market_id])

    def _is_settling(self, market_id: int, market: Market, now: float) -> bool:
        if market.winning_outcome is not None or len(self._closed_at) >= MOST_SETTLING:
            return False
        return now - self._closed_at.setdefault(market_id, now) < SETTLING_S

    def forget(self, ids: Iterable[int]) -> None:
        """Nothing more is expected of these markets."""
        for market_id in ids:
            self.ids.discard(market_id)
            self._closed_at.pop(market_id, None)

    def state(self) -> dict[str, str]:
        """What is kept in Redis."""
        return {"polymarket_watched": ",".join(map(str, sorted(self.ids)))}


class Ration:
    """So many pages in each period, for what goes on for ever."""

    def __init__(self, pages: int, period_s: float) -> None:
        self._pages = pages
        self._period_s = period_s
        self._left = 0
        self._refill_at = 0.0

    def is_left(self, now: float) -> bool:
        if now >= self._refill_at:
            self._left, self._refill_at = self._pages, now + self._period_s
        return self._left > 0

    def take(self) -> None:
        self._left -= 1

    def end(self) -> None:
        """No more until the next period."""
        self._left = 0
