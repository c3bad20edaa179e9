"""Markets and events: a standing set from the start, and a new five-minute market every twenty seconds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from simulator import wording
from simulator.chance import digest, drift, generator, hex_digest, mix

SERIES_STEP_S = 20
SERIES_LENGTH_S = 300
SERIES_LEAD_S = 120  # an ordinary five-minute market is listed so long before it opens
SERIES_BEFORE_BIRTH_S = 600
_DAY_S = 86_400
_FIRST_ID = 512_000
_FIRST_SERIES_ID = 2_600_000
_FIRST_EVENT_ID = 16_000
_FIRST_SERIES_EVENT_ID = 400_000

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


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    number: int
    id: str
    title: str
    slug: str
    tags: tuple[int, ...]  # places in wording.TAGS
    neg_risk: bool
    created_at: int
    end_date: str


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    number: int  # its place in the random walk
    id: str
    question: str
    slug: str
    condition_id: str
    tokens: tuple[str, ...]
    outcomes: tuple[str, ...]
    event: Event
    oddity: str
    tick: int  # thousandths of a dollar
    anchor: float  # the price around which outcome 0 walks
    created_at: int
    listed_at: int  # Gamma shows it from this second on, in lists and look-ups alike
    opens_at: int  # no fill before
    closes_at: int | None  # None: stays open
    resolves_at: int | None  # None: never, its prices become ["0", "0"]
    winner: int
    weight: float  # share of the standing markets' fills; 0 for one that is never filled
    base_volume: int  # base units

    def is_closed(self, now: float) -> bool:
        return self.closes_at is not None and self.closes_at <= now

    @property
    def is_series(self) -> bool:
        return self.weight < 0


def price_of(market: Market, seed: int, time_s: int) -> int:
    """Price of outcome 0 in thousandths of a dollar, on the market's tick, never 0 or 1000."""
    level = market.anchor + 0.18 * drift(seed, market.number, time_s)
    if market.is_series and market.closes_at is not None:
        done = min(1.0, max(0.0, (time_s - market.opens_at) / SERIES_LENGTH_S)) ** 2
        level = level * (1 - done) + (0.97 if market.winner == 0 else 0.03) * done
    return on_tick(round(level * 1000), market.tick)


def on_tick(price: int, tick: int) -> int:
    return min(1000 - tick, max(tick, price // tick * tick))


def outcome_price(market: Market, outcome: int, first_price: int) -> int:
    """Price of one outcome when outcome 0 stands at `first_price`; the outcomes add up to about 1000."""
    if outcome == 0:
        return first_price
    others = len(market.outcomes) - 1
    return on_tick((1000 - first_price) // others, market.tick if others == 1 else 1)


def standing_markets(seed: int, count: int, history_start: int, birth: int) -> list[Market]:
    """The markets that are there from the start, oldest first."""
    rng = generator(seed, 101)
    ages = sorted((round(_DAY_S * (1 + 400 * rng.random() ** 2)) for _ in range(count)), reverse=True)
    events = _standing_events(seed, count, history_start - ages[0] if ages else history_start)
    return [
        _standing_market(seed, number, events[_event_of(number, len(events), rng)], history_start - age, birth)
        for number, age in enumerate(ages)
    ]


def _standing_events(seed: int, markets: int, created_at: int) -> list[Event]:
    return [_standing_event(seed, number, created_at) for number in range(max(1, markets * 3 // 10))]


def _standing_event(seed: int, number: int, created_at: int) -> Event:
    rng = generator(seed, 102, number)
    title = _question(rng)
    end_dates = {4: "0024-12-31T12:00:00Z", 7: "", 9: "2500-12-31T00:00:00Z"}
    return Event(
        number=number,
        id=str(_FIRST_EVENT_ID + 3 * number),
        title=title,
        slug=f"{_slug(title)}-{number}",
        tags=tuple(rng.sample(range(len(wording.TAGS)), rng.randint(1, 4))),
        neg_risk=number % 12 == 2,  # noqa: PLR2004 - any fixed place will do
        created_at=created_at,
        end_date=end_dates.get(number % 40, "2027-12-31T12:00:00Z"),
    )


def _event_of(number: int, events: int, rng: Random) -> int:
    """Each event gets one market, the rest crowd on few events."""
    return number if number < events else int(events * rng.random() ** 3)


def _question(rng: Random) -> str:
    return f"Will {rng.choice(wording.SUBJECTS)} {rng.choice(wording.DEEDS)} {rng.choice(wording.DEADLINES)}?"


def _slug(text: str) -> str:
    return "-".join("".join(char if char.isascii() and char.isalnum() else " " for char in text.lower()).split())


def _standing_market(seed: int, number: int, event: Event, created_at: int, birth: int) -> Market:
    rng = generator(seed, 103, number)
    oddity = ODDITIES.get(number % ODDITY_STEP, "")
    question = _odd_question(oddity) or _question(rng)
    closes_at = _closing_time(number, oddity, created_at, birth, rng)
    outcomes = _outcomes(oddity, rng)
    open_in_history = closes_at is None or closes_at > birth
    return Market(
        number=number,
        id=str(_FIRST_ID + 7 * number),
        question=question,
        slug=f"{_slug(question) or 'market'}-{number}",
        condition_id="" if oddity == "no_condition" else hex_digest(seed, "condition", number),
        tokens=() if oddity == "no_tokens" else _tokens(seed, "standing", number, len(outcomes)),
        outcomes=outcomes,
        event=event,
        oddity=oddity,
        tick=rng.choice((1, 10)),
        anchor=rng.choice((0.08, 0.2, 0.35, 0.5, 0.5, 0.65, 0.8, 0.92)),
        created_at=created_at,
        listed_at=created_at,
        opens_at=created_at,
        closes_at=closes_at,
        resolves_at=None if closes_at is None or oddity == "closed_unknown" else closes_at,
        winner=rng.randrange(len(outcomes)),
        weight=1 / (1 + rng.randrange(200)) if open_in_history and oddity not in _WITHOUT_FILLS else 0.0,
        base_volume=int(math.exp(rng.gauss(24, 2.5))),
    )


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


def _closing_time(number: int, oddity: str, created_at: int, birth: int, rng: Random) -> int | None:
    """A quarter closed long ago, some close one after the other while the simulator runs, the rest stay open."""
    if oddity == "closed_unknown" or number % 4 == 2:  # noqa: PLR2004 - any fixed place will do
        return created_at + rng.randint(3600, _DAY_S)
    if number % 16 == 7:  # noqa: PLR2004 - any fixed place will do
        return birth + 120 + 8 * number
    return None


def _tokens(seed: int, kind: str, number: int, count: int) -> tuple[str, ...]:
    return tuple(str(digest(seed, "token", kind, number, outcome)) for outcome in range(count))


def series_market(seed: int, step: int, series_start: int) -> Market:
    """The five-minute market number `step`: one in three is listed only 20 to 40 s after its first fills."""
    opens_at = series_start + SERIES_STEP_S * step
    coin, name = wording.COINS[step % len(wording.COINS)]
    slug = f"{coin}-updown-5m-{opens_at}"
    number = 1_000_000 + step
    bits = mix(seed, 104, step)
    listed_at = opens_at + 20 + bits % 20 if bits % 3 == 0 else opens_at - SERIES_LEAD_S
    closes_at = opens_at + SERIES_LENGTH_S + 8 + (bits >> 8) % 9
    return Market(
        number=number,
        id=str(_FIRST_SERIES_ID + step),
        question=f"{name} Up or Down - 5 minutes from {opens_at}",
        slug=slug,
        condition_id=hex_digest(seed, "condition", "series", opens_at),
        tokens=_tokens(seed, "series", opens_at, 2),
        outcomes=("Up", "Down"),
        event=_series_event(step, slug, name, opens_at),
        oddity="",
        tick=10,
        anchor=0.5,
        created_at=opens_at - SERIES_LEAD_S,
        listed_at=listed_at,
        opens_at=opens_at,
        closes_at=closes_at,
        resolves_at=closes_at + (40 if (bits >> 16) % 5 == 0 else 0),
        winner=(bits >> 24) % 2,
        weight=-1.0,
        base_volume=0,
    )


def _series_event(step: int, slug: str, name: str, opens_at: int) -> Event:
    return Event(
        number=1_000_000 + step,
        id=str(_FIRST_SERIES_EVENT_ID + step),
        title=f"{name} Up or Down - 5 minutes from {opens_at}",
        slug=slug,
        tags=wording.UP_OR_DOWN_TAGS,
        neg_risk=False,
        created_at=opens_at - SERIES_LEAD_S,
        end_date="",
    )


class Catalogue:
    """Every market of a world, with look-ups; the five-minute ones are added as time reaches them."""

    def __init__(self, seed: int, count: int, history_start: int, birth: int) -> None:
        self.seed = seed
        self.series_start = (birth - SERIES_BEFORE_BIRTH_S) // SERIES_STEP_S * SERIES_STEP_S
        self.standing = standing_markets(seed, count, history_start, birth)
        self.series: list[Market] = []

    def grow(self, time_s: float) -> None:
        """Makes the five-minute markets known that exist in any way at this time."""
        last = int(time_s + SERIES_LEAD_S - self.series_start) // SERIES_STEP_S
        while len(self.series) <= last:
            self.series.append(series_market(self.seed, len(self.series), self.series_start))

    def trading_series(self, time_s: int) -> list[Market]:
        """The five-minute markets that are open at this time, oldest first."""
        self.grow(time_s)
        last = (time_s - self.series_start) // SERIES_STEP_S
        first = last - SERIES_LENGTH_S // SERIES_STEP_S + 1
        return self.series[max(0, first) : max(0, last + 1)]

    def listed(self, now: float, fills_now: float) -> list[Market]:
        """The markets that Gamma shows, in the order of their ids."""
        self.grow(now)
        return [market for market in self._all() if is_listed(market, now, fills_now)]

    def known(self, fills_now: float) -> list[Market]:
        """The markets that are listed or already filled."""
        self.grow(fills_now)
        return [market for market in self._all() if min(market.listed_at, market.opens_at) <= fills_now]

    def _all(self) -> Iterator[Market]:
        yield from self.standing
        yield from self.series


def is_listed(market: Market, now: float, fills_now: float) -> bool:
    """Whether Gamma shows it. While the fills are frozen, markets that they reached still get listed, others not."""
    return market.listed_at <= now and min(market.listed_at, market.opens_at) <= fills_now
