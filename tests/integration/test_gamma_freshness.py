"""How fresh Gamma is, as the ingester of markets tells it: its last complete answer stands for its head."""

import threading
import time

import pytest

from common.errors import Unavailable
from ingesters.polymarket_ingester import build
from tests.integration.ingesting import Asked, Reply, as_json, context_for, run_until, upstream
from tests.integration.test_polymarket_ingester import run_into
from tests.servers import RedisServer


def test_gamma_without_a_good_answer_is_unreachable_and_one_that_answers_again_is_not(
    redis_server: RedisServer,
) -> None:
    replies = [Reply(b"busy", 503)]
    now = [time.time()]

    def answer(request: Asked) -> Reply:
        return replies[0] if replies else as_json({"markets": []} if "keyset" in request.path else [])

    with upstream(answer) as url:
        context = context_for(redis_server, polymarket_api_url=url)
        stage = build(context, lambda: now[0])
        with pytest.raises(Unavailable):
            run_into(stage)
        report = stage.report()
        assert report["source_state"] == "unreachable"
        assert str(report["source_reason"]).endswith("answers 503")
        assert report["head_at"] == report["lag_s"] == ""
        replies.clear()
        run_until(stage, lambda: stage.report()["source_state"] != "unreachable", "it answers")
        run_until(stage, lambda: stage.report()["source_state"] == "idle", "all markets are read")
        assert stage.report()["head_at"] == int(now[0])
        now[0] += 7
        assert float(stage.report()["lag_s"]) == 7


def test_gamma_that_hangs_is_cut_off_and_unreachable(redis_server: RedisServer) -> None:
    release = threading.Event()

    def answer(_: Asked) -> Reply:
        release.wait(60)
        return as_json([])

    with upstream(answer) as url:
        stage = build(context_for(redis_server, polymarket_api_url=url, http_read_timeout_s=0.2))
        with pytest.raises(Unavailable, match=r"silent for 0\.2 s"):
            run_into(stage)
        release.set()
        assert stage.report()["source_state"] == "unreachable"
