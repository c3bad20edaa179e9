"""Every market once; from then on the closed ones again and again, rationed. Its place survives a restart.

Readers fetch pages ahead, of both lists and of the closed ones' ids, and one thread publishes them.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import NamedTuple

from common.errors import CursorLost
from common.fallback import Fallback
from common.records import Market
from ingesters.gamma import MOST_OFFSET, Asking, FilterIgnored, Page, Record, Refused
from ingesters.market_lanes import Descent, ListLane, NoneClosed
from ingesters.market_publisher import Publisher
from ingesters.market_sweep import Place, Ration, Restored, Round, Watch
from ingesters.readers import Readers

READERS_OF_LISTS = 2  # a page each; more of them go through ids
HASTE = 2  # sweep 2 leaves half of the limit to others
OPEN, CLOSED = False, True


class Spare(NamedTuple):
    """What is left of the limit on requests for what is more urgent."""

    lists: int
    ids: int


class Sweep:
    """Asks ahead and publishes what has come."""

    def __init__(
        self,
        open_lane: Callable[[Place, bool], ListLane],
        publisher: Publisher,
        watch: Watch,
        readers: Readers,
        *,
        restore: Callable[[], Restored],
        ration: Ration,
        limit: int,
        spare: Spare,
        page_size: int,
        asking: Asking,
        log: logging.Logger,
        by_list: Fallback,
    ) -> None:
        """`restore`: where the sweep is, by its state. `by_list`: stands for the descent while Gamma refuses it."""
        self._restore = restore
        self._open_lane = open_lane
        self._publisher = publisher
        self._watch = watch
        self._readers = readers
        self._ration = ration
        self._limit = limit
        self._spare = spare
        self._page_size = page_size
        self._asking = asking
        self._log = log
        self._by_list = by_list
        self._told_cut = False
        self._descent: Descent | None = None
        self._lanes: list[ListLane] = []
        self._go_on_from_state()

    def ask(self, now: float) -> None:
        """Keep the readers busy with what comes next."""
        if self.round.is_done and (self._may_hurry(self.round.following()) or self._ration.is_left(now)):
            self._begin(self.round.following())
        spare = self._spare.lists if self.round.is_first else self._limit // HASTE
        for lane in self._lanes:
            has_room = sum(len(lane.awaited()) for lane in self._lanes) < self._readers.count
            may_ask = has_room and (self._may_hurry(self.round) or self._ration.is_left(now))
            if may_ask and lane.ask(self._readers, spare):
                self._ration.take()
        if self._descent is not None and not self._by_list.is_on:
            self._descent.ask(self._readers, self._spare.ids, self._lanes[CLOSED].highest + 1)

    def awaited(self) -> list[Future[Page]]:
        """The pages that were asked for and are to be published next."""
        lanes: list[ListLane | Descent] = [*self._lanes]
        if self._descent is not None:
            lanes.append(self._descent)
        return [page for lane in lanes for page in lane.awaited()]

    def has_work(self) -> bool:
        """Whether a page has come."""
        return any(page.done() for page in self.awaited())

    def run(self) -> None:
        """Publish what has come. Where the state is not the one that was written last, go on from what is there."""
        try:
            self._take_all()
        except CursorLost as error:
            self._log.warning("%s; the sweep goes on from what is there", error)
            self._drop_descent()
            self._go_on_from_state()

    def _take_all(self) -> None:
        for lane in self._lanes:
            if _has_come(lane):
                self._take_page(lane)
        for _ in range(self._readers.count):
            if self._descent is not None and _has_come(self._descent):
                self._take_block(self._descent)

    def describe(self) -> list[str]:
        """What keeps the sweep from going on, or slows it down; empty while nothing does."""
        return [text for text in (*(lane.describe() for lane in self._lanes), self._by_list.describe()) if text]

    # --- rounds --------------------------------------------------------------------------------------------------

    def _go_on_from_state(self) -> None:
        self._cursor, place = self._restore()
        self._begin(place)

    def _begin(self, place: Round) -> None:
        """The lanes of a round, from where it is."""
        self.round = place
        self._lanes = [self._open_lane(place.place(closed=closed), closed) for closed in (OPEN, CLOSED)]
        has_readers = self._readers.count > READERS_OF_LISTS and place.listing == "markets/keyset"
        goes_down = has_readers and place.is_first and not place.closed.is_done
        self._descent = Descent(place.span, self._page_size) if goes_down else None

    def _may_hurry(self, place: Round) -> bool:
        """Whether the round is one without rations.

        Where both lists were read side by side, a market may have closed between them and be in neither; and ids do not
        tell what an answer left out. So the closed ones are listed once more at once.
        """
        return place.is_first or (place.number == 2 and self._readers.count > 1)  # noqa: PLR2004 - the second round

    # --- pages ---------------------------------------------------------------------------------------------------

    def _take_page(self, lane: ListLane) -> None:
        try:
            with self._asking():
                page = lane.result()
        except Refused as error:
            lane.refused(error.reason)
            return
        with self._asking():
            lane.check(page)
        after = self.round.moved(lane.place.beyond(page), len(page.records), closed=lane.closed)
        markets = self._publish(page.records, after)
        lane.move(page, markets)
        self._tell(page)
        self._meet()

    def _take_block(self, descent: Descent) -> None:
        try:
            with self._asking():
                page = descent.take()
        except (Refused, FilterIgnored, NoneClosed) as error:
            self._by_list.begin(error.reason)
            return
        self._by_list.end()
        if page is None:
            return
        after = self.round._replace(span=descent.span_after(), read=self.round.read + len(page.records))
        self._publish(page.records, after)
        descent.move(page)
        self._meet()

    def _publish(self, records: list[Record], after: Round) -> list[Market]:
        """The markets, published together with the place that follows. Raises Unavailable and CursorLost."""
        markets = self._publisher.publish(records, lambda: self._state(after), cursor=self._cursor)
        self._cursor, self.round = after.cursor(), after
        return markets

    def _meet(self) -> None:
        """Where the list has come up to the ids that were read from the top, all closed markets are read."""
        lane = self._lanes[CLOSED]
        if self._descent is None:
            return
        if not lane.is_ascending or lane.place.is_done:
            self._drop_descent()
        elif self._descent.meets(lane):
            after = self.round.moved(Place(is_done=True), 0, closed=True)
            self._publish([], after)
            lane.finish()
            self._drop_descent()
            self._tell_end()

    def _drop_descent(self) -> None:
        if self._descent is not None:
            self._descent.stop()
            self._by_list.end()
        self._descent = None
        self.round = self.round._replace(span=None)

    def _state(self, after: Round) -> Mapping[str, str]:
        return after.state() | self._watch.state() if after.is_done else after.state()

    def _tell(self, page: Page) -> None:
        if page.is_cut and not self._told_cut:
            self._told_cut = True
            cure = "POLYMARKET_PAGING=keyset reaches them"
            self._log.warning("offset paging ends at %d: older markets are not listed; %s", MOST_OFFSET, cure)
        if self.round.is_done:
            self._tell_end()

    def _tell_end(self) -> None:
        if self.round.is_done:
            self._ration.end()
            level = logging.INFO if self.round.number == 1 else logging.DEBUG
            self._log.log(level, "sweep done: sweep=%d markets=%d", self.round.number, self.round.read)


def _has_come(lane: ListLane | Descent) -> bool:
    return any(page.done() for page in lane.awaited())
