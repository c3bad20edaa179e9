"""Fills of any range of the past, in parallel, to stream:order_events: each once, however often it is run.

    .venv/bin/python3 -m ingesters.backfill --from 2024-10-01 --to 2024-11-10    these days, the last one left out
    .venv/bin/python3 -m ingesters.backfill --from 2025-11-13T12:15:00Z --to 1763040000 --source goldsky

The subgraph has what lies before the cut-over, Polygon the rest; without --source each is asked for its side. It may
run beside the live pipeline, which has to write to ClickHouse meanwhile, and be interrupted in any way: the same
command goes on where it was. What is there already is left out.

Exit status: 0 all of it was read that the source has so far, which is said where it is less than was asked for; 1 a
crash; 2 the command or the configuration is wrong, or another backfill of the source is running; 130 interrupted.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from rich.console import Console

from common import parsing
from common.clickhouse import ClickHouse
from common.config import Settings, load_settings
from common.errors import ConfigError, InvalidRecord
from common.redis_queue import RedisQueue
from common.runtime import EXIT_CLEAN, EXIT_CONFIG, Signals
from common.state import check_mode
from ingesters.backfill_goldsky import Subgraph
from ingesters.backfill_polygon import Chain
from ingesters.backfill_run import Backfill, Patience, Stopped, Tools
from ingesters.backfill_source import Source
from ingesters.backfill_text import Display, summary

EXIT_INTERRUPTED = 130  # as shells tell SIGINT
MOST_WORKERS = 64
EARLIEST = 1_000_000_000


class Order(NamedTuple):
    """What was asked for. Times are Unix seconds: begin <= timestamp < end."""

    begin: int
    end: int
    source: str | None = None  # None: both
    workers: int | None = None  # None: as the settings say


def parser() -> argparse.ArgumentParser:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        ".venv/bin/python3 -m ingesters.backfill",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    when = "UTC date or time, or Unix seconds"
    parser.add_argument("--from", dest="begin", type=moment, required=True, metavar="TIME", help=when)
    parser.add_argument("--to", dest="end", type=moment, required=True, metavar="TIME", help=f"{when}; itself left out")
    parser.add_argument("--source", choices=("goldsky", "polygon"), help="both, each for its side of the cut-over")
    parser.add_argument("--workers", type=_workers, metavar="N", help="requests at once (BACKFILL_WORKERS, ...)")
    return parser


def moment(text: str) -> int:
    """Unix seconds of a UTC date, a time, or Unix seconds; none before 2001, which a date without dashes would be."""
    try:
        found = parsing.moment(text, "time")
    except InvalidRecord as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if found < EARLIEST:
        raise argparse.ArgumentTypeError(f"{text!r} lies before 2001; dates are written 2024-10-01")
    return found


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_WORKERS):
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST_WORKERS}, got {text!r}")
    return int(text)


def order_of(arguments: Sequence[str] | None, now: float) -> Order:
    """The order of a command line. Ends the process with status 2 when it can't be understood."""
    command = parser()
    order = Order(**vars(command.parse_args(arguments)))
    if order.begin >= order.end:
        command.error("--from must be before --to")
    if order.begin > now:
        command.error("--from lies in the future")
    return order


def run(tools: Tools, display: Display, console: Console, order: Order) -> None:
    """Fill the range. Raises Stopped, ConfigError."""
    Patience(tools)(lambda: check_mode(tools.queue, tools.settings.pipeline_mode))
    for name, open_source, workers in _sources(tools.settings, order):
        with closing(open_source(tools)) as source:
            found = Backfill(tools, source, order.workers or workers).run(order.begin, order.end)
        if found is None:
            display.say(f"{name}: nothing to read")
            continue
        table, lines = summary(name, found)
        console.print(table)
        for line in lines:
            display.say(line)


def _sources(settings: Settings, order: Order) -> list[tuple[str, Callable[[Tools], Source], int]]:
    """Those that are asked for and have a part of the range."""
    found: list[tuple[str, Callable[[Tools], Source], int]] = []
    if order.source == "goldsky" or (order.source is None and order.begin <= settings.cutover_timestamp):
        found.append(("goldsky", lambda tools: Subgraph(tools.settings, tools.queue), settings.backfill_workers))
    if order.source == "polygon" or (order.source is None and order.end > settings.cutover_timestamp):
        found.append(("polygon", lambda tools: Chain(tools.settings, tools.queue), settings.backfill_polygon_workers))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    order = order_of(arguments, time.time())
    console = Console(highlight=False)
    signals = Signals()
    try:
        settings = load_settings()
        signals.install()
        with ExitStack() as stack:
            queue = stack.enter_context(closing(RedisQueue(settings)))
            clickhouse = stack.enter_context(closing(ClickHouse(settings)))
            display = stack.enter_context(Display(console))
            run(Tools(settings, queue, clickhouse, signals, display), display, console, order)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's output
        return EXIT_CONFIG
    except Stopped:
        print("stopped; run the same command to go on", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    return EXIT_CLEAN


if __name__ == "__main__":
    raise SystemExit(main())
