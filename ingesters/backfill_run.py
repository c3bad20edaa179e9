"""A backfill of one source: lease, bounds, barrier, then workers that read slices until the range is done.

What a run must not publish again is known in three ways. What the live ingester publishes lies above the floor that
bounds end at. What was published before this run is in ClickHouse once the barrier has been passed, and every page is
compared with it. What this run, or an interrupted one of the same range, has published lies behind its slices' cursors.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import ConfigError, LeaseLost, PipelineError, Unavailable
from common.keys import Route
from common.leases import Lease, holder_of, take_lease
from common.progress import DONE, Portion, Progress, Run, Slice
from common.redis_queue import RedisQueue
from common.runtime import Signals
from ingesters.backfill_book import Book, RunLost, Snapshot
from ingesters.backfill_known import Barrier, remember_letters, without_known
from ingesters.backfill_plan import Widths
from ingesters.backfill_source import Bounds, Reader, Source, Station
from ingesters.polygon import AskAgain

TURN_S = 0.5  # the longest wait without a look at the signals
LOOK_S = 0.5  # between two looks at a backlog, a barrier, a lease
REMIND_S = 60.0  # what keeps being in the way is said once a minute
RENEWALS = 3  # of the lease, in the time that it lasts

T = TypeVar("T")


class Stopped(PipelineError):
    """A signal has asked for it. The same command goes on where this one was."""


class Watcher(Protocol):
    """Who is told how it goes, from any thread."""

    def say(self, text: str) -> None:
        """Something that a person should know."""

    def show(self, source: Source, snapshot: Snapshot) -> None:
        """How far the run is; every TURN_S or so."""


class Tools(NamedTuple):
    """What a run works with. The queue and ClickHouse are shared by its threads."""

    settings: Settings
    queue: RedisQueue
    clickhouse: ClickHouse
    signals: Signals
    watcher: Watcher


class Patience:
    """Waits out what is unavailable, for as long as it takes, and says why. Shared by the threads of a run."""

    def __init__(self, tools: Tools) -> None:
        initial_s = tools.settings.backoff_initial_s
        self._backoff = wait_exponential(initial_s, tools.settings.backoff_max_s) + wait_random(0, initial_s)
        self._signals = tools.signals
        self._watcher = tools.watcher
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}  # when, by reason
        self.has_failed = False  # a thread has: the others end

    def __call__(self, work: Callable[[], T]) -> T:
        """The result of the work, once it is available. Raises Stopped."""
        retrying = Retrying(
            retry=retry_if_exception_type((Unavailable, AskAgain)),
            wait=self._wait_s,
            before_sleep=self._say_why,
            sleep=self.sleep,
        )
        result: T = retrying(self._unless_stopped, work)
        return result

    def sleep(self, seconds: float) -> None:
        """Raises Stopped."""
        until = time.monotonic() + seconds
        self.check()
        while (left := until - time.monotonic()) > 0:
            self._signals.wait(min(left, TURN_S))
            self.check()

    def until(self, obstacle: Callable[[], str]) -> None:
        """Returns once there is none; it is said meanwhile. Raises Stopped."""
        while reason := self(obstacle):
            self.say(f"waiting: {reason}")
            self.sleep(LOOK_S)

    def say(self, reason: str) -> None:
        """Unless it was said a moment ago. What differs in figures alone is the same."""
        key = "".join(letter for letter in reason if not letter.isdigit())
        now = time.monotonic()
        with self._lock:
            is_new = now - self._said.get(key, -REMIND_S) >= REMIND_S
            if is_new:
                self._said[key] = now
        if is_new:
            self._watcher.say(reason)

    def check(self) -> None:
        if self._signals.stopping or self.has_failed:
            raise Stopped

    def _unless_stopped(self, work: Callable[[], T]) -> T:
        self.check()
        return work()

    def _wait_s(self, attempt: RetryCallState) -> float:
        error = _error(attempt)
        return max(self._backoff(attempt), error.retry_after_s) if isinstance(error, Unavailable) else 0.0

    def _say_why(self, attempt: RetryCallState) -> None:
        error = _error(attempt)
        if isinstance(error, Unavailable):
            self.say(f"waiting: {error.reason}")


def _error(attempt: RetryCallState) -> BaseException | None:
    return attempt.outcome.exception() if attempt.outcome else None


# --- the lease -------------------------------------------------------------------------------------------------------


class Keeper:
    """Holds the source's lease as long as it is open, so that one backfill at a time publishes."""

    def __init__(self, lease: Lease, every_s: float) -> None:
        self._lease = lease
        self._every_s = every_s
        self._closing = threading.Event()  # never set by a signal's handler
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        try:
            self._lease.release()
        except Unavailable:
            return  # it runs out by itself

    def _renew(self) -> None:
        while not self._closing.wait(self._every_s):
            try:
                self._lease.renew()
            except Unavailable:
                continue  # the next turn tries again; whoever publishes meanwhile finds out what became of it
            except LeaseLost:
                return  # likewise


def hold(tools: Tools, patience: Patience, name: str) -> Lease:
    """The lease on a name, once a killed holder's has run out. Raises ConfigError when its holder lives, Stopped."""
    lease_s = tools.settings.lease_s
    before = patience(lambda: holder_of(tools.queue, name))
    while (lease := patience(lambda: take_lease(tools.queue, name, lease_s))) is None:
        holder = patience(lambda: holder_of(tools.queue, name))
        if holder is not None and before is not None and holder.name == before.name and holder.left_s > before.left_s:
            raise ConfigError(f"a backfill of this source is running: process {holder.process}. One at a time")
        if holder is not None:
            patience.say(f"waiting: process {holder.process} holds {name}, for {holder.left_s:.0f} s if it was killed")
        before = holder
        patience.sleep(min(LOOK_S, lease_s / RENEWALS))
    return lease


# --- the run ---------------------------------------------------------------------------------------------------------


class Backfill:
    """One source's part of a range of time."""

    def __init__(self, tools: Tools, source: Source, workers: int) -> None:
        self._tools = tools
        self._source = source
        self._workers = workers
        self._patience = Patience(tools)
        self._stream = tools.queue.keys(tools.settings.stream_order_events)
        self._backlog = Backlog(tools.queue, self._stream, tools.settings.stream_backlog_limit // 2)

    def run(self, begin: int, end: int) -> Run | None:
        """What was read of these Unix seconds; None when none of them are the source's. Raises Stopped, ConfigError."""
        while True:
            try:
                return self._run(begin, end)
            except (LeaseLost, RunLost) as lost:
                self._tools.watcher.say(f"{self._source.name}: {lost}; starting again from what was kept")
                self._patience = Patience(self._tools)

    def _run(self, begin: int, end: int) -> Run | None:
        tools, name = self._tools, self._source.name
        lease = hold(tools, self._patience, f"backfill_{name}")
        with closing(Keeper(lease, tools.settings.lease_s / RENEWALS)):
            bounds = self._patience(lambda: self._source.bounds(begin, end))
            if bounds.note:
                tools.watcher.say(f"{name}: {bounds.note}")
            if bounds.is_empty:
                return None
            progress = Progress(tools.queue, lease, source=name, name=f"{begin}..{end}", stream=self._stream)
            self._wait_for_known(progress)
            self._read(progress, self._begun(progress, bounds))
            left = self._patience(progress.read)
            if left is None or left.slices or left.frontier < left.end:
                raise RunLost(f"{progress.key}: Redis has lost a part of the progress")
            self._patience(progress.complete)
            return self._patience(progress.read)

    def _wait_for_known(self, progress: Progress) -> None:
        """From here on ClickHouse and the set of faults tell everything that was published before."""
        tools = self._tools
        route = Route(self._stream, tools.settings.group_order_events_writers)
        barrier = self._patience(lambda: Barrier(tools.queue, route))
        self._patience.until(barrier.obstacle)
        self._patience(lambda: remember_letters(tools.queue, progress, self._stream, self._source.name))

    def _begun(self, progress: Progress, bounds: Bounds) -> Run:
        """The run to go on with: the one that was interrupted, or one that begins now.

        It goes as far as there is something to read by now, and never less far than it was to: a source that tells of
        less than before was asked by another way.
        """
        run = self._patience(progress.read)
        if run is not None and not run.is_complete and bounds.begin <= run.begin:
            self._tools.watcher.say(f"{self._source.name}: going on where an earlier run was, {progress.key}")
            if bounds.end > run.end:
                self._patience(lambda: progress.move_end(bounds.end, bounds.until))
                run = run._replace(end=bounds.end, until=bounds.until)
            return run
        self._patience(lambda: progress.begin(*bounds[:4]))
        return Run(*bounds[:4], frontier=bounds.begin, slices=[], hours={}, is_complete=False)

    def _read(self, progress: Progress, run: Run) -> None:
        book = Book(progress, run, Widths(self._source.first_width, self._source.most_width, self._workers))
        with ThreadPoolExecutor(self._workers, "backfill") as pool:
            working = [pool.submit(self._work, book) for _ in range(self._workers)]
            is_done = False
            try:
                self._watch(working, book)
                is_done = True
            finally:
                self._patience.has_failed = not is_done  # the pool waits for its threads
        self._tools.watcher.show(self._source, book.snapshot())

    def _watch(self, working: list["Future[None]"], book: Book) -> None:
        """Until all have ended. Raises what one of them has raised."""
        left: set[Future[None]] = set(working)
        while left:
            done, left = wait(left, TURN_S, FIRST_COMPLETED)
            for worker in done:
                worker.result()
            self._tools.watcher.show(self._source, book.snapshot())

    def _work(self, book: Book) -> None:
        """One worker: slices until there are none."""
        with closing(self._patience(self._source.station)) as station:
            while (slice_ := self._patience(book.next)) is not None:
                reader = station.open(slice_)
                while slice_.cursor != DONE:
                    self._backlog.wait(self._patience)
                    for portion in self._patience(partial(self._ask, station, reader)):
                        slice_ = self._publish(book, slice_, portion)

    def _ask(self, station: Station, reader: Reader) -> Sequence[Portion]:
        """One request, in its turn."""
        while (wait_s := station.wait_s()) > 0:
            self._patience.sleep(wait_s)
        return reader.read()

    def _publish(self, book: Book, slice_: Slice, portion: Portion) -> Slice:
        new = self._patience(lambda: without_known(self._tools.clickhouse, portion, self._source.known_between))
        moved = self._patience(lambda: book.publish(slice_, new))
        self._backlog.note(len(new.new))
        return moved


class Backlog:
    """Whether the pipeline is behind, looked at now and then for all workers."""

    def __init__(self, queue: RedisQueue, stream: str, limit: int) -> None:
        self._queue = queue
        self._stream = stream
        self._limit = limit
        self._lock = threading.Lock()
        self._looked_at = -LOOK_S
        self._published = 0  # since then
        self._is_full = False

    def note(self, published: int) -> None:
        with self._lock:
            self._published += published

    def wait(self, patience: Patience) -> None:
        """Until it has caught up: live ingestion goes on meanwhile. Raises Stopped."""
        patience.until(self._obstacle)

    def _obstacle(self) -> str:
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_S or self._published > self._limit // 10:
                self._is_full = (self._queue.backlog(self._stream) or 0) > self._limit
                self._looked_at, self._published = time.monotonic(), 0
            return f"the pipeline is more than {self._limit:,} fills behind" if self._is_full else ""
