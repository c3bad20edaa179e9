"""What a backfill tells a person: progress while it runs, and what it read by day once it is done."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from common.printable import printable
from common.progress import HOUR_S, Hour, Run
from ingesters.backfill_book import Snapshot
from ingesters.backfill_source import Source

DAY_S = 86_400
LINE_S = 5.0  # between two lines where there is no terminal
RATE_S = 30.0  # over which the rate is told


class Pace:
    """Fills a second, of late, and the time that is left at the pace so far."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, Snapshot]] = []

    def note(self, now: float, snapshot: Snapshot) -> None:
        self._looks.append((now, snapshot))
        while len(self._looks) > 2 and now - self._looks[1][0] >= RATE_S:  # noqa: PLR2004 - a stretch has two ends
            self._looks.pop(0)

    def per_second(self) -> float:
        return self._gained("read")

    def left_s(self) -> float | None:
        """None as long as nothing can be told."""
        share = self._gained("share")
        return (1 - self._looks[-1][1].share) / share if share > 0 else None

    def _gained(self, what: str) -> float:
        (first_at, first), (last_at, last) = self._looks[0], self._looks[-1]
        gained = float(getattr(last, what) - getattr(first, what))
        return gained / (last_at - first_at) if last_at > first_at else 0.0


class Display:
    """A bar on a terminal, a line every LINE_S elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} %  {task.fields[told]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}
        self._line_at = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def show(self, source: Source, snapshot: Snapshot) -> None:
        now = time.monotonic()
        pace = self._paces.setdefault(source.name, Pace())
        pace.note(now, snapshot)
        told = f"{snapshot.read:,} fills  {pace.per_second():,.0f}/s  at {place_text(source.unit, snapshot.reached)}"
        if self._console.is_terminal:
            task = self._tasks.get(source.name)
            if task is None:
                task = self._tasks[source.name] = self._progress.add_task(source.name, total=1.0, told="")
            self._progress.update(task, completed=snapshot.share, told=told)
        elif now - self._line_at >= LINE_S:
            self._line_at = now
            left_s = pace.left_s()
            left = "" if left_s is None else f", {duration(left_s)} left"
            self.say(f"{source.name}: {snapshot.share:.1%}, {told}{left}")


def place_text(unit: str, place: int) -> str:
    return f"block {place}" if unit == "blocks" else utc(place)


def utc(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - a clock's
        return f"{whole} s"
    minutes = whole // 60
    if whole < HOUR_S:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if whole < DAY_S else f"{hours // 24} d {hours % 24} h"


# --- the summary -----------------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """No fill between two moments: times of fills, or ends of the range."""

    begin: int
    end: int


def days(run: Run) -> dict[int, Hour]:
    """What was read, by the beginning of the UTC day; a day in the range without anything counts as nothing."""
    totals = {day: Hour() for day in range(run.since - run.since % DAY_S, run.until, DAY_S)}
    for begin, hour in run.hours.items():
        day = begin - begin % DAY_S
        total = totals.get(day, Hour())
        totals[day] = Hour(total.published + hour.published, total.known + hour.known, total.dead + hour.dead)
    return dict(sorted(totals.items()))


def gaps(run: Run, least_s: int = HOUR_S) -> Iterator[Gap]:
    """Stretches of the range of at least `least_s`, an hour or more, without any fill."""
    edges = [run.since, run.since]
    for hour in run.hours.values():
        edges += [hour.first, hour.last] if hour.last else []
    edges += [run.until, run.until]
    for begin, end in list(pairwise(edges))[1::2]:
        if end - begin >= least_s:
            yield Gap(begin, end)


def summary(source: str, run: Run) -> tuple[Table, list[str]]:
    """A table by day, and lines about the gaps."""
    table = Table(title=f"{source}: {utc(run.since)} to {utc(run.until)} UTC", title_justify="left")
    table.add_column("day")
    for heading in ("published", "already known", "dead letters"):
        table.add_column(heading, justify="right")
    by_day = days(run)
    for day, counts in by_day.items():
        table.add_row(utc(day)[:10], *(f"{count:,}" for count in counts[:3]))
    if len(by_day) > 1:
        table.add_section()
        table.add_row("all", *(f"{sum(column):,}" for column in list(zip(*by_day.values(), strict=True))[:3]))
    lines = [f"no fill for {duration(gap.end - gap.begin)}: {utc(gap.begin)} to {utc(gap.end)}" for gap in gaps(run)]
    return table, lines or ["no hour without a fill"]
