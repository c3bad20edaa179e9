"""Every market of a world, with look-ups; the five-minute ones are added as time reaches them.

Markets have places in the order of their ids: the standing ones first, then the five-minute ones.
"""

from collections.abc import Iterator

from simulator.codes import code_of_condition, code_of_token
from simulator.markets import (
    FIRST_SERIES_CODE,
    FIRST_SERIES_EVENT_ID,
    SERIES_BEFORE_BIRTH_S,
    SERIES_LEAD_S,
    SERIES_LENGTH_S,
    SERIES_STEP_S,
    Market,
    is_listed,
    series_market,
)
from simulator.standing import Life, Standing

_MOST_FILLABLE = 5_000  # standing markets that fills are spread over


class Catalogue:
    def __init__(self, life: Life) -> None:
        self.seed = life.seed
        self.series_start = (life.birth - SERIES_BEFORE_BIRTH_S) // SERIES_STEP_S * SERIES_STEP_S
        self.standing = Standing(life)
        self._first_series_id = self.standing.id_of(life.count)
        self.series: list[Market] = []

    def grow(self, time_s: float) -> None:
        """Makes the five-minute markets known that exist in any way at this time."""
        last = int(time_s + SERIES_LEAD_S - self.series_start) // SERIES_STEP_S
        while len(self.series) <= last:
            self.series.append(series_market(self.seed, len(self.series), self.series_start, self._first_series_id))

    def trading_series(self, time_s: int) -> list[Market]:
        """The five-minute markets that are open at this time, oldest first."""
        self.grow(time_s)
        last = (time_s - self.series_start) // SERIES_STEP_S
        first = last - SERIES_LENGTH_S // SERIES_STEP_S + 1
        return self.series[max(0, first) : max(0, last + 1)]

    def fillable(self, birth: int) -> list[Market]:
        """Standing markets that get fills: all that can, or some of very many."""
        count = len(self.standing)
        alive = [number for number in range(count) if not self.standing.is_closed(number, birth)]
        step = max(1, len(alive) // _MOST_FILLABLE)
        return [market for number in alive[::step] if (market := self.standing[number]).weight > 0]

    # --- by place ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.standing) + len(self.series)

    def __getitem__(self, place: int) -> Market:
        older = len(self.standing)
        return self.standing[place] if place < older else self.series[place - older]

    def id_of(self, place: int) -> int:
        older = len(self.standing)
        return self.standing.id_of(place) if place < older else self._first_series_id + place - older

    def place_after(self, market_id: int) -> int:
        """The place of the first market with a larger id."""
        if market_id < self._first_series_id:
            return self.standing.number_after(market_id)
        return min(len(self), len(self.standing) + market_id - self._first_series_id + 1)

    def is_closed(self, place: int, now: float) -> bool:
        older = len(self.standing)
        return self.standing.is_closed(place, now) if place < older else self.series[place - older].is_closed(now)

    def is_listed(self, place: int, now: float, fills_now: float) -> bool:
        older = len(self.standing)
        return place < older or is_listed(self.series[place - older], now, fills_now)

    def place_of_id(self, market_id: str) -> int | None:
        if not market_id.isdecimal():
            return None
        place = self.place_after(int(market_id) - 1)
        return place if place < len(self) and self.id_of(place) == int(market_id) else None

    def place_of_token(self, token_id: str) -> int | None:
        return self._place_of_code(code_of_token(self.seed, token_id))

    def place_of_condition(self, condition_id: str) -> int | None:
        return self._place_of_code(code_of_condition(self.seed, condition_id))

    def place_of_slug(self, slug: str) -> int | None:
        """A slug ends with the number of its market, or with the time at which it opens."""
        last = slug.rpartition("-")[2]
        if not last.isdecimal():
            return None
        is_series = int(last) >= self.series_start
        step = (int(last) - self.series_start) // SERIES_STEP_S
        return self._checked(len(self.standing) + step if is_series else int(last))

    def _place_of_code(self, code: int | None) -> int | None:
        if code is None:
            return None
        return self._checked(len(self.standing) + code - FIRST_SERIES_CODE if code >= FIRST_SERIES_CODE else code)

    def _checked(self, place: int) -> int | None:
        return place if place < len(self) else None

    # --- all of them ---------------------------------------------------------------------------------------------

    def listed(self, now: float, fills_now: float) -> Iterator[int]:
        """The places of the markets that Gamma shows, in the order of their ids."""
        self.grow(now)
        return (place for place in range(len(self)) if self.is_listed(place, now, fills_now))

    def known(self, fills_now: float) -> Iterator[Market]:
        """The markets that are listed or already filled."""
        self.grow(fills_now)
        markets = (self[place] for place in range(len(self)))
        return (market for market in markets if min(market.listed_at, market.opens_at) <= fills_now)

    # --- events: each five-minute market has one of its own, after those of the standing ones --------------------

    def count_events(self) -> int:
        return self.standing.events + len(self.series)

    def event_id_of(self, event: int) -> int:
        older = self.standing.events
        return self.standing.event_id_of(event) if event < older else FIRST_SERIES_EVENT_ID + event - older

    def event_after(self, event_id: int) -> int:
        """The place of the first event with a larger id."""
        if event_id < FIRST_SERIES_EVENT_ID:
            return self.standing.event_after(event_id)
        return min(self.count_events(), self.standing.events + event_id - FIRST_SERIES_EVENT_ID + 1)

    def members(self, event: int) -> list[int]:
        """The places of an event's markets."""
        older = self.standing.events
        return list(self.standing.members(event)) if event < older else [len(self.standing) + event - older]
