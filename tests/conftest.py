"""Fixtures that every test may use: one server of each kind for the whole run."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import ClickHouseServer, RedisServer

# The same examples in every run, and no failure because a machine is busy. For new ones: --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Exempt what pytest itself holds from garbage collection, which stages run after each failure: 0.2 s otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a Redis that all tests share: use your own keys, or FLUSHALL before you start."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """Return a ClickHouse that all tests share: use a database of your own."""
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server
