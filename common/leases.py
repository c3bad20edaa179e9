"""Who acts under a consumer's name, and whose entries may be taken over.

A consumer's name is `<component>-<number>`, the smallest number that nobody holds, so that names stay the same over
restarts and a second process started by hand simply becomes number 2. A killed process holds its name until the lease
runs out; then whoever lives takes its entries.
"""

import os
import socket
import uuid
from typing import NamedTuple

from common.errors import LeaseLost
from common.redis_queue import RedisQueue

MOST_INSTANCES = 1000  # a bound for the search of a free number


class Lease:
    """A consumer name, held until released or not renewed for `lease_s` seconds."""

    def __init__(self, queue: RedisQueue, consumer: str, holder: str, lease_ms: int) -> None:
        self.consumer = consumer
        self.holder = holder  # unique to this process: a later holder of the same name is somebody else
        self._queue = queue
        self._lease_ms = lease_ms

    @property
    def key(self) -> str:
        return self._queue.keys.lease(self.consumer)

    def renew(self) -> None:
        """Raises LeaseLost when it had run out."""
        if not self._queue.script("renew_lease", [self.key], [self.holder, self._lease_ms, "1"]):
            raise LeaseLost(f"{self.consumer} was silent for more than {self._lease_ms / 1000:g} s")

    def release(self) -> None:
        """Give the name up, so that the next process has it at once."""
        self._queue.script("renew_lease", [self.key], [self.holder, self._lease_ms, "0"])


class Holder(NamedTuple):
    """Who holds a lease at present."""

    name: str  # unique to a process
    left_s: float  # until it runs out, unless it is renewed

    @property
    def process(self) -> str:
        """`host:pid`, for people."""
        return self.name.rpartition(":")[0]


def acquire_lease(queue: RedisQueue, component: str, lease_s: float) -> Lease:
    """The lease on the component's first free name."""
    for number in range(1, MOST_INSTANCES):
        lease = take_lease(queue, f"{component}-{number}", lease_s)
        if lease is not None:
            return lease
    raise LeaseLost(f"{MOST_INSTANCES} processes of {component} already hold a lease")


def take_lease(queue: RedisQueue, name: str, lease_s: float) -> Lease | None:
    """The lease on this very name; None while somebody holds it: see `holder_of`."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
    lease_ms = int(lease_s * 1000)
    is_taken = queue.script("take_lease", [queue.keys.lease(name)], [holder, lease_ms])
    return Lease(queue, name, holder, lease_ms) if is_taken else None


def holder_of(queue: RedisQueue, name: str) -> Holder | None:
    """Who holds a name's lease; None when nobody does."""
    key = queue.keys.lease(name)
    holder, left_ms = queue.call("GET", key), queue.call("PTTL", key)
    return None if holder is None or left_ms < 0 else Holder(holder.decode(), left_ms / 1000)
