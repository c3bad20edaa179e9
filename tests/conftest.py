"""Fixtures that every test may use: one server of each kind for the whole run."""

from collections.abc import Iterator

import pytest

from tests.servers import ClickHouseServer, RedisServer


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
