"""What an audit found, as a verdict, as text and as JSON. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from monitoring.audit_reading import DAY_S, Day, Volume
from monitoring.coverage import Gap
from monitoring.formatting import GAP as NARROW_SPACE
from monitoring.formatting import duration, iso, number, utc
from monitoring.reading import Reading, absent
from monitoring.unread import Unread
from monitoring.unreadable import in_words

TOLERANCE = Decimal("0.01")  # of the volume; Gamma rounds, and counts what was traded off these exchanges
DEAD_LETTERS = ".venv/bin/python3 -m processors.dead_letters list --stream order_events"
REBUILD_MARKETS = ".venv/bin/python3 -m processors.rebuild_markets"
HEADINGS = (
    *("day", "source", "fills", "distinct", "trades", "distinct", "doubled"),
    *("no trade", "no fill", "no market", "on the way", "odd price", "volume"),
)
_WORDS = 2  # columns of words, which stand at the left


class Audit(msgspec.Struct, frozen=True):
    """Everything that was counted, and how."""

    begin: int  # Unix s; fills with begin <= timestamp < end
    end: int
    settle_s: float
    gap_s: int
    days: list[Day]
    gaps: list[Gap]
    volume: Volume
    polygon_last_block: Reading[str]  # everything up to it has been read, the ingester says
    unread: Reading[list[Unread]]  # what is still to come; `gaps` excludes it
    unreadable: Reading[dict[str, int]] = absent("not asked")  # fields that markets were stored without


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong, and what mends it."""

    text: str
    remedy: str


def problems(audit: Audit) -> list[Problem]:
    """Everything that makes the audit fail; none when all is well."""
    return [*_doubled(audit.days), *_missing(audit.days), *_orphans(audit), *map(_silent, audit.gaps)]


def _doubled(days: Sequence[Day]) -> Iterator[Problem]:
    remedy = "nothing to do: FINAL and the views leave them out, merges remove them"
    for table, counts in (
        ("order_filled", [day.repeated_fills for day in days]),
        ("trades", [day.repeated_trades for day in days]),
    ):
        if sum(counts):
            yield Problem(f"{counted(sum(counts), 'row')} of {table} repeat others: {_on(days, counts)}", remedy)


def _missing(days: Sequence[Day]) -> Iterator[Problem]:
    counts = [day.fills_without_trade for day in days]
    if sum(counts):
        text = f"{counted(sum(counts), 'fill')} without a trade: {_on(days, counts)}"
        yield Problem(text, f"they wait for their market, or are dead letters: {DEAD_LETTERS}")
    counts = [day.trades_without_market for day in days]
    if sum(counts):
        text = f"{counted(sum(counts), 'trade')} whose market is not in markets: {_on(days, counts)}"
        yield Problem(text, REBUILD_MARKETS)


def _orphans(audit: Audit) -> Iterator[Problem]:
    """Days whose fills are not all in order_filled, each with the command that reads it again."""
    for begin, count in _by_day((day.begin, day.trades_without_fill) for day in audit.days):
        if count:
            text = f"{counted(count, 'trade')} without a fill in order_filled: {_date(begin)}"
            yield Problem(text, to_backfill(begin, min(_next_midnight(begin), audit.end)))


def _silent(gap: Gap) -> Problem:
    text = f"no fill for {_plain(duration(gap.seconds))}: {utc(gap.begin)} to {utc(gap.end)}"
    return Problem(f"{text} ({gap.source})" if gap.source else text, to_backfill(gap.begin, gap.end + 1))


def to_backfill(begin: int, end: int) -> str:
    """The command that asks the sources for the range [begin, end) again, and adds what is missing."""
    return f".venv/bin/python3 -m ingesters.backfill --from {iso(begin)} --to {iso(end)}"


def _by_day(counts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sums over the sources, by the beginning of the day."""
    totals: dict[int, int] = {}
    for begin, count in counts:
        totals[begin] = totals.get(begin, 0) + count
    return list(totals.items())


def _on(days: Sequence[Day], counts: Sequence[int]) -> str:
    """`2024-10-01, 2024-10-03 and 5 more days`: where a count is not 0."""
    dates = [_date(begin) for begin, count in _by_day(zip((day.begin for day in days), counts, strict=True)) if count]
    more = len(dates) - 3
    return ", ".join(dates) if more <= 0 else f"{', '.join(dates[:3])} and {counted(more, 'more day')}"


# --- text --------------------------------------------------------------------------------------------------------


def as_text(audit: Audit) -> str:
    """A table, what is wrong, and what is worth knowing."""
    wrong = problems(audit)
    lines = [f"From {utc(audit.begin)} to {utc(audit.end)}", ""]
    lines += _table(audit.days) if audit.days else ["No fills and no trades."]
    lines += ["", "Wrong:" if wrong else "All right."]
    for problem in wrong:
        lines += [f"  {problem.text}", f"    -> {problem.remedy}"]
    told = list(notes(audit))
    lines += ["", "Worth knowing:", *(f"  {note}" for note in told)] if told else []
    return "\n".join(lines)


def _table(days: Sequence[Day]) -> list[str]:
    rows = [HEADINGS, *(_cells(day) for day in days)]
    if len(days) > 1:
        rows.append(_totals(days))
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if place < _WORDS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _cells(day: Day) -> tuple[str, ...]:
    return (_date(day.begin), day.source, *_numbers([day]))


def _totals(days: Sequence[Day]) -> tuple[str, ...]:
    return ("all", "", *_numbers(days))


def _numbers(days: Sequence[Day]) -> tuple[str, ...]:
    sums = (
        sum(day.fills for day in days),
        sum(day.distinct_fills for day in days),
        sum(day.trades for day in days),
        sum(day.distinct_trades for day in days),
        sum(day.repeated_fills + day.repeated_trades for day in days),
        sum(day.fills_without_trade for day in days),
        sum(day.trades_without_fill for day in days),
        sum(day.trades_without_market for day in days),
        sum(day.on_their_way for day in days),
        sum(day.prices_outside for day in days),
    )
    volume = sum((day.volume for day in days), Decimal(0))
    return (*(number(count) for count in sums), f"{volume:,.2f}")


def notes(audit: Audit) -> Iterator[str]:
    """What is not wrong by itself."""
    yield from _unread_notes(audit)
    on_their_way = sum(day.on_their_way for day in audit.days)
    if on_their_way:
        yield f"{number(on_their_way)} on the way: written less than {audit.settle_s:g} s ago"
    outside = sum(day.prices_outside for day in audit.days)
    if outside:
        yield f"{counted(outside, 'trade')} with a price outside [0, 1]: rare, and allowed by the contract"
    if audit.volume.markets:
        yield _volume_note(audit.volume)
    yield from _block_note(audit)
    if audit.unreadable.value:
        yield f"fields that can't be read, and how many markets were stored without: {in_words(audit.unreadable.value)}"


def _unread_notes(audit: Audit) -> Iterator[str]:
    if audit.unread.state == "unknown":
        yield (
            f"how far the sources have been read is unknown ({audit.unread.reason}): "
            "what they have yet to bring counts as a gap"
        )
    yield from (each.text for each in audit.unread.value or [] if each.begin < audit.end and each.end > audit.begin)


def _volume_note(volume: Volume) -> str:
    difference = deviation(volume)
    is_within = difference is not None and abs(difference) <= TOLERANCE
    return (
        f"volume of the {counted(volume.markets, 'market')} created and closed in this time: {volume.ours:,.2f} by "
        f"their trades, {volume.theirs:,.2f} by Gamma"
        + ("" if difference is None else f", {difference:+.2%}")
        + f" ({'within' if is_within else 'not within'} {TOLERANCE:.0%})"
    )


def deviation(volume: Volume) -> Decimal | None:
    """By how much of Gamma's figure ours is larger; None when Gamma's is 0."""
    return None if not volume.theirs else (volume.ours - volume.theirs) / volume.theirs


def _block_note(audit: Audit) -> Iterator[str]:
    """Which blocks were read can't be seen in the tables: a block without fills leaves nothing there."""
    first = min((day.first_block for day in audit.days if day.first_block is not None), default=None)
    last = max((day.last_block for day in audit.days if day.last_block is not None), default=None)
    if first is None or last is None:
        return
    read = audit.polygon_last_block
    how_far = f"read up to {read.value}" if read.state == "known" else f"read up to an unknown one: {read.reason}"
    yield f"blocks with fills: {first} to {last}; {how_far} (state:polygon_last_block). Gaps are told by time alone"


def counted(count: int, noun: str) -> str:
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def _date(begin: int) -> str:
    return utc(begin)[:10]


def _next_midnight(at: int) -> int:
    return (at // DAY_S + 1) * DAY_S


def _plain(text: str) -> str:
    return text.replace(NARROW_SPACE, " ")


# --- JSON --------------------------------------------------------------------------------------------------------


def as_json(audit: Audit) -> str:
    """One object, on one line. Amounts are strings, times are UTC."""
    difference = deviation(audit.volume)
    wrong = problems(audit)
    found = {
        "ok": not wrong,
        "from": iso(audit.begin),
        "to": iso(audit.end),
        "settle_s": audit.settle_s,
        "gap_s": audit.gap_s,
        "days": [_day_fields(day) for day in audit.days],
        "gaps": [_gap_fields(gap) for gap in audit.gaps],
        "volume": {
            **msgspec.structs.asdict(audit.volume),
            "deviation": None if difference is None else round(difference, 6),
            "tolerance": TOLERANCE,
        },
        "polygon_last_block": audit.polygon_last_block,
        "unread": audit.unread,
        "unreadable": audit.unreadable,
        "problems": wrong,
        "notes": list(notes(audit)),
    }
    return msgspec.json.encode(found).decode()


def _day_fields(day: Day) -> dict[str, Any]:
    counts = msgspec.structs.asdict(day)
    del counts["begin"]
    repeated = {"repeated_fills": day.repeated_fills, "repeated_trades": day.repeated_trades}
    return {"day": _date(day.begin), **counts, **repeated}


def _gap_fields(gap: Gap) -> dict[str, Any]:
    return {
        "from": iso(gap.begin),
        "to": iso(gap.end),
        "seconds": gap.seconds,
        "source": gap.source,
        "remedy": _silent(gap).remedy,
    }
