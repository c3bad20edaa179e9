"""Is everything there, once, and consistent? Counts fills and trades per UTC day and source, and looks for gaps.

    .venv/bin/python3 -m monitoring.audit                                      everything that ClickHouse holds
    .venv/bin/python3 -m monitoring.audit --from 2024-10-01 --to 2024-11-10    these days, the last one left out

Compares rows with distinct ids, order_filled with trades, trades with markets, and the volume of the taker orders with
Gamma's. What is missing comes with the command that fetches it. An id is looked for within its day: one that came
with two block times counts as two.
What an ingester that is catching up, or a running backfill, has yet to fetch is not a gap; a note reports it.

Exit status: 0 all right; 1 something is missing, doubled or silent, or ClickHouse is away; 2 the command or the
configuration is wrong.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

import msgspec

from common import parsing
from common.clickhouse import ClickHouse
from common.config import Settings, load_settings
from common.errors import ConfigError, InvalidRecord, PipelineError
from common.redis_queue import RedisQueue
from common.state import read_state
from monitoring.audit_reading import (
    Day,
    Span,
    Volume,
    read_clock,
    read_day,
    read_first,
    read_minutes,
    read_volume,
    spans,
)
from monitoring.audit_report import Audit, as_json, as_text, problems
from monitoring.coverage import SHORTEST_GAP_S, Minute, find_gaps
from monitoring.reading import Reading, Server, absent, known_or
from monitoring.unread import Unread, read_unread, without_unread
from monitoring.unreadable import read_unreadable

ALL_RIGHT, WRONG, WRONG_COMMAND = 0, 1, 2
SETTLE_S = 120.0  # a fill and its trade are written within seconds of one another, even with a backlog
GAP_S = 900
FIRST_FILL = 1_668_988_800  # 2022-11-21: the exchange's first fills; before it there is nothing to miss

T = TypeVar("T")
Watch = Callable[[Sequence[Span], str], Iterable[Span]]  # goes through spans and may tell a person about it


class Question(NamedTuple):
    """What to audit. Times are Unix seconds."""

    begin: int | None = None  # None: from the first fill or trade
    end: int | None = None  # None, or later than what has settled: up to there
    settle_s: float = SETTLE_S
    gap_s: int = GAP_S


def silently(days: Sequence[Span], _what: str) -> Iterable[Span]:
    return days


def not_asked() -> Reading[list[Unread]]:
    return absent("not asked")


def audit(
    clickhouse: ClickHouse,
    question: Question,
    read_block: Callable[[], Reading[str]],
    watch: Watch,
    read_unread: Callable[[], Reading[list[Unread]]] = not_asked,
) -> Audit:
    """Count everything. Raises Unavailable and ConfigError.

    What is still to come is read first, so that what arrives meanwhile may be counted but is never reported missing.
    """
    unread = read_unread()
    settled_at = read_clock(clickhouse) - question.settle_s
    end = int(settled_at) if question.end is None else min(question.end, int(settled_at))
    begin = _beginning(clickhouse, question, end)
    days = spans(begin, end)
    counted = [day for span in watch(days, "counted") for day in read_day(clickhouse, span, settled_at)]
    minutes = _minutes(clickhouse, watch(days, "looked through for gaps"))
    return Audit(
        begin=begin,
        end=end,
        settle_s=question.settle_s,
        gap_s=question.gap_s,
        days=counted,
        gaps=without_unread(list(find_gaps(minutes, begin, end, question.gap_s)), unread.value or [], question.gap_s),
        unread=unread,
        volume=_volume(clickhouse, watch(days, "compared with Gamma's volume"), end),
        polygon_last_block=read_block() if _has_blocks(counted) else absent("no fill from the chain"),
    )


def _beginning(clickhouse: ClickHouse, question: Question, end: int) -> int:
    """Asked for, it counts as covered from there on, so that silence before the first fill is a gap, too."""
    if question.begin is not None:
        return min(max(question.begin, FIRST_FILL), end)
    first = read_first(clickhouse)
    return end if first is None else min(first, end)


def _minutes(clickhouse: ClickHouse, days: Iterable[Span]) -> Iterator[Minute]:
    for span in days:
        yield from read_minutes(clickhouse, span)


def _volume(clickhouse: ClickHouse, days: Iterable[Span], end: int) -> Volume:
    total = Volume()
    for span in days:
        total = total.plus(read_volume(clickhouse, span, end))
    return total


def _has_blocks(days: Sequence[Day]) -> bool:
    return any(day.last_block is not None for day in days)


def unread_of(settings: Settings) -> Reading[list[Unread]]:
    """What is still to come, as Redis knows it."""
    with closing(RedisQueue(settings)) as queue:
        return read_unread(queue, settings, time.time())


def unreadable_of(settings: Settings) -> Reading[dict[str, int]]:
    """Fields that markets were stored without, as Redis knows it."""
    with closing(RedisQueue(settings)) as queue:
        return read_unreadable(queue, Server(lambda: queue.call("PING")))


def last_block(settings: Settings) -> Reading[str]:
    """How far polygon_ingester says that it has read; unknown with the reason when Redis is away."""
    with closing(RedisQueue(settings)) as queue:
        redis = Server(lambda: queue.call("PING"))
        value = redis.read(lambda: read_state(queue, "polygon_last_block"))
    return value.then(lambda block: known_or(block, absent("not written yet")))


# --- command -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        ".venv/bin/python3 -m monitoring.audit",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="begin", type=moment, metavar="TIME", help="UTC date or time, or Unix seconds; the first fill"
    )
    parser.add_argument(
        "--to", dest="end", type=moment, metavar="TIME", help="the same, itself left out; what has settled by now"
    )
    parser.add_argument(
        "--settle",
        dest="settle_s",
        type=_at_least(0.0, float),
        default=SETTLE_S,
        metavar="SECONDS",
        help="how long a row may stand in one table before it is missed in the other (%(default)g)",
    )
    parser.add_argument(
        "--gap",
        dest="gap_s",
        type=_at_least(SHORTEST_GAP_S, int),
        default=GAP_S,
        metavar="SECONDS",
        help="longest silence that is no gap (%(default)s); more where fills are rare",
    )
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    return parser


def moment(text: str) -> int:
    """Unix seconds of a UTC date, a time, or Unix seconds."""
    try:
        return parsing.moment(text, "time")
    except InvalidRecord as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _at_least(least: float, kind: Callable[[str], T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not least <= float(text) < parsing.TIME_LIMIT:
            raise argparse.ArgumentTypeError(f"expected {least:g} or more, got {text!r}")
        return value

    return parse


def show_progress(days: Sequence[Span], what: str) -> Iterator[Span]:
    """Tell a person at a terminal how far it is, on stderr, in a line that vanishes."""
    if not sys.stderr.isatty():
        yield from days
        return
    for place, span in enumerate(days, start=1):
        sys.stderr.write(f"\r\x1b[K{place:,} of {len(days):,} days {what}")
        sys.stderr.flush()
        yield span
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def run(settings: Settings, question: Question) -> Audit:
    """Audit the database of the settings. Raises Unavailable and ConfigError."""
    with closing(ClickHouse(settings)) as clickhouse:
        found = audit(clickhouse, question, lambda: last_block(settings), show_progress, lambda: unread_of(settings))
    return msgspec.structs.replace(found, unreadable=unreadable_of(settings))


def main(arguments: Sequence[str] | None = None) -> int:
    command = parser()
    options = command.parse_args(arguments)
    question = Question(options.begin, options.end, options.settle_s, options.gap_s)
    if question.begin is not None and question.end is not None and question.begin >= question.end:
        command.error("--from must be before --to")
    try:
        found = run(load_settings(), question)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's output
        return WRONG_COMMAND
    except PipelineError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return WRONG
    print(as_json(found) if options.json else as_text(found))  # noqa: T201
    return WRONG if problems(found) else ALL_RIGHT


if __name__ == "__main__":
    raise SystemExit(main())
