"""The barest loops: the same bytes through the same servers, with nothing that makes them safe.

No leases, manifests, tokens or dead letters, no decoding, no heartbeat. `python3 -m bench.floor processor` moves every
entry of stream:order_events to stream:trades with bytes prepared beforehand; `python3 -m bench.floor writer` inserts
what the two streams hold. Each reads its servers' ports from the environment, as the stages do, and ends when it has
moved as many entries as it is told.
"""

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from redis import Redis

from common.clickhouse import INSERT_SETTINGS
from common.config import Settings
from common.tables import ORDER_FILLED, TRADES

READ = 2000  # entries a read of the processor
ROWS = 50_000  # rows an insert, at most
MOVE = """for i = 2, #ARGV, 2 do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XADD', KEYS[2], '*', 'data', ARGV[i + 1])
end"""
ROUTES = (("stream:order_events", "order_events_writers", ORDER_FILLED), ("stream:trades", "trades_writers", TRADES))


def connect(settings: Settings) -> Redis:
    redis = Redis(settings.redis_host, settings.redis_port, protocol=2, socket_timeout=60, socket_read_size=1 << 20)
    redis.set_response_callback("XREADGROUP", lambda reply, **_: reply)
    return redis


def read(redis: Redis, stream: str, group: str, count: int) -> list[tuple[bytes, list[bytes]]]:
    reply = redis.execute_command(  # type: ignore[no-untyped-call]
        "XREADGROUP", "GROUP", group, "floor", "COUNT", count, "BLOCK", 20, "STREAMS", stream, ">"
    )
    return reply[0][1] if reply else []


def make_groups(redis: Redis) -> None:
    for stream, group in (
        *((stream, group) for stream, group, _ in ROUTES),
        ("stream:order_events", "events_processors"),
    ):
        redis.execute_command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")  # type: ignore[no-untyped-call]


def process(settings: Settings, trades: Iterator[bytes], count: int) -> None:
    redis, done = connect(settings), 0
    move = redis.register_script(MOVE)
    while done < count:
        entries = read(redis, "stream:order_events", "events_processors", READ)
        if entries:
            arguments: list[bytes | str] = ["events_processors"]
            for (entry_id, _), trade in zip(entries, trades, strict=False):
                arguments += (entry_id, trade)
            move(keys=["stream:order_events", "stream:trades"], args=arguments)
        done += len(entries)


def write(settings: Settings, counts: list[int]) -> None:
    """Insert `counts` entries of each stream, the one after the other as they come."""
    redis = connect(settings)
    left = dict(zip((stream for stream, _, _ in ROUTES), counts, strict=True))
    while any(left.values()):
        for stream, group, table in ROUTES:
            entries: list[tuple[bytes, list[bytes]]] = []
            while left[stream] > len(entries) < ROWS and (more := read(redis, stream, group, 5000)):
                entries += more
            if entries:
                insert(settings, table.name, b"\n".join([fields[1] for _, fields in entries]))
                for start in range(0, len(entries), 5000):
                    ids = [entry_id for entry_id, _ in entries[start : start + 5000]]
                    redis.execute_command("XACK", stream, group, *ids)  # type: ignore[no-untyped-call]
                left[stream] -= len(entries)


def insert(settings: Settings, table: str, rows: bytes) -> None:
    """One INSERT over HTTP, without a driver."""
    values = "&".join(f"{name}={value}" for name, value in INSERT_SETTINGS.items())
    query = f"INSERT%20INTO%20{settings.clickhouse_database}.{table}%20FORMAT%20JSONEachRow"
    url = f"http://{settings.clickhouse_host}:{settings.clickhouse_port}/?query={query}&{values}"
    with urllib.request.urlopen(urllib.request.Request(url, rows)) as answer:
        answer.read()


def main(arguments: list[str]) -> int:
    settings = Settings(_env_file=None)
    name, *rest = arguments
    if name == "processor":
        trades_file, count = rest
        process(settings, iter(Path(trades_file).read_bytes().split(b"\n")), int(count))
    else:
        write(settings, [int(count) for count in rest])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
