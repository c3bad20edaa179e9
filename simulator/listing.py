"""Markets and events as Gamma writes them at a moment, with its odd types."""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from simulator import wording
from simulator.chance import hex_digest, mix, unit
from simulator.markets import Event, Market, outcome_price, price_of

_BASE_UNITS = 1_000_000
_DAY_S = 86_400
_LONG_PRICES = ("0.9993191802510073485445526019164008", "0.0006808197489926514554473980835992")


def iso(time_s: float, fraction: str = "") -> str:
    day, second = divmod(int(time_s), _DAY_S)
    return f"{_day(day)}T{_time_of_day(second)}{fraction}Z"


def spaced(time_s: float, fraction: str = "") -> str:
    """The style of closedTime and gameStartTime."""
    day, second = divmod(int(time_s), _DAY_S)
    return f"{_day(day)} {_time_of_day(second)}{fraction}+00"


# strftime takes longer than all the rest of a page with its thousand times.
@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * _DAY_S, UTC).strftime("%Y-%m-%d")


def _time_of_day(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"


def fraction_of(*parts: int) -> str:
    """A fraction of a second with 0 to 6 digits, mostly 6."""
    bits = mix(*parts)
    digits = (6, 6, 6, 3, 5, 0)[bits % 6]
    return f".{(bits >> 8) % 1_000_000:06d}"[: digits + 1] if digits else ""


class Listing:
    """Renders what Gamma shows. The same moment gives the same text, later moments never a smaller volume."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def last_change(self, market: Market, now: float) -> int:
        """When the market last changed: its figures move in steps of its own, until it has closed and resolved."""
        end = max(market.closes_at, market.resolves_at or 0) if market.closes_at is not None else None
        if end is not None and end <= now:
            return end
        step_s = 15 if market.is_series else 30 + market.number % 7 * 45
        return max(market.created_at, int(now) // step_s * step_s)

    def volume(self, market: Market, now: float) -> int:
        """Volume in base units: a steady flow while the market is open."""
        open_s = max(0, min(int(now), market.closes_at or int(now)) - market.opens_at)
        flow = 90_000_000 if market.is_series else int(2_000_000 * max(market.weight, 0.0))
        return market.base_volume + open_s * flow

    def market(
        self, market: Market, now: float, *, with_events: bool = True, with_tags: bool = False
    ) -> dict[str, Any]:
        """A market as an item of a list."""
        changed_at = self.last_change(market, now)
        item = {
            **self._head(market),
            **self._state(market, changed_at, now),
            **self._figures(market, changed_at, now),
            **_CONSTANTS,
        }
        if market.event.neg_risk:
            item["negRiskMarketID"] = hex_digest(self._seed, "neg-risk", market.event.id)
        if with_events:
            item["events"] = [self._event_head(market.event, now)]
        if with_tags:
            item["tags"] = self.tags(market.event)
        if market.oddity:
            _make_odd(item, market)
        return item

    def _head(self, market: Market) -> dict[str, Any]:
        """What never changes."""
        end = iso(self._end(market))
        return {
            "id": market.id,
            "question": market.question,
            "conditionId": market.condition_id,
            "slug": market.slug,
            "endDate": end,
            "startDate": iso(market.created_at + 3600, fraction_of(self._seed, market.number, 1)),
            "image": f"https://example.org/images/{market.slug}.png",
            "icon": f"https://example.org/icons/{market.slug}.png",
            "description": f'This market will resolve to "{market.outcomes[0]}" if the title comes true.\n\nElse: no.',
            "outcomes": _listed(market.outcomes),
            "createdAt": iso(market.created_at, fraction_of(self._seed, market.number, 2)),
            "groupItemTitle": market.question[:24],
            "groupItemThreshold": str(market.number % 5),
            "questionID": hex_digest(self._seed, "question", market.id),
            "orderPriceMinTickSize": market.tick / 1000,
            "endDateIso": end[:10],
            "startDateIso": iso(market.created_at)[:10],
            "clobTokenIds": json.dumps(market.tokens),
            "negRisk": market.event.neg_risk,
            "spread": 2 * market.tick / 1000,
        }

    def _state(self, market: Market, changed_at: int, now: float) -> dict[str, Any]:
        """Whether it is open, and its prices."""
        first_price = price_of(market, self._seed, changed_at)
        is_closed = market.is_closed(now)
        state = {
            "outcomePrices": json.dumps(self._prices(market, first_price, now)),
            "closed": is_closed,
            "updatedAt": iso(changed_at, fraction_of(self._seed, market.number, changed_at)),
            "acceptingOrders": not is_closed,
            "lastTradePrice": first_price / 1000,
            "bestBid": (first_price - market.tick) / 1000,
            "bestAsk": (first_price + market.tick) / 1000,
            "umaResolutionStatuses": '["proposed"]' if is_closed else "[]",
        }
        if is_closed and market.closes_at is not None:
            state["closedTime"] = spaced(market.closes_at)
        return state

    def _figures(self, market: Market, changed_at: int, now: float) -> dict[str, Any]:
        """Volume and liquidity, each as a text and as a number."""
        volume = self.volume(market, changed_at)
        is_closed = market.is_closed(now)
        liquidity = 0 if is_closed else int(unit(self._seed, market.number, changed_at) * 50_000 * _BASE_UNITS)
        return {
            "liquidity": _decimal(liquidity),
            "volume": _decimal(volume),
            "volumeNum": _number(volume),
            "liquidityNum": _number(liquidity),
            "volume24hr": _number(min(volume, self._flow_of_a_day(market, volume))),
            "volumeClob": _number(volume),
            "liquidityClob": _number(liquidity),
        }

    def _end(self, market: Market) -> int:
        if market.is_series:
            return market.opens_at + 300
        return market.closes_at or market.created_at + 86_400 * (30 + market.number % 500)

    def _flow_of_a_day(self, market: Market, volume: int) -> int:
        return volume // (2 + market.number % 40)

    def _prices(self, market: Market, first_price: int, now: float) -> list[str]:
        """Outcome prices; of a closed market one 1 and the rest 0, or all 0 while nobody knows."""
        outcomes = range(len(market.outcomes))
        if market.is_closed(now):
            known = market.resolves_at is not None and market.resolves_at <= now
            return ["1" if known and outcome == market.winner else "0" for outcome in outcomes]
        prices = [outcome_price(market, outcome, first_price) for outcome in outcomes]
        return [f"{price / 1000:g}" for price in prices]

    def _event_head(self, event: Event, now: float) -> dict[str, Any]:
        """What list items of markets and events share. It has no tags."""
        head: dict[str, Any] = {
            "id": event.id,
            "ticker": event.slug,
            "slug": event.slug,
            "title": event.title,
            "description": event.title,
            "startDate": iso(event.created_at, fraction_of(self._seed, event.number, 3)),
            "creationDate": iso(event.created_at, fraction_of(self._seed, event.number, 3)),
            "active": True,
            "closed": False,
            "archived": False,
            "new": False,
            "featured": False,
            "restricted": True,
            "createdAt": iso(event.created_at, fraction_of(self._seed, event.number, 4)),
            "updatedAt": iso(int(now) // 60 * 60, fraction_of(self._seed, event.number, int(now) // 60)),
            "enableOrderBook": True,
            "negRisk": event.neg_risk,
            "enableNegRisk": event.neg_risk,
            "negRiskAugmented": event.number % 24 == 2,  # noqa: PLR2004 - means something else than negRisk
            "openInterest": 0,
            "commentCount": 0,
        }
        if event.end_date:
            head["endDate"] = event.end_date
        return head

    def event(self, event: Event, markets: list[Market], now: float) -> dict[str, Any]:
        """An event as an item of a list, with its tags and markets; its volume and liquidity are numbers."""
        items = [self.market(market, now, with_events=False) for market in markets]
        return {
            **self._event_head(event, now),
            "closed": all(market.is_closed(now) for market in markets),
            "volume": round(sum(item.get("volumeNum", 0) for item in items), 6),
            "liquidity": round(sum(item.get("liquidityNum", 0) for item in items), 6),
            "tags": self.tags(event),
            "markets": items,
        }

    def tags(self, event: Event) -> list[dict[str, Any]]:
        return [tag(place) for place in event.tags]


# What the live API shows beside the rest, the same for all markets here.
_CONSTANTS: dict[str, Any] = {
    "resolutionSource": "",
    "active": True,
    "marketMakerAddress": "",
    "new": False,
    "featured": False,
    "archived": False,
    "restricted": True,
    "enableOrderBook": True,
    "orderMinSize": 5,
    "hasReviewedDates": True,
    "umaBond": "500",
    "umaReward": "5",
    "ready": False,
    "funded": False,
    "cyom": False,
    "competitive": 0,
    "approved": True,
    "rewardsMinSize": 20,
    "rewardsMaxSpread": 3.5,
    "automaticallyActive": True,
    "clearBookOnStart": True,
    "manualActivation": False,
    "negRiskOther": False,
    "pendingDeployment": False,
    "deploying": False,
}


@lru_cache(maxsize=64)
def _listed(outcomes: tuple[str, ...]) -> str:
    return json.dumps(outcomes, ensure_ascii=False)


def tag(place: int) -> dict[str, Any]:
    identity, label, slug = wording.TAGS[place]
    return {
        "id": identity,
        "label": label,
        "slug": slug,
        "forceShow": False,
        "publishedAt": "2023-11-02 21:32:11.207+00",
        "createdAt": "2023-11-02T21:32:11.214Z",
        "updatedAt": "2025-03-19T23:59:20.566656Z",
    }


def _decimal(base_units: int) -> str:
    whole, rest = divmod(base_units, _BASE_UNITS)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def _number(base_units: int) -> int | float:
    """An integer where it is one, else a float: both occur."""
    return base_units // _BASE_UNITS if base_units % _BASE_UNITS == 0 else base_units / _BASE_UNITS


def _make_odd(item: dict[str, Any], market: Market) -> None:
    """Gives the item the oddity that its market was born with."""
    for key in _MISSING.get(market.oddity, ()):
        item.pop(key, None)
    item.update(_odd_fields(item, market))


_MISSING = {
    "no_tokens": ("clobTokenIds",),
    "no_volume": ("volume", "volumeNum", "volume24hr", "liquidity", "liquidityNum"),
    "no_events": ("events",),
    "v2": ("clobTokenIds",),
    "no_dates": ("endDate", "startDate", "endDateIso", "startDateIso", "closedTime"),
    "no_prices": ("outcomePrices", "bestBid", "negRiskMarketID"),
}


def _odd_fields(item: dict[str, Any], market: Market) -> dict[str, Any]:
    game = {"gameStartTime": spaced(market.created_at + 7200, ".250"), "sportsMarketType": "moneyline"}
    rewards = [{"id": "13470", "startDate": "2024-12-18", "endDate": "2500-12-31", "rewardsDailyRate": 1}]
    fields: dict[str, dict[str, Any]] = {
        "v2": {"version": "v2", "positionIds": list(market.tokens)},
        "empty_events": {"events": []} if "events" in item else {},
        "date_only": {"endDate": item["endDate"][:10]} if "endDate" in item else {},
        "far_reward": {"clobRewards": rewards, "endDate": "2500-12-31T00:00:00Z"},
        "long_fraction": {
            "startDate": iso(market.created_at, ".123456789"),
            "updatedAt": f"{item['updatedAt'][:19]}.1234567Z",
        },
        "offset_seconds": {"startDate": iso(market.created_at).replace("Z", "+00:00:00")},
        "game": game,
    }
    if market.oddity == "long_prices" and not item["closed"]:
        return {"outcomePrices": json.dumps(_LONG_PRICES)}
    return fields.get(market.oddity, {})
