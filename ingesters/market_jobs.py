"""The kinds of work that keep the markets complete and fresh, one request each time.

`Refresh` reads the open ones over and over; `Newest` looks for new ids; `GoneLookup` asks for what left the open ones;
`TokenLookup` for what fills wait for. All of them at once are for `Sweep`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from common.errors import Unavailable
from common.fallback import Fallback
from common.records import Market
from common.redis_queue import RedisQueue
from ingesters.gamma import (
    CLOB_TOKENS,
    EVENTS_A_PAGE,
    IDS_A_REQUEST,
    POSITIONS,
    TOKENS_A_REQUEST,
    Gamma,
    Page,
    Record,
    Refused,
)
from ingesters.market_lanes import ListLane
from ingesters.market_publisher import Publisher
from ingesters.market_sweep import Ration, Watch
from ingesters.readers import Read
from ingesters.retries import Retries
from ingesters.sweep import Sweep

# Pages a poll interval, of what goes on for ever. At the real size (46,500 open markets, 1.45 million closed ones, a
# look every 30 s) the open ones are read in some 5 minutes, which is how long the CDN keeps an answer, and the closed
# ones in a day: they hardly change, and what closes is looked up by id.
OPEN_PAGES = 50
CLOSED_PAGES = 5
TOKEN_CHECK_S = 1.0  # between two looks at what fills wait for: a Redis call
TOKEN_AGAIN_S = 5.0  # until the same token is asked for again
TOKEN_SAMPLE = 200  # of the waiting tokens, at random, a check


def _raws_to_page(raws: Sequence[bytes]) -> Page:
    return Page([Record(raw) for raw in raws], frozenset(), None)


class GoneLookup:
    """Markets that are no longer among the open ones, by id: closed, resolved, or gone altogether."""

    def __init__(self, publisher: Publisher, watch: Watch) -> None:
        self._publisher = publisher
        self._watch = watch
        self._ids: set[str] = set()
        self._asked: list[str] = []
        self._retries = Retries()

    def ask(self, ids: Iterable[int]) -> None:
        """Look these up, instead of what is left of an earlier call: that is watched, and asked for again."""
        self._ids = set(map(str, ids))

    def next_request(self, now: float) -> Read | None:
        self._asked = self._retries.group(self._ids, IDS_A_REQUEST, now)
        return partial(_by_ids, list(map(int, self._asked))) if self._asked else None

    def take(self, page: Page, now: float) -> None:  # noqa: ARG002 - the protocol's
        asked = set(map(int, self._asked))
        found = {int(market.id) for market in self._publisher.publish(page.records)}
        self._watch.forget(asked - found)  # if one is open after all, the next refresh finds it
        self._retries.passed(self._asked)
        self._ids -= set(self._asked)

    def fail(self, error: Unavailable, now: float) -> None:
        self._retries.failed(self._asked, now, error.reason)


def _by_ids(ids: list[int], gamma: Gamma) -> Page:
    return _raws_to_page(gamma.by_ids(ids, closed=True))


class Refresh:
    """The open markets over and over, rationed, so that prices, volumes and closings are noticed."""

    def __init__(
        self,
        open_lane: Callable[[], ListLane],
        publisher: Publisher,
        watch: Watch,
        *,
        gone: GoneLookup,
        sweep: Sweep,
        ration: Ration,
    ) -> None:
        self._open_lane = open_lane
        self._publisher = publisher
        self._watch = watch
        self._gone = gone
        self._sweep = sweep
        self._ration = ration
        self._lane = open_lane()
        self._begin()

    def _begin(self) -> None:
        """What the lists that follow are compared with."""
        self._expected = set(self._watch.ids)
        self._seen: set[int] = set()

    def next_request(self, now: float) -> Read | None:
        if self._sweep.round.is_first or not self._ration.is_left(now):
            return None
        return self._lane.next_request()

    def take(self, page: Page, now: float) -> None:  # noqa: ARG002 - the protocol's
        if self._lane.check(page):
            self._begin()
        markets = self._publisher.publish(page.records, self._watch.state if page.following is None else dict)
        self._lane.move(page, markets)
        self._seen.update(int(market.id) for market in markets if not market.closed)
        self._ration.take()
        if page.following is None:
            self._end(page)

    def fail(self, error: Unavailable, now: float) -> None:  # noqa: ARG002 - the protocol's
        if not isinstance(error, Refused):
            raise error
        self._lane.refused(error.reason)

    def describe(self) -> str:
        """Why the open markets are not read; empty while they are."""
        return self._lane.describe()

    def _end(self, page: Page) -> None:
        self._ration.end()
        if not page.is_cut:
            self._gone.ask(self._expected & self._watch.ids - self._seen)
        self._lane = self._open_lane()
        self._begin()


class Newest:
    """Markets with ids above all that were listed before, at every poll interval."""

    def __init__(
        self,
        publisher: Publisher,
        interval_s: float,
        page_size: int,
        fallback: Fallback,
        *,
        from_events: bool,
    ) -> None:
        """`fallback`: stands for the look at the newest ones while Gamma refuses it."""
        self._publisher = publisher
        self._interval_s = interval_s
        self._page_size = page_size
        self._fallback = fallback
        self._from_events = from_events
        self._next_at = 0.0
        self._after = ""  # of the next page, while a look goes on
        self._known = 0  # highest id of the look before
        self._highest = 0

    def next_request(self, now: float) -> Read | None:
        if self._fallback.is_on or not (self._after or now >= self._next_at):
            return None
        after, self._after = self._after, ""
        self._next_at = now + self._interval_s  # also when this fails: the other jobs come first then
        return partial(self._read, after)

    def _read(self, after: str, gamma: Gamma) -> Page:
        if self._from_events:
            return gamma.newest_events(EVENTS_A_PAGE, self._interval_s)
        return gamma.newest(self._page_size, after, fresh_s=self._interval_s)

    def take(self, page: Page, now: float) -> None:  # noqa: ARG002 - the protocol's
        self._fallback.end()
        ids = [int(market.id) for market in self._publisher.publish(page.records)]
        self._highest = max([self._highest, *ids])
        self._go_on(page, ids)

    def fail(self, error: Unavailable, now: float) -> None:  # noqa: ARG002 - the protocol's
        if not isinstance(error, Refused):
            raise error
        self._fallback.begin(error.reason)

    def _go_on(self, page: Page, ids: list[int]) -> None:
        """One more page while all ids are new; the very first look is content with one, the sweep reads the rest."""
        has_more = bool(ids) and 0 < self._known < min(ids) and page.following is not None
        self._after = page.following or "" if has_more else ""
        if not has_more:
            self._known = self._highest


class Search(NamedTuple):
    """A way to look for tokens."""

    field: str  # that Gamma filters by
    closed: bool


# What is new is open; a token of the new protocol is found by the other field alone.
SEARCHES = (
    Search(CLOB_TOKENS, closed=False),
    Search(CLOB_TOKENS, closed=True),
    Search(POSITIONS, closed=False),
    Search(POSITIONS, closed=True),
)


class WaitingTokens:
    """The tokens that fills wait for, and which of them are to be looked up next."""

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue
        self._retries = Retries()
        self._asked: dict[str, float] = {}  # token to when, for those that need not be asked for again yet
        self._under_way: set[str] = set()
        self._sample: list[str] = []
        self._check_at = 0.0

    def next_tokens(self, now: float, *, doubtful: bool) -> list[str]:
        """Tokens to ask for in one request: those whose look-up failed before, or the others."""
        tokens = self._due(now, doubtful=doubtful)
        if not tokens and now >= self._check_at:
            self._sample = self._queue.unknown_tokens(TOKEN_SAMPLE)
            tokens = self._due(now, doubtful=doubtful)
            self._check_at = now if tokens else now + TOKEN_CHECK_S
        self._under_way.update(tokens)
        return tokens

    def _due(self, now: float, *, doubtful: bool) -> list[str]:
        self._asked = {token: at for token, at in self._asked.items() if now - at < TOKEN_AGAIN_S}
        waiting = [token for token in self._sample if token not in self._asked and token not in self._under_way]
        chosen = [token for token in waiting if self._retries.is_doubtful(token) is doubtful]
        return self._retries.group(chosen, TOKENS_A_REQUEST, now)

    def answered(self, tokens: Sequence[str]) -> None:
        """Their look-up works, whether it found them or not."""
        self._retries.passed(tokens)

    def found(self, tokens: set[str]) -> None:
        """Their markets have been published."""
        self._queue.forget_unknown_tokens(tokens)
        self._under_way -= tokens
        self._sample = [token for token in self._sample if token not in tokens]

    def not_found(self, tokens: Sequence[str], now: float) -> None:
        """Gamma lists them nowhere yet."""
        self._under_way.difference_update(tokens)
        self._asked |= dict.fromkeys(tokens, now)

    def failed(self, tokens: Sequence[str], now: float, reason: str) -> None:
        """Their look-up does not work."""
        self._under_way.difference_update(tokens)
        self._retries.failed(tokens, now, reason)

    def describe(self) -> str:
        """Which look-ups keep failing; empty when none does."""
        failing = self._retries.failing()
        if not failing:
            return ""
        token, reason = next(iter(failing.items()))
        more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
        return f"the look-up of token {token}{more} keeps failing, fills wait for it: {reason}"


class TokenLookup:
    """The markets of tokens that fills wait for, one group of them after the other, each in several ways."""

    def __init__(self, publisher: Publisher, waiting: WaitingTokens, by_position: Fallback, *, doubtful: bool) -> None:
        """`by_position`: stands for the look-up by position ids while Gamma does not take it.

        `doubtful`: for the tokens whose look-up has failed before, which must not keep the others waiting.
        """
        self._publisher = publisher
        self._waiting = waiting
        self._by_position = by_position
        self._doubtful = doubtful
        self._tokens: list[str] = []  # of the group, those not yet found
        self._searches: list[Search] = []  # not yet tried for them

    def next_request(self, now: float) -> Read | None:
        if not self._tokens:
            self._tokens = self._waiting.next_tokens(now, doubtful=self._doubtful)
            self._searches = [each for each in SEARCHES if each.field != POSITIONS or not self._by_position.is_on]
        return partial(_by_tokens, self._tokens, self._searches[0]) if self._tokens else None

    def take(self, page: Page, now: float) -> None:
        found = _tokens_of(self._publisher.publish(page.records)) & set(self._tokens)
        search = self._searches.pop(0)
        self._waiting.found(found)
        self._tokens = [token for token in self._tokens if token not in found]
        if search.field == POSITIONS:
            self._by_position.end()
        else:
            self._waiting.answered([*self._tokens, *found])
        if not self._searches:
            self._give_up(now)

    def fail(self, error: Unavailable, now: float) -> None:
        """One bad token or one bad answer: it holds up these tokens alone, and the other jobs not at all."""
        if self._searches[0].field == POSITIONS:
            self._by_position.begin(error.reason)
            self._give_up(now)
            return
        self._waiting.failed(self._tokens, now, error.reason)
        self._tokens = []

    def _give_up(self, now: float) -> None:
        self._waiting.not_found(self._tokens, now)
        self._tokens = []


def _by_tokens(tokens: list[str], search: Search, gamma: Gamma) -> Page:
    return _raws_to_page(gamma.by_tokens(tokens, field=search.field, closed=search.closed))


def _tokens_of(markets: Iterable[Market]) -> set[str]:
    return {token for market in markets for token in market.token_ids}
