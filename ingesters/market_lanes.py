"""The ways a sweep goes through the markets at once: along the lists, and through the closed ones' ids from the top."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from common.errors import Unavailable
from common.records import Market
from ingesters.gamma import MOST_IDS, Gamma, Listing, Page, Record
from ingesters.market_parser import identity_of
from ingesters.market_sweep import Place, Progress, Refusals, Span
from ingesters.readers import Read, Readers

AHEAD = 2  # requests a reader that the descent asks ahead, so that one slow answer does not stop the others
FILLING = 0.8  # of a page: how full the descent aims for; a full one may be cut off, and is asked for again in parts


class NoneClosed(Unavailable):
    """Gamma lists no closed market, from whose id a descent could begin."""


class ListLane:
    """One list from its beginning to its end, a page at a time."""

    def __init__(
        self, open_listing: Callable[[Gamma], Listing], place: Place, refusals: Refusals, *, closed: bool
    ) -> None:
        self.place = place
        self.closed = closed
        self.highest = 0  # id of all that was read since the start
        self.is_ascending = True  # whether the pages came in the order of ids
        self._open_listing = open_listing
        self._refusals = refusals
        self._progress = Progress()
        self._asked = place  # from where the page was asked for
        self._page: Future[Page] | None = None

    def awaited(self) -> list[Future[Page]]:
        return [] if self._page is None else [self._page]

    def ask(self, readers: Readers, spare: int) -> bool:
        """Whether there was one more page to ask for."""
        if self._page is not None or (read := self.next_request()) is None:
            return False
        self._page = readers.submit(read, spare)
        return True

    def next_request(self) -> Read | None:
        """The next page; None at the end, and while Gamma refuses it."""
        if self.place.is_done or self._refusals.is_on:
            return None
        self._asked = self._refusals.place(self.place)
        return self._read

    def result(self) -> Page:
        """The page that was awaited. Raises what went wrong with it; the same is asked for again then."""
        page, self._page = self._page, None
        assert page is not None  # it is ready
        return page.result()

    def check(self, page: Page) -> bool:
        """Take a page in; whether the list has started over with it. Raises Unavailable where it leads nowhere."""
        is_over = self._refusals.passed(self._asked, self.place)
        if is_over:
            self.place = Place()
            self._progress = Progress()
        self._progress.check(self.place.after, page)
        return is_over

    def refused(self, reason: str) -> None:
        """Gamma refuses the page that was asked for."""
        self._refusals.refused(self._asked, self.place, reason)

    def describe(self) -> str:
        """Why the list stands still; empty while it does not."""
        return self._refusals.describe()

    def move(self, page: Page, markets: Sequence[Market]) -> None:
        """The page has been published."""
        self._progress.note(self.place.after, page)
        self.place = self.place.beyond(page)
        ids = [int(market.id) for market in markets]
        self.is_ascending &= ids == sorted(ids) and min(ids, default=self.highest) >= self.highest
        self.highest = max([self.highest, *ids])

    def finish(self) -> None:
        """What is left has been read in another way."""
        self.place = Place(is_done=True)
        self._page = None

    def _read(self, gamma: Gamma) -> Page:
        return self._open_listing(gamma).page(self._asked.after, closed=self.closed)


class Block:
    """Ids that one request asks for, both ends included."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.page: Future[Page] | None = None

    def ask(self, readers: Readers, spare: int) -> bool:
        if self.page is not None:
            return False
        self.page = readers.submit(self._read, spare)
        return True

    def parts(self, size: int) -> list["Block"]:
        """The same ids in blocks of that size, the highest first."""
        return [
            Block(first, min(self.last, first + size - 1)) for first in reversed(range(self.first, self.last + 1, size))
        ]

    def _read(self, gamma: Gamma) -> Page:
        raws = gamma.in_range(self.first, self.last, closed=True)
        return Page([Record(raw) for raw in raws], frozenset(map(identity_of, raws)), None)


class Descent:
    """Closed markets by their ids, from the highest id down to where the list has got.

    The list can only be read page after page; ids can be asked for in any order, many requests at a time. Where the two
    meet, all is read. It helps and nothing depends on it: without it the list is read to its end.
    """

    def __init__(self, span: Span | None, page_size: int) -> None:
        self.span = span
        self._page_size = page_size
        self._top: Future[Page] | None = None
        self._blocks: deque[Block] = deque()  # in the order in which they are published
        self._next = 0 if span is None else span.floor - 1  # highest id that no block holds yet
        self._width = page_size

    def awaited(self) -> list[Future[Page]]:
        page = self._blocks[0].page if self._blocks else self._top
        return [] if page is None else [page]

    def ask(self, readers: Readers, spare: int, lowest: int) -> None:
        """Keep all readers busy, down to id `lowest`."""
        if self.span is None:
            self._top = self._top or readers.submit(_newest_closed, spare)
            return
        for block in self._blocks:
            block.ask(readers, spare)
        while len(self._blocks) < AHEAD * readers.count and self._next >= lowest:
            block = Block(max(lowest, self._next - self._width + 1), self._next)
            block.ask(readers, spare)
            self._blocks.append(block)
            self._next = block.first - 1

    def take(self) -> Page | None:
        """The page that was awaited; None when it only told what to ask for next.

        Raises what went wrong with it; the same is asked for again then.
        """
        if self.span is None:
            self._take_top()
            return None
        block = self._blocks[0]
        page, block.page = block.page, None
        assert page is not None  # it is ready
        found = page.result()
        if self._may_be_cut(block, found):
            self._blocks.popleft()
            self._blocks.extendleft(reversed(block.parts(self._page_size)))
            return None
        block.page = page  # until it is published
        return found

    def span_after(self) -> Span:
        """What is covered once the page that was taken has been published."""
        assert self.span is not None
        return self.span._replace(floor=self._blocks[0].first)

    def move(self, page: Page) -> None:
        """The page that was taken has been published."""
        self.span = self.span_after()
        block = self._blocks.popleft()
        share = len(page.records) / (block.last - block.first + 1)
        fitting = int(FILLING * self._page_size / share) if share else MOST_IDS
        self._width = max(self._page_size, min(MOST_IDS, fitting))

    def meets(self, lane: ListLane) -> bool:
        """Whether the list has come up to what is covered here."""
        return self.span is not None and lane.is_ascending and self.span.floor <= lane.highest + 1

    def stop(self) -> None:
        for block in self._blocks:
            if block.page is not None:
                block.page.cancel()

    def _take_top(self) -> None:
        page, self._top = self._top, None
        assert page is not None  # it is ready
        ids = [int(identity) for identity in page.result().identities if identity.isdecimal()]
        if not ids:
            raise NoneClosed("Gamma lists no closed market")
        self._next = max(ids)
        self.span = Span(self._next + 1, self._next)

    def _may_be_cut(self, block: Block, page: Page) -> bool:
        return len(page.records) >= self._page_size < block.last - block.first + 1


def _newest_closed(gamma: Gamma) -> Page:
    return gamma.newest(1, closed=True)
