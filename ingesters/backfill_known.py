"""What the pipeline has already: fills in ClickHouse, after everything published before has arrived there."""

from collections.abc import Collection, Iterator

from common.clickhouse import ClickHouse
from common.dead_letters import page_of_dead_letters
from common.keys import Route
from common.progress import Portion, Progress
from common.redis_queue import Offer, RedisQueue

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


def without_known(clickhouse: ClickHouse, portion: Portion) -> Portion:
    """The portion, each fill once, with those set apart that order_filled holds. Raises Unavailable.

    One question a page: the ids in its stretch of time.
    """
    offers = {offer.identity: offer for offer in portion.new}.values()
    if not offers:
        return portion
    stored = _stored(clickhouse, offers)
    new = [offer for offer in offers if offer.identity not in stored]
    known = [offer for offer in offers if offer.identity in stored]
    return portion._replace(new=new, known=known)


def _stored(clickhouse: ClickHouse, offers: Collection[Offer]) -> set[str]:
    times = [offer.timestamp for offer in offers]
    rows = clickhouse.query(
        f"SELECT id FROM {clickhouse.database}.order_filled "  # noqa: S608 - the name comes from the settings
        "WHERE timestamp >= toDateTime({first:UInt32}, 'UTC') AND timestamp <= toDateTime({last:UInt32}, 'UTC')",
        {"first": min(times), "last": max(times)},
    )
    return {identity for (identity,) in rows}


def remember_letters(queue: RedisQueue, progress: Progress, stream: str, source: str) -> None:
    """Have the source's dead letters, of its live ingester as well, not written again. Raises Unavailable."""
    for identities in _pages_of_letters(queue, stream, source):
        progress.add_faults(identities)


def _pages_of_letters(queue: RedisQueue, stream: str, source: str) -> Iterator[list[str]]:
    first = "-"
    while letters := page_of_dead_letters(queue, stream, first, "+", LETTERS):
        yield [letter.entry_id for letter in letters if letter.source_stream == source]
        first = f"({letters[-1].id}"
