"""Cursors, and who acts under a consumer's name."""

from pathlib import Path

import pytest

from common.config import Settings
from common.errors import LeaseLost, Unavailable
from common.leases import acquire_lease
from common.redis_queue import Offer, Position, RedisQueue
from common.state import read_position, read_state
from tests.builders import make_settings
from tests.servers import RedisServer
from tests.waiting import wait_until


def test_a_position_is_none_before_the_first_page_and_survives_a_new_connection(
    queue: RedisQueue, queue_settings: Settings
) -> None:
    assert read_position(queue, "goldsky") is None
    position = Position(1_763_000_000, "0xab_0xcd")
    queue.push_batch(
        queue.keys("s"), [Offer("a", b"1", 1_763_000_000)], source="goldsky", position=position, window_s=60
    )
    again = RedisQueue(queue_settings)
    assert read_position(again, "goldsky") == position
    again.close()


def test_a_state_can_be_read_and_written_by_a_person(queue: RedisQueue) -> None:
    queue.call("SET", queue.keys("state:goldsky_last_timestamp"), "1763000000")
    queue.call("SET", queue.keys("state:goldsky_last_id"), "x")
    assert read_position(queue, "goldsky") == Position(1_763_000_000, "x")
    assert read_state(queue, "goldsky_last_id") == "x"


def test_names_are_the_smallest_numbers_that_nobody_holds(queue: RedisQueue) -> None:
    first, second, third = (acquire_lease(queue, "writer", 1000) for _ in range(3))
    assert [lease.consumer for lease in (first, second, third)] == ["writer-1", "writer-2", "writer-3"]
    second.release()
    assert acquire_lease(queue, "writer", 1000).consumer == "writer-2"
    assert acquire_lease(queue, "other", 1000).consumer == "other-1"


def test_a_lease_runs_out_and_the_name_is_free_again(queue: RedisQueue) -> None:
    lease = acquire_lease(queue, "writer", 0.05)
    wait_until(lambda: not queue.call("EXISTS", lease.key), "the lease runs out")
    with pytest.raises(LeaseLost, match="writer-1 was silent"):
        lease.renew()
    assert acquire_lease(queue, "writer", 1000).consumer == "writer-1"


def test_renewing_prolongs_it(queue: RedisQueue) -> None:
    lease = acquire_lease(queue, "writer", 1000)
    queue.call("PEXPIRE", lease.key, 100_000)
    lease.renew()
    assert queue.call("PTTL", lease.key) > 900_000


def test_a_former_holder_neither_renews_nor_releases_the_lease_of_the_next(queue: RedisQueue) -> None:
    former = acquire_lease(queue, "writer", 1000)
    queue.call("DEL", former.key)
    holder = acquire_lease(queue, "writer", 1000)
    assert holder.consumer == former.consumer
    with pytest.raises(LeaseLost):
        former.renew()
    former.release()
    holder.renew()


def test_releasing_twice_is_harmless(queue: RedisQueue) -> None:
    lease = acquire_lease(queue, "writer", 1000)
    lease.release()
    lease.release()
    assert not queue.call("EXISTS", lease.key)


def test_a_full_server_still_gives_and_renews_leases(tmp_path: Path) -> None:
    """A stage that starts anew is what empties it."""
    with RedisServer(tmp_path) as server:
        queue = RedisQueue(make_settings(redis_host=server.host, redis_port=server.port))
        queue.call("CONFIG", "SET", "maxmemory", "1")
        lease = acquire_lease(queue, "writer", 1000)
        lease.renew()
        assert acquire_lease(queue, "writer", 1000).consumer == "writer-2"


def test_leases_of_a_server_that_is_away_are_unavailable() -> None:
    queue = RedisQueue(make_settings(redis_host="127.0.0.1", redis_port=1))
    with pytest.raises(Unavailable):
        acquire_lease(queue, "writer", 1000)
