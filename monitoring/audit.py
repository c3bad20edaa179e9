"""Is everything there, once, and consistent? Counts fills and trades per UTC day and source, and looks for gaps.

    .venv/bin/python3 -m monitoring.audit                                      everything that ClickHouse holds
    .venv/bin/python3 -m monitoring.audit --from 2024-10-01 --to 2024-11-10    these days, the last one left out
    .venv/bin/python3 -m monitoring.audit --against-source --samples 50        random ranges read again from the sources

Compares rows with distinct ids, order_filled with trades, trades with markets, and the volume of the taker orders with
Gamma's. What is missing comes with the command that fetches it. An id is looked for within its day: one that came
with two block times counts as two.
What an ingester that is catching up, or a running backfill, has yet to fetch is not a gap; a note reports it.

--against-source compares fills one by one instead, with what the sources have by now: those that order_filled lacks,
those that the sources lack, and those without a trade though their market is known. A sample is 20 blocks of the chain
or 40 seconds of the subgraph, as many of each where both were read; half of them lie anywhere in what was read, by live
ingesters or by a complete backfill of the last 30 days, the others around stored fills. POLYGON_RPC_URL's providers
take turns; the one that is read from is asked only where no other answers, and where something differs. The same --seed
draws the same samples.

Exit status: 0 all right; 1 something is missing, doubled or silent, or a server is away; 2 the command or the
configuration is wrong; 3 a source could not be read again, and nothing else is wrong.
"""

import argparse
import secrets
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
from common.helper_process import HelperProcess
from common.redis_queue import RedisQueue
from common.state import check_mode, read_state
from monitoring import source_audit
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
from monitoring.source_audit import SourceQuestion
from monitoring.source_report import SourceAudit, is_complete, source_json, source_problems, source_text
from monitoring.unread import Unread, read_unread, without_unread
from monitoring.unreadable import read_unreadable

ALL_RIGHT, WRONG, WRONG_COMMAND, NOT_READ = 0, 1, 2, 3
SAMPLES = 50
MAX_SAMPLES = 10_000
MAX_SEED = 1_000_000  # of a seed that nobody has chosen: short enough to be typed
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
        metavar="SECONDS",
        help=f"how long a row may stand in one table before it is missed in the other ({SETTLE_S:g}); against the "
        f"sources: the age from which on a block is read again ({source_audit.SETTLE_S:g})",
    )
    parser.add_argument(
        "--gap",
        dest="gap_s",
        type=_at_least(SHORTEST_GAP_S, int),
        default=GAP_S,
        metavar="SECONDS",
        help="longest silence that is no gap (%(default)s); more where fills are rare",
    )
    parser.add_argument("--against-source", action="store_true", help="read random ranges again, and compare")
    parser.add_argument(
        "--samples", type=_at_least(1, int, MAX_SAMPLES), default=SAMPLES, metavar="N", help="so many (%(default)s)"
    )
    parser.add_argument("--seed", type=_at_least(0, int), metavar="N", help="draws the samples of an earlier run again")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    return parser


def moment(text: str) -> int:
    """Unix seconds of a UTC date, a time, or Unix seconds."""
    try:
        return parsing.moment(text, "time")
    except InvalidRecord as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _at_least(least: float, kind: Callable[[str], T], most: float = parsing.TIME_LIMIT - 1) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least:g} to {most:g}, got {text!r}")
        return value

    return parse


def show_progress(parts: Sequence[T], what: str, noun: str = "days") -> Iterator[T]:
    """Tell a person at a terminal how far it is, on stderr, in a line that vanishes."""
    if not sys.stderr.isatty():
        yield from parts
        return
    for place, part in enumerate(parts, start=1):
        sys.stderr.write(f"\r\x1b[K{place:,} of {len(parts):,} {noun} {what}")
        sys.stderr.flush()
        yield part
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def run(settings: Settings, question: Question) -> Audit:
    """Audit the database of the settings. Raises Unavailable and ConfigError."""
    with closing(ClickHouse(settings)) as clickhouse:
        found = audit(clickhouse, question, lambda: last_block(settings), show_progress, lambda: unread_of(settings))
    return msgspec.structs.replace(found, unreadable=unreadable_of(settings))


def run_against_sources(settings: Settings, question: SourceQuestion) -> SourceAudit:
    """Compare with the sources of the settings. Raises Unavailable and ConfigError."""
    with (
        closing(ClickHouse(settings)) as clickhouse,
        closing(RedisQueue(settings)) as queue,
        HelperProcess(source_audit.INGESTERS_PART) as ingesters,
    ):
        check_mode(queue, settings.pipeline_mode)
        tools = source_audit.Tools(settings, queue, clickhouse, ingesters)
        return source_audit.audit_sources(
            tools, question, time.time(), lambda samples: show_progress(samples, "read again", "samples")
        )


def main(arguments: Sequence[str] | None = None) -> int:
    command = parser()
    options = command.parse_args(arguments)
    if options.against_source and (options.begin is not None or options.end is not None):
        command.error("--from and --to don't go with --against-source, which draws its ranges from all that was read")
    if options.begin is not None and options.end is not None and options.begin >= options.end:
        command.error("--from must be before --to")
    try:
        return _compared(options) if options.against_source else _counted(options)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's output
        return WRONG_COMMAND
    except PipelineError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return WRONG


def question_of(options: argparse.Namespace) -> Question:
    settle_s = SETTLE_S if options.settle_s is None else options.settle_s
    return Question(options.begin, options.end, settle_s, options.gap_s)


def _counted(options: argparse.Namespace) -> int:
    found = run(load_settings(), question_of(options))
    print(as_json(found) if options.json else as_text(found))  # noqa: T201
    return WRONG if problems(found) else ALL_RIGHT


def _compared(options: argparse.Namespace) -> int:
    settle_s = source_audit.SETTLE_S if options.settle_s is None else options.settle_s
    seed = secrets.randbelow(MAX_SEED) if options.seed is None else options.seed
    found = run_against_sources(load_settings(), SourceQuestion(options.samples, seed, settle_s))
    print(source_json(found) if options.json else source_text(found))  # noqa: T201
    if source_problems(found):
        return WRONG
    return ALL_RIGHT if is_complete(found) else NOT_READ


if __name__ == "__main__":
    raise SystemExit(main())
