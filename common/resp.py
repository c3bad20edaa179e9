"""Redis' protocol (RESP): commands as bytes. Pure."""

from collections.abc import Iterable, Iterator

Argument = bytes | str | int
Command = tuple[Argument, ...]  # its name and arguments
PART = 500  # arguments: what fits a processor's cache


def packed(commands: Iterable[Command]) -> Iterator[bytes]:
    """The commands in parts: while one is packed, Redis takes in those that have been sent.

    One part of all costs a page of fills a tenth more, and twice that in redis-py's own way, which copies it.
    """
    for command in commands:
        head = b"*%d\r\n" % len(command)
        for start in range(0, len(command), PART):
            arguments = [
                each if each.__class__ is bytes else str(each).encode() for each in command[start : start + PART]
            ]
            yield head + b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments])
            head = b""
