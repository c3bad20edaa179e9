"""A process of its own that answers requests: a line of JSON on its stdin, a line of JSON on its stdout.

That is how one room has another do what it alone can do, since rooms never import one another: what a source's bytes
mean, only ingesters know. The shapes of the requests and answers are here, for both sides.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec

from common.errors import ConfigError, Unavailable
from common.records import OrderFilled

ROOT = Path(__file__).resolve().parent.parent
END_S = 5.0  # for the process to end by itself once its stdin is closed

T = TypeVar("T")
Answer = Callable[[bytes], Any]


class ReplayRequest(msgspec.Struct, frozen=True):
    """Dead letters of one stream, which a source's ingester wrote, to be parsed again: see ingesters/replay.py."""

    stream: str  # its key
    ids: list[str]
    dry_run: bool = False


class ReplayedLetter(msgspec.Struct, frozen=True):
    """What became of one of them: `gone` was replayed or discarded by somebody else."""

    id: str
    outcome: Literal["published", "dropped", "stays", "gone"]
    text: str = ""  # why it was dropped or stays


class RangeRequest(msgspec.Struct, frozen=True):
    """A range of one source to be read again: see ingesters/reread.py. begin <= place < end, in blocks or seconds."""

    source: Literal["goldsky", "polygon"]
    begin: int
    end: int
    turn: int = 0  # which of several providers is asked first
    read_by: str = ""  # host that the live ingester reads from, if that is known; asked only if no other answers
    asked: list[int] = []  # providers, by number, that have answered for this range; asked last of all


class RangeRead(msgspec.Struct, frozen=True):
    """What a source has in a range."""

    provider: int  # that answered: its number among those of the settings
    host: str
    fills: list[OrderFilled]  # each id once
    since: int  # Unix seconds: of the first and of the last block or second in the range
    until: int
    unreadable: int = 0  # records that can't be read: dead letters


class _Reply(msgspec.Struct, omit_defaults=True):
    answer: msgspec.Raw = msgspec.Raw(b"")
    unavailable: str = ""
    wrong_setting: str = ""


class HelperProcess:
    """`python3 -m <module>`, started with the first request. Use it as a context manager."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Any, kind: type[T]) -> T:
        """The answer, of that kind. Raises Unavailable and ConfigError as the process does."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # its traceback is on stderr
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise Unavailable(f"{self._module} has ended without an answer, with status {process.wait()}")
        reply = msgspec.json.decode(line, type=_Reply)
        if reply.wrong_setting:
            raise ConfigError(reply.wrong_setting)
        if reply.unavailable:
            raise Unavailable(reply.unavailable)
        return msgspec.json.decode(reply.answer, type=kind)

    def _started(self) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(  # noqa: S603 - the command is our own
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for whoever asks; this one ends when its stdin is closed
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is None:
            return
        with suppress(BrokenPipeError), self._process:  # which closes the pipes and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:  # it is in the middle of something that nobody awaits any more
                self._process.terminate()


def serve(opened: Callable[[], AbstractContextManager[Answer]]) -> int:
    """The other side: answer each line of stdin until there is no more. What is opened is opened with the first one.

    Unavailable and ConfigError go to whoever asks; anything else ends this process with a traceback.
    """
    with ExitStack() as stack:
        answer: Answer | None = None
        for line in sys.stdin.buffer:
            try:
                answer = answer or stack.enter_context(opened())
                reply = _Reply(msgspec.Raw(msgspec.json.encode(answer(line))))
            except Unavailable as error:
                reply = _Reply(unavailable=error.reason)
            except ConfigError as error:
                reply = _Reply(wrong_setting=str(error))
            sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
            sys.stdout.buffer.flush()
    return 0
