"""The Polygon chain as one source, made of several providers that stand in for one another."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from common.errors import PipelineError, Unavailable
from common.http import TooMuch
from ingesters.json_rpc import TooLarge
from ingesters.provider import Head, Log, NodeBehind, Provider

FRESH_HEAD_S = 20.0  # a final block is some 5 s old; an older head is compared with those of the other providers
CACHED_TIMES = 2000  # blocks
_Found = TypeVar("_Found")


class AskAgain(PipelineError):
    """A provider could not answer. Ask again at once: another provider, or a smaller question, may do."""


class Page(NamedTuple):
    """What exists from block `first` up to and including `last`; last < first: nothing yet."""

    first: int
    last: int
    head: Head  # of the provider that was asked
    logs: Sequence[Log] = ()  # in the order of blocks
    times: dict[int, int] = {}  # of blocks whose logs don't tell their time  # noqa: RUF012 - never written

    @property
    def is_end(self) -> bool:
        """Whether there is nothing more for now."""
        return self.last >= self.head.number or self.last < self.first


class Polygon:
    """Questions to the provider that is best for them. One request that fails is one attempt: see AskAgain."""

    def __init__(self, providers: Sequence[Provider], clock: Callable[[], float] = time.time) -> None:
        self.providers = list(providers)
        self.host = self.providers[0].host  # of the provider that was asked last
        self._clock = clock
        self._times: OrderedDict[int, int] = OrderedDict()

    def wait_s(self) -> float:
        """Seconds until our own limits on requests allow the next one."""
        waits = [provider.wait_s() for provider in self._available()]
        return min(waits, default=0.0)

    def age_limit_s(self, fresh_s: float) -> float:
        """Up to which age a head counts as fresh, where it would be `fresh_s` for one that is final at once."""
        return max(provider.age_limit_s(fresh_s) for provider in self.providers)

    def head(self) -> Head:
        """The newest final block. Raises AskAgain, Unavailable."""
        return self._attempt(self._ready()[0], Provider.look)

    def block_time(self, number: int) -> int:
        """Unix seconds of a block up to the head. Raises AskAgain, Unavailable."""
        return self._attempt(self._ready()[0], lambda provider: provider.block_time(number))

    def read(self, first: int, new: int, until: int | None = None) -> Page:
        """The next logs from block `first` on, once block `new` is final, which is `first` or a later one.

        None from after block `until`. Raises AskAgain, Unavailable.
        """
        newest: Head | None = None
        for provider in self.providers:
            provider.chunk.doubt(self._clock())
        for provider in sorted(self._ready(), key=lambda provider: self._rank(provider, first)):
            head = self._attempt(provider, lambda provider: _head_for(provider, new), proves=False)
            if head.number >= new:
                return self._attempt(provider, lambda provider: self._page(provider, first, until))
            newest = max(newest or head, head)
            if self._clock() - head.timestamp <= provider.age_limit_s(FRESH_HEAD_S):
                break
        assert newest is not None  # _ready has one provider at least
        return Page(first, first - 1, newest)

    def troubles(self) -> list[str]:
        """What an operator should know of the providers."""
        now = self._clock()
        return [trouble for provider in self.providers for trouble in provider.troubles(now)]

    def delay(self) -> str:
        """Why fills arrive late, when every provider that can be used brings them late; empty when one does not."""
        delays = [provider.delay() for provider in self._available()]
        return next(iter(delays), "") if all(delays) else ""

    def close(self) -> None:
        for provider in self.providers:
            provider.close()

    def _available(self) -> list[Provider]:
        now = self._clock()
        return [provider for provider in self.providers if provider.away_until <= now]

    def _ready(self) -> list[Provider]:
        """Those that can be asked now, in the order of the settings; one at least. Raises Unavailable."""
        available = self._available()
        if not available:
            raise self._nobody()
        return [provider for provider in available if provider.wait_s() <= 0] or available

    def _rank(self, provider: Provider, first: int) -> tuple[int, int]:
        """Who answers for the most blocks comes first; the order of the settings decides between equals."""
        newest = max((one.head.number for one in self.providers if one.head is not None), default=first)
        reach = max(1, newest - provider.blocks_behind - first + 1)
        return -min(provider.chunk.limit, reach), self.providers.index(provider)

    def _page(self, provider: Provider, first: int, until: int | None) -> Page:
        assert provider.head is not None  # it was asked before
        head = provider.head
        last = provider.last_of_chunk(first, head if until is None or head.number <= until else Head(until, 0))
        logs = self._sized(provider, last - first + 1, lambda: provider.logs(first, last))
        times = provider.times(logs, self._times.get)
        self._remember(times)
        return Page(first, last, head, logs, times)

    def _sized(self, provider: Provider, asked: int, work: Callable[[], _Found]) -> _Found:
        """Raises AskAgain when the same provider should be asked for fewer blocks at once."""
        now = self._clock()
        try:
            found = work()
        except NodeBehind:
            raise
        except TooLarge as error:
            if provider.chunk.refuse(asked, now, error.hint(asked)):
                raise AskAgain(error.reason) from error
            raise
        except TooMuch:
            provider.chunk.refuse(asked, now)  # it may be that, or the provider hangs: others first
            raise
        except Unavailable as error:
            if provider.chunk.fail(asked, now) and not error.retry_after_s:
                raise AskAgain(error.reason) from error
            raise
        provider.chunk.accept(asked)
        return found

    def _attempt(self, provider: Provider, work: Callable[[Provider], _Found], *, proves: bool = True) -> _Found:
        """`proves`: success shows that the provider works; a head alone shows nothing of its logs."""
        self.host = provider.host
        try:
            found = work(provider)
        except (TooLarge, Unavailable) as error:
            provider.leave(self._clock(), error)
            raise self._verdict() from error
        if proves:
            provider.note_success()
        return found

    def _verdict(self) -> PipelineError:
        return AskAgain("another provider") if self._available() else self._nobody()

    def _nobody(self) -> Unavailable:
        back_at = min(provider.away_until for provider in self.providers)
        reasons = "; ".join(provider.reason for provider in self.providers)
        return Unavailable(reasons, retry_after_s=max(0.0, back_at - self._clock()))

    def _remember(self, times: dict[int, int]) -> None:
        self._times.update(times)
        while len(self._times) > CACHED_TIMES:
            self._times.popitem(last=False)


def _head_for(provider: Provider, new: int) -> Head:
    """The provider's head; asked for again only when the one that is known is behind the block."""
    known = provider.head
    return known if known is not None and known.number >= new else provider.look()
