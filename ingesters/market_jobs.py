"""The kinds of work that keep the markets complete and fresh, one request each time.

`Refresh` reads the open ones over and over; `Newest` looks for new ids; `GoneLookup` asks for what left the open ones;
`TokenLookup` for what fills wait for. All of them at once are for `Sweep`.
"""

import logging
from collections.abc import Iterable
from typing import Protocol

from common.errors import Unavailable
from common.http import Rejected
from common.records import Market
from common.redis_queue import RedisQueue
from ingesters.gamma import (
    EVENTS_A_PAGE,
    IDS_A_REQUEST,
    MOST_OFFSET,
    TOKENS_A_REQUEST,
    Gamma,
    Listing,
    Page,
    Record,
    nested_markets,
)
from ingesters.market_publisher import Publisher
from ingesters.market_sweep import Progress, Ration, Watch
from ingesters.sweep import Sweep

# Pages a poll interval, of what goes on for ever. At the real size (46,500 open markets, 1.45 million closed ones, a
# look every 30 s) the open ones are read in some 5 minutes, which is how long the CDN keeps an answer, and the closed
# ones in a day: they hardly change, and what closes is looked up by id.
OPEN_PAGES = 50
CLOSED_PAGES = 5
TOKEN_CHECK_S = 1.0  # between two looks at what fills wait for: a Redis call
TOKEN_AGAIN_S = 5.0  # until the same token is asked for again
TOKEN_SAMPLE = 200  # of the waiting tokens, at random, a check


class Job(Protocol):
    """One kind of work."""

    def has_work(self, now: float) -> bool:
        """Whether there is something to ask for at this moment."""

    def run(self, now: float) -> None:
        """Ask for one page and publish it. Raises Unavailable: nothing has moved, the same can be repeated."""


class GoneLookup:
    """Markets that are no longer among the open ones, by id: closed, resolved, or gone altogether."""

    def __init__(self, gamma: Gamma, publisher: Publisher, watch: Watch) -> None:
        self._gamma = gamma
        self._publisher = publisher
        self._watch = watch
        self._ids: list[int] = []

    def ask(self, ids: Iterable[int]) -> None:
        """Look these up, instead of what is left of an earlier call: that is watched, and asked for again."""
        self._ids = sorted(ids)

    def has_work(self, now: float) -> bool:  # noqa: ARG002 - the protocol's
        return bool(self._ids)

    def run(self, now: float) -> None:  # noqa: ARG002 - the protocol's
        asked = self._ids[:IDS_A_REQUEST]
        raws = self._gamma.by_ids(asked, closed=True)
        found = {int(market.id) for market in self._publisher.publish(map(Record, raws))}
        self._watch.forget(set(asked) - found)  # if one is open after all, the next refresh finds it
        self._ids = self._ids[len(asked) :]


class Refresh:
    """The open markets over and over, rationed, so that prices, volumes and closings are noticed."""

    def __init__(
        self,
        listing: Listing,
        publisher: Publisher,
        watch: Watch,
        *,
        gone: GoneLookup,
        sweep: Sweep,
        ration: Ration,
    ) -> None:
        self._listing = listing
        self._publisher = publisher
        self._watch = watch
        self._gone = gone
        self._sweep = sweep
        self._ration = ration
        self._begin()

    def _begin(self) -> None:
        self._after = ""
        self._progress = Progress()
        self._expected = set(self._watch.ids)
        self._seen: set[int] = set()

    def has_work(self, now: float) -> bool:
        return not self._sweep.round.is_first and self._ration.is_left(now)

    def run(self, now: float) -> None:  # noqa: ARG002 - the protocol's
        if not self._after:
            self._begin()
        page = self._page()
        self._progress.check(self._after, page)
        markets = self._publisher.publish(page.records, self._watch.state if page.following is None else dict)
        self._progress.note(self._after, page)
        self._seen.update(int(market.id) for market in markets if not market.closed)
        self._after = page.following or ""
        self._ration.take()
        if page.following is None:
            self._end(page)

    def _page(self) -> Page:
        try:
            return self._listing.page(self._after, closed=False)
        except Rejected as error:
            self._begin()
            raise Unavailable(error.reason) from error

    def _end(self, page: Page) -> None:
        self._ration.end()
        if not page.is_cut:
            self._gone.ask(self._expected & self._watch.ids - self._seen)


class Newest:
    """Markets with ids above all that were listed before, at every poll interval."""

    def __init__(
        self, gamma: Gamma, publisher: Publisher, interval_s: float, log: logging.Logger, *, from_events: bool
    ) -> None:
        self._gamma = gamma
        self._publisher = publisher
        self._interval_s = interval_s
        self._log = log
        self._from_events = from_events
        self._next_at = 0.0
        self._offset = 0  # of the next page, while a look goes on
        self._known = 0  # highest id of the look before
        self._highest = 0

    def has_work(self, now: float) -> bool:
        return self._offset > 0 or now >= self._next_at

    def run(self, now: float) -> None:
        offset, self._offset = self._offset, 0
        self._next_at = now + self._interval_s  # also when this fails: the other jobs come first then
        try:
            records = self._records(offset)
        except Rejected as error:
            self._next_at = float("inf")
            self._log.warning("newest markets can't be listed, they come with the sweeps alone: %s", error.reason)
            return
        ids = [int(market.id) for market in self._publisher.publish(records)]
        self._highest = max([self._highest, *ids])
        self._go_on(offset, ids)

    def _records(self, offset: int) -> list[Record]:
        if self._from_events:
            return nested_markets(self._gamma.newest_events(EVENTS_A_PAGE, self._interval_s))
        size = self._gamma.page_size
        return [Record(raw) for raw in self._gamma.offset(size, offset, closed=False, fresh_s=self._interval_s)]

    def _go_on(self, offset: int, ids: list[int]) -> None:
        """One more page while all ids are new; the very first look is content with one, the sweep reads the rest."""
        following = offset + self._gamma.page_size
        has_more = bool(ids) and 0 < self._known < min(ids) and following <= MOST_OFFSET and not self._from_events
        self._offset = following if has_more else 0
        if not has_more:
            self._known = self._highest


class TokenLookup:
    """The markets of tokens that fills wait for: among the open ones first, then among the closed ones."""

    def __init__(self, gamma: Gamma, publisher: Publisher, queue: RedisQueue) -> None:
        self._gamma = gamma
        self._publisher = publisher
        self._queue = queue
        self._open: list[str] = []  # to be asked for among the open markets
        self._closed: list[str] = []  # not found there
        self._asked: dict[str, float] = {}  # token to when, for those that need not be asked for again yet
        self._check_at = 0.0

    def has_work(self, now: float) -> bool:
        if not self._open and not self._closed and now >= self._check_at:
            self._open = self._due(now)
            self._check_at = now if self._open else now + TOKEN_CHECK_S
        return bool(self._open or self._closed)

    def _due(self, now: float) -> list[str]:
        self._asked = {token: at for token, at in self._asked.items() if now - at < TOKEN_AGAIN_S}
        waiting = self._queue.unknown_tokens(TOKEN_SAMPLE)
        return sorted(token for token in waiting if token not in self._asked)[:TOKENS_A_REQUEST]

    def run(self, now: float) -> None:
        if self._open:
            tokens, self._open = self._open, []
            self._asked.update(dict.fromkeys(tokens, now))
            self._closed = self._look_up(tokens, closed=False)
        else:
            tokens, self._closed = self._closed, []
            self._look_up(tokens, closed=True)

    def _look_up(self, tokens: list[str], *, closed: bool) -> list[str]:
        """Publishes the markets of these tokens; returns the tokens that were not found."""
        markets = self._publisher.publish(map(Record, self._gamma.by_tokens(tokens, closed=closed)))
        found = _tokens_of(markets)
        self._queue.forget_unknown_tokens(found & set(tokens))
        return [token for token in tokens if token not in found]


def _tokens_of(markets: Iterable[Market]) -> set[str]:
    return {token for market in markets for token in market.token_ids}
