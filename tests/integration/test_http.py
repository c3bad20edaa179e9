"""One source over HTTP: whatever it does, the caller gets a whole body, Unavailable or Rejected, within bounds."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest

from common.errors import Unavailable
from common.http import HttpSource, RateLimit, Rejected
from tests.integration.ingesting import Asked, Reply, as_json, upstream
from tests.servers import free_port


@contextmanager
def source(
    url: str,
    *,
    read_timeout_s: float = 60.0,
    most_bytes: int = 100_000,
    requests_per_10s: int = 100,
    clock: Callable[[], float] = time.monotonic,
    limit: RateLimit | None = None,
) -> Iterator[HttpSource]:
    with closing(
        HttpSource(
            "Gamma",
            url,
            requests_per_10s=requests_per_10s,
            connect_timeout_s=60.0,
            read_timeout_s=read_timeout_s,
            most_bytes=most_bytes,
            clock=clock,
            limit=limit,
        )
    ) as http:
        yield http


def failure(reply: Reply, **limits: float) -> Unavailable:
    with upstream(lambda _: reply) as url, source(url, **limits) as http, pytest.raises(Unavailable) as caught:  # type: ignore[arg-type]  # limits by name
        http.get("/markets")
    return caught.value


def test_parameters_and_bodies_arrive_and_answers_come_whole() -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Reply:
        asked.append(request)
        return as_json(["x" * 50_000])

    with upstream(answer) as url, source(f"{url}/gamma/") as http:
        assert len(http.get("/markets", [("id", "1"), ("id", "2"), ("after_cursor", "a=b&c")])) == 50_004
        assert len(http.post(b"{}")) == 50_004
    assert asked[0][:3] == ("/gamma/markets", {"id": ["1", "2"], "after_cursor": ["a=b&c"]}, b"")
    assert asked[1].body == b"{}"


def test_a_connection_is_kept_for_the_next_request_but_not_over_a_pause() -> None:
    ports: list[int] = []
    now = [0.0]

    def answer(request: Asked) -> Reply:
        ports.append(request.client_port)
        return Reply(b"[]")

    with upstream(answer) as url, source(url, clock=lambda: now[0]) as http:
        http.get("/")
        now[0] += 1
        http.get("/")
        now[0] += 5
        http.get("/")
    assert ports[0] == ports[1] != ports[2]


def test_a_compressed_answer_is_unpacked_and_counted_unpacked() -> None:
    def packed(size: int) -> Reply:
        return Reply(gzip.compress(b"x" * size), headers=(("Content-Encoding", "gzip"),))

    with upstream(lambda _: packed(50_000)) as url, source(url) as http:
        assert http.get("/") == b"x" * 50_000
    assert "more than 100000 bytes" in failure(packed(50_000_000)).reason


def test_429_says_when_to_come_back() -> None:
    assert failure(Reply(status=429, headers=(("Retry-After", "7"),))).retry_after_s == 7
    assert failure(Reply(status=429, headers=(("Retry-After", "9999"),))).retry_after_s == 300
    assert failure(Reply(status=429)).retry_after_s == 10


@pytest.mark.parametrize("status", [301, 500, 502, 503, 504])
def test_what_passes_by_itself_is_unavailable(status: int) -> None:
    assert failure(Reply(b"oops", status)).reason.endswith(f"answers {status}")


def test_another_4xx_is_rejected_with_its_body() -> None:
    with upstream(lambda _: Reply(b"offset too large", 422)) as url, source(url) as http:
        with pytest.raises(Rejected, match="answers 422: offset too large") as caught:
            http.get("/markets")
        assert (caught.value.status, caught.value.body) == (422, "offset too large")


def test_a_body_that_breaks_off_is_unavailable() -> None:
    assert "broke off" in failure(Reply(b'{"markets": [', headers=(("Content-Length", "5000"),))).reason


def test_a_source_that_falls_silent_is_unavailable() -> None:
    release = threading.Event()

    def silent(_: Asked) -> Reply:
        release.wait(60)
        return Reply()

    with upstream(silent) as url, source(url, read_timeout_s=0.2) as http:
        with pytest.raises(Unavailable, match=r"is silent for 0\.2 s"):
            http.get("/markets")
        release.set()


def test_a_body_without_end_is_cut_off() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 10_000

    assert "more than 100000 bytes; cut off" in failure(Reply(pieces=endless())).reason


def test_a_body_that_trickles_is_cut_off() -> None:
    now, pause = [0.0], threading.Event()

    def trickle() -> Iterator[bytes]:
        while not pause.wait(0.01):
            now[0] += 50.0
            yield b"x"

    with upstream(lambda _: Reply(pieces=trickle())) as url, source(url, clock=lambda: now[0]) as http:
        with pytest.raises(Unavailable, match=r"takes over 120 s to answer; cut off$"):
            http.get("/markets")
        pause.set()


def test_a_closed_port_is_named_without_the_address_s_secrets() -> None:
    port = free_port()
    with (
        source(f"http://user:secret@127.0.0.1:{port}/key/path?token=secret") as http,
        pytest.raises(Unavailable) as caught,
    ):
        http.get("/markets", [("key", "secret")])
    assert caught.value.reason == f"cannot reach Gamma at 127.0.0.1:{port}: connection refused"


def test_a_server_that_hangs_up_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with source(f"http://127.0.0.1:{port}") as http, pytest.raises(Unavailable, match="cannot reach Gamma"):
            http.get("/markets")
        thread.join()


def test_requests_beyond_our_own_limit_have_to_wait() -> None:
    with upstream(lambda _: Reply(b"[]")) as url, source(url, requests_per_10s=2, clock=lambda: 5.0) as http:
        assert http.wait_s() == 0
        http.get("/")
        assert http.wait_s() == 0
        assert http.wait_s(spare=1) == 10
        http.get("/")
        assert http.wait_s() == 10


def test_sources_that_share_a_limit_count_and_pause_together() -> None:
    limit, busy = RateLimit(4), Reply(b"", 429, (("Retry-After", "30"),))
    replies = iter([Reply(b"[]"), Reply(b"[]"), busy])
    shared = partial(source, limit=limit, clock=lambda: 5.0)
    with upstream(lambda _: next(replies)) as url, shared(url) as one, shared(url) as other:
        assert one.take_turn_s(spare=1) == one.take_turn_s(spare=1) == 0  # one turn, however often it is asked for
        one.get("/")
        assert other.take_turn_s(spare=1) == 0
        other.get("/")
        assert one.wait_s(spare=2) == 10
        with pytest.raises(Unavailable):
            one.get("/")
        assert other.wait_s() == 30
