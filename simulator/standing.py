"""The standing markets, there from the start: each is made from its number when looked at, so that millions fit."""

import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import overload

from simulator import wording
from simulator.chance import generator
from simulator.codes import condition_of, tokens_of
from simulator.markets import Event, Market

MOST_MARKETS = 2_000_000
_DAY_S = 86_400
_FIRST_ID = 512_000
_LARGEST_ID_STEP = 7
_FIRST_EVENT_ID = 16_000
_EVENT_ID_STEP = 3
_CACHED = 4096

# What is odd about the standing market number i: the entry at i modulo ODDITY_STEP.
ODDITY_STEP = 50
ODDITIES = {
    3: "three_outcomes",
    5: "no_tokens",
    8: "no_condition",
    9: "no_volume",
    11: "html",
    13: "non_ascii",
    14: "trailing_newline",
    17: "no_events",
    19: "empty_events",
    21: "v2",
    23: "long_prices",
    25: "date_only",
    27: "no_dates",
    29: "far_reward",
    31: "no_prices",
    33: "long_fraction",
    35: "offset_seconds",
    37: "game",
    41: "v2",
    43: "closed_unknown",
}
_WITHOUT_FILLS = frozenset({"no_tokens", "no_condition"})


@dataclass(frozen=True, slots=True)
class Life:
    """When the standing markets were born and how many there are."""

    seed: int
    count: int
    history_start: int
    birth: int
    open_markets: int | None = None  # so many stay open at most, spread evenly; None: three in four


class Standing(Sequence[Market]):
    """The standing markets by number, oldest first; by id as well."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.events = max(1, life.count * 3 // 10)
        self._id_step = max(1, min(_LARGEST_ID_STEP, MOST_MARKETS // max(1, life.count)))
        self._open_step = 1 if life.open_markets is None else max(1, -(-life.count // max(1, life.open_markets)))
        rng = generator(life.seed, 101)
        ages = sorted((round(_DAY_S * (1 + 400 * rng.random() ** 2)) for _ in range(life.count)), reverse=True)
        self._ages = array("I", ages)
        self._event_of = array("I", (_event_of(number, self.events, rng) for number in range(life.count)))
        self._events_made_at = life.history_start - (ages[0] if ages else 0)
        self._market = lru_cache(_CACHED)(self._made)
        self._event = lru_cache(_CACHED)(self._made_event)
        self._members: tuple[array[int], array[int]] | None = None

    def __len__(self) -> int:
        return self._life.count

    @overload
    def __getitem__(self, number: int) -> Market: ...

    @overload
    def __getitem__(self, number: slice) -> list[Market]: ...

    def __getitem__(self, number: int | slice) -> Market | list[Market]:
        places = range(self._life.count)[number]
        return self._market(places) if isinstance(places, int) else [self._market(place) for place in places]

    def __iter__(self) -> Iterator[Market]:
        return map(self._market, range(self._life.count))

    def is_closed(self, number: int, now: float) -> bool:
        """As the market itself would say, without making it."""
        return self._closed_long_ago(number) or (_closes_late(number) and self._late_closing(number) <= now)

    def id_of(self, number: int) -> int:
        return _FIRST_ID + self._id_step * number

    def number_after(self, market_id: int) -> int:
        """The number of the first market with a larger id."""
        return min(self._life.count, max(0, (market_id - _FIRST_ID) // self._id_step + 1))

    # --- events --------------------------------------------------------------------------------------------------

    def event_id_of(self, event: int) -> int:
        return _FIRST_EVENT_ID + _EVENT_ID_STEP * event

    def event_after(self, event_id: int) -> int:
        """The number of the first event with a larger id."""
        return min(self.events, max(0, (event_id - _FIRST_EVENT_ID) // _EVENT_ID_STEP + 1))

    def members(self, event: int) -> Sequence[int]:
        """The numbers of an event's markets."""
        if self._members is None:
            self._members = _grouped(self._event_of, self.events)
        starts, numbers = self._members
        return numbers[starts[event] : starts[event + 1]]

    # --- making them ---------------------------------------------------------------------------------------------

    def _closed_long_ago(self, number: int) -> bool:
        oddity_is_unknown = number % ODDITY_STEP == 43  # noqa: PLR2004 - as in ODDITIES
        return oddity_is_unknown or number % 4 == 2 or number % self._open_step != 0  # noqa: PLR2004 - any fixed place

    def _late_closing(self, number: int) -> int:
        return self._life.birth + 120 + 8 * number

    def _closing_time(self, number: int, created_at: int, rng: Random) -> int | None:
        """A quarter closed long ago, some close one after the other while the simulator runs, the rest stay open."""
        if self._closed_long_ago(number):
            return created_at + rng.randint(3600, _DAY_S)
        return self._late_closing(number) if _closes_late(number) else None

    def _made_event(self, number: int) -> Event:
        return _standing_event(self._life.seed, number, self._events_made_at)

    def _made(self, number: int) -> Market:
        seed, created_at = self._life.seed, self._life.history_start - self._ages[number]
        rng = generator(seed, 103, number)
        oddity = ODDITIES.get(number % ODDITY_STEP, "")
        question = _odd_question(oddity) or _question(rng)
        closes_at = self._closing_time(number, created_at, rng)
        outcomes = _outcomes(oddity, rng)
        is_filled = (closes_at is None or closes_at > self._life.birth) and oddity not in _WITHOUT_FILLS
        return Market(
            number=number,
            id=str(self.id_of(number)),
            question=question,
            slug=f"{_slug(question) or 'market'}-{number}",
            condition_id="" if oddity == "no_condition" else condition_of(seed, number),
            tokens=() if oddity == "no_tokens" else tokens_of(seed, number, len(outcomes)),
            outcomes=outcomes,
            event=self._event(self._event_of[number]),
            oddity=oddity,
            tick=rng.choice((1, 10)),
            anchor=rng.choice((0.08, 0.2, 0.35, 0.5, 0.5, 0.65, 0.8, 0.92)),
            created_at=created_at,
            listed_at=created_at,
            opens_at=created_at,
            closes_at=closes_at,
            resolves_at=None if closes_at is None or oddity == "closed_unknown" else closes_at,
            winner=rng.randrange(len(outcomes)),
            weight=1 / (1 + rng.randrange(200)) if is_filled else 0.0,
            base_volume=int(math.exp(rng.gauss(24, 2.5))),
        )


def _closes_late(number: int) -> bool:
    return number % 16 == 7  # noqa: PLR2004 - any fixed place will do


def _grouped(group_of: Sequence[int], groups: int) -> "tuple[array[int], array[int]]":
    """Where each group begins, and the numbers group by group: a counting sort."""
    starts = array("I", bytes(4 * (groups + 1)))
    for group in group_of:
        starts[group + 1] += 1
    for group in range(groups):
        starts[group + 1] += starts[group]
    free, numbers = array("I", starts), array("I", bytes(4 * len(group_of)))
    for number, group in enumerate(group_of):
        numbers[free[group]] = number
        free[group] += 1
    return starts, numbers


def _event_of(number: int, events: int, rng: Random) -> int:
    """Each event gets one market, the rest crowd on few events."""
    return number if number < events else int(events * rng.random() ** 3)


def _standing_event(seed: int, number: int, created_at: int) -> Event:
    rng = generator(seed, 102, number)
    title = _question(rng)
    end_dates = {4: "0024-12-31T12:00:00Z", 7: "", 9: "2500-12-31T00:00:00Z"}
    return Event(
        number=number,
        id=str(_FIRST_EVENT_ID + _EVENT_ID_STEP * number),
        title=title,
        slug=f"{_slug(title)}-{number}",
        tags=tuple(rng.sample(range(len(wording.TAGS)), rng.randint(1, 4))),
        neg_risk=number % 12 == 2,  # noqa: PLR2004 - any fixed place will do
        created_at=created_at,
        end_date=end_dates.get(number % 40, "2027-12-31T12:00:00Z"),
    )


def _question(rng: Random) -> str:
    return f"Will {rng.choice(wording.SUBJECTS)} {rng.choice(wording.DEEDS)} {rng.choice(wording.DEADLINES)}?"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _odd_question(oddity: str) -> str:
    texts = {
        "html": wording.HTML_HOSTILE,
        "non_ascii": wording.NON_ASCII,
        "trailing_newline": wording.TRAILING_NEWLINE,
    }
    return texts.get(oddity, "")


def _outcomes(oddity: str, rng: Random) -> tuple[str, ...]:
    if oddity == "three_outcomes":
        return ("Under $22M", "$22M-$29M", "Over $29M")
    return rng.choice((("Yes", "No"), ("Yes", "No"), ("Yes", "No"), ("Foxes", "São João Utd."), ("Over", "Under")))
