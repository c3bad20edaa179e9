"""Which market a token belongs to, with bounded memory: recent tokens here, all of them in ClickHouse."""

from collections.abc import Collection

import msgspec

from common.clickhouse import ClickHouse
from common.records import Token, decode_market, tokens_of
from common.redis_queue import RedisQueue

LOOKUP_COUNT = 500  # tokens a query: 40 KB of statement
FOLLOW_COUNT = 500  # markets a read
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what the decoders of records raise


class RecentTokens:
    """The tokens used last, at most `capacity` of them. Two generations: what is used moves to the young one."""

    def __init__(self, capacity: int) -> None:
        self._generation_size = max(1, capacity // 2)
        self._young: dict[str, Token] = {}
        self._old: dict[str, Token] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, token_id: str) -> Token | None:
        token = self._young.get(token_id)
        if token is None:
            token = self._old.pop(token_id, None)
            if token is not None:
                self.put(token_id, token)
        return token

    def put(self, token_id: str, token: Token) -> None:
        if len(self._young) >= self._generation_size:
            self._old, self._young = self._young, {}
        self._old.pop(token_id, None)
        self._young[token_id] = token


class TokenIndex:
    """Looks tokens up in memory, then in ClickHouse; follows stream:markets, so that new markets are known at once."""

    def __init__(self, queue: RedisQueue, clickhouse: ClickHouse, stream_markets: str, capacity: int) -> None:
        self._queue = queue
        self._clickhouse = clickhouse
        self._stream = stream_markets
        # From the stream's beginning: what was trimmed before has reached ClickHouse.
        self._followed_to = b"0"
        self._recent = RecentTokens(capacity)

    def get(self, token_id: str) -> Token | None:
        """The token, if it is in memory."""
        return self._recent.get(token_id)

    def follow(self) -> dict[str, Token]:
        """Take in the next markets of the stream; returns their tokens."""
        learned: dict[str, Token] = {}
        for entry in self._queue.read_simple(self._stream, self._followed_to, FOLLOW_COUNT):
            self._followed_to = entry.id
            try:
                tokens = tokens_of(decode_market(entry.data))
            except UNREADABLE:
                continue  # the writer of markets dead-letters it
            for token_id, token in tokens.items():
                self._recent.put(token_id, token)
            learned.update(tokens)
        return learned

    def look_up(self, token_ids: Collection[str]) -> dict[str, Token]:
        """Those of the tokens that ClickHouse knows. Raises Unavailable when it is away."""
        found: dict[str, Token] = {}
        wanted = list(token_ids)
        for start in range(0, len(wanted), LOOKUP_COUNT):
            rows = self._clickhouse.query(
                f"SELECT token_id, argMax(tuple(market_id, condition_id, outcome, side), updated_at) "  # noqa: S608
                f"FROM {self._clickhouse.database}.market_tokens WHERE token_id IN {{tokens:Array(String)}} "
                f"GROUP BY token_id",
                {"tokens": wanted[start : start + LOOKUP_COUNT]},
            )
            found.update((token_id, Token(*columns)) for token_id, columns in rows)
        for token_id, token in found.items():
            self._recent.put(token_id, token)
        return found
