"""Fills to trades: each fill is acknowledged and its trade written in one step, once."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from common.clickhouse import ClickHouse
from common.errors import InvalidRecord, LeaseLost, Unavailable
from common.keys import Route
from common.leases import acquire_lease
from common.records import OrderFilled, Token, decode_order_filled, encode
from common.redis_queue import Entry, Exchange, Held, Result
from common.runtime import Context, main
from processors.token_index import UNREADABLE, TokenIndex
from processors.trades import outcome_token, trade_of

COMPONENT = "trade_processor"
IDLE_BLOCK_MS = 200  # how long a read waits for new fills; new markets are looked at in between
FULL_WAIT_S = 0.2  # the same, while no more fills may be read


class Waiting(NamedTuple):
    """A fill whose market is not known yet. It stays pending in Redis meanwhile."""

    entry: Entry
    fill: OrderFilled

    def has_expired(self, now: float, ttl_s: float) -> bool:
        """Counted from its arrival in Redis, so that a restart does not start the time again."""
        return now - arrival_s(self.entry.id) > ttl_s


def arrival_s(entry_id: bytes) -> float:
    """Unix seconds at which Redis took the entry in."""
    return int(entry_id.split(b"-", 1)[0]) / 1000


def result_of(entry: Entry, fill: OrderFilled, token: Token) -> Result:
    """The fill's trade, or why it can't be one."""
    try:
        return Result(entry.id, encode(trade_of(fill, token)))
    except InvalidRecord as error:
        return Result(entry.id, entry.data, str(error))


class TradeProcessor:
    """Stage: stream:order_events to stream:trades."""

    def __init__(self, context: Context, clickhouse: ClickHouse) -> None:
        self._context = context
        self._settings = context.settings
        self._queue = context.queue
        keys = context.queue.keys
        self._events = Route(keys(self._settings.stream_order_events), self._settings.group_events_processors)
        self._trades = keys(self._settings.stream_trades)
        self._clickhouse = clickhouse
        self._index = TokenIndex(
            self._queue, clickhouse, keys(self._settings.stream_markets), self._settings.token_cache_size
        )
        self._batch: list[Entry] = []  # read and not yet looked at; kept over an Unavailable
        self._results: list[Result] = []  # made and not yet written; likewise
        # Whether nobody else can know of the batch's entries, or of the results': see `Held`.
        self._is_new_batch = self._are_new_results = False
        self._ahead: Exchange | None = None  # under load: the last results' writing, then the next batch's reading
        self._waiting: dict[str, list[Waiting]] = {}
        self._counts = {"records_in": 0, "records_out": 0, "dead_letters": 0}
        self._next_care_at = 0.0
        self._next_recheck_at = 0.0
        self._queue.ensure_group(self._events)
        self._lease = acquire_lease(self._queue, COMPONENT, self._settings.lease_s)

    @property
    def instance(self) -> str:
        return self._lease.consumer

    def step(self) -> float:
        self._catch_up()
        try:
            self._care(time.time())
        except LeaseLost as lost:
            self._start_over(lost)
        self._release(self._index.follow())
        if not self._batch:
            self._batch = self._read()
        if self._is_under_load():
            self._go_ahead()
            self._look_at(self._batch)
        else:
            self._process()
        return FULL_WAIT_S if self._is_full() else 0.0

    def drain(self) -> None:
        self._catch_up()
        self._process()

    def close(self) -> None:
        self._drop_ahead()
        with suppress(Unavailable):
            self._lease.release()
        self._clickhouse.close()

    def report(self) -> Mapping[str, str | int | float]:
        return {**self._counts, "waiting": self._waiting_count()}

    # --- under load, Redis and this process work at the same time ---------------------------------------------------

    def _is_under_load(self) -> bool:
        """Whether there is more to read than this batch, and room for it. What was pending is read before."""
        is_full_batch = len(self._batch) == self._settings.processor_batch_size
        has_room = not self._is_full(len(self._batch))
        return is_full_batch and has_room and self._queue.has_read_backlog(self._events, self._lease.consumer)

    def _go_ahead(self) -> None:
        """Have the last results written and the next batch read while this one is looked at.

        `_catch_up` comes first. Two threads instead cost more in waiting for one another than this brings.
        """
        consumer = self._lease.consumer
        held = Held(consumer, self._lease.holder, self._in_hand()) if self._are_new_results else None
        results, self._results = self._results, []
        with self._ahead_or_again():
            count = self._settings.processor_batch_size
            self._ahead = self._queue.start_exchange(
                self._events, self._trades, results, held, consumer=consumer, count=count
            )

    def _catch_up(self) -> None:
        """What Redis has done meanwhile."""
        if not self._ahead:
            return
        with self._ahead_or_again():
            written, dead, entries = self._queue.finish_exchange(self._events, self._ahead)
        self._count(written, dead)
        self._is_new_batch = bool(entries) and not self._batch
        self._batch += entries
        self._ahead = None

    @contextmanager
    def _ahead_or_again(self) -> Iterator[None]:
        """When Redis is away, nobody knows what it has done: everything that is pending is read once more."""
        try:
            yield
        except Unavailable:
            self._drop_ahead()
            self._read_again()
            raise

    def _drop_ahead(self) -> None:
        if self._ahead:
            self._ahead.question.drop()
        self._ahead = None

    # --- from fills to trades ----------------------------------------------------------------------------------------

    def _read(self) -> list[Entry]:
        if self._is_full():
            return []
        try:
            block_ms = 0 if self._results else IDLE_BLOCK_MS
            return self._queue.read_from_stream(
                self._events, self._lease.consumer, self._settings.processor_batch_size, block_ms
            )
        except Unavailable:
            self._read_again()  # the reply may be what was lost, and its entries are ours
            raise

    def _read_again(self) -> None:
        """Drop what is in hand, and read all that is pending for us once more."""
        self._batch = []
        self._results = []
        self._is_new_batch = self._are_new_results = False
        self._waiting = {}
        self._queue.reread_pending(self._events, self._lease.consumer)

    def _process(self) -> None:
        """Look at what was read and write everything that came of it."""
        self._look_at(self._batch)
        self._are_new_results = False  # should they have to be written again
        self._finish(self._results)
        self._results = []

    def _look_at(self, batch: list[Entry]) -> None:
        """Results of what can be completed; the fills of unknown tokens wait."""
        results: list[Result] = []
        fills: list[tuple[Entry, OrderFilled, str]] = []
        for entry in batch:
            try:
                fill = decode_order_filled(entry.data)
                fills.append((entry, fill, outcome_token(fill)))
            except (*UNREADABLE, InvalidRecord) as error:
                results.append(Result(entry.id, entry.data, str(error)))
        known = self._known_tokens({token_id for _, _, token_id in fills})
        unknown = []
        for entry, fill, token_id in fills:
            if token := known.get(token_id):
                results.append(result_of(entry, fill, token))
            else:
                unknown.append(Waiting(entry, fill))
        self._wait_for_markets(unknown)
        self._are_new_results = self._is_new_batch and not self._results
        self._results += results
        self._batch, self._is_new_batch = [], False
        self._counts["records_in"] += len(batch)

    def _known_tokens(self, token_ids: Iterable[str]) -> dict[str, Token]:
        """Those of the tokens that are known; kept for the batch, since its look-ups may push one another out."""
        recent = {token_id: self._index.get(token_id) for token_id in token_ids}
        known = {token_id: token for token_id, token in recent.items() if token}
        missing = [token_id for token_id in recent if token_id not in known and token_id not in self._waiting]
        return {**known, **self._index.look_up(missing)}

    def _finish(self, results: list[Result]) -> None:
        if results:
            self._count(*self._queue.complete(self._events, self._trades, results))

    def _in_hand(self) -> int:
        """How many entries are pending for us, as far as we know."""
        return len(self._batch) + len(self._results) + self._waiting_count()

    def _count(self, written: int, dead: int) -> None:
        self._counts["records_out"] += written
        self._counts["dead_letters"] += dead

    # --- fills whose market is not known yet -----------------------------------------------------------------------

    def _waiting_count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _is_full(self, more: int = 0) -> bool:
        """Whether no more fills may be read, should `more` have to wait as well."""
        return self._waiting_count() + more >= self._settings.processor_waiting_limit

    def _wait_for_markets(self, items: list[Waiting]) -> None:
        if not items:
            return
        self._queue.ask_for_tokens({outcome_token(item.fill) for item in items})
        for item in items:
            self._waiting.setdefault(outcome_token(item.fill), []).append(item)

    def _release(self, known: Mapping[str, Token]) -> None:
        """Complete the fills that waited for these tokens."""
        results: list[Result] = []
        released = [token_id for token_id in known if token_id in self._waiting]
        for token_id in released:
            results += (result_of(item.entry, item.fill, known[token_id]) for item in self._waiting[token_id])
        self._finish(results)
        for token_id in released:
            del self._waiting[token_id]

    def _recheck(self) -> None:
        """Look waiting tokens up again: their market may have reached ClickHouse by another way."""
        if self._waiting:
            recent = {token_id: self._index.get(token_id) for token_id in self._waiting}
            known = {token_id: token for token_id, token in recent.items() if token}
            self._release({**known, **self._index.look_up(self._waiting)})
            self._queue.ask_for_tokens(self._waiting)

    def _expire(self, now: float) -> None:
        ttl_s = self._settings.unknown_token_ttl
        reason = f"no market lists its token within {ttl_s} s"
        expired = {
            item.entry.id: Result(item.entry.id, item.entry.data, reason)
            for items in self._waiting.values()
            for item in items
            if item.has_expired(now, ttl_s)
        }
        if not expired:
            return
        self._finish(list(expired.values()))
        left = {token: [i for i in items if i.entry.id not in expired] for token, items in self._waiting.items()}
        self._queue.forget_unknown_tokens(token for token, items in left.items() if not items)
        self._waiting = {token: items for token, items in left.items() if items}

    # --- the group's other members -----------------------------------------------------------------------------------

    def _care(self, now: float) -> None:
        """What is due every few seconds: lease, waiting fills, entries of dead processors."""
        if now < self._next_care_at:
            return
        self._lease.renew()
        self._expire(now)
        if now >= self._next_recheck_at:
            self._next_recheck_at = now + self._settings.unknown_token_recheck_s
            self._recheck()
        there_may_be_more = self._take_over()
        self._next_care_at = now if there_may_be_more else now + self._settings.lease_s / 3

    def _take_over(self) -> bool:
        """Keep in step with Redis, and take over from the dead. Whether there may be more of that at once."""
        consumers = self._queue.consumers(self._events)
        if self._has_lost_track(consumers.pop(self._lease.consumer, 0)):
            self._context.log.warning("reading again what is pending")
            self._read_again()
        there_may_be_more = False
        for consumer in consumers:
            claimed = self._queue.claim(self._events, consumer, self._lease.consumer)
            there_may_be_more |= any(claimed)
            if claimed.lost:
                self._context.log.error("%d entries of %s are gone from the stream: lost", claimed.lost, consumer)
            if claimed.entries:
                self._context.log.info("took over %d entries of %s", len(claimed.entries), consumer)
                self._batch += claimed.entries
                self._is_new_batch = False
        return there_may_be_more

    def _has_lost_track(self, pending: int) -> bool:
        """Whether Redis has other entries for us than we hold: a reply was lost, or somebody acted under our name."""
        through_backlog = self._queue.has_read_backlog(self._events, self._lease.consumer)
        return through_backlog and pending != self._in_hand()

    def _start_over(self, lost: LeaseLost) -> None:
        """Others may hold our entries by now: drop them, and go on under a new lease."""
        self._context.log.warning("lease lost: %s; starting over", lost)
        self._lease = acquire_lease(self._queue, COMPONENT, self._settings.lease_s)
        self._read_again()


def build(context: Context) -> TradeProcessor:
    return TradeProcessor(context, ClickHouse(context.settings))


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build, leased=True))
