"""A TCP connection that fails on order: in front of one server, it cuts, stalls or refuses what passes."""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

Direction = Literal["request", "reply"]
CHUNK = 64 * 1024
START_LIMIT_S = 60.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset, as a machine that vanished would on return


class Cut(NamedTuple):
    """The next message in this direction gets through in part, then its connection is reset."""

    direction: Direction
    share: float  # of the bytes that are forwarded before; 0: none
    marker: bytes = b""  # only where the request has this in its first bytes


class Pair:
    """A client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._request = b""  # the first part of the one that is under way
        self._is_answered = True
        self._writers = (client, server)
        for writer in self._writers:
            writer.transport.set_write_buffer_limits(0)  # after drain() the kernel has everything

    def note(self, direction: Direction, chunk: bytes) -> None:
        """Remember which request a reply belongs to."""
        if direction == "reply":
            self._is_answered = True
        elif self._is_answered:
            self._request, self._is_answered = chunk, False

    def begins_reply(self) -> bool:
        return not self._is_answered

    def is_about(self, marker: bytes) -> bool:
        return marker in self._request

    def reset(self) -> None:
        for writer in self._writers:
            reset(writer)

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            try:
                await writer.wait_closed()
            except OSError:
                continue


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side sees it break off."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a server, as a context manager. Orders may come from any thread."""

    def __init__(self, server_port: int, host: str = "127.0.0.1", *, delay_s: float = 0.0) -> None:
        """`delay_s`: how long every reply takes, as if the server were far away."""
        self._delay_s = delay_s
        self._host = host
        self._server_port = server_port
        # Bound and never listening: it keeps the port ours while connections are refused.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind((host, 0))
        self.port: int = self._holder.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.port}", daemon=True)
        self._listener: asyncio.Server | None = None
        self._pairs: set[Pair] = set()
        self._served: set[asyncio.Task[None]] = set()
        self._cuts: deque[Cut] = deque()
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self._stall: asyncio.TimerHandle | None = None
        self._refusal: asyncio.Task[None] | None = None

    # --- orders ---------------------------------------------------------------------------------------------------

    def cut(self, direction: Direction, share: float, times: int = 1, marker: bytes = b"") -> None:
        """Break the next messages off, each with its connection; only of requests that contain the marker."""
        self._tell(lambda: self._cuts.extend([Cut(direction, share, marker)] * times))

    def stall(self, seconds: float) -> None:
        """Let nothing pass for a while; connections stay."""
        self._tell(lambda: self._begin_stall(seconds))

    def refuse(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones for a while."""
        self._run(self._begin_refusal(seconds))

    def clear(self) -> None:
        """Take every order back: from now on everything passes."""
        self._run(self._clear())

    def pending_cuts(self) -> int:
        """How many ordered cuts have not met a message yet."""
        return len(self._cuts)

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_LIMIT_S)
        self._loop.close()
        self._holder.close()

    def _tell(self, order: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(order)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_LIMIT_S)

    def _begin_stall(self, seconds: float) -> None:
        self._end_stall()
        self._may_pass.clear()
        self._stall = self._loop.call_later(seconds, self._end_stall)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._may_pass.set()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, self._host, self.port, reuse_port=True)

    async def _begin_refusal(self, seconds: float) -> None:
        await self._end_refusal()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for pair in tuple(self._pairs):
            pair.reset()
        self._refusal = asyncio.create_task(self._listen_again(seconds))

    async def _listen_again(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()

    async def _end_refusal(self) -> None:
        if self._refusal is not None:
            self._refusal.cancel()
            await asyncio.gather(self._refusal, return_exceptions=True)
            self._refusal = None

    async def _clear(self) -> None:
        self._cuts.clear()
        self._end_stall()
        await self._end_refusal()
        if self._listener is None:
            await self._listen()

    async def _end(self) -> None:
        await self._clear()
        assert self._listener is not None
        self._listener.close()
        while self._served:  # one that was being accepted makes its pair a moment later
            for pair in tuple(self._pairs):
                pair.reset()
            await asyncio.wait(tuple(self._served), timeout=0.1)

    # --- one connection -------------------------------------------------------------------------------------------

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        try:
            from_server, to_server = await asyncio.open_connection(self._host, self._server_port)
        except OSError:
            reset(to_client)
            return
        pair = Pair(to_client, to_server)
        self._pairs.add(pair)
        try:
            await self._forward_both(pair, (from_client, to_server), (from_server, to_client))
        finally:
            self._pairs.discard(pair)
            await pair.close()

    async def _forward_both(
        self,
        pair: Pair,
        request: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        reply: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Until one side ends: nobody here closes half a connection."""
        ways = [
            asyncio.create_task(self._forward(pair, "request", *request)),
            asyncio.create_task(self._forward(pair, "reply", *reply)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _forward(
        self, pair: Pair, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(CHUNK):
            await self._may_pass.wait()
            if direction == "reply" and pair.begins_reply():
                await asyncio.sleep(self._delay_s)
            pair.note(direction, chunk)
            cut = self._next_cut(direction, pair)
            writer.write(chunk if cut is None else chunk[: int(len(chunk) * cut.share)])
            await writer.drain()
            if cut is not None:
                pair.reset()
                return

    def _next_cut(self, direction: Direction, pair: Pair) -> Cut | None:
        cut = next((cut for cut in self._cuts if cut.direction == direction and pair.is_about(cut.marker)), None)
        if cut is not None:
            self._cuts.remove(cut)
        return cut
