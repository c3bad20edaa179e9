"""How far behind its cursor polygon_ingester still publishes what appears late, and what older revisions left there."""

import math

from common.config import Settings
from common.redis_queue import RedisQueue
from common.state import read_height, read_state

SOURCE = "polygon"
MIN_WINDOW_BLOCKS = 64
BLOCKS_PER_S = 1.5  # at most, with room for a second look that comes a little later: usual are 0.5
SEEN_AS = "polygon_seen_as"  # the state that tells what the seen-set's members are made of
CONTENT = "content"


def window_blocks(settings: Settings) -> int:
    """Blocks before the cursor in which an ingester still publishes what appears late."""
    second_look = math.ceil(BLOCKS_PER_S * settings.polygon_second_look_s)
    return max(_older_window(settings), second_look)


def _older_window(settings: Settings) -> int:
    """As it was before there was a second look."""
    return max(MIN_WINDOW_BLOCKS, 2 * settings.polygon_overlap_blocks)


def settle_older_state(queue: RedisQueue, settings: Settings) -> None:
    """Once after an upgrade, before anything is read or claimed. May be repeated, and by several processes.

    The seen-set of older revisions holds ids, by which nothing can be recognised any more. So everything up to the
    cursor counts as published, which it was. A start that a backfill has claimed keeps its block in a wider window.
    """
    if read_state(queue, SEEN_AS) is not None:
        return
    changes = {queue.keys.state(SEEN_AS): CONTENT}
    cursor = read_height(queue, SOURCE)
    if cursor is not None and cursor.timestamp:
        changes[queue.keys.state(f"{SOURCE}_floor")] = str(cursor.block + 1)
    elif cursor is not None:
        wider = window_blocks(settings) - _older_window(settings)
        changes[queue.height_keys(SOURCE)[0]] = str(cursor.block + wider)
    queue.call("MSET", *(part for change in changes.items() for part in change))
