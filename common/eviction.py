"""Whether Redis may evict keys. Any policy but noeviction loses fills once its memory is full."""

import logging

from common.errors import PipelineError
from common.redis_queue import RedisQueue

SAFE_POLICY = "noeviction"
REMEDY = f"CONFIG SET maxmemory-policy {SAFE_POLICY}"
CHECK_S = 60.0  # anybody may change the policy while the server runs


def eviction_warning(policy: str, redis_cli: str) -> str:
    """What is wrong with a policy, and the command that fixes it; empty for the safe one.

    It applies without a memory limit as well: nothing is evicted yet, but would be from the day somebody sets one. The
    volatile-* policies are no better, since leases are among the keys that expire.
    """
    if policy == SAFE_POLICY:
        return ""
    remedy = f"{redis_cli} {REMEDY}"
    return f"maxmemory-policy is {policy}: Redis may drop fills and leases once its memory is full; run {remedy}"


class EvictionWatch:
    """Warns about the policy once, and again when it or the server changes."""

    def __init__(self, queue: RedisQueue, log: logging.Logger) -> None:
        self._queue = queue
        self._log = log
        self._next_at = 0.0
        self._seen = ("", "")  # the server's run and its policy

    def check(self, now: float) -> None:
        """Check, if it is due. A server that doesn't report its policy is no reason to stop working."""
        if now < self._next_at:
            return
        self._next_at = now + CHECK_S
        try:
            info = self._queue.server_info()
        except PipelineError as error:
            self._log.debug("eviction policy unknown: %s", error)
            return
        seen = (info.get("run_id", ""), info.get("maxmemory_policy", SAFE_POLICY))
        if seen != self._seen and (warning := eviction_warning(seen[1], self._queue.cli)):
            self._log.warning("%s", warning)
        self._seen = seen

    def check_soon(self) -> None:
        """Check at the next call: Redis may be another server now."""
        self._next_at = 0.0
