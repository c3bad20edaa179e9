"""Which dead letters are meant, read page by page, and where each of them can go back to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from common.config import Settings
from common.dead_letters import DeadLetter, page_of_dead_letters
from common.errors import PipelineError
from common.redis_queue import RedisQueue

SOURCES = ("polymarket", "goldsky", "polygon")  # as their ingesters sign dead letters
PAGE = 100  # letters in memory at once, and letters a script moves


class UnclearSelection(PipelineError):
    """The command names what does not exist or is not unique. The text says what to write instead."""


class Page(NamedTuple):
    """Some letters of one stream, never none."""

    stream: str
    letters: list[DeadLetter]


class Selection(NamedTuple):
    """The letters that fulfil all of these."""

    streams: Sequence[str]
    ids: Sequence[str] = ()  # these alone; all where there is none
    reason: str = ""  # part of the reason, in capitals or not
    since: int | None = None  # Unix seconds; when the letter was written, that second included
    until: int | None = None  # Unix seconds, that second left out
    limit: int | None = None

    def span(self) -> tuple[str, str]:
        """First and last id that the times allow."""
        first = "-" if self.since is None else f"{self.since * 1000}-0"
        last = "+" if self.until is None else f"{max(0, self.until * 1000 - 1)}"
        return first, last

    def fits(self, letter: DeadLetter) -> bool:
        return self.reason.casefold() in letter.reason.casefold()


def streams_of(settings: Settings, queue: RedisQueue) -> dict[str, tuple[str, ...]]:
    """Stream, as its key, to the groups that read it."""
    return {
        queue.keys(settings.stream_markets): (settings.group_markets_writers,),
        queue.keys(settings.stream_order_events): (
            settings.group_events_processors,
            settings.group_order_events_writers,
        ),
        queue.keys(settings.stream_trades): (settings.group_trades_writers,),
    }


def stream_named(name: str, settings: Settings, queue: RedisQueue) -> str:
    """The stream that a person means: markets, order_events, trades, a stream's whole name, or that with _dlq."""
    configured = {
        "markets": settings.stream_markets,
        "order_events": settings.stream_order_events,
        "trades": settings.stream_trades,
    }
    for short, full in configured.items():
        stream = queue.keys(full)
        if name.removesuffix("_dlq") in {short, full, stream}:
            return stream
    raise UnclearSelection(f"--stream: expected {', '.join(configured)} or a stream's whole name, got {name!r}")


def letters_with_ids(queue: RedisQueue, selection: Selection) -> tuple[list[Page], list[str]]:
    """The letters with the selection's ids that fulfil the rest of it, and the ids that no such letter has."""
    pages: dict[str, list[DeadLetter]] = {}
    missing = []
    for entry_id in list(dict.fromkeys(selection.ids))[: selection.limit]:
        found = [
            (stream, letter)
            for stream in selection.streams
            for letter in page_of_dead_letters(queue, stream, entry_id, entry_id, 1)
            if selection.fits(letter) and _is_within(selection, letter)
        ]
        if len(found) > 1:
            where = ", ".join(stream for stream, _ in found)
            raise UnclearSelection(f"{entry_id}: a dead letter of each of {where}; add --stream")
        if not found:
            missing.append(entry_id)
        for stream, letter in found:
            pages.setdefault(stream, []).append(letter)
    return [
        Page(stream, letters[i : i + PAGE]) for stream, letters in pages.items() for i in range(0, len(letters), PAGE)
    ], missing


def _is_within(selection: Selection, letter: DeadLetter) -> bool:
    second = int(letter.id.split("-", 1)[0]) // 1000
    return (selection.since is None or selection.since <= second) and (
        selection.until is None or second < selection.until
    )


def letters_that_fit(queue: RedisQueue, selection: Selection, *, newest_first: bool = False) -> Iterator[Page]:
    """All letters that the selection means, without its ids, a page at a time.

    Letters that are written meanwhile are left out, or a replayed letter that is refused again would come round and
    round.
    """
    left = selection.limit
    for stream, first, last in _spans_now(queue, selection):
        for letters in _pages(queue, stream, first, last, newest_first=newest_first):
            fitting = [letter for letter in letters if selection.fits(letter)][:left]
            if fitting:
                yield Page(stream, fitting)
            if left is not None:
                left -= len(fitting)
                if not left:
                    return


def _spans_now(queue: RedisQueue, selection: Selection) -> list[tuple[str, str, str]]:
    """Each stream with the first and the last id to read; without those that have none."""
    first, last = selection.span()
    newest = {
        stream: page_of_dead_letters(queue, stream, first, last, 1, newest_first=True) for stream in selection.streams
    }
    return [(stream, first, letters[0].id) for stream, letters in newest.items() if letters]


def _pages(queue: RedisQueue, stream: str, first: str, last: str, *, newest_first: bool) -> Iterator[list[DeadLetter]]:
    while letters := page_of_dead_letters(queue, stream, first, last, PAGE, newest_first=newest_first):
        yield letters
        if newest_first:
            last = f"({letters[-1].id}"
        else:
            first = f"({letters[-1].id}"


def is_of_source(letter: DeadLetter) -> bool:
    """Whether an ingester refused it: its bytes are the source's own, which only an ingester can make a record of."""
    return not letter.group and letter.source_stream in SOURCES


def why_it_stays(stream: str, letter: DeadLetter, groups: Mapping[str, Sequence[str]]) -> str:
    """Why a letter can't be replayed; empty when it can, or when its source's parser has to find out."""
    if is_of_source(letter):
        return ""
    if letter.source_stream != stream:
        return f"refused by {letter.source_stream or 'an unknown party'}, which is no source of this pipeline"
    if not letter.group:
        return "it does not tell which consumer group refused it, and the other one has its copy"
    if letter.group not in groups[stream]:
        return f"refused by the group {letter.group}, which the settings do not name"
    return ""
