"""What makes two fills of the chain the same one, whoever tells of them. Pure.

Some clients number the logs of a block in another way, so an id that is made of the number differs between providers.
What a fill says does not, nor does its place among equal fills of its transaction: those come in the chain's order,
whatever their numbers are.
"""

from collections.abc import Iterable, Mapping

from common.records import OrderFilled

_FIELDS = (
    *("transaction_hash", "order_hash", "maker", "taker", "maker_asset_id", "taker_asset_id"),
    *("maker_amount_filled", "taker_amount_filled", "fee"),
)
_AS_TEXT = ", '_', ".join(f"toString({field})" for field in _FIELDS)
CONTENT_SQL = f"concat({_AS_TEXT})"  # of a row of order_filled


def content_of(fill: OrderFilled) -> str:
    """Equal for equal fills, several of which may be in one transaction."""
    return "_".join([str(getattr(fill, field)) for field in _FIELDS])


def identity_of(content: str, place: int) -> str:
    """Of the fill at this place, from 0, among those of this content."""
    return f"{content} {place}"


def places_of(logs: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
    """The place of each (content, log index) among those of the same content. All logs of its block have to be there.

    A log that is told twice has one place.
    """
    indices: dict[str, set[int]] = {}
    for content, index in logs:
        indices.setdefault(content, set()).add(index)
    return {(content, index): place for content, own in indices.items() for place, index in enumerate(sorted(own))}
