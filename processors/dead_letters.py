"""Dead letters: what nobody could process, to look at, to send through the pipeline again, or to throw away.

Those that an ingester wrote are a source's own bytes: `replay` has them parsed again, as the ingester would by now.

`.venv/bin/python3 -m processors.dead_letters list|show|replay|discard`, each with --help. What is asked for goes to
stdout, what is said about it to stderr. Exit status: 0 done; 1 nothing matched, something could not be done, or Redis
is away; 2 the command or the configuration is wrong.
"""

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from io import TextIOWrapper
from itertools import islice
from typing import NamedTuple

from common import parsing
from common.config import Settings, load_settings
from common.dead_letters import DeadLetter, count_dead_letters, discard_dead_letters, replay_dead_letters
from common.errors import ConfigError, Unavailable
from common.helper_process import HelperProcess, ReplayedLetter, ReplayRequest
from common.redis_queue import RedisQueue
from processors import dead_letter_text as text
from processors.dead_letter_selection import (
    SOURCES,
    Page,
    Selection,
    UnclearSelection,
    is_of_source,
    letters_that_fit,
    letters_with_ids,
    stream_named,
    streams_of,
    why_it_stays,
)

INGESTERS_PART = "ingesters.replay"  # parses a source's bytes; a process of its own, since rooms stay apart
DONE, NOT_DONE, WRONG_COMMAND = 0, 1, 2
SHOWN = 10  # letters that `show` shows unless told otherwise
LISTED = 50  # reasons a stream that `list` lists unless told otherwise
_ID = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_ID_LIMIT = 2**64


class Job(NamedTuple):
    """One command on its servers."""

    queue: RedisQueue
    groups: Mapping[str, Sequence[str]]  # of each stream
    selection: Selection
    arguments: argparse.Namespace

    def pages(self, *, newest_first: bool = False) -> "Found":
        if self.selection.ids:
            pages, missing = letters_with_ids(self.queue, self.selection)
            return Found(iter(pages), missing)
        return Found(letters_that_fit(self.queue, self.selection, newest_first=newest_first), [])


class Found(NamedTuple):
    """What a selection turned out to be."""

    pages: Iterator[Page]
    missing: list[str]  # ids that no letter has

    def complain(self) -> None:
        for entry_id in self.missing:
            remark(f"{entry_id}: no such dead letter")


# --- list and show -----------------------------------------------------------------------------------------------


def list_reasons(job: Job) -> int:
    """Per stream how many there are, and why."""
    matched = 0
    for stream in job.selection.streams:
        groups = text.ReasonGroups(stream)
        pages = letters_that_fit(job.queue, job.selection._replace(streams=[stream], limit=None))
        for page in pages:
            for letter in page.letters:
                groups.add(letter)
        matched += _print_reasons(job, stream, groups.largest_first())
    return DONE if matched or not has_filter(job.arguments) else NOT_DONE


def _print_reasons(job: Job, stream: str, groups: list[text.ReasonGroup]) -> int:
    matched = sum(group.count for group in groups)
    shown = groups[: job.selection.limit or LISTED]
    if job.arguments.json:
        say(group.as_json() for group in shown)
        return matched
    total = count_dead_letters(job.queue, stream)
    narrowed = f", {matched} of them match" if has_filter(job.arguments) else ""
    say([f"{job.queue.keys.dead_letters(stream)}: {counted(total)}{narrowed}"])
    if shown:
        say(f"  {line}" for line in text.table(shown))
        if any(group.refused_by in SOURCES for group in shown):
            say([f"  replay parses what {', '.join(SOURCES)} refused again, by the rules of now"])
    if len(shown) < len(groups):
        say([f"  and {len(groups) - len(shown)} more reasons; --limit shows more"])
    return matched


def show(job: Job) -> int:
    """Letters in full, newest first."""
    limit = job.selection.limit or (None if job.selection.ids else SHOWN)
    found = job._replace(selection=job.selection._replace(limit=None)).pages(newest_first=True)
    letters = ((page.stream, letter) for page in found.pages for letter in page.letters)
    shown = 0
    for stream, letter in islice(letters, limit):
        shown += 1
        say(
            [text.as_json(stream, letter)]
            if job.arguments.json
            else [*text.in_full(stream, letter, _on_replay(job, stream, letter)), ""]
        )
    if shown and next(letters, None):
        remark(f"there are more: --limit shows more than {shown}")
    if not shown:
        remark("no dead letter matches")
    found.complain()
    return DONE if shown and not found.missing else NOT_DONE


def _on_replay(job: Job, stream: str, letter: DeadLetter) -> str:
    """What `replay` would do with it."""
    if is_of_source(letter):
        return f"parses these bytes again, as {letter.source_stream}'s ingester does by now"
    return why_it_stays(stream, letter, job.groups) or f"sends it to {stream} for {letter.group}"


# --- replay ------------------------------------------------------------------------------------------------------


class Tally:
    """What became of the letters, said at the end: also when Redis went away before it."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.gone = 0
        self._stay: dict[str, list[str]] = {}
        self._stay_count: Counter[str] = Counter()

    def stays(self, why: str, letter: DeadLetter) -> None:
        self._stay_count[why] += 1
        some = self._stay.setdefault(why, [])
        if len(some) < 3:  # noqa: PLR2004 - examples, so that the list stays short
            some.append(letter.id)

    def tell(self) -> None:
        for what, count in self.done.items():
            remark(f"{what}: {counted(count)}")
        if self.gone:
            remark(f"gone meanwhile, replayed or discarded by somebody else: {counted(self.gone)}")
        for why, count in self._stay_count.items():
            some = ", ".join(self._stay[why])
            remark(f"left, {counted(count)}: {why} ({some}{', …' if count > len(self._stay[why]) else ''})")

    def status(self, found: Found) -> int:
        found.complain()
        if not (self.done or self.gone or self._stay):
            remark("no dead letter matches")
        return DONE if self.done and not self._stay and not found.missing else NOT_DONE


def replay(job: Job) -> int:
    """Letters back on their streams, each for the group that refused it; a source's bytes are parsed again."""
    found, tally = job.pages(), Tally()
    try:
        with HelperProcess(INGESTERS_PART) as ingesters:
            for page in found.pages:
                _replay_page(job, page, tally)
                _replay_sources(job, page, tally, ingesters)
    finally:
        tally.tell()
    return tally.status(found)


def _replay_sources(job: Job, page: Page, tally: Tally, ingesters: HelperProcess) -> None:
    """The page's letters that ingesters wrote."""
    letters = {letter.id: letter for letter in page.letters if is_of_source(letter)}
    if not letters:
        return
    request = ReplayRequest(page.stream, list(letters), job.arguments.dry_run)
    try:
        replayed = ingesters.ask(request, list[ReplayedLetter])
    except ConfigError as error:  # of what the sources need alone; the other letters go on
        replayed = [ReplayedLetter(letter_id, "stays", str(error)) for letter_id in letters]
    for each in replayed:
        _note_replayed(job, page.stream, letters[each.id], each, tally)


def _note_replayed(job: Job, stream: str, letter: DeadLetter, found: ReplayedLetter, tally: Tally) -> None:
    verbs = ("would go", "would be dropped") if job.arguments.dry_run else ("replayed", "dropped")
    source = letter.source_stream
    if found.outcome == "stays":
        tally.stays(f"{source}: {text.fold(found.text)}", letter)
    elif found.outcome == "gone":
        tally.gone += 1
    elif found.outcome == "published":
        tally.done[f"{verbs[0]} to {stream}, as a new record of {source}"] += 1
        say([f"{letter.id} -> {stream}"])
    else:
        tally.done[f"{verbs[1]}, since {found.text}"] += 1
        say([f"{letter.id} {verbs[1]}: {found.text}"])


def _replay_page(job: Job, page: Page, tally: Tally) -> None:
    """The page's letters that consumer groups refused."""
    ready = []
    for letter in page.letters:
        if is_of_source(letter):
            continue
        if why := why_it_stays(page.stream, letter, job.groups):
            tally.stays(why, letter)
        else:
            ready.append(letter)
    verb = "would go" if job.arguments.dry_run else "replayed"
    moved = {letter.id for letter in ready}
    if not job.arguments.dry_run:
        moved = set(replay_dead_letters(job.queue, page.stream, ready))
    tally.gone += len(ready) - len(moved)
    going = [letter for letter in ready if letter.id in moved]
    tally.done.update(f"{verb} to {page.stream} for {letter.group}" for letter in going)
    say(f"{letter.id} -> {page.stream} for {letter.group}" for letter in going)


# --- discard -----------------------------------------------------------------------------------------------------


def discard(job: Job) -> int:
    """Letters removed for good; their bytes go to stdout before, so that a broken pipe or a kill loses none."""
    found, tally = job.pages(), Tally()
    try:
        for page in found.pages:
            _discard_page(job, page, tally)
    finally:
        tally.tell()
    return tally.status(found)


def _discard_page(job: Job, page: Page, tally: Tally) -> None:
    if not job.arguments.quiet:
        say(text.as_json(page.stream, letter) for letter in page.letters)
        sys.stdout.flush()
    ids = [letter.id for letter in page.letters]
    removed = ids if job.arguments.dry_run else discard_dead_letters(job.queue, page.stream, ids)
    verb = "would be discarded from" if job.arguments.dry_run else "discarded from"
    if removed:
        tally.done[f"{verb} {job.queue.keys.dead_letters(page.stream)}"] += len(removed)
    for entry_id in set(ids).difference(removed):
        tally.gone += 1
        remark(f"{entry_id}: gone meanwhile")


# --- the command line --------------------------------------------------------------------------------------------

COMMANDS = {"list": list_reasons, "show": show, "replay": replay, "discard": discard}


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)  # noqa: T201 - the command's output


def remark(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - the command's output


def counted(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def entry_id(word: str) -> str:
    if not _ID.fullmatch(word) or any(int(part) >= _ID_LIMIT for part in word.split("-")):
        raise argparse.ArgumentTypeError(f"expected an id like 1763751000000-0, got {word!r}")
    return word


def moment(word: str) -> int:
    try:
        return parsing.start_time(word, time.time())
    except ConfigError:
        expected = "90s, 30m, 1h or 7d before now, a UTC date or time, or Unix seconds, not in the future"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {word!r}") from None


def positive(word: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", word, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {word!r}")
    return int(word)


def parser() -> argparse.ArgumentParser:
    filters = _filters()
    whole = argparse.ArgumentParser(
        prog=".venv/bin/python3 -m processors.dead_letters", description=__doc__.split("\n", 1)[0]
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="list|show|replay|discard")
    for name, work in COMMANDS.items():
        described = (work.__doc__ or "").split("\n", 1)[0]
        command = commands.add_parser(name, parents=[filters], help=described, description=described)
        if name != "list":
            command.add_argument("ids", nargs="*", type=entry_id, metavar="ID", help="a dead letter, as `show` tells")
        if name in {"list", "show"}:
            command.add_argument("--json", action="store_true", help="one object a line")
        else:
            command.add_argument("--all", action="store_true", help="every dead letter that the filters leave")
            command.add_argument("--dry-run", action="store_true", help="change nothing, say what would happen")
        if name == "discard":
            command.add_argument("--quiet", action="store_true", help="don't print the letters to stdout")
    return whole


def _filters() -> argparse.ArgumentParser:
    filters = argparse.ArgumentParser(add_help=False)
    filters.add_argument("--stream", metavar="NAME", help="markets, order_events or trades")
    filters.add_argument("--reason", metavar="TEXT", default="", help="part of the reason")
    filters.add_argument("--since", metavar="TIME", type=moment, help="30m, 1h or 7d before now, a UTC time")
    filters.add_argument("--until", metavar="TIME", type=moment, help="the same; that time itself is left out")
    filters.add_argument("--limit", metavar="N", type=positive, help="at most so many letters; for list: reasons")
    return filters


def has_filter(arguments: argparse.Namespace) -> bool:
    return bool(arguments.stream or arguments.reason) or arguments.since is not None or arguments.until is not None


def selection_of(arguments: argparse.Namespace, settings: Settings, queue: RedisQueue) -> Selection:
    """Raises UnclearSelection when a command that changes something is not told what."""
    ids = getattr(arguments, "ids", [])
    if arguments.command in {"replay", "discard"}:
        if arguments.all and ids:
            raise UnclearSelection("name dead letters, or write --all: not both")
        if not (arguments.all or ids or has_filter(arguments)):
            raise UnclearSelection(f"{arguments.command} which? Name ids, a filter, or write --all")
    streams = streams_of(settings, queue)
    chosen = [stream_named(arguments.stream, settings, queue)] if arguments.stream else list(streams)
    return Selection(chosen, ids, arguments.reason, arguments.since, arguments.until, arguments.limit)


def run(arguments: argparse.Namespace, settings: Settings, queue: RedisQueue) -> int:
    """Carry a parsed command out; its exit status. Raises Unavailable, ConfigError, UnclearSelection."""
    selection = selection_of(arguments, settings, queue)
    return COMMANDS[arguments.command](Job(queue, streams_of(settings, queue), selection, arguments))


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that know ASCII only
    try:
        settings = load_settings()
        with closing(RedisQueue(settings)) as queue:
            status = run(arguments, settings, queue)
        sys.stdout.flush()
    except (ConfigError, UnclearSelection) as error:
        remark(str(error))
        return WRONG_COMMAND
    except Unavailable as error:
        remark(f"{error.reason}\nRun the same command again later: nothing is done twice.")
        return NOT_DONE
    except BrokenPipeError:  # whoever read stdout has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE
    return status


if __name__ == "__main__":
    raise SystemExit(main())
