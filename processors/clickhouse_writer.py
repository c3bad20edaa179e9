"""Stream to table, in batches, acknowledged only once ClickHouse has the rows.

A batch is fixed in a manifest before it is sent and sent under a token made of its entries. Whoever sends it again,
this process or the one that takes over, sends the same rows under the same token, and ClickHouse drops the repetition,
or is found not to have the rows: see `ClickHouse.insert_again`.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple

from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import LeaseLost, RefusedRows, Unavailable
from common.keys import Keys, Route
from common.leases import Lease, acquire_lease
from common.redis_queue import Entry, RedisQueue, Result
from common.runtime import Context, main
from common.tables import MARKETS, ORDER_FILLED, TRADES, Table
from processors.batches import Buffer, Manifest, is_row
from processors.manifests import Manifests
from processors.repetitions import Repetitions

COMPONENT = "clickhouse_writer"
READ_COUNT = 5000  # entries a read: some 3 MB, a reply of 20 ms
IDLE_WAIT_S = 0.05  # between two looks at quiet streams; a fraction of the wait for a batch
LATENCY_SAMPLES = 20  # entries a batch whose way through is timed


class Insert(NamedTuple):
    """A batch under way."""

    manifest: Manifest
    entries: list[Entry]
    answer: "Future[None]"


class Batch(NamedTuple):
    """What an insert sends."""

    rows: bytes
    entries: list[Entry]  # whose data the rows are
    token: str


class Latencies:
    """How long entries took from their arrival in Redis to ClickHouse's answer, over the last minute."""

    WINDOW_S = 60.0

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, entries: list[Entry], now: float) -> None:
        for entry in entries[:: max(1, len(entries) // LATENCY_SAMPLES)]:
            self._samples.append((now, now - int(entry.id.split(b"-", 1)[0]) / 1000))
        while self._samples and now - self._samples[0][0] > self.WINDOW_S:
            self._samples.popleft()

    def percentile(self, share: float) -> float | str:
        """Seconds; empty when nothing was written lately."""
        ordered = sorted(latency for _, latency in self._samples)
        return round(ordered[int(share * (len(ordered) - 1))], 3) if ordered else ""


class Channel:
    """One stream on its way into one table: a buffer, fixed batches in order, and whether the first is under way."""

    def __init__(self, route: Route, table: Table, settings: Settings, queue: RedisQueue) -> None:
        self.route = route
        self.table = table
        self.buffer = Buffer(
            settings.clickhouse_writer_batch_size,
            settings.clickhouse_writer_max_batch_size,
            settings.clickhouse_writer_max_wait,
        )
        self.fixed: deque[Manifest] = deque()  # the first of them is the one under way
        self.taken: dict[str, list[Entry]] = {}  # entries of own batches by token; others' are fetched when needed
        self.insert: Insert | None = None
        self.failing = False  # ClickHouse was away for the last insert
        # Until the batches of a dead writer are done, its entries must not come in by another way as well.
        self.recovering = False
        self._queue = queue

    def in_hand(self) -> int:
        """How many entries it holds; as many are pending for its consumer in Redis."""
        return len(self.buffer) + sum(len(manifest.entry_ids) for manifest in self.fixed)

    def is_busy(self) -> bool:
        return bool(self.fixed or len(self.buffer))

    def recover(self, manifest: Manifest) -> None:
        """Queue a batch that was fixed by a writer before us, unless it is queued already."""
        if manifest not in self.fixed:
            self.fixed.append(manifest)
            self.recovering = True

    def fix_later(self, manifests: Iterable[Manifest]) -> None:
        """Queue batches, each once: a repeated step may bring them again."""
        self.fixed.extend(manifest for manifest in manifests if manifest not in self.fixed)

    def fix(self, now: float) -> None:
        """Make the buffered entries the next batch."""
        entries = self.buffer.take(now)
        manifest = Manifest.of(self.route.stream, self.table.name, [entry.id for entry in entries])
        self.taken[manifest.token] = entries
        self.fixed.append(manifest)

    def done(self) -> None:
        """The first batch is settled."""
        self.taken.pop(self.fixed.popleft().token, None)
        if not self.fixed:
            self.recovering = False

    def read(self, consumer: str, now: float) -> int:
        """Fill the buffer; returns how many entries were read."""
        if self.recovering or not self.buffer.room():
            return 0
        try:
            entries = self._queue.read_from_stream(self.route, consumer, min(READ_COUNT, self.buffer.room()))
            self.take_in(entries, now)
        except Unavailable:
            self.read_again(consumer)  # the reply may be what was lost, and its entries are ours
            raise
        return len(entries)

    def take_in(self, entries: list[Entry], now: float) -> None:
        """Buffer rows; what can't be a row goes to the dead letters at once."""
        broken = [Result(entry.id, entry.data, "not a JSON object") for entry in entries if not is_row(entry.data)]
        if broken:
            self._queue.complete(self.route, "", broken)
            entries = [entry for entry in entries if is_row(entry.data)]
        self.buffer.add(entries, now)

    def start_over(self, consumer: str) -> None:
        """Forget everything in hand: others may have taken it over."""
        self.fixed.clear()
        self.taken.clear()
        self.insert = None
        self.read_again(consumer)

    def read_again(self, consumer: str) -> None:
        """Read all that is pending for us once more, as soon as the batches that are fixed are done."""
        self.buffer.clear()
        self.recovering = bool(self.fixed)
        self._queue.reread_pending(self.route, consumer)

    def has_lost_track(self, consumer: str, pending: int) -> bool:
        """Whether Redis has other entries for us than we hold: a reply was lost, or somebody acted under our name."""
        through_backlog = self._queue.has_read_backlog(self.route, consumer)
        return through_backlog and not self.recovering and pending != self.in_hand()


def channels_of(settings: Settings, queue: RedisQueue) -> list[Channel]:
    """The three ways through the writer."""
    keys: Keys = queue.keys
    routes = (
        (settings.stream_markets, settings.group_markets_writers, MARKETS),
        (settings.stream_order_events, settings.group_order_events_writers, ORDER_FILLED),
        (settings.stream_trades, settings.group_trades_writers, TRADES),
    )
    return [Channel(Route(keys(stream), group), table, settings, queue) for stream, group, table in routes]


class ClickHouseWriter:
    """Stage: three streams to three tables. Redis is spoken to here only; inserts run beside, one per table."""

    def __init__(self, context: Context, clickhouse: ClickHouse) -> None:
        self._settings = context.settings
        self._log = context.log
        self._queue = context.queue
        self._clickhouse = clickhouse
        self._channels = channels_of(context.settings, context.queue)
        self._inserts = ThreadPoolExecutor(len(self._channels), thread_name_prefix="insert")
        self._counts = {"records_in": 0, "records_out": 0, "dead_letters": 0, "batches": 0}
        self._latencies = Latencies()
        self._repetitions = Repetitions(clickhouse, context.log)
        self._next_care_at = 0.0
        self._next_trim_at = 0.0
        for channel in self._channels:
            self._queue.ensure_group(channel.route)
        self._lease = self._acquire()
        self._manifests = Manifests(self._queue, self._lease)

    @property
    def instance(self) -> str:
        return self._lease.consumer

    def step(self) -> float:
        try:
            return self._step(time.time())
        except LeaseLost as lost:
            self._start_over(lost)
            return 0.0

    def drain(self) -> None:
        """Write what is buffered. Ends early when ClickHouse is away: the entries stay pending."""
        deadline = time.time() + self._settings.drain_s
        with suppress(LeaseLost):
            while any(channel.is_busy() for channel in self._channels) and time.time() < deadline:
                self._lease.renew()
                for channel in self._channels:
                    self._advance(channel, flush=True)
                wait([channel.insert.answer for channel in self._channels if channel.insert], timeout=IDLE_WAIT_S)

    def close(self) -> None:
        self._inserts.shutdown(wait=True, cancel_futures=True)
        with suppress(Unavailable):
            self._lease.release()
        self._clickhouse.close()

    def report(self) -> Mapping[str, str | int | float]:
        percentiles = {f"latency_p{share}_s": self._latencies.percentile(share / 100) for share in (50, 99)}
        return {**self._counts, **percentiles}

    def _step(self, now: float) -> float:
        self._care(now)
        read = 0
        for channel in self._channels:
            read += channel.read(self._lease.consumer, now)
            self._advance(channel)
        self._counts["records_in"] += read
        return 0.0 if read >= READ_COUNT else IDLE_WAIT_S

    # --- one channel's batches --------------------------------------------------------------------------------------

    def _advance(self, channel: Channel, *, flush: bool = False) -> None:
        """Settle the insert that is answered, and begin the next one that is due."""
        if channel.insert:
            self._look_at(channel, channel.insert)
        if channel.insert:
            return
        now = time.time()
        if not channel.fixed and (channel.buffer.is_due(now) or (flush and len(channel.buffer))):
            channel.fix(now)
        if channel.fixed:
            self._send(channel, channel.fixed[0])

    def _look_at(self, channel: Channel, insert: Insert) -> None:
        """Settle an insert if it is answered.

        After a failure the answer is waited for, and the step fails until there is a good one: merely sending again
        would pass for recovery, and the back-off would never grow.
        """
        if channel.failing:
            wait([insert.answer], timeout=self._settings.lease_s / 10)
        if insert.answer.done():
            self._settle(channel, insert)
        elif channel.failing:
            raise Unavailable(f"ClickHouse has not answered the insert into {channel.table.name} yet")

    def _send(self, channel: Channel, manifest: Manifest) -> None:
        """Send a batch, for the first time or again: the same rows, the same token."""
        self._manifests.begin(manifest)
        entries = channel.taken.get(manifest.token)
        if entries is None:
            entries = self._queue.fetch_pending(channel.route, self._lease.consumer, manifest.entry_ids)
        if len(entries) < len(manifest.entry_ids):
            self._give_up(channel, manifest, entries)
            return
        rows = b"\n".join([entry.data for entry in entries])
        is_first = manifest.token in channel.taken and not channel.failing
        insert = self._clickhouse.batch_insert if is_first else self._clickhouse.insert_again
        answer = self._inserts.submit(self._insert, insert, channel.table, Batch(rows, entries, manifest.token))
        channel.insert = Insert(manifest, entries, answer)
        if channel.failing:
            self._look_at(channel, channel.insert)

    def _insert(self, insert: Callable[[Table, bytes, str], None], table: Table, batch: Batch) -> None:
        insert(table, batch.rows, batch.token)
        self._repetitions.check(table, batch.entries)

    def _give_up(self, channel: Channel, manifest: Manifest, left: list[Entry]) -> None:
        """Drop a batch that is acknowledged already, or that the stream has lost entries of.

        After such a loss the rest goes in under a token of its own: should the old batch have been inserted,
        ReplacingMergeTree removes the second copy.
        """
        self._manifests.forget(manifest, channel.route)
        channel.done()
        if left:
            lost = len(manifest.entry_ids) - len(left)
            self._log.error("%d entries of a batch are gone from %s: lost", lost, channel.route.stream)
            channel.take_in(left, time.time())
            self._queue.count_lost(channel.route, lost)

    def _settle(self, channel: Channel, insert: Insert) -> None:
        """Act on ClickHouse's answer: acknowledge, or split what it refused, or have the batch sent again.

        While Redis is away the answer is kept, so that the same step is repeated: a batch that was split must not be
        fixed a second time beside its halves.
        """
        try:
            insert.answer.result()
        except Unavailable:
            channel.insert, channel.failing = None, True
            raise
        except RefusedRows as refusal:
            self._narrow_down(channel, insert, str(refusal))
        else:
            self._acknowledge(channel, insert)
        channel.insert, channel.failing = None, False

    def _acknowledge(self, channel: Channel, insert: Insert) -> None:
        self._manifests.finish(insert.manifest, channel.route)
        channel.done()
        now = time.time()
        self._latencies.add(insert.entries, now)
        self._counts["records_out"] += len(insert.entries)
        self._counts["batches"] += 1
        self._log.info("%s: %d rows", channel.table.name, len(insert.entries))

    def _narrow_down(self, channel: Channel, insert: Insert, reason: str) -> None:
        """Split a refused batch in two; a refused row is a dead letter."""
        self._log.warning("%s: %d rows refused: %s", channel.table.name, len(insert.entries), reason)
        gc.collect()  # the refusal's traceback holds the rows in a cycle, and there may be many refusals
        if len(insert.entries) == 1:
            buried = self._manifests.bury(insert.manifest, channel.route, insert.entries[0], reason)
            self._counts["dead_letters"] += buried
            channel.done()
            return
        halves = insert.manifest.halves(channel.route.stream)
        self._manifests.split(insert.manifest, halves)
        channel.fix_later(halves)
        middle = len(halves[0].entry_ids)
        channel.taken[halves[0].token] = insert.entries[:middle]
        channel.taken[halves[1].token] = insert.entries[middle:]
        channel.done()

    # --- the group's other members ----------------------------------------------------------------------------------

    def _care(self, now: float) -> None:
        """What is due every few seconds: lease, batches and entries of dead writers, trimming."""
        if now >= self._next_care_at:
            self._lease.renew()
            self._load_manifests()
            there_may_be_more = [self._look_after(channel, now) for channel in self._channels]
            self._next_care_at = now if any(there_may_be_more) else now + self._settings.lease_s / 3
        if now >= self._next_trim_at:
            self._next_trim_at = now + self._settings.trim_interval_s
            self._trim()

    def _look_after(self, channel: Channel, now: float) -> bool:
        """Keep the channel in step with Redis. Whether there may be more to take over at once."""
        consumers = self._queue.consumers(channel.route)
        if channel.has_lost_track(self._lease.consumer, consumers.pop(self._lease.consumer, 0)):
            self._log.warning("%s: reading again what is pending", channel.route.stream)
            channel.read_again(self._lease.consumer)
        taken_over = [self._take_over(channel, consumer, now) for consumer in consumers]
        return any(taken_over)

    def _take_over(self, channel: Channel, consumer: str, now: float) -> bool:
        """First the batches that a dead writer had fixed, then its other entries."""
        if self._manifests.adopt(consumer, {each.table.name: each.route for each in self._channels}):
            self._log.info("adopted the batches of %s", consumer)
            self._load_manifests()
        if channel.recovering or not channel.buffer.room():
            return False
        claimed = self._queue.claim(channel.route, consumer, self._lease.consumer)
        if claimed.lost:
            self._log.error("%d entries of %s are gone from %s: lost", claimed.lost, consumer, channel.route.stream)
        if claimed.entries:
            self._log.info("took over %d entries of %s", len(claimed.entries), consumer)
            channel.take_in(claimed.entries, now)
        return any(claimed)

    def _load_manifests(self) -> None:
        """Queue the batches under our name that others have fixed: a writer before us, or one whose we have adopted.

        Looked for with every care, since the reply that told of them may have been lost; and before anything is read.
        """
        ours = {manifest.token for channel in self._channels for manifest in channel.fixed}
        if ours.issuperset(self._manifests.tokens()):
            return
        for manifest in self._manifests.load():
            next(channel for channel in self._channels if channel.table.name == manifest.table).recover(manifest)

    def _trim(self) -> None:
        """Let Redis forget what every group of a stream has finished."""
        events = self._settings.stream_order_events
        for channel in self._channels:
            groups = [channel.route.group]
            if channel.route.stream == self._queue.keys(events):
                groups.append(self._settings.group_events_processors)
            self._queue.trim(channel.route.stream, groups)

    def _acquire(self) -> Lease:
        return acquire_lease(self._queue, COMPONENT, self._settings.lease_s)

    def _start_over(self, lost: LeaseLost) -> None:
        """Others may hold our batches and entries by now: drop them, and go on under a new lease."""
        self._log.warning("lease lost: %s; starting over", lost)
        self._next_care_at = 0.0  # the next step begins with it, wherever this one may fail
        wait([channel.insert.answer for channel in self._channels if channel.insert])
        self._lease = self._acquire()
        self._manifests = Manifests(self._queue, self._lease)
        for channel in self._channels:
            channel.start_over(self._lease.consumer)


def build(context: Context) -> ClickHouseWriter:
    return ClickHouseWriter(context, ClickHouse(context.settings))


if __name__ == "__main__":
    raise SystemExit(main(COMPONENT, build, leased=True))
