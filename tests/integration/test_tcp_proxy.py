"""The proxy of the chaos runs does what it is told, and otherwise nothing."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.tcp_proxy import TcpProxy
from tests.waiting import wait_until

LIMIT_S = 60.0


class Echo:
    """Answers every request with itself, and remembers what arrived."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self._is_closing = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._is_closing:
                connection.close()
                self._listener.close()
                return
            thread = threading.Thread(target=self._answer, args=[connection])
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.received += data
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        """Stop listening; harmless when done twice."""
        if self._is_closing:
            return
        self._is_closing = True
        socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S).close()  # wakes accept() on every system
        for thread in self._threads:
            thread.join(LIMIT_S)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.port) as proxy:
        yield proxy


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=LIMIT_S)


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Return what comes back until as much as was sent, or the end, or a reset."""
    answer = b""
    try:
        connection.sendall(request)
        while len(answer) < len(request) and (data := connection.recv(65536)):
            answer += data
    except ConnectionError:
        pass
    return answer


def test_without_an_order_everything_passes(proxy: TcpProxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        assert ask(one, b"a" * 1_000_000) == b"a" * 1_000_000
        assert ask(two, b"hello") == b"hello"


def test_a_cut_reply_arrives_in_part_and_the_connection_breaks(proxy: TcpProxy, echo: Echo) -> None:
    proxy.cut("reply", 0.5)
    with connect(proxy) as connection:
        assert ask(connection, b"0123456789") == b"01234"
    assert echo.received == b"0123456789"
    with connect(proxy) as connection:
        assert ask(connection, b"again") == b"again"


def test_a_cut_waits_for_the_request_that_it_is_meant_for(proxy: TcpProxy) -> None:
    proxy.cut("reply", 0.0, marker=b"insert")
    with connect(proxy) as connection:
        assert ask(connection, b"select") == b"select"
        assert ask(connection, b"insert") == b""


def test_a_cut_request_reaches_the_server_in_part(proxy: TcpProxy, echo: Echo) -> None:
    proxy.cut("request", 0.5)
    with connect(proxy) as connection:
        assert ask(connection, b"0123456789") == b""
    wait_until(lambda: echo.received, "the first half has arrived", LIMIT_S)
    assert echo.received == b"01234"


def test_a_stall_delays_and_loses_nothing(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"before") == b"before"
        proxy.stall(3600)
        connection.settimeout(0.1)
        connection.sendall(b"during")
        with pytest.raises(TimeoutError):
            connection.recv(100)
        proxy.stall(0.1)
        connection.settimeout(LIMIT_S)
        assert connection.recv(100) == b"during"


def test_every_reply_can_take_its_time(echo: Echo) -> None:
    with TcpProxy(echo.port, delay_s=0.2) as proxy, connect(proxy) as connection:
        for _ in range(2):
            began = time.monotonic()
            assert ask(connection, b"hello") == b"hello"
            assert time.monotonic() - began >= 0.2


def test_a_refusal_resets_what_is_open_and_ends_by_itself(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"before") == b"before"
        proxy.refuse(3600)
        assert ask(connection, b"during") == b""
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.refuse(0.1)
    wait_until(lambda: answers(proxy), "connections are accepted again", LIMIT_S)


def answers(proxy: TcpProxy) -> bool:
    try:
        with connect(proxy) as connection:
            return ask(connection, b"after") == b"after"
    except ConnectionRefusedError:
        return False


def test_clearing_takes_back_cuts_stalls_and_refusals(proxy: TcpProxy) -> None:
    proxy.cut("reply", 0.0, times=3)
    proxy.stall(60)
    proxy.refuse(60)
    proxy.clear()
    with connect(proxy) as connection:
        assert ask(connection, b"hello") == b"hello"


def test_a_server_that_is_away_is_a_broken_connection(proxy: TcpProxy, echo: Echo) -> None:
    echo.close()
    try:
        with connect(proxy) as connection:
            answer = ask(connection, b"hello")
    except ConnectionResetError:
        answer = b""  # so soon that connecting itself fails
    assert answer == b""
