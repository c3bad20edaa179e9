"""Logs of final blocks that appear late, or under other numbers, or with odd times: each fill once, none lost."""

import json
from typing import Any

import pytest

from common.records import encode
from common.redis_queue import Height, Offer
from common.state import read_height, read_state
from ingesters.fill_identity import content_of, identity_of, places_of
from ingesters.log_decoder import decode_log
from ingesters.polygon_ingester import READ_AGAIN, build
from ingesters.polygon_window import settle_older_state, window_blocks
from ingesters.second_look import EVERY_S, SecondLook
from tests.integration.ingesting import dead_letters, published
from tests.integration.scripted_chain import FIRST, STREAM, Chain, Follower, following, log, time_of
from tests.integration.test_polygon_refusals import grow, read_all
from tests.servers import RedisServer


def hide(follower: Follower, chain: Chain, blocks: int) -> set[str]:
    """Ids of the newest blocks, which have been read without their logs."""
    read_all(follower, chain)
    missing = follower.count()
    first = chain.head + 1
    chain.hidden = set(range(first, first + blocks))
    chain.head += blocks
    follower.clock.now += 2 * blocks
    follower.until(lambda: height(follower) == chain.head, 30)
    assert follower.count() == missing
    return {f"0x{block:064x}_1" for block in chain.hidden}


def height(follower: Follower) -> int:
    found = read_height(follower.context.queue, "polygon")
    return 0 if found is None else found.block


# --- the second look -------------------------------------------------------------------------------------------------


def test_logs_that_appear_after_sixty_blocks_are_found_by_the_second_look(redis_server: RedisServer) -> None:
    chain = Chain(100)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        late = hide(follower, chain, 3)
        grow(follower, chain, 120)
        chain.hidden = set()
        assert not late & set(follower.counted())
        grow(follower, chain, 240)
        read_all(follower, chain)
        assert late <= set(follower.counted())
        assert follower.stage.report()["late_fills"] == 3


def test_each_block_is_read_once_more_by_a_few_requests(redis_server: RedisServer) -> None:
    chain = Chain(100)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        grow(follower, chain, 700)
        before = len(chain.ranges)
        grow(follower, chain, 300)
        asked = list(zip(chain.ranges, chain.heads, strict=True))[before:]
        again = [each for each, head in asked if each[1] < head - 100]
        assert len(again) <= 300 / EVERY_S + 1
        blocks = [block for first, last in again for block in range(first, last + 1)]
        assert blocks == list(range(blocks[0], blocks[-1] + 1))
        assert len(blocks) > 130
        assert follower.stage.report()["late_fills"] == 0


@pytest.mark.parametrize("pause_s", [0, 30, 500])
def test_a_restart_forgets_no_second_look(redis_server: RedisServer, pause_s: int) -> None:
    chain = Chain(100)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        late = hide(follower, chain, 3)
        grow(follower, chain, 150)
        chain.hidden, before = set(), chain.head
        follower.clock.now += pause_s
        chain.head += pause_s // 2
        follower.restart()
        grow(follower, chain, 200)
        assert chain.head > before
        read_all(follower, chain)
        assert late <= set(follower.counted())


def test_an_outage_forgets_no_second_look(redis_server: RedisServer) -> None:
    """Afterwards the cursor moves so far that nothing of those blocks would be published any more."""
    chain = Chain(100)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        grow(follower, chain, 330)
        late = hide(follower, chain, 3)
        chain.is_down = True
        follower.run(120)
        chain.is_down, chain.hidden = False, set()
        chain.head += 3000
        read_all(follower, chain, 600)
        assert late <= set(follower.counted())


def test_the_second_look_s_failures_are_no_outage_and_it_comes_again(redis_server: RedisServer) -> None:
    chain = Chain(100)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        late, old = hide(follower, chain, 3), chain.head
        chain.deny = lambda call: old_logs(call, old)
        grow(follower, chain, 400)
        assert follower.stage.report()["source_state"] == "live"
        assert float(str(follower.stage.report()["lag_s"])) < 20
        chain.deny, chain.hidden = lambda _: None, set()
        grow(follower, chain, 60)
        read_all(follower, chain)
        assert late <= set(follower.counted())


def old_logs(call: dict[str, Any], old: int) -> dict[str, Any] | None:
    is_old = call["method"] == "eth_getLogs" and int(call["params"][0]["fromBlock"], 16) <= old - 8
    return {"code": -32000, "message": "missing trie node"} if is_old else None


def test_without_a_second_look_none_is_made(redis_server: RedisServer) -> None:
    chain = Chain(100)
    with following(redis_server, chain, polygon_second_look_s=0) as follower:
        read_all(follower, chain)
        grow(follower, chain, 400)
        assert read_state(follower.context.queue, READ_AGAIN) is None


def test_what_a_look_has_reached_is_due_once_and_in_time() -> None:
    again = SecondLook(300, 100)
    for second in range(0, 60, 2):
        again.note_end(second, 200 + second)
    assert again.due(299) is None
    assert again.due(300) == 200
    again.advance(150)
    assert (again.next, again.due(301)) == (151, 200)
    again.postpone(301)
    assert again.due(302) is None
    assert again.due(301 + EVERY_S) == 220
    again.advance(220)
    assert again.due(340) == 240


# --- one log under two numbers ---------------------------------------------------------------------------------------


def test_equal_fills_of_a_transaction_stay_as_many_with_either_numbering() -> None:
    """Of four logs three are equal; one of these is told twice."""
    content, other = "a", "b"
    one = places_of([(content, 4), (other, 5), (content, 6), (content, 9), (content, 6)])
    two = places_of([(content, 17), (other, 18), (content, 19), (content, 20)])
    assert sorted(one.values()) == sorted(two.values()) == [0, 0, 1, 2]
    assert {identity_of(*each) for each in one_by_one(one)} == {identity_of(*each) for each in one_by_one(two)}


def one_by_one(places: Any) -> list[tuple[str, int]]:
    return [(content, place) for (content, _), place in places.items()]


class Twins(Chain):
    """Each block has three logs, two of which are equal."""

    def _log(self, block: int) -> Any:
        first = log(block, 4 + self.shift, v1=False, time_s=time_of(block))
        return [first, log(block, 5 + self.shift, v1=False, time_s=time_of(block)), {**first, **self._third(block)}]

    def _third(self, block: int) -> dict[str, Any]:
        return {"logIndex": hex(9 + self.shift), "topics": log(block, 0, v1=False, time_s=1)["topics"][:1] + 3 * [_ONE]}

    def _eth_getLogs(self, wanted: dict[str, Any], *, behind: int) -> Any:  # noqa: N802 - the protocol's name
        found = super()._eth_getLogs(wanted, behind=behind)
        return [each for logs in found for each in logs]


_ONE = f"0x{1:064x}"


def test_the_same_logs_from_another_provider_under_other_numbers_are_known(redis_server: RedisServer) -> None:
    first, other = Twins(60), Twins(60)
    other.shift = 40
    with following(redis_server, first, other, polygon_max_blocks=20) as follower:
        follower.until(lambda: follower.count() == 180, 30)
        first.is_down = True
        for chain in (first, other):
            chain.head += 2
        follower.clock.now += 4
        follower.until(lambda: height(follower) == other.head, 60)
        follower.run(400)  # over the second look
        rows = published(follower.context, STREAM)
        assert len(rows) == len({row["id"] for row in rows}) == 3 * 62
        assert {row["log_index"] for row in rows if row["block_number"] < FIRST + 60} == {4, 5, 9}


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["0x0", 1_777_374_050, "", "soon", None, "0xfffffffffff", [], True])
def test_a_time_that_can_t_be_read_is_asked_of_the_block(redis_server: RedisServer, time: Any) -> None:
    chain = OddTimes(20)
    chain.time = time
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        rows = published(follower.context, STREAM)
        assert [row["timestamp"] for row in rows] == [time_of(row["block_number"]) for row in rows]
        assert dead_letters(follower.context, STREAM) == []


def test_a_log_whose_block_does_not_tell_its_time_either_is_a_dead_letter(redis_server: RedisServer) -> None:
    chain = OddTimes(20)
    chain.timeless = FIRST + 7
    with following(redis_server, chain) as follower:
        follower.until(lambda: follower.count() == 19, 30)
        (letter,) = dead_letters(follower.context, STREAM)
        assert json.loads(letter.data)["blockNumber"] == hex(FIRST + 7)
        assert letter.reason.startswith("blockTimestamp: ")


class OddTimes(Chain):
    """Its logs tell this time."""

    time: Any = "0x0"
    timeless = 0  # a block that tells none

    def _log(self, block: int) -> dict[str, Any]:
        return {**super()._log(block), "blockTimestamp": self.time}

    def _eth_getBlockByNumber(self, tag: str, full: bool, *, behind: int) -> Any:  # noqa: N802, FBT001
        block = super()._eth_getBlockByNumber(tag, full, behind=behind)
        return {**block, "timestamp": "0x0"} if tag == hex(self.timeless) else block


# --- an installation of an earlier revision --------------------------------------------------------------------------


def older_state(follower: Follower, blocks: int) -> None:
    """What an earlier revision has left after so many blocks: ids in the seen-set, the cursor, the floor."""
    fills = [decode_log(log(block, 1, v1=False, time_s=time_of(block))) for block in range(FIRST, FIRST + blocks)]
    offers = [Offer(fill.id, encode(fill), timestamp=fill.block_number or 0) for fill in fills]
    queue = follower.context.queue
    queue.call("DEL", queue.keys.state("polygon_seen_as"))
    newest = Height(FIRST + blocks - 1, time_of(FIRST + blocks - 1))
    queue.push_blocks(queue.keys(STREAM), offers, source="polygon", height=newest, window_blocks=64)


def test_nothing_is_published_again_after_an_upgrade(redis_server: RedisServer) -> None:
    chain = Chain(90)
    with following(redis_server, chain) as follower:
        older_state(follower, 80)
        follower.restart()
        read_all(follower, chain)
        grow(follower, chain, 400)
        read_all(follower, chain)
        follower.restart()
        grow(follower, chain, 30)
        read_all(follower, chain)


def test_logs_that_appear_late_are_found_after_an_upgrade_as_well(redis_server: RedisServer) -> None:
    chain = Chain(80)
    with following(redis_server, chain) as follower:
        older_state(follower, 80)
        follower.restart()
        hide(follower, chain, 3)
        follower.restart()  # does not raise the floor a second time
        chain.hidden = set()
        grow(follower, chain, 350)
        read_all(follower, chain)


def test_a_start_that_an_earlier_revision_s_backfill_has_claimed_stays(redis_server: RedisServer) -> None:
    chain = Chain(90)
    with following(redis_server, chain) as follower:
        queue, settings = follower.context.queue, follower.context.settings
        queue.call("DEL", queue.keys.state("polygon_seen_as"))
        queue.call("SET", queue.height_keys("polygon")[0], FIRST + 30 + 64)
        for _ in range(2):
            settle_older_state(queue, settings)
        assert queue.call("GET", queue.height_keys("polygon")[0]) == b"%d" % (FIRST + 30 + window_blocks(settings))
        follower.restart()
        follower.until(lambda: follower.count() >= 60, 30)
        assert min(row["block_number"] for row in published(follower.context, STREAM)) == FIRST + 30


def test_a_new_installation_has_nothing_to_settle(redis_server: RedisServer) -> None:
    chain = Chain(20)
    with following(redis_server, chain) as follower:
        read_all(follower, chain)
        floor = read_state(follower.context.queue, "polygon_floor")
        build(follower.context, follower.clock)
        assert read_state(follower.context.queue, "polygon_floor") == floor
        assert int(floor or 0) < FIRST


def test_the_content_of_a_fill_is_all_that_providers_agree_on() -> None:
    fields = log(FIRST, 1, v1=False, time_s=time_of(FIRST))
    own = content_of(decode_log(fields))
    assert content_of(decode_log(fields | {"logIndex": "0x7"})) == own
    for place in range(1, 4):
        topics = [*fields["topics"][:place], _ONE, *fields["topics"][place + 1 :]]
        assert content_of(decode_log(fields | {"topics": topics})) != own
    for word in range(5):
        data = fields["data"][: 2 + 64 * word + 63] + "1" + fields["data"][2 + 64 * word + 64 :]
        assert content_of(decode_log(fields | {"data": data})) != own
    assert content_of(decode_log(fields | {"transactionHash": _ONE})) != own
