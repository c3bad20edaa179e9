"""Failures at a chosen call to the outside, before or after the call has taken effect."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from common.clickhouse import ClickHouse
from common.errors import Unavailable
from common.redis_queue import Question, RedisQueue
from common.resp import Command
from common.tables import Table
from processors.clickhouse_writer import ClickHouseWriter
from processors.trade_processor import TradeProcessor
from tests.builders import Pipeline, context_of

T = TypeVar("T")


class Died(BaseException):
    """The process is gone. Nothing in the product may catch it."""


class Failure(NamedTuple):
    """How the chosen call fails."""

    error: type[Died] | type[Unavailable]
    after: bool  # whether the call has taken effect

    def __str__(self) -> str:
        return f"{self.error.__name__} {'after' if self.after else 'before'}"


FAILURES = [Failure(error, after) for error in (Died, Unavailable) for after in (False, True)]


class Saboteur:
    """Counts the calls to the outside, and lets the chosen one fail, once."""

    def __init__(self, failure: Failure, at: int) -> None:
        self.calls = 0
        self._failure = failure
        self._at = at
        self._lock = threading.Lock()

    @property
    def has_struck(self) -> bool:
        return self.calls >= self._at

    def around(self, work: Callable[[], T]) -> T:
        with self._lock:
            self.calls += 1
            is_chosen = self.calls == self._at
        if is_chosen and not self._failure.after:
            raise self._failure.error("the call never arrives")
        result = work()
        if is_chosen:
            raise self._failure.error("the answer never arrives")
        return result


class SabotagedQuestion(Question):
    """A question whose answer passes the saboteur."""

    saboteur: Saboteur

    def answer(self) -> Any:
        return self.saboteur.around(super().answer)


class SabotagedQueue(RedisQueue):
    """A queue whose every command and script passes the saboteur."""

    saboteur: Saboteur

    def call(self, *command: Any) -> Any:
        return self.saboteur.around(lambda: super(SabotagedQueue, self).call(*command))

    def ask(self, *commands: Command) -> Question:
        question = self.saboteur.around(lambda: super(SabotagedQueue, self).ask(*commands))
        sabotaged = SabotagedQuestion(self, question._connection, len(commands))
        sabotaged.saboteur = self.saboteur
        return sabotaged

    def script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self.saboteur.around(lambda: super(SabotagedQueue, self).script(name, keys, arguments))


class SabotagedClickHouse(ClickHouse):
    """A ClickHouse whose every insert and query passes the saboteur."""

    saboteur: Saboteur

    def batch_insert(self, table: Table, rows: bytes, token: str) -> None:
        self.saboteur.around(lambda: super(SabotagedClickHouse, self).batch_insert(table, rows, token))

    def query(self, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.saboteur.around(lambda: super(SabotagedClickHouse, self).query(*arguments))


class Inline(ThreadPoolExecutor):
    """Inserts are done when they are submitted, so that every run makes the same calls in the same order."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Unavailable as error:
            future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


def sabotaged_processor(pipeline: Pipeline, saboteur: Saboteur) -> TradeProcessor:
    queue, clickhouse = _sabotaged(pipeline, saboteur)
    return TradeProcessor(context_of(pipeline.settings, queue), clickhouse)


def sabotaged_writer(pipeline: Pipeline, saboteur: Saboteur) -> ClickHouseWriter:
    queue, clickhouse = _sabotaged(pipeline, saboteur)
    writer = ClickHouseWriter(context_of(pipeline.settings, queue), clickhouse)
    writer._inserts = Inline(1)
    return writer


def _sabotaged(pipeline: Pipeline, saboteur: Saboteur) -> tuple[SabotagedQueue, SabotagedClickHouse]:
    queue, clickhouse = SabotagedQueue(pipeline.settings), SabotagedClickHouse(pipeline.settings)
    queue.saboteur = clickhouse.saboteur = saboteur
    return queue, clickhouse


def every_call(failure: Failure) -> Iterator[Saboteur]:
    """Yield a saboteur of the first call, of the second, and so on, until one found no call left to strike."""
    at = 1
    while True:
        saboteur = Saboteur(failure, at)
        yield saboteur
        if not saboteur.has_struck:
            return
        at += 1
