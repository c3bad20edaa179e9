"""The dashboard as a process, and a pipeline without processes for it to show: what they would have written."""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

from common.config import Settings
from common.keys import Route
from common.records import encode
from common.redis_queue import Offer, Position
from common.tables import ORDER_FILLED
from monitoring.stages import COMPONENTS
from tests.builders import Pipeline, make_fill, own_name, settings_for
from tests.servers import ClickHouseServer, RedisServer, Server

BEAT_TTL_S = 3600
ANSWER_LIMIT_S = 60
PASSED_ON = ("redis_host", "redis_port", "clickhouse_host", "clickhouse_port", "clickhouse_database", "key_prefix")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


class DashboardServer(Server):
    """`python -m monitoring.dashboard`."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        passed_on = {name.upper(): str(getattr(settings, name)) for name in PASSED_ON}
        mode = {"PIPELINE_MODE": settings.pipeline_mode, "LOG_TO_FILE": "false", "DASHBOARD_HOST": self.host}
        super().__init__(directory, env=passed_on | mode)
        self.use_port(self.port)

    def use_port(self, port: int) -> None:
        self.port = port
        self._env["DASHBOARD_PORT"] = str(port)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "monitoring.dashboard"]

    def answers(self) -> bool:
        try:
            return self.get("/livez").status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class QuietPipeline(Pipeline):
    """A pipeline none of whose processes run."""

    @classmethod
    def on(cls, redis: RedisServer, clickhouse: ClickHouseServer) -> Self:
        """Return an empty one with its tables and consumer groups."""
        pipeline = cls(settings_for(redis, clickhouse, own_name()))
        pipeline.make_tables()
        for stream, group in (
            (pipeline.markets, pipeline.settings.group_markets_writers),
            (pipeline.events, pipeline.settings.group_events_processors),
            (pipeline.events, pipeline.settings.group_order_events_writers),
            (pipeline.trades, pipeline.settings.group_trades_writers),
        ):
            pipeline.queue.ensure_group(Route(stream, group))
        return pipeline

    def beat(self, component: str, **fields: str) -> None:
        """A heartbeat as of now."""
        now = f"{time.time():.3f}"
        told = {"component": component, "instance": component, "state": "running", "starts": "1", "updated_at": now}
        self.queue.beat(component, told | {"started_at": now, "pid": "1", "host": "here"} | fields, BEAT_TTL_S)

    def beat_all(self) -> None:
        for component in COMPONENTS:
            self.beat(component)

    def publish(self, count: int, *, first: int = 0, faults: int = 0) -> int:
        """Fills into the stream of order events, and some faulty ones into its dead letters; returns their time."""
        now = int(time.time())
        offers = [
            Offer(f"fill-{first + i}", encode(make_fill(first + i, timestamp=now)), now) for i in range(count)
        ] + [Offer(f"fault-{first + i}", b"<script>alert(1)</script>", now, fault="not JSON") for i in range(faults)]
        self.queue.push_batch(self.events, offers, source="goldsky", position=Position(now, "0xab"), window_s=120)
        return now

    def store(self, count: int) -> int:
        """Rows into order_filled whose blocks are some seconds old; returns the blocks' time."""
        made_at = int(time.time()) - 4
        rows = b"\n".join(encode(make_fill(i, timestamp=made_at)) for i in range(count))
        self.clickhouse.batch_insert(ORDER_FILLED, rows, f"token-{made_at}")
        return made_at
