"""Faults to order: which request goes wrong, how, and how often."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from simulator.chance import generator, unit
from simulator.fills import Fill

# How a whole answer goes wrong, and how the rows of a good one do.
_HTTP_KINDS = frozenset({"http_429", "http_500", "timeout", "truncated_json", "garbage"})
ANSWER_KINDS = _HTTP_KINDS | {"http_403", "graphql_errors", "rpc_errors"}
ROW_KINDS = ("short_page", "duplicate_rows", "malformed_record")
KINDS = {
    "gamma": _HTTP_KINDS | frozenset(ROW_KINDS) | {"http_403", "markets_gone"},
    "goldsky": _HTTP_KINDS | frozenset(ROW_KINDS) | {"graphql_errors", "late_rows"},
    # No short page: a node that leaves logs out says so nowhere.
    "polygon": _HTTP_KINDS
    | {"rpc_errors", "finalized_errors", "refused_batch"}
    | {"duplicate_rows", "malformed_record", "removed_logs", "late_logs"},
}
LATE_KINDS = frozenset({"late_rows", "late_logs"})
_TIMEOUT_S = 30.0
_LATE_S = 10.0
_LATE_SHARE = 0.2
_DOUBLED_SHARE = 0.3


@dataclass(slots=True)
class Fault:
    """One order. What is left open gets the meaning that its kind documents in `FaultBook.add`."""

    number: int
    target: str
    kind: str
    count: int | None
    probability: float
    retry_after_s: float | None
    seconds: float | None
    since: float
    token: str = ""  # of Gamma: only look-ups that name this token go wrong
    fired: int = 0

    def is_over(self, now: float) -> bool:
        if self.count is not None and self.kind not in LATE_KINDS and self.fired >= self.count:
            return True
        lasts = self.seconds is not None and self.kind not in {"timeout", *LATE_KINDS}
        return lasts and self.seconds is not None and now >= self.since + self.seconds

    @property
    def silence_s(self) -> float:
        return _TIMEOUT_S if self.seconds is None else self.seconds

    @property
    def delay_s(self) -> float:
        return _LATE_S if self.seconds is None else self.seconds

    def withholds(self, fill: Fill, now: float) -> bool:
        """Whether an order of late rows, or of late logs, keeps this fill back for the moment."""
        age = fill.timestamp - self.since
        if age < 0 or (self.count is not None and age >= 2 * self.count) or now >= fill.timestamp + self.delay_s:
            return False
        whole = fill.block_number if self.kind == "late_logs" else int(fill.order_hash[2:18], 16)
        return unit(self.number, whole) < self.probability


class FaultBook:
    """All orders, and the seeded dice that decide between them."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = generator(seed, 107)
        self._numbers = count(1)
        self._faults: list[Fault] = []
        self.malformed: dict[str, str] = {}  # id of a broken record that was served → what is wrong with it

    def add(self, order: dict[str, Any], now: float) -> Fault:
        """Takes an order; ValueError says what is wrong with it.

        `count`: the next so many answers (late_rows: the next so many blocks). `probability`: each answer with this
        chance (late_rows: this share of the rows). `seconds`: how long the order stands; for timeout the length of
        the silence (30), for late_rows the time for which a row stays away (10). `retry_after_s`: sent with http_429.
        `token`: only look-ups at Gamma that name this outcome token.
        With none of these, the next answer (late_rows: one row in five until the orders are cleared). late_logs is
        late_rows of whole blocks. markets_gone and an order for a token stand until they are cleared.
        """
        unknown = set(order) - {"target", "kind", "count", "probability", "retry_after_s", "seconds", "token"}
        if unknown:
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        target, kind = order.get("target"), order.get("kind")
        if target not in KINDS or kind not in KINDS[target]:
            offer = "; ".join(f"{name}: {', '.join(sorted(kinds))}" for name, kinds in KINDS.items())
            raise ValueError(f"no such target and kind, choose from {offer}")
        fault = Fault(
            number=next(self._numbers),
            target=target,
            kind=kind,
            count=_count(order, str(kind)),
            probability=_number(order, "probability", 1.0, _LATE_SHARE if kind in LATE_KINDS else 1.0),
            retry_after_s=_optional(order, "retry_after_s"),
            seconds=_optional(order, "seconds"),
            since=now,
            token=_token(order),
        )
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        self._faults.clear()

    def listing(self, now: float) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self._standing(now)]

    def take(
        self, target: str, kinds: frozenset[str] | set[str], now: float, tokens: Collection[str] = ()
    ) -> Fault | None:
        """The first order of these kinds that hits this answer, to a request for these tokens; taking it counts."""
        for fault in self._standing(now):
            is_meant = fault.target == target and fault.kind in kinds and (not fault.token or fault.token in tokens)
            if is_meant and self._rng.random() < fault.probability:
                fault.fired += 1
                return fault
        return None

    def late(self, now: float) -> list[Fault]:
        return [fault for fault in self._standing(now) if fault.kind == "late_rows"]

    def late_logs(self, now: float) -> list[Fault]:
        return [fault for fault in self._standing(now) if fault.kind == "late_logs"]

    def spoil(self, target: str, rows: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
        """The rows of a page as the row orders leave them; rows that came through are the same objects."""
        if len(rows) > 1 and self.take(target, {"short_page"}, now):
            rows = rows[: self._rng.randrange(1, len(rows))]
        if rows and self.take(target, {"duplicate_rows"}, now):
            doubled = {place for place in range(len(rows)) if self._rng.random() < _DOUBLED_SHARE} or {len(rows) - 1}
            rows = [row for place, row in enumerate(rows) for _ in range(2 if place in doubled else 1)]
        if rows and "id" in rows[0] and self.take(target, {"malformed_record"}, now):
            rows = self._with_malformed(target, rows)
        return rows

    def spoil_logs(self, logs: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
        """The logs of an answer as the orders for logs leave them; what came through is the same objects."""
        if logs and self.take("polygon", {"removed_logs"}, now):
            chosen = {place for place in range(len(logs)) if self._rng.random() < _DOUBLED_SHARE} or {0}
            logs = [
                log for place, row in enumerate(logs) for log in ([_removed(row), row] if place in chosen else [row])
            ]
        if logs and self.take("polygon", {"malformed_record"}, now):
            logs = self._with_malformed_log(logs)
        return logs

    def _with_malformed_log(self, logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Puts a broken copy behind a log, with a transaction of its own."""
        place, number = self._rng.randrange(len(logs)), len(self.malformed)
        key, value = BREAKS["polygon"][number % len(BREAKS["polygon"])]
        transaction = f"{logs[place]['transactionHash'][:-16]}bad{number:013x}"
        broken = {**logs[place], "transactionHash": transaction, key: value}
        if value is None:
            del broken[key]
        index = int(logs[place]["logIndex"], 16)
        self.malformed[f"{transaction}_{index}"] = f"{key} missing" if value is None else f"{key} = {value}"
        return [*logs[: place + 1], broken, *logs[place + 1 :]]

    def _with_malformed(self, target: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Puts a broken copy beside a row, with an id that sorts there, so that the order of the page stays true."""
        place = self._rng.randrange(len(rows))
        identity = _neighbour_id(str(rows[place]["id"]), len(self.malformed))
        breaks = [how for how in BREAKS[target] if how[0] in rows[place]]
        if not breaks:
            return rows
        key, value = breaks[len(self.malformed) % len(breaks)]
        broken = {**rows[place], "id": identity}
        if value is None:
            del broken[key]
        else:
            broken[key] = value
        self.malformed[identity] = f"{key} missing" if value is None else f"{key} = {value}"
        after = place + (identity > str(rows[place]["id"]))
        return [*rows[:after], broken, *rows[after:]]

    def _standing(self, now: float) -> list[Fault]:
        self._faults = [fault for fault in self._faults if not fault.is_over(now)]
        return self._faults


BREAKS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "goldsky": (
        ("makerAmountFilled", "abc"),
        ("takerAmountFilled", None),
        ("takerAssetId", "1e20"),
        ("timestamp", "yesterday"),
        ("maker", None),
    ),
    "polygon": (
        ("data", "0x12"),
        ("data", None),
        ("topics", None),
        ("address", "0x0"),
        ("blockNumber", None),
    ),
    "gamma": (
        ("clobTokenIds", '["1e20", "abc"]'),
        ("outcomes", '["Yes", "No'),
        ("createdAt", "yesterday"),
        ("clobTokenIds", "not json"),
    ),
}


def _removed(log: dict[str, Any]) -> dict[str, Any]:
    """The log as a reorganised block had it: in another block, at another place."""
    return {**log, "blockHash": log["transactionHash"], "logIndex": hex(int(log["logIndex"], 16) + 1), "removed": True}


def _neighbour_id(identity: str, number: int) -> str:
    if "_" in identity:
        return f"{identity[:-16]}bad{number:013x}"
    return f"{identity}{900 + number}"


def _count(order: dict[str, Any], kind: str) -> int | None:
    value = order.get("count")
    if value is None:
        lasts = kind == "markets_gone" or "token" in order
        is_open = lasts or "probability" in order or ("seconds" in order and kind != "timeout")
        return None if kind in LATE_KINDS or is_open else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"count: expected a positive integer, got {value!r}")
    return value


def _number(order: dict[str, Any], name: str, most: float, default: float) -> float:
    value = order.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number from 0 to {most}, got {value!r}")
    return float(value)


def _token(order: dict[str, Any]) -> str:
    token = order.get("token", "")
    if not isinstance(token, str) or (token and order["target"] != "gamma"):
        raise ValueError(f"token: expected one of Gamma's as text, got {token!r}")
    return token


def _optional(order: dict[str, Any], name: str) -> float | None:
    return None if order.get(name) is None else _number(order, name, 86_400.0, 0.0)
