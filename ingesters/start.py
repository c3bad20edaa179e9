"""Where the two sources of fills begin, from ORDER_EVENTS_START and the cut-over between them. Pure."""

from typing import NamedTuple

from common import parsing
from common.config import Settings
from common.errors import ConfigError

MOST_BLOCK = 999_999_999  # a start of so many digits is a block; Unix seconds have had ten since 2001


class Start(NamedTuple):
    """A block, or a moment whose block has to be found."""

    block: int | None
    moment: int = 0  # Unix seconds


def start_on_chain(settings: Settings, now: float) -> Start:
    """Never before the cut-over. Raises ConfigError."""
    block = _block(settings.order_events_start)
    if block is not None:
        return Start(max(block, settings.cutover_block))
    moment = parsing.start_time(settings.order_events_start, now)
    return Start(settings.cutover_block) if moment <= settings.cutover_timestamp else Start(None, moment)


def start_in_subgraph(settings: Settings, now: float) -> int:
    """Unix seconds; behind the cut-over there is nothing to read. Raises ConfigError.

    The subgraph knows no block numbers, so a block can only say that the start lies on the chain's side.
    """
    block = _block(settings.order_events_start)
    if block is None:
        return parsing.start_time(settings.order_events_start, now)
    if block < settings.cutover_block:
        raise ConfigError(
            f"ORDER_EVENTS_START: expected a block from the cut-over on ({settings.cutover_block}), or a date for "
            f"a start before it, got {settings.order_events_start!r}"
        )
    return settings.cutover_timestamp + 1


def _block(text: str) -> int | None:
    digits = text.strip()
    is_block = digits.isascii() and digits.isdigit() and 0 < int(digits[:20]) <= MOST_BLOCK
    return int(digits) if is_block else None
