"""Commands as bytes."""

from typing import Any

import hiredis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.resp import PART, Command, packed

ARGUMENTS = st.one_of(st.binary(), st.text(st.characters(exclude_categories=["Cs"])), st.integers())
COMMANDS = st.lists(ARGUMENTS, min_size=1).map(tuple)


def by_another_client(command: Command) -> bytes:
    packed_command: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says a tuple of one
    return packed_command


@given(st.lists(COMMANDS, max_size=5))
def test_it_is_what_another_client_sends(commands: list[Command]) -> None:
    assert b"".join(packed(commands)) == b"".join(by_another_client(command) for command in commands)


@pytest.mark.parametrize(
    "argument", [None, 1.5, bytearray(b"x"), msgspec.Raw(b"x")], ids=["None", "float", "bytearray", "Raw"]
)
def test_what_has_no_one_way_to_be_bytes_is_refused(argument: Any) -> None:
    with pytest.raises(TypeError):
        list(packed([("XADD", argument)]))


def test_a_large_command_goes_out_in_parts() -> None:
    command: Command = ("XACK", *range(2 * PART))
    parts = list(packed([command]))
    assert len(parts) == 3
    assert b"".join(parts) == by_another_client(command)
