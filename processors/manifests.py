"""The manifests of a writer in Redis, written only while it holds its lease."""

from collections.abc import Mapping

from common.errors import LeaseLost
from common.keys import Route
from common.leases import Lease
from common.redis_queue import Entry, RedisQueue, utc_now
from processors.batches import Manifest


class Manifests:
    """Every method raises LeaseLost when another process may have taken over; nothing has changed then."""

    def __init__(self, queue: RedisQueue, lease: Lease) -> None:
        self._queue = queue
        self._lease = lease
        self._key = queue.keys.manifests(lease.consumer)

    def load(self) -> list[Manifest]:
        """The manifests under this writer's name: left by a process before it, or just adopted."""
        fields: list[bytes] = self._queue.call("HGETALL", self._key)
        return [Manifest.decode(fields[i], fields[i + 1]) for i in range(0, len(fields), 2)]

    def tokens(self) -> set[str]:
        """The tokens of all of them."""
        return {token.decode() for token in self._queue.call("HKEYS", self._key)}

    def begin(self, manifest: Manifest) -> None:
        """Fix a batch, before its first insert. Doing it again changes nothing.

        Lasting, because what ClickHouse is sent and Redis forgets would come again under other tokens.
        """
        arguments = [self._lease.holder, manifest.token, manifest.encode()]
        self._checked(self._queue.lasting_script("begin_batch", [self._lease.key, self._key], arguments))

    def finish(self, manifest: Manifest, route: Route) -> int:
        """The rows are in the table: acknowledge them. Returns how many still were pending."""
        ids = b" ".join(manifest.entry_ids)
        return self._run("finish_batch", [route.stream], [manifest.token, route.group, ids])

    def forget(self, manifest: Manifest, route: Route) -> None:
        """Give a manifest up without acknowledging anything."""
        self._run("finish_batch", [route.stream], [manifest.token, route.group, b""])

    def split(self, manifest: Manifest, halves: tuple[Manifest, Manifest]) -> None:
        """Replace a refused batch by its halves."""
        first, second = halves
        arguments: list[str | bytes] = [manifest.token, first.token, first.encode(), second.token, second.encode()]
        self._run("split_batch", [], arguments)

    def bury(self, manifest: Manifest, route: Route, entry: Entry, reason: str) -> int:
        """Send the only row of a refused batch to the dead letters. Returns 1, or 0 when somebody else did."""
        keys = [route.stream, self._queue.keys.dead_letters(route.stream)]
        return self._run("bury_row", keys, [manifest.token, route.group, entry.id, entry.data, reason, utc_now()])

    def adopt(self, dead: str, routes: Mapping[str, Route]) -> int:
        """Make the manifests of a writer without a lease ours, with their entries; `routes` by table. How many."""
        keys = self._queue.keys
        lease_and_manifests = [keys.lease(dead), keys.manifests(dead), self._lease.key, self._key]
        tables = [word for table, route in routes.items() for word in (table, route.group)]
        return self._checked(
            self._queue.script(
                "adopt",
                [*lease_and_manifests, *(route.stream for route in routes.values())],
                [self._lease.holder, self._lease.consumer, *tables],
            )
        )

    def _run(self, script: str, keys: list[str], arguments: list[str | bytes]) -> int:
        return self._checked(
            self._queue.script(script, [self._lease.key, self._key, *keys], [self._lease.holder, *arguments])
        )

    def _checked(self, reply: int) -> int:
        if reply < 0:
            raise LeaseLost(f"{self._lease.consumer} no longer holds its lease")
        return reply
