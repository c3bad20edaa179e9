"""Fills polymarket.markets and market_tokens again from Gamma: after DROP TABLE, or when rows were lost.

    .venv/bin/python3 -m processors.rebuild_markets            have every market published again, show how far it is
    .venv/bin/python3 -m processors.rebuild_markets --watch    only show how far it is

Makes the tables where they are missing, and Redis forget which markets have been published. The running
polymarket_ingester notices that within a poll interval, and reads every market once more; the writer writes them.
Markets that are in the table already get another row, which merges replace. Ctrl-C ends the display; the rest goes on.

Exit status: 0 every market has been read and written; 1 Redis or ClickHouse is away: run it again, nothing is harmed;
2 the configuration is wrong; 130 interrupted.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from common.clickhouse import ClickHouse
from common.config import Settings, load_settings
from common.errors import ConfigError, Unavailable
from common.redis_queue import RedisQueue
from common.state import check_mode, read_state
from common.tables import MARKET_TOKENS, MARKET_TOKENS_VIEW, MARKETS

DONE, NOT_DONE, WRONG_COMMAND, INTERRUPTED = 0, 1, 2, 130
INGESTER, SOURCE = "polymarket_ingester", "polymarket"
POLL_S = 2.0
SILENT_S = 30.0  # without a heartbeat of the ingester, until it is called stopped
# The states of a sweep. They go in one step with what is remembered of the markets: a sweep that went on from its
# place would leave out what it had passed, and one that began before the rest was forgotten would find nothing new.
STATES = ("polymarket_cursor", "polymarket_offset")
_SWEEP = re.compile(r" sweep=(\d+)")

Say = Callable[[str], None]


class Progress(NamedTuple):
    """How far the sweep is that reads every market."""

    cursor: str  # "" until the ingester has begun
    read: int  # markets, in this sweep
    unwritten: int | None  # entries of the stream that are not in the table yet; None when Redis can't tell
    stored: int  # markets in the table

    @property
    def is_read(self) -> bool:
        sweep = _SWEEP.search(self.cursor)
        is_open_done = " closed=false " not in self.cursor  # the state reports what is left
        return sweep is not None and (int(sweep[1]) > 1 or (is_open_done and self.cursor.endswith(" closed=true done")))

    @property
    def is_done(self) -> bool:
        return self.is_read and self.unwritten == 0

    def text(self) -> str:
        stored = f"{self.stored:,} markets in the table"
        if not self.cursor:
            return f"{stored}; {INGESTER} has not begun yet"
        left = "" if self.unwritten is None else f", {self.unwritten:,} on their way"
        return f"{stored}{left}; {self.read:,} read{', all of them' if self.is_read else ''}"


def make_tables(clickhouse: ClickHouse) -> list[str]:
    """Make what is missing, and have new markets reach market_tokens again; the names of what was made."""
    database = clickhouse.database
    rows = clickhouse.query("SELECT name FROM system.tables WHERE database = {d:String}", {"d": database})
    existing = {name for (name,) in rows}
    missing = [each for each in (MARKETS, MARKET_TOKENS, MARKET_TOKENS_VIEW) if each.name not in existing]
    if missing:
        # A view may still hang on the table that was dropped. It comes back before the rows, so that no market slips
        # through in between; twice is no harm.
        clickhouse.command(f"DROP VIEW IF EXISTS {database}.{MARKET_TOKENS_VIEW.name}")
        for each in (MARKETS, MARKET_TOKENS, MARKET_TOKENS_VIEW):
            clickhouse.command(each.create(database))
        select = MARKET_TOKENS_VIEW.select.format(database=database)
        clickhouse.command(f"INSERT INTO {database}.{MARKET_TOKENS.name} {select}")
    return [each.name for each in missing]


def forget_published(queue: RedisQueue) -> None:
    """Have every market published again. Dead letters of records that tell no id are not repeated."""
    prefix = f"{queue.keys.seen(SOURCE)}:"
    remembered = [key for key in queue.scan(prefix) if key != f"{prefix}other"]
    queue.call("UNLINK", *remembered, *(queue.keys.state(name) for name in STATES))


def progress(settings: Settings, queue: RedisQueue, clickhouse: ClickHouse) -> Progress:
    """Raises Unavailable."""
    cursor, read = (read_state(queue, name) for name in STATES)
    ((stored,),) = clickhouse.query(f"SELECT uniqExact(id) FROM {clickhouse.database}.{MARKETS.name}")  # noqa: S608
    unwritten = queue.backlog(queue.keys(settings.stream_markets))
    return Progress(cursor or "", int(read or 0), unwritten, int(stored))


def is_running(queue: RedisQueue, now: float) -> bool:
    """Whether the ingester has given a sign of life lately."""
    beats = [beat for beat in queue.heartbeats() if beat.get("component") == INGESTER]
    return any(now - float(beat.get("updated_at") or 0) < SILENT_S for beat in beats)


def watch(settings: Settings, queue: RedisQueue, clickhouse: ClickHouse, say: Say) -> None:
    """Show how far it is until all is read and written."""
    while not (found := progress(settings, queue, clickhouse)).is_done:
        hint = "" if is_running(queue, time.time()) else f"; {INGESTER} does not run: start it"
        say(found.text() + hint)
        time.sleep(POLL_S)
    say(found.text())


def run(settings: Settings, queue: RedisQueue, clickhouse: ClickHouse, say: Say, *, is_watching: bool = False) -> int:
    """Begin, unless somebody only watches, and show how far it is; the exit status. Raises Unavailable, ConfigError."""
    check_mode(queue, settings.pipeline_mode)
    try:
        if not is_watching:
            for name in make_tables(clickhouse):
                say(f"made {clickhouse.database}.{name}")
            forget_published(queue)
            say(f"every market is published again; {INGESTER} begins within {settings.polymarket_poll_interval:g} s")
        watch(settings, queue, clickhouse, say)
    except KeyboardInterrupt:
        say("it goes on without this command; --watch shows how far it is")
        return INTERRUPTED
    return DONE


def parser() -> argparse.ArgumentParser:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        ".venv/bin/python3 -m processors.rebuild_markets",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--watch", action="store_true", help="change nothing, only show how far it is")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        settings = load_settings()
        with closing(RedisQueue(settings)) as queue, closing(ClickHouse(settings)) as clickhouse:
            return run(settings, queue, clickhouse, _say, is_watching=arguments.watch)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's output
        return WRONG_COMMAND
    except Unavailable as error:
        print(f"{error.reason}\nRun the same command again later.", file=sys.stderr)  # noqa: T201
        return NOT_DONE


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
