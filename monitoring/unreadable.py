"""Optional fields of listed markets that could not be read: the markets are stored without them."""

from common.redis_queue import RedisQueue
from monitoring.formatting import number, printable
from monitoring.reading import Reading, Server
from monitoring.stages import number as as_number

SOURCE = "polymarket"
MAX_SHOWN = 50  # a listing has some twenty fields that are read


def read_unreadable(queue: RedisQueue, redis: Server) -> Reading[dict[str, int]]:
    """Field to how many published versions of markets lack it, ever; the most frequent first."""
    return redis.read(lambda: queue.read_hash(queue.keys.unreadable(SOURCE))).map(_counts)


def _counts(texts: dict[str, str]) -> dict[str, int]:
    counts = [(field, int(count)) for field, text in texts.items() if (count := as_number(text)) is not None]
    return dict(sorted(counts, key=lambda item: (-item[1], item[0]))[:MAX_SHOWN])


def in_words(counts: dict[str, int]) -> str:
    """`endDate 3, volume 1`; empty when there are none."""
    return ", ".join(f"{printable(field)} {number(count)}" for field, count in counts.items())
