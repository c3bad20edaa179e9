"""Fixtures of these tests."""

from collections.abc import Iterator

import pytest

from common.config import Settings
from tests.builders import Pipeline
from tests.integration.backfilling import settings_of
from tests.pipelines import _short_blocks, pipeline, pipeline_settings, queue, queue_settings
from tests.servers import ClickHouseServer
from tests.simulator import SimulatorServer

__all__ = ["_short_blocks", "pipeline", "pipeline_settings", "queue", "queue_settings"]


@pytest.fixture(scope="session")
def unrestricted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """Return a ClickHouse whose operator has lifted the limits: statements may read URLs and files."""
    directory = tmp_path_factory.mktemp("unrestricted")
    with ClickHouseServer(directory, env={"CLICKHOUSE_UNRESTRICTED": "true"}) as server:
        yield server


@pytest.fixture
def simulator(shared: SimulatorServer) -> Iterator[SimulatorServer]:
    """The one that the tests of a module share, as each test finds it: growing, without faults."""
    yield shared
    shared.clear_faults()
    shared.resume()


@pytest.fixture
def span(simulator: SimulatorServer) -> tuple[int, int]:
    """The whole history, for a backfill; a cut-over lies within it."""
    health = simulator.get_json("/health")
    return health["history_start"], health["birth"]


@pytest.fixture
def own(pipeline: Pipeline, simulator: SimulatorServer) -> Settings:
    """Of the pipeline, for a backfill from the simulator."""
    return settings_of(pipeline.settings, simulator)
