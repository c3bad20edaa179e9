"""How the fills of a source differ from those that are stored: by content, and by how many are equal. Pure.

Providers may number a block's logs differently, so that an id proves nothing: a fill is what it says, and n equal logs
of a transaction are n fills.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from common.records import OrderFilled

Grouped = Mapping[OrderFilled, Sequence[OrderFilled]]


class Differences(NamedTuple):
    """Fills that one side has and the other has not."""

    missing: list[OrderFilled]  # in the table
    surplus: list[OrderFilled]


def differences(
    read: Iterable[OrderFilled], stored: Iterable[OrderFilled], known: AbstractSet[str] = frozenset()
) -> Differences:
    """Both with each row once. `known`: further ids under which the source may have them."""
    theirs, ours = grouped(read), grouped(stored)
    their_ids = known | {fill.id for fills in theirs.values() for fill in fills}
    our_ids = {fill.id for fills in ours.values() for fill in fills}
    return Differences(_without(theirs, ours, our_ids), _without(ours, theirs, their_ids))


def of_either(one: Iterable[OrderFilled], other: Iterable[OrderFilled]) -> list[OrderFilled]:
    """What two answers to the same question show together: of equal fills, as many as the longer answer has."""
    first, second = grouped(one), grouped(other)
    return [fill for content in {**first, **second} for fill in max(first[content], second[content], key=len)]


def grouped(fills: Iterable[OrderFilled]) -> "defaultdict[OrderFilled, list[OrderFilled]]":
    """Equal fills together."""
    found: defaultdict[OrderFilled, list[OrderFilled]] = defaultdict(list)
    for fill in fills:
        found[content_of(fill)].append(fill)
    return found


def content_of(fill: OrderFilled) -> OrderFilled:
    """The fill without what a provider's numbering decides."""
    return msgspec.structs.replace(fill, id="", log_index=None)


def _without(some: Grouped, others: Grouped, other_ids: AbstractSet[str]) -> list[OrderFilled]:
    """Those beyond as many equal ones as there are among the others; of equal ones, those whose id is not there."""
    found = []
    for content, fills in some.items():
        count = max(0, len(fills) - len(others.get(content, ())))
        found += sorted(fills, key=lambda fill: fill.id in other_ids)[:count]
    return found
