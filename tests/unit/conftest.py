"""Unit tests are pure: a network socket in one of them is a mistake."""

from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def _no_sockets() -> Iterator[None]:
    disable_socket(allow_unix_socket=True)  # an event loop talks to itself through a socket pair
    yield
    enable_socket()
