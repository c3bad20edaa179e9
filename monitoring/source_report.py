"""What reading the sources again has found, as a verdict, as text and as JSON. Pure."""

from collections.abc import Iterator, Sequence

import msgspec

from monitoring.audit_report import DEAD_LETTERS, Problem, counted, to_backfill
from monitoring.formatting import number
from monitoring.source_samples import SOURCES, UNITS, Source

MAX_SHOWN = 20  # ids of one kind, in the text


class Difference(msgspec.Struct, frozen=True):
    """A fill that is only at one side, or that has no trade."""

    id: str
    source: Source
    begin: int  # of the sample, in blocks or seconds
    end: int
    timestamp: int  # Unix seconds


class ReadSample(msgspec.Struct, frozen=True):
    """One that was read again."""

    source: Source
    begin: int
    end: int
    host: str
    fills: int
    unreadable: int


class NotRead(msgspec.Struct, frozen=True):
    """One that could not be."""

    source: Source
    begin: int
    end: int
    reason: str


class SourceAudit(msgspec.Struct, frozen=True):
    """What was compared, and what differs."""

    seed: int
    read: list[ReadSample]
    not_read: list[NotRead]
    missing: list[Difference]  # the source has it, order_filled has not
    surplus: list[Difference]  # order_filled has it, no provider has
    without_trade: list[Difference]  # though their market is known


def source_problems(audit: SourceAudit) -> list[Problem]:
    """Everything that makes it fail; none when all that was read again is in the tables."""
    return [*_missing(audit.missing), *_surplus(audit.surplus), *_without_trade(audit.without_trade)]


def _missing(differ: Sequence[Difference]) -> Iterator[Problem]:
    if differ:
        times = [each.timestamp for each in differ]
        remedy = f"{to_backfill(min(times), max(times) + 1)}; or they are dead letters: {DEAD_LETTERS}"
        yield Problem(f"{counted(len(differ), 'fill')} missing in order_filled: {_ids(differ)}", remedy)


def _surplus(differ: Sequence[Difference]) -> Iterator[Problem]:
    if differ:
        text = f"{counted(len(differ), 'surplus row')} of order_filled, which the source does not have: {_ids(differ)}"
        yield Problem(text, "nothing removes them by itself; their ingested_at shows when they were written")


def _without_trade(differ: Sequence[Difference]) -> Iterator[Problem]:
    if differ:
        text = f"{counted(len(differ), 'fill')} without a trade, though the market is known: {_ids(differ)}"
        yield Problem(text, f"they may be dead letters: {DEAD_LETTERS}")


def _ids(differ: Sequence[Difference]) -> str:
    shown = ", ".join(each.id for each in differ[:MAX_SHOWN])
    more = len(differ) - MAX_SHOWN
    return shown if more <= 0 else f"{shown} and {number(more)} more (--json has all)"


def is_complete(audit: SourceAudit) -> bool:
    """Whether there were samples, and all of them could be read again."""
    return bool(audit.read) and not audit.not_read


def source_text(audit: SourceAudit) -> str:
    """What was read again, what is wrong, and what could not be read."""
    lines = [f"Read again with --seed {audit.seed}:", *_summary(audit)]
    wrong = source_problems(audit)
    if wrong:
        lines += ["", "Wrong:"]
        for problem in wrong:
            lines += [f"  {problem.text}", f"    -> {problem.remedy}"]
    elif is_complete(audit):
        lines += ["", "All right."]
    lines += ["", "Not read:", *(f"  {text}" for text in _not_read(audit))] if not is_complete(audit) else []
    return "\n".join(lines)


def _summary(audit: SourceAudit) -> Iterator[str]:
    for source in SOURCES:
        read = [each for each in audit.read if each.source == source]
        if read:
            width, fills = sum(each.end - each.begin for each in read), sum(each.fills for each in read)
            hosts = ", ".join(sorted({each.host for each in read}))
            where = f"{counted(len(read), 'sample')}, {number(width)} {UNITS[source]}, {counted(fills, 'fill')}"
            yield f"  {source}: {where}, from {hosts}"
        if unreadable := sum(each.unreadable for each in read):
            yield f"    {counted(unreadable, 'record')} that can't be read left out: {DEAD_LETTERS}"


def _not_read(audit: SourceAudit) -> Iterator[str]:
    if not audit.read and not audit.not_read:
        yield "nothing: no range that the pipeline has read is old enough yet (--settle)"
    for source in SOURCES:
        away: list[NotRead] = [each for each in audit.not_read if each.source == source]
        if away:
            yield f"{counted(len(away), 'sample')} of {source}: {away[-1].reason}"


def source_json(audit: SourceAudit) -> str:
    """One object, on one line."""
    wrong = source_problems(audit)
    found = {"ok": not wrong and is_complete(audit), **msgspec.structs.asdict(audit), "problems": wrong}
    return msgspec.json.encode(found).decode()
