"""Markets and events: what they are made of, their prices, and the five-minute ones that come every twenty seconds."""

from dataclasses import dataclass

from simulator import wording
from simulator.chance import drift, mix
from simulator.codes import condition_of, tokens_of

SERIES_STEP_S = 20
SERIES_LENGTH_S = 300
SERIES_LEAD_S = 120  # an ordinary five-minute market is listed so long before it opens
SERIES_BEFORE_BIRTH_S = 600
FIRST_SERIES_EVENT_ID = 4_000_000
_FIRST_SERIES_NUMBER = 10_000_000
FIRST_SERIES_CODE = 1 << 28


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


def series_market(seed: int, step: int, series_start: int, first_id: int) -> Market:
    """The five-minute market number `step`: one in three is listed only 20 to 40 s after its first fills."""
    opens_at = series_start + SERIES_STEP_S * step
    coin, name = wording.COINS[step % len(wording.COINS)]
    slug = f"{coin}-updown-5m-{opens_at}"
    number = _FIRST_SERIES_NUMBER + step
    bits = mix(seed, 104, step)
    listed_at = opens_at + 20 + bits % 20 if bits % 3 == 0 else opens_at - SERIES_LEAD_S
    closes_at = opens_at + SERIES_LENGTH_S + 8 + (bits >> 8) % 9
    return Market(
        number=number,
        id=str(first_id + step),
        question=f"{name} Up or Down - 5 minutes from {opens_at}",
        slug=slug,
        condition_id=condition_of(seed, FIRST_SERIES_CODE + step),
        tokens=tokens_of(seed, FIRST_SERIES_CODE + step, 2),
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
        number=_FIRST_SERIES_NUMBER + step,
        id=str(FIRST_SERIES_EVENT_ID + step),
        title=f"{name} Up or Down - 5 minutes from {opens_at}",
        slug=slug,
        tags=wording.UP_OR_DOWN_TAGS,
        neg_risk=False,
        created_at=opens_at - SERIES_LEAD_S,
        end_date="",
    )


def is_listed(market: Market, now: float, fills_now: float) -> bool:
    """Whether Gamma shows it. While the fills are frozen, markets that they reached still get listed, others not."""
    return market.listed_at <= now and min(market.listed_at, market.opens_at) <= fills_now
