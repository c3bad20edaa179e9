"""The world: one data set that grows with the clock, and that seed and birth time alone determine."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from simulator import chain
from simulator.catalogue import Catalogue
from simulator.fills import Block, Fill, FillMaker, Rates
from simulator.markets import Market
from simulator.standing import Life

_CACHED_FILLS = 40_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What determines the data. Times are Unix seconds, rates are fills a second."""

    seed: int = 1
    birth: int = 1_767_600_000
    history_hours: float = 3.0
    history_rate: float = 12.0
    live_rate: float = 40.0
    markets: int = 400
    cutover: int | None = None
    open_markets: int | None = None  # standing markets that stay open at most; None: three in four

    @property
    def life(self) -> Life:
        return Life(self.seed, self.markets, self.history_start, self.birth, self.open_markets)

    @property
    def history_start(self) -> int:
        return self.birth - round(self.history_hours * 3600)


class World:
    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self._frozen_at: float | None = None
        self.catalogue = Catalogue(settings.life)
        rates = Rates(settings.birth, settings.history_rate, settings.live_rate)
        self._maker = FillMaker(settings.seed, self.catalogue, rates, settings.cutover)
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._cached_fills = 0
        self._counts: dict[int, int] = {}
        self.first_block = chain.block_at(settings.history_start) + 1
        # In it V2 begins to match, beside the last fills of V1; None: V1 for ever.
        self.cutover_block = None if settings.cutover is None else chain.first_block_at(settings.cutover)

    def now(self) -> float:
        return self._clock()

    def fills_now(self) -> float:
        """The time up to which fills exist: now, or the moment of the freeze."""
        return self.now() if self._frozen_at is None else min(self._frozen_at, self.now())

    def freeze(self) -> float:
        """No fill appears after this moment, until `resume`; then those of the time between appear at once."""
        if self._frozen_at is None:
            self._frozen_at = self.now()
        return self._frozen_at

    def resume(self) -> None:
        self._frozen_at = None

    @property
    def frozen_at(self) -> float | None:
        return self._frozen_at

    def last_block(self) -> int:
        return chain.block_at(self.fills_now())

    def block(self, number: int) -> Block:
        """A block from the cache, or made anew."""
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        block = self._blocks[number] = self._maker.block(number)
        self._cached_fills += len(block.fills)
        while self._cached_fills > _CACHED_FILLS and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._cached_fills -= len(oldest.fills)
        return block

    def peek(self, number: int) -> Block:
        """A block for one look: what a sweep over everything reads does not push the rest out of the cache."""
        return self._blocks.get(number) or self._maker.block(number)

    def count(self, number: int) -> int:
        """How many fills the block holds; remembered, since whole worlds are counted."""
        count = self._counts.get(number)
        if count is None:
            count = self._counts[number] = len(self.peek(number).fills)
        return count

    def numbers(self, since: float | None = None, until: float | None = None) -> range:
        """The existing blocks with since <= timestamp < until."""
        first, last = self.first_block, self.last_block()
        if since is not None:
            first = max(first, chain.first_block_at(since))
        if until is not None:
            last = min(last, chain.block_at(until - 1))
        return range(first, last + 1)

    def fill(self, fill_id: str) -> Fill | None:
        """An existing fill by its id, found through the block that its transaction hash carries."""
        number = chain.block_of_transaction(fill_id)
        if number is None or not self.first_block <= number <= self.last_block():
            return None
        return next((fill for fill in self.block(number).fills if fill.id == fill_id), None)

    def listed_markets(self) -> list[Market]:
        return [self.catalogue[place] for place in self.listed_places()]

    def listed_places(self) -> Iterator[int]:
        """Places of the markets that Gamma shows."""
        return self.catalogue.listed(self.now(), self.fills_now())

    def fills(self) -> Iterator[Fill]:
        """Every existing fill by time and id."""
        for number in self.numbers():
            yield from self.peek(number).fills
