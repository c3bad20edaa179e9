"""What the pipeline has already: fills in ClickHouse, after everything published before has arrived there."""

from collections.abc import Callable, Iterator
from typing import Any

from common.clickhouse import ClickHouse
from common.dead_letters import page_of_dead_letters
from common.keys import Route
from common.progress import Portion, Progress
from common.redis_queue import RedisQueue
from ingesters.fill_identity import CONTENT_SQL, identity_of

LETTERS = 1000  # dead letters a page


class Barrier:
    """Everything that was in a stream when this began, on its way to ClickHouse."""

    def __init__(self, queue: RedisQueue, route: Route) -> None:
        self._queue = queue
        self._route = route
        self._last = queue.stream_info(route.stream).last_id

    def obstacle(self) -> str:
        """What there is to wait for; empty once the writers have finished all of it. Raises Unavailable."""
        if self._last is None:
            return ""  # trimmed, or never written: nobody has anything left to do
        groups = {group.name: group for group in self._queue.stream_info(self._route.stream).groups}
        group = groups.get(self._route.group)
        if group is None:
            return f"{self._route.group} does not read {self._route.stream} yet; does clickhouse_writer run?"
        oldest = group.oldest_pending_id
        if _id(group.last_delivered_id) >= _id(self._last) and (oldest is None or _id(oldest) > _id(self._last)):
            return ""
        left = f"{group.pending + (group.lag or 0):,}"
        return f"what was published before is on its way to ClickHouse, {left} fills; does clickhouse_writer run?"


def _id(text: str) -> tuple[int, int]:
    ms, _, number = text.partition("-")
    return int(ms), int(number)


Known = Callable[[ClickHouse, int, int], set[str]]  # see Source.known_between


def without_known(clickhouse: ClickHouse, portion: Portion, known_between: Known) -> Portion:
    """The portion, each fill once, with those set apart that order_filled holds. Raises Unavailable.

    One question a page: what there is in its stretch of time.
    """
    offers = {offer.identity: offer for offer in portion.new}.values()
    if not offers:
        return portion
    times = [offer.timestamp for offer in offers]
    stored = known_between(clickhouse, min(times), max(times))
    new = [offer for offer in offers if offer.identity not in stored]
    known = [offer for offer in offers if offer.identity in stored]
    return portion._replace(new=new, known=known)


def stored_ids(clickhouse: ClickHouse, first: int, last: int) -> set[str]:
    """For a source that tells every fill's id the same whenever it is asked."""
    return {identity for (identity,) in _stored(clickhouse, "id", first, last)}


def stored_contents(clickhouse: ClickHouse, first: int, last: int) -> set[str]:
    """For the chain, whose providers may number logs differently: see `fill_identity`."""
    rows = _stored(clickhouse, f"{CONTENT_SQL} AS content, uniqExact(id)", first, last, "GROUP BY content")
    return {identity_of(content, place) for content, count in rows for place in range(count)}


def _stored(clickhouse: ClickHouse, what: str, first: int, last: int, rest: str = "") -> list[tuple[Any, ...]]:
    return clickhouse.query(
        f"SELECT {what} FROM {clickhouse.database}.order_filled "  # noqa: S608 - the name comes from the settings
        "WHERE timestamp >= toDateTime({first:UInt32}, 'UTC') AND timestamp <= toDateTime({last:UInt32}, 'UTC') "
        f"{rest}",
        {"first": first, "last": last},
    )


def remember_letters(queue: RedisQueue, progress: Progress, stream: str, source: str) -> None:
    """Have the source's dead letters, of its live ingester as well, not written again. Raises Unavailable."""
    for identities in _pages_of_letters(queue, stream, source):
        progress.add_faults(identities)


def _pages_of_letters(queue: RedisQueue, stream: str, source: str) -> Iterator[list[str]]:
    first = "-"
    while letters := page_of_dead_letters(queue, stream, first, "+", LETTERS):
        yield [letter.entry_id for letter in letters if letter.source_stream == source]
        first = f"({letters[-1].id}"
