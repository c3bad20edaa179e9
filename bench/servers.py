"""The servers and processes that are measured: the embedded ones, on free ports, with the default settings."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.clickhouse import ClickHouse
from common.config import Settings
from common.redis_queue import RedisQueue
from setup_schema import setup
from tests.servers import ClickHouseServer, RedisServer

STOP_LIMIT_S = 60.0


class Bench:
    """Empty servers with the tables made, and a connection to each."""

    def __init__(self, settings: Settings, redis: RedisServer, clickhouse: ClickHouseServer, folder: Path) -> None:
        self.settings = settings
        self.folder = folder  # for scratch files
        self.redis_server = redis
        self.clickhouse_server = clickhouse
        self.queue = RedisQueue(settings)
        self.clickhouse = ClickHouse(settings)

    def count(self, table: str, what: str = "count()") -> int:
        return int(self.clickhouse.query(f"SELECT {what} FROM {self.clickhouse.database}.{table}")[0][0])

    def pids(self) -> dict[str, int]:
        """The servers' processes."""
        return {"redis": self.redis_server.pid, "clickhouse": self.clickhouse_server.pid}

    def close(self) -> None:
        self.queue.close()
        self.clickhouse.close()


@contextmanager
def servers(*redis_arguments: str, **changes: object) -> Iterator[Bench]:
    """Both servers with scratch data; `changes` are settings."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        redis_server = RedisServer(directory / "redis", *redis_arguments)
        with redis_server as redis, ClickHouseServer(directory / "clickhouse") as clickhouse:
            settings = settings_of(redis, clickhouse, changes)
            setup(settings, lambda _: None)
            bench = Bench(settings, redis, clickhouse, directory)
            try:
                yield bench
            finally:
                bench.close()


def settings_of(redis: RedisServer, clickhouse: ClickHouseServer, changes: Mapping[str, object]) -> Settings:
    where = {
        "redis_host": redis.host,
        "redis_port": redis.port,
        "clickhouse_host": clickhouse.host,
        "clickhouse_port": clickhouse.port,
    }
    return Settings(_env_file=None, **{**where, **changes})  # type: ignore[arg-type] # checked by pydantic


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment, without its own settings, with those that differ from the defaults."""
    own = {name.upper() for name in Settings.model_fields}
    told = {name.upper(): str(getattr(settings, name)) for name in settings.model_fields_set}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in own}
    return {**inherited, "LOG_TO_FILE": "false", "LOG_LEVEL": "WARNING", **told}


@contextmanager
def running(settings: Settings, modules: Sequence[str]) -> Iterator[dict[str, int]]:
    """Stages as processes of their own, ended by their ids; yields each one's process id."""
    started = {
        f"{module.rpartition('.')[2]}-{place}": subprocess.Popen(
            [sys.executable, "-m", module], env=environment(settings), cwd=Path(__file__).resolve().parent.parent
        )
        for place, module in enumerate(modules, 1)
    }
    try:
        yield {name: process.pid for name, process in started.items()}
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(STOP_LIMIT_S)
