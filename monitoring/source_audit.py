"""Random ranges of the sources read again and compared with the tables.

What differs at first is looked at again before it counts: other providers are asked, then the streams for what is still
on its way, and last the tables, in the order in which fills travel. So a running pipeline gives no false alarm.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

import msgspec

from common.clickhouse import ClickHouse
from common.config import Settings
from common.errors import Unavailable
from common.helper_process import HelperProcess, RangeRead, RangeRequest
from common.records import OrderFilled
from common.redis_queue import RedisQueue
from monitoring.reading import Reading
from monitoring.source_differences import Differences, content_of, differences, grouped, of_either
from monitoring.source_reading import (
    fills_on_their_way,
    read_covered,
    read_near,
    read_stored,
    read_without_trade,
    trades_on_their_way,
)
from monitoring.source_report import Difference, NotRead, ReadSample, SourceAudit
from monitoring.source_samples import Sample, draw
from monitoring.sources import read_sources
from monitoring.stages import COMPONENTS, read_stage

INGESTERS_PART = "ingesters.reread"  # reads the sources; a process of its own, since rooms stay apart
SETTLE_S = 600.0  # younger blocks are left out: the live ingesters still look for what appears late in them

Watch = Callable[[Sequence[Sample]], Iterable[Sample]]  # goes through the samples and may show how far it is


class SourceQuestion(NamedTuple):
    """How much to read again."""

    samples: int
    seed: int
    settle_s: float = SETTLE_S


class Tools(NamedTuple):
    """The servers, and the process that asks the sources."""

    settings: Settings
    queue: RedisQueue
    clickhouse: ClickHouse
    ingesters: HelperProcess


def audit_sources(tools: Tools, question: SourceQuestion, now: float, watch: Watch) -> SourceAudit:
    """Raises Unavailable when a server is away, and ConfigError. A source that is away is part of the result."""
    covered = read_covered(tools.queue, tools.settings, int(now - question.settle_s))
    samples = draw(covered, question.samples, Random(question.seed), partial(read_near, tools.clickhouse))  # noqa: S311 - no secret
    found = SourceAudit(question.seed, [], [], [], [], [])
    hosts = _read_by(tools, now)
    for turn, sample in enumerate(watch(samples)):
        request = RangeRequest(sample.source, sample.begin, sample.end, turn, hosts.get(sample.source, ""))
        try:
            _compare(tools, request, sample, found)
        except _SourceAway as error:
            found.not_read.append(NotRead(*sample, str(error)))
    return found


class _SourceAway(Exception):
    """No provider of the source answers. The text says why."""


def _read_by(tools: Tools, now: float) -> dict[str, str]:
    """The host that each source's live ingester has asked last, as its heartbeat tells."""
    beats = Reading("known", tools.queue.heartbeats())
    stages = [read_stage(component, beats, tools.settings.stale_after_s, now) for component in COMPONENTS]
    return {each.name.lower(): each.host for each in read_sources(stages)}


def _compare(tools: Tools, request: RangeRequest, sample: Sample, found: SourceAudit) -> None:
    read = _ask(tools, request)
    found.read.append(ReadSample(*sample, read.host, len(read.fills), read.unreadable))
    differ = differences(read.fills, read_stored(tools.clickhouse, tools.settings, sample, read))
    if any(differ):
        differ = _look_again(tools, request, sample, read)
    found.missing.extend(_told(sample, fill) for fill in differ.missing)
    found.surplus.extend(_told(sample, fill) for fill in differ.surplus)
    found.without_trade.extend(Difference(each, *sample, read.since) for each in _without_trade(tools, sample, read))


def _look_again(tools: Tools, request: RangeRequest, sample: Sample, read: RangeRead) -> Differences:
    """What no other provider, nothing on its way and no later look at the table explains."""
    fills, known, asked = read.fills, {fill.id for fill in read.fills}, [read.provider]
    while True:
        again = _ask(tools, msgspec.structs.replace(request, asked=asked))
        fills, known = of_either(fills, again.fills), known | {fill.id for fill in again.fills}
        if again.provider in asked:  # all have answered; of one alone, this was the second answer
            break
        asked = [*asked, again.provider]
    waiting = grouped(fills_on_their_way(tools.queue, tools.settings))
    differ = differences(fills, read_stored(tools.clickhouse, tools.settings, sample, read), known)
    return differ._replace(missing=[fill for fill in differ.missing if content_of(fill) not in waiting])


def _without_trade(tools: Tools, sample: Sample, read: RangeRead) -> list[str]:
    lacking = set(read_without_trade(tools.clickhouse, tools.settings, sample, read))
    if lacking:
        lacking -= trades_on_their_way(tools.queue, tools.settings)
        lacking &= set(read_without_trade(tools.clickhouse, tools.settings, sample, read))
    return sorted(lacking)


def _ask(tools: Tools, request: RangeRequest) -> RangeRead:
    try:
        return tools.ingesters.ask(request, RangeRead)
    except Unavailable as error:
        raise _SourceAway(error.reason) from error


def _told(sample: Sample, fill: OrderFilled) -> Difference:
    return Difference(fill.id, *sample, fill.timestamp)
