"""Ranges of the sources read again, as a backfill would read them, and shown instead of published.

`monitoring.audit --against-source` runs it as a process of its own: see common/helper_process.py. Nobody else does.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from common.config import Settings, load_settings
from common.errors import Unavailable
from common.helper_process import Answer, RangeRead, RangeRequest, serve
from common.http import RateLimit
from common.progress import DONE, Portion, Slice
from common.records import decode_order_filled
from ingesters.backfill_goldsky import SubgraphStation
from ingesters.backfill_plan import Spacing
from ingesters.backfill_polygon import MOST_BLOCKS, ChainStation
from ingesters.backfill_source import Station
from ingesters.goldsky_ingester import SOURCE as GOLDSKY
from ingesters.polygon import AskAgain, Polygon
from ingesters.polygon_ingester import open_polygon, provider_urls

ROUNDS = 3  # over all providers, until it is said that none answers
MAX_PAUSE_S = 5.0  # between two of them


class Candidate(NamedTuple):
    """One provider."""

    number: int
    host: str
    station: Station
    polygon: Polygon | None = None  # None: the subgraph, which is asked for seconds


class Rereader:
    """All providers, each with its limit on requests."""

    def __init__(self, settings: Settings) -> None:
        self._subgraph = [_subgraph(settings)]
        self._chain = [_chain(settings, number, url) for number, url in enumerate(provider_urls(settings))]

    def answer(self, line: bytes) -> RangeRead:
        """Raises Unavailable when no provider answers."""
        request = msgspec.json.decode(line, type=RangeRequest)
        candidates = self._subgraph if request.source == GOLDSKY else in_turn(self._chain, request)
        reasons: list[str] = []
        for attempt in range(ROUNDS):
            reasons, pause_s = [], 0.0
            for candidate in candidates:
                try:
                    return _read(candidate, request)
                except Unavailable as error:
                    reasons.append(error.reason)
                    pause_s = max(1.0, error.retry_after_s)
            time.sleep(min(pause_s, MAX_PAUSE_S) if attempt < ROUNDS - 1 else 0)
        raise Unavailable("; ".join(reasons))

    def close(self) -> None:
        for candidate in (*self._subgraph, *self._chain):
            candidate.station.close()


def in_turn(providers: Sequence[Candidate], request: RangeRequest) -> list[Candidate]:
    """Those first that neither read the range in the beginning nor have answered for it."""
    read_by = next((each.number for each in providers if each.host == request.read_by), 0)
    turned = sorted(providers, key=lambda each: (each.number - request.turn) % len(providers))
    return sorted(turned, key=lambda each: (each.number in request.asked, each.number == read_by))


def _subgraph(settings: Settings) -> Candidate:
    most = settings.backfill_requests_per_10s
    station = SubgraphStation(settings, RateLimit(most), Spacing(most), time.time)
    return Candidate(0, station.host, station)


def _chain(settings: Settings, number: int, url: str) -> Candidate:
    alone = {"polygon_rpc_url": url, "polygon_max_blocks": min(MOST_BLOCKS, settings.polygon_max_blocks)}
    polygon = open_polygon(settings.model_copy(update=alone), logging.getLogger(__name__), time.time)
    return Candidate(number, polygon.host, ChainStation(polygon, settings.cutover_timestamp), polygon)


def _read(candidate: Candidate, request: RangeRequest) -> RangeRead:
    portions = _portions(candidate.station, Slice(request.begin, request.end, str(request.begin)))
    since, until = request.begin, request.end - 1
    if candidate.polygon is not None:
        since, until = (_block_time(candidate.polygon, block) for block in (since, until))
    fills = [decode_order_filled(offer.data) for portion in portions for offer in portion.new]
    return RangeRead(
        provider=candidate.number,
        host=candidate.host,
        fills=list({fill.id: fill for fill in fills}.values()),
        since=since,
        until=until,
        unreadable=sum(len(portion.faulty) for portion in portions),
    )


def _portions(station: Station, slice_: Slice) -> list[Portion]:
    reader, portions = station.open(slice_), list[Portion]()
    while not portions or portions[-1].cursor != DONE:
        while wait_s := station.wait_s():
            time.sleep(wait_s)
        try:
            portions += reader.read()
        except AskAgain:
            continue
    return portions


def _block_time(polygon: Polygon, block: int) -> int:
    while True:
        time.sleep(polygon.wait_s())
        try:
            return polygon.block_time(block)
        except AskAgain:
            continue


@contextmanager
def opened() -> Iterator[Answer]:
    """What answers requests. Raises ConfigError."""
    rereader = Rereader(load_settings())
    try:
        yield rereader.answer
    finally:
        rereader.close()


if __name__ == "__main__":
    raise SystemExit(serve(opened))
