"""Redis Streams as the pipeline's queue: the only module that speaks to Redis.

What belongs together is one Lua script (`common/lua`), which takes effect completely or not at all. A failure of Redis
itself surfaces as `Unavailable`; the caller repeats the same call, which is safe for all of them. Who was reading
begins with `reread_pending`: entries of the reply that was lost are his.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.config import Settings
from common.errors import ConfigError, CursorLost, Unavailable
from common.keys import Keys, Route
from common.resp import Argument, Command, packed

if TYPE_CHECKING:
    from redis.commands.core import Script

LUA = Path(__file__).parent / "lua"
CLAIM_COUNT = 1000  # entries a claim takes at once; Lua's stack limits the arguments of one command to some 8,000
PIECE = 500  # entries a command: what fits a processor's cache. Together, 2,000 cost Redis a fifth more
READ_BYTES = 1024 * 1024  # a reply is read in pieces of that size; the default, 64 KB, costs many more system calls
VERSIONS_PER_HASH = 100  # below hash-max-listpack-entries (128): 1.5 million versions take some 50 MB instead of 150
# Replies that pass by waiting. For some, redis-py has a class and drops the code from the text; MasterDownError is a
# ClusterDownError.
TEMPORARY = ("MISCONF", "NOREPLICAS", "BUSY ", "UNBLOCKED")
TEMPORARY_ERRORS = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)


class Entry(msgspec.Struct, frozen=True, gc=False):  # made for every record: a third of a NamedTuple's cost
    """One stream entry: what was written, and the id that acknowledges it."""

    id: bytes
    data: bytes


class Claimed(NamedTuple):
    """Entries taken over from a dead consumer."""

    entries: list[Entry]
    lost: int  # pending ids whose entries are gone from the stream: data loss, alarm


class Offer(NamedTuple):
    """A record as a source offers it; what was published before is passed over."""

    identity: str  # fills: the id; markets: the market id; a record without a usable one: a hash of its bytes
    data: bytes  # the record's JSON, or the original bytes when there is a fault
    timestamp: int = 0  # fills: event time, Unix seconds, or the block's number; 0 where a faulty record tells none
    version: str = ""  # markets: fingerprint of the content
    fault: str = ""  # why it can't be a record; sends it to the dead letters
    unreadable: str = ""  # markets: names of the fields left out since they can't be read, separated by spaces


class Pushed(NamedTuple):
    """What became of a page of offers."""

    added: int
    dead: int
    known: int


class Position(NamedTuple):
    """Cursor of a source of fills: everything up to and including it has been published."""

    timestamp: int  # Unix seconds
    id: str


class Height(NamedTuple):
    """Cursor of a source of blocks: everything up to and including this block has been published."""

    block: int
    timestamp: int  # of the block, Unix seconds; for people


class Result(msgspec.Struct, frozen=True, gc=False):
    """What a processor made of an entry: bytes for the target stream, or the original bytes and why not."""

    entry_id: bytes
    data: bytes
    fault: str = ""


class Held(NamedTuple):
    """Says of results that their entries are pending, for a consumer, unless Redis knows better.

    True of entries that the holder of the consumer's lease was given as new ones, and has not tried to complete before:
    nobody else knows of them while the lease lasts.
    """

    consumer: str
    holder: str  # of its lease
    entries: int  # all that it knows to be pending


class ConsumerInfo(NamedTuple):
    """A consumer of a group as Redis reports it. Ages in seconds."""

    name: str
    pending: int
    idle_s: float  # since it last asked for entries, whether there were any or not
    held_s: float | None  # since its oldest pending entry was delivered; None: nothing is pending


class GroupInfo(NamedTuple):
    """A consumer group as Redis reports it."""

    name: str
    consumers: int
    pending: int
    lag: int | None  # entries not yet delivered; None when Redis can't tell
    last_delivered_id: str
    oldest_pending_id: str | None
    entries_read: int | None


class StreamInfo(NamedTuple):
    """A stream as Redis reports it."""

    length: int
    first_id: str | None
    last_id: str | None
    entries_added: int
    groups: list[GroupInfo]


class Question:
    """Commands that have been sent and whose replies are fetched later: Redis works on them meanwhile, in order."""

    def __init__(self, queue: "RedisQueue", connection: Any, commands: int) -> None:
        self._queue = queue
        self._connection = connection
        self.open = commands  # replies to come; until there is none, or none is wanted any more, the connection is ours

    def answer(self) -> Any:
        """The next command's raw reply. Raises as `RedisQueue.call` does; what took effect is unknown then."""
        with ExitStack() as failing:
            failing.callback(self.drop)
            with self._queue.available():
                reply = self._connection.read_response()
            failing.pop_all()
        self.open -= 1
        if not self.open:
            self._queue.give_back(self._connection)
        return reply

    def drop(self) -> None:
        """Give the rest of the replies up, and with them the connection that they would arrive on."""
        if self.open:
            self.open = 0
            self._connection.disconnect()
            self._queue.give_back(self._connection)


class Exchange(NamedTuple):
    """Results on their way to Redis, and new entries on their way from there."""

    question: Question
    completions: int  # of its commands, the first


class RedisQueue:
    """Streams, their consumer groups and dead letters, on one Redis server. Not shared between threads that block."""

    def __init__(self, settings: Settings) -> None:
        self.keys = Keys(settings.key_prefix)
        self._where = f"{settings.redis_host}:{settings.redis_port}"
        self.cli = redis_cli(settings)
        self._redis = _connect(settings)
        self._sync_s = settings.redis_waitaof_s
        self._scripts: dict[str, Script] = {}
        self._backlog_positions: dict[tuple[Route, str], bytes] = {}

    # --- the two ways in -----------------------------------------------------------------------------------------

    def ask(self, *commands: Command) -> Question:
        """Send commands together, on a connection of their own."""
        with self.available(), ExitStack() as failing:
            connection: Any = self._redis.connection_pool.get_connection()
            question = Question(self, connection, len(commands))
            failing.callback(question.drop)  # a part may have gone out
            connection.send_packed_command(packed(commands))
            failing.pop_all()
        return question

    def give_back(self, connection: Any) -> None:
        self._redis.connection_pool.release(connection)

    def call(self, *command: Any) -> Any:
        """One Redis command with its raw reply. Raises Unavailable when Redis is, ConfigError when it denies access."""
        with self.available():
            return self._redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """One atomic script of `common/lua`."""
        script = self._script(name)
        with self.available():
            return script(keys=keys, args=arguments)

    def _large_script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """As `script`, for hundreds of kilobytes: Redis takes in one part while the next is packed."""
        return self.ask(self._evaluation(name, keys, arguments)).answer()

    def _evaluation(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        """A script by its text: a server that has forgotten its scripts would refuse the digest."""
        return ("EVAL", _lua(name), len(keys), *keys, *arguments)

    def _script(self, name: str) -> "Script":
        if name not in self._scripts:
            self._scripts[name] = self._redis.register_script(_lua(name))
        return self._scripts[name]

    def lasting_script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """A script of `common/lua` that always writes; with REDIS_WAITAOF_S, returns once the server's disk has it.

        So has it everything that was written before, by whomever. Raises Unavailable when that takes too long.
        """
        if not self._sync_s:
            return self.script(name, keys, arguments)
        script = self._script(name)
        with self.available(), self._redis.pipeline(transaction=False) as pipeline:
            # In one request: WAITAOF looks at what its own connection has written.
            script(keys, arguments, client=pipeline)
            pipeline.execute_command("WAITAOF", 1, 0, max(1, int(self._sync_s * 1000)))  # type: ignore[no-untyped-call]
            reply, (synced, _) = pipeline.execute()
        if not synced:
            raise Unavailable(f"Redis at {self._where} has not synced its append-only file within {self._sync_s:g} s")
        return reply

    def close(self) -> None:
        self._redis.close()

    # --- source to stream ----------------------------------------------------------------------------------------

    def push_batch(
        self,
        stream: str,
        offers: Sequence[Offer],
        *,
        source: str,
        position: Position,
        window_s: int,
        after: Position | None = None,
    ) -> Pushed:
        """A page of fills: those not seen in the last `window_s` seconds go out, and the cursor moves up to `position`.

        The cursor never moves back, so a second ingester of the same source does no harm. `after` is what the caller
        knows to be published. Raises CursorLost, with nothing pushed, when Redis knows less: it has lost data.
        """
        place = (*position, window_s)
        return self._publish_new(stream, offers, source, self.cursor_keys(source), place, after=after)

    def push_blocks(
        self,
        stream: str,
        offers: Sequence[Offer],
        *,
        source: str,
        height: Height,
        window_blocks: int,
        after: Height | None = None,
    ) -> Pushed:
        """Fills of whole blocks, up to and including `height`: as `push_batch`, in the order of blocks, not of time.

        The cursor moves with blocks that hold no fill, too. An offer's `timestamp` is the number of its block.
        """
        place = (*height, window_blocks)
        return self._publish_new(stream, offers, source, self.height_keys(source), place, after=after)

    def _publish_new(
        self,
        stream: str,
        offers: Sequence[Offer],
        source: str,
        cursor: tuple[str, str],
        place: tuple[int, str | int, int],
        *,
        after: Position | Height | None,
    ) -> Pushed:
        floor = self.keys.state(f"{source}_floor")
        keys = [stream, self.keys.dead_letters(stream), self.keys.seen(source), *cursor, floor]
        arguments: list[Argument] = [*place, source, utc_now(), *(after or ("", ""))]
        # One argument of all identities, made short: as arguments of their own they took a fifth of the time.
        digests = b"".join([sha256(offer.identity.encode()).digest() for offer in offers])
        faulty = [(number, offer) for number, offer in enumerate(offers, 1) if offer.fault]
        arguments += (" ".join([str(offer.timestamp) for offer in offers]), digests, len(faulty))
        for number, offer in faulty:
            arguments += (number, offer.identity, offer.fault)
        arguments += [offer.data for offer in offers]
        pushed = Pushed(*self._large_script("publish_new", keys, arguments))
        if pushed.added < 0:
            raise CursorLost(f"Redis has forgotten that {source} was published up to {after}")
        return pushed

    def push_changed(
        self,
        stream: str,
        offers: Sequence[Offer],
        *,
        source: str,
        state: Mapping[str, str],
        expected: tuple[str, str] | None = None,
    ) -> Pushed:
        """A page of markets: those whose version is not the remembered one go out, and the sweep's state is written.

        `expected`: the name of a state and what it has to be, "" for none. Where it is anything else, nothing happens
        and CursorLost is raised: Redis has lost data, or was made to forget it.
        """
        name, value = expected or ("", "")
        keys = [stream, self.keys.dead_letters(stream), self.keys.unreadable(source), self.keys.state(name)]
        keys += (self.keys.state(name) for name in state)
        keys += (self.versions_key(source, offer.identity) for offer in offers)
        arguments: list[Any] = [source, utc_now(), name, value, len(state), *state.values()]
        for offer in offers:
            arguments += (offer.identity, offer.version, offer.data, offer.fault, offer.unreadable)
        pushed = Pushed(*self.script("publish_changed", keys, arguments))
        if pushed.added < 0:
            raise CursorLost(f"state:{name} in Redis is not what was written last")
        return pushed

    def cursor_keys(self, source: str) -> tuple[str, str]:
        """The two keys of a source's cursor: its time and its id."""
        return self.keys.state(f"{source}_last_timestamp"), self.keys.state(f"{source}_last_id")

    def height_keys(self, source: str) -> tuple[str, str]:
        """The two keys of a cursor of blocks: the block and its time."""
        return self.keys.state(f"{source}_last_block"), self.keys.state(f"{source}_last_timestamp")

    def versions_key(self, source: str, identity: str) -> str:
        """The hash that remembers which version of a market was published."""
        bucket = str(int(identity) // VERSIONS_PER_HASH) if identity.isdecimal() else "other"
        return f"{self.keys.seen(source)}:{bucket}"

    # --- reading -------------------------------------------------------------------------------------------------

    def ensure_group(self, route: Route) -> None:
        """Make the consumer group, and its stream, where missing; it reads from the stream's very beginning."""
        if self._has_group(route):
            return  # asked first, because a full Redis refuses to make even what exists
        try:
            self.call("XGROUP", "CREATE", route.stream, route.group, "0", "MKSTREAM")
        except exceptions.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _has_group(self, route: Route) -> bool:
        if not self.call("EXISTS", route.stream):
            return False
        groups = self.call("XINFO", "GROUPS", route.stream)
        return route.group.encode() in [_pairs(group)["name"] for group in groups]

    def read_from_stream(self, route: Route, consumer: str, count: int, block_ms: int = 0) -> list[Entry]:
        """The next entries of a consumer: first its own pending ones, oldest first, then new ones.

        Each pending entry is returned once; `reread_pending` starts over. `block_ms` 0 does not wait. Raises
        Unavailable after it had to make a missing group again: everything still in the stream will be delivered.
        """
        position = self._backlog_positions.get((route, consumer), b"0")
        if position != b">":
            with self._group_made_again(route):
                entries = _read_entries(self.call(*_reading(route, consumer, count, position)), route)
            self._backlog_positions[route, consumer] = entries[-1].id if entries else b">"
            if entries:
                return self._ours(route, self._without_lost(route, entries))
        return self._ours(route, self._read_group(route, consumer, count, block_ms))

    def reread_pending(self, route: Route, consumer: str) -> None:
        """Let the next read begin with this consumer's oldest pending entry again."""
        self._backlog_positions.pop((route, consumer), None)

    def has_read_backlog(self, route: Route, consumer: str) -> bool:
        """Whether every entry that was pending when the reading began has been returned."""
        return self._backlog_positions.get((route, consumer)) == b">"

    def read_simple(self, stream: str, after: bytes, count: int) -> list[Entry]:
        """Entries after an id, outside any group: every reader sees all of them."""
        reply = self.call("XREAD", "COUNT", count, "STREAMS", stream, after)
        return _entries(reply[0][1]) if reply else []

    def read_from(self, stream: str, first: str, count: int) -> list[Entry]:
        """Entries from an id on, inclusive, outside any group."""
        return _entries(self.call("XRANGE", stream, first, "+", "COUNT", count))

    def _read_group(self, route: Route, consumer: str, count: int, block_ms: int) -> list[Entry]:
        """New entries. The first piece is waited for alone: mostly, there is not more."""
        reading = _reading(route, consumer, min(count, PIECE), b">", block_ms)
        with self._group_made_again(route):
            entries = _read_entries(self.call(*reading), route)
            if len(entries) == PIECE < count:
                question = self.ask(*_readings(route, consumer, count - PIECE))
                entries += self._read_answers(route, question)
        return entries

    def _read_answers(self, route: Route, question: Question) -> list[Entry]:
        return [entry for _ in range(question.open) for entry in _read_entries(question.answer(), route)]

    @contextmanager
    def _group_made_again(self, route: Route) -> Iterator[None]:
        """Makes the group where a read finds it missing, and raises Unavailable then."""
        try:
            yield
        except exceptions.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.ensure_group(route)
            raise Unavailable(f"consumer group {route.group} was missing; made again from the start") from error

    def _ours(self, route: Route, entries: list[Entry]) -> list[Entry]:
        """Without what was replayed for another group of the stream: this one had its copy; acknowledged."""
        others = [entry.id for entry in entries if entry.data is _FOR_OTHERS]
        if not others:
            return entries
        self.ack(route, others)
        return [entry for entry in entries if entry.data is not _FOR_OTHERS]

    def _without_lost(self, route: Route, entries: list[Entry]) -> list[Entry]:
        """Pending entries that left the stream can't be processed by anybody: counted as lost, and acknowledged."""
        lost = [entry.id for entry in entries if entry.data is _GONE]
        if lost:
            self.script("drop_lost", [route.stream, self._lost_key()], [route.group, *lost])
        return [entry for entry in entries if entry.data is not _GONE]

    # --- finishing -----------------------------------------------------------------------------------------------

    def ack(self, route: Route, entry_ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were still pending."""
        return int(self.call("XACK", route.stream, route.group, *entry_ids)) if entry_ids else 0

    def complete(self, route: Route, target: str, results: Sequence[Result]) -> tuple[int, int]:
        """Acknowledge entries and write what became of them, each once even if two processors hold the same entry.

        In pieces: after an Unavailable, some may be completed. Returns how many results were written, and how many dead
        letters.
        """
        commands = self._completions(route, target, results, None)
        return _sum_of_pairs([self.call(*command) for command in commands])

    def start_exchange(
        self, route: Route, target: str, results: Sequence[Result], held: Held | None, *, consumer: str, count: int
    ) -> "Exchange":
        """Ask to complete the results, cheaper with `held`, and then to read new entries of the consumer.

        Its own backlog has to be read before.
        """
        completions = self._completions(route, target, results, held)
        return Exchange(self.ask(*completions, *_readings(route, consumer, count)), len(completions))

    def finish_exchange(self, route: Route, exchange: "Exchange") -> tuple[int, int, list[Entry]]:
        """What `complete` and `read_from_stream` return. After an Unavailable, nobody knows what was done."""
        written, dead = _sum_of_pairs([exchange.question.answer() for _ in range(exchange.completions)])
        with self._group_made_again(route):
            entries = self._read_answers(route, exchange.question)
        return written, dead, self._ours(route, entries)

    def _completions(self, route: Route, target: str, results: Sequence[Result], held: Held | None) -> list[Command]:
        consumer, holder, entries = held or ("", "", 0)
        keys = (route.stream, target, self.keys.dead_letters(route.stream), self.keys.lease(consumer))
        now = utc_now()
        commands: list[Command] = []
        for start in range(0, len(results), PIECE):
            piece = results[start : start + PIECE]
            done = [result for result in piece if not result.fault]
            ids = b" ".join([result.entry_id for result in done])
            left = entries - start  # when the pieces before are done
            arguments: list[Argument] = [route.group, now, consumer, holder, left, ids]
            arguments += [result.data for result in done]
            for result in piece:
                if result.fault:
                    arguments += (result.entry_id, result.data, result.fault)
            commands.append(self._evaluation("complete", keys, arguments))
        return commands

    # --- taking over from the dead -------------------------------------------------------------------------------

    def consumers(self, route: Route) -> dict[str, int]:
        """The group's consumers, alive or dead, and how many entries are pending for each; none without the group."""
        return {consumer["name"].decode(): consumer["pending"] for consumer in self._consumers(route)}

    def _consumers(self, route: Route) -> list[dict[str, Any]]:
        reply: list[Any] = []
        with _missing_group_is_empty():  # the next read creates it again and logs that
            reply = self.call("XINFO", "CONSUMERS", route.stream, route.group)
        return [_pairs(consumer) for consumer in reply]

    def claim(self, route: Route, dead: str, consumer: str) -> Claimed:
        """Take over entries of a consumer without a lease and without manifests; nothing when it is alive."""
        keys = [route.stream, self.keys.lease(dead), self.keys.manifests(dead), self._lost_key()]
        reply, lost = self.script("claim_dead", keys, [route.group, dead, consumer, CLAIM_COUNT])
        return Claimed(self._ours(route, _entries(reply, route.group)), lost)

    def fetch_pending(self, route: Route, consumer: str, entry_ids: Sequence[bytes]) -> list[Entry]:
        """Those of the entries that are still pending, with their data, in the given order; now held by `consumer`."""
        return _entries(self.call("XCLAIM", route.stream, route.group, consumer, 0, *entry_ids)) if entry_ids else []

    def count_lost(self, route: Route, count: int) -> None:
        """Remember that entries were lost before a group had processed them; the dashboard raises the alarm."""
        self.call("HINCRBY", self._lost_key(), f"{route.stream} {route.group}", count)

    def _lost_key(self) -> str:
        return self.keys("lost_entries")

    # --- room ----------------------------------------------------------------------------------------------------

    def trim(self, stream: str, expected_groups: Sequence[str]) -> int:
        """Remove what all groups have finished; nothing while an expected group is missing. Returns how many."""
        return int(self.script("trim", [stream], expected_groups))

    def backlog(self, stream: str) -> int | None:
        """Entries that the slowest group still has to finish; None when Redis can't tell."""
        info = self.stream_info(stream)
        if any(group.lag is None for group in info.groups):
            return None
        return max((group.pending + (group.lag or 0) for group in info.groups), default=info.length)

    # --- tokens that fills wait for ------------------------------------------------------------------------------

    def ask_for_tokens(self, tokens: Iterable[str]) -> None:
        """Have polymarket_ingester look up the markets of these tokens at once."""
        wanted = list(tokens)
        if wanted:
            self.script("ask_tokens", [self.keys.unknown_tokens()], wanted)

    def unknown_tokens(self, limit: int) -> list[str]:
        """Some of the tokens that fills wait for, at random."""
        return [token.decode() for token in self.call("SRANDMEMBER", self.keys.unknown_tokens(), limit)]

    def forget_unknown_tokens(self, tokens: Iterable[str]) -> None:
        """Tokens that need no look-up any more."""
        known = list(tokens)
        if known:
            self.call("SREM", self.keys.unknown_tokens(), *known)

    # --- what the operator sees ----------------------------------------------------------------------------------

    def beat(self, instance: str, fields: Mapping[str, str], ttl_s: int) -> None:
        """Refresh the heartbeat of a running process."""
        key = self.keys.heartbeat(instance)
        with self.available(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, mapping=dict[Any, Any](fields))
            pipeline.expire(key, ttl_s)
            pipeline.execute()

    def count_start(self, component: str, change: int = 1) -> int:
        """Count one more start of a component, or take one back that ended as it was told; returns how many count."""
        return int(self.call("HINCRBY", self.keys.starts(), component, change))

    def heartbeats(self) -> list[dict[str, str]]:
        """The fields of every heartbeat that has not expired."""
        return [beat for key in self.scan(self.keys.heartbeat("")) if (beat := self.read_hash(key))]

    def scan(self, prefix: str) -> list[str]:
        """The keys with that prefix, sorted."""
        with self.available():
            return sorted(key.decode() for key in self._redis.scan_iter(match=f"{prefix}*", count=1000))

    def read_hash(self, key: str) -> dict[str, str]:
        """The fields of a hash; empty if it does not exist."""
        return {name: value.decode() for name, value in _pairs(self.call("HGETALL", key)).items()}

    def server_info(self) -> dict[str, str]:
        """The reply to INFO. Raises Unavailable also when the server refuses INFO, as managed ones may."""
        try:
            reply: dict[str, Any] = self.call("INFO")
        except (exceptions.ResponseError, ConfigError) as error:
            raise Unavailable(f"Redis at {self._where} refuses INFO: {error}") from error
        return {name: str(value) for name, value in reply.items()}

    def lost_entries(self) -> int:
        """Entries that some group lost before it had processed them, ever."""
        return sum(int(count) for count in _pairs(self.call("HGETALL", self._lost_key())).values())

    def stream_info(self, stream: str) -> StreamInfo:
        """Length and groups of a stream; an empty one when it does not exist yet."""
        if not self.call("EXISTS", stream):
            return StreamInfo(0, None, None, 0, [])
        info = _pairs(self.call("XINFO", "STREAM", stream))
        groups = [self._group_info(stream, _pairs(group)) for group in self.call("XINFO", "GROUPS", stream)]
        return StreamInfo(
            length=info["length"],
            first_id=info["first-entry"][0].decode() if info["first-entry"] else None,
            last_id=info["last-entry"][0].decode() if info["last-entry"] else None,
            entries_added=info["entries-added"],
            groups=groups,
        )

    def _group_info(self, stream: str, group: dict[str, Any]) -> GroupInfo:
        oldest = self.call("XPENDING", stream, group["name"])[1]
        return GroupInfo(
            name=group["name"].decode(),
            consumers=group["consumers"],
            pending=group["pending"],
            lag=group["lag"],
            last_delivered_id=group["last-delivered-id"].decode(),
            oldest_pending_id=oldest.decode() if oldest else None,
            entries_read=group["entries-read"],
        )

    def undelivered_since(self, stream: str, group: GroupInfo) -> str | None:
        """Id of the oldest entry that has not been delivered to the group; None if there is none."""
        found = self.call("XRANGE", stream, f"({group.last_delivered_id}", "+", "COUNT", 1)
        return found[0][0].decode() if found else None

    def consumers_of(self, route: Route) -> list[ConsumerInfo]:
        """The group's consumers, alive or dead; none without the group."""
        return [self._consumer_info(route, consumer) for consumer in self._consumers(route)]

    def _consumer_info(self, route: Route, consumer: dict[str, Any]) -> ConsumerInfo:
        name, pending = consumer["name"].decode(), consumer["pending"]
        oldest: list[Any] = []
        with _missing_group_is_empty():
            oldest = self.call("XPENDING", route.stream, route.group, "-", "+", 1, name) if pending else []
        return ConsumerInfo(name, pending, consumer["idle"] / 1000, oldest[0][2] / 1000 if oldest else None)

    @contextmanager
    def available(self) -> Iterator[None]:
        """Redis' errors as ours: see `call`."""
        try:
            yield
        except exceptions.AuthenticationError as error:
            raise ConfigError(f"REDIS_PASSWORD: {self._where} refuses it ({error})") from error
        except exceptions.NoPermissionError as error:
            raise ConfigError(f"REDIS_PASSWORD: {self._where} denies access ({error})") from error
        except TEMPORARY_ERRORS as error:
            raise Unavailable(f"Redis at {self._where}: {error}") from error
        except exceptions.ResponseError as error:
            if str(error).startswith("DB index"):
                raise ConfigError(f"REDIS_DB: {self._where} has no such database ({error})") from error
            if "WAITAOF" in str(error):  # an older server, or one without an append-only file
                raise ConfigError(f"REDIS_WAITAOF_S: {self._where} can't do that ({error})") from error
            if any(sign in str(error) for sign in TEMPORARY):
                raise Unavailable(f"Redis at {self._where}: {error}") from error
            raise


@contextmanager
def _missing_group_is_empty() -> Iterator[None]:
    """Ignores the error of a command about a consumer group when the group or its stream is missing."""
    try:
        yield
    except exceptions.ResponseError as error:
        if not str(error).startswith(("NOGROUP", "no such key")):
            raise


def redis_cli(settings: Settings) -> str:
    """The command with which a person reaches the server; it asks for a password where there is one."""
    address = f" -h {settings.redis_host} -p {settings.redis_port}"
    is_default = address == " -h localhost -p 6379"
    return f"redis-cli{'' if is_default else address}{' --askpass' if settings.redis_password else ''}"


def utc_now() -> str:
    """The time as dead letters carry it: ISO, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _lua(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


def _connect(settings: Settings) -> Redis:
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    redis = Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        password=password,
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
        socket_read_size=READ_BYTES,
        protocol=2,  # replies as plain lists, the same from Redis 6.2 to Valkey 9
        retry=Retry(NoBackoff(), 0),  # the back-off is run()'s; a silent second attempt would hide it
    )
    for command in ("XREADGROUP", "XREAD", "XCLAIM", "XRANGE", "XREVRANGE", "XINFO STREAM", "XINFO GROUPS",
                    "XINFO CONSUMERS", "XPENDING", "HGETALL", "SRANDMEMBER"):  # fmt: skip
        redis.set_response_callback(command, lambda reply, **_: reply)  # raw: a third of the parsed reply's cost
    return redis


_GONE = bytes(bytearray(b"(gone)"))  # this very object stands for the data of an entry that was deleted while pending
_FOR_OTHERS = bytes(bytearray(b"(for others)"))  # likewise, of an entry that was replayed for another group


def _entries(reply: list[Any], group: str = "") -> list[Entry]:
    """The entries of a reply. A group's reader gets `_FOR_OTHERS` for what is addressed to another group."""
    reader = group.encode()
    return [
        Entry(entry_id, fields[1] if fields and len(fields) == 2 and fields[0] == b"data" else _data(fields, reader))  # noqa: PLR2004 - a single field
        for entry_id, fields in reply
    ]


def _reading(route: Route, consumer: str, count: int, position: bytes, block_ms: int = 0) -> Command:
    block = ("BLOCK", block_ms) if block_ms else ()
    return "XREADGROUP", "GROUP", route.group, consumer, "COUNT", count, *block, "STREAMS", route.stream, position


def _readings(route: Route, consumer: str, count: int) -> list[Command]:
    """To read so many new entries, in pieces."""
    return [_reading(route, consumer, min(PIECE, count - start), b">") for start in range(0, count, PIECE)]


def _read_entries(reply: list[Any] | None, route: Route) -> list[Entry]:
    return _entries(reply[0][1], route.group) if reply else []


def _sum_of_pairs(pairs: Iterable[Sequence[int]]) -> tuple[int, int]:
    written, dead = 0, 0
    for more_written, more_dead in pairs:
        written, dead = written + more_written, dead + more_dead
    return written, dead


def _data(fields: list[bytes] | None, reader: bytes) -> bytes:
    if fields is None:
        return _GONE
    if len(fields) > 2 and reader and fields[2] == b"for" and fields[3] != reader:  # noqa: PLR2004 - a second field
        return _FOR_OTHERS
    return fields[1] if fields[0] == b"data" else b" ".join(fields)  # a foreign entry: all of it, for the dead letters


def _pairs(reply: list[Any]) -> dict[str, Any]:
    return {reply[i].decode(errors="replace"): reply[i + 1] for i in range(0, len(reply), 2)}
