"""Questions about running parts, for scripts and health checks: an exit code and one line of text each.

    python -m common.probe settings               shell assignments of what start.sh needs to know
    python -m common.probe redis [--wait S]       does a Redis-protocol server answer at REDIS_HOST:REDIS_PORT
    python -m common.probe clickhouse [--wait S]  does ClickHouse answer at CLICKHOUSE_HOST:CLICKHOUSE_PORT
    python -m common.probe http URL [--wait S]    does URL answer 200
    python -m common.probe health [--wait S]      what the dashboard says of the whole pipeline
    python -m common.probe heartbeat COMPONENT    has COMPONENT on this host shown a sign of life lately
    python -m common.probe free HOST PORT         is the port free to listen on

Exit codes: 0 yes, 1 no, 2 wrong configuration, 3 no, because something else listens there, 4 the pipeline works, but
none of its sources brings fills, 5 not yet: the server is loading its data, 6 no: the server reports a fault of its
own. With --wait, a server that is loading is waited for, up to ten minutes.
"""

import argparse
import http.client
import json
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from common.config import Settings, doubtful_names, load_settings
from common.errors import ConfigError, PipelineError
from common.redis_queue import RedisQueue

YES, NO, WRONG_CONFIGURATION, TAKEN, WITHOUT_SOURCES, LOADING, FAULTY = range(7)
ANSWER_LIMIT_S = 3.0
RETRY_S = 0.3
REPLY_LIMIT = 4096  # bytes; an error may name a path and a command
LOADING_LIMIT_S = 600.0  # some 70 GB of append-only file; a minute of demo takes seconds
# What a Redis-protocol server that is ready may reply to PING, even if it requires a password.
REDIS_READY = (b"+PONG", b"-NOAUTH", b"-DENIED", b"-MASTERDOWN")
SHELL_SETTINGS = (
    "redis_host",
    "redis_port",
    "redis_password",
    "clickhouse_host",
    "clickhouse_port",
    "clickhouse_database",
    "clickhouse_user",
    "clickhouse_password",
    "clickhouse_unrestricted",
    "clickhouse_allowed_hosts",
    "dashboard_host",
    "dashboard_port",
    "log_dir",
)


class Answer(NamedTuple):
    """Exit code and what to print."""

    code: int
    text: str


def settings_for_shell(settings: Settings) -> str:
    """`NAME='value'` lines for eval. Contains passwords: for a variable, never for a screen or a log."""
    return "\n".join(f"{name.upper()}={shlex.quote(_plain(getattr(settings, name)))}" for name in SHELL_SETTINGS)


def _plain(value: object) -> str:
    secret = getattr(value, "get_secret_value", None)
    text = secret() if secret else value
    return "" if text is None else str(text)


def ask_redis(host: str, port: int) -> Answer:
    """Whether a Redis-protocol server is ready, with or without a password; one that is loading its data is not."""
    return _ask_listener(host, port, "Redis", lambda: _ping_redis(host, port))


def ask_clickhouse(host: str, port: int) -> Answer:
    """Whether ClickHouse's HTTP interface answers."""
    return _ask_listener(host, port, "ClickHouse", lambda: _ping_clickhouse(host, port))


def _ask_listener(host: str, port: int, what: str, ping: Callable[[], Answer | None]) -> Answer:
    """The answer of `ping`, which returns None when the listener is something else."""
    where = f"{host}:{port}"
    try:
        socket.create_connection((host, port), timeout=ANSWER_LIMIT_S).close()
    except OSError as error:
        return Answer(NO, f"nothing answers at {where}: {error}")
    try:
        answer = ping()
    except (OSError, http.client.HTTPException) as error:
        return Answer(TAKEN, f"{where} is in use by something that does not answer like {what}: {error!r}")
    return answer or Answer(TAKEN, f"{where} is in use by something that is not {what}")


def _ping_redis(host: str, port: int) -> Answer | None:
    with socket.create_connection((host, port), timeout=ANSWER_LIMIT_S) as connection:
        connection.sendall(b"PING\r\n")
        with connection.makefile("rb") as replies:
            reply = replies.readline(REPLY_LIMIT)
    where = f"Redis at {host}:{port}"
    if reply.startswith(REDIS_READY):
        return Answer(YES, f"Redis answers at {host}:{port}")
    if reply.startswith(b"-LOADING"):
        return Answer(LOADING, f"{where} is loading its data")
    if reply.startswith(b"-MISCONF"):
        return Answer(FAULTY, f"{where}: {reply[1:].decode(errors='replace').strip()}")
    return None


def _ping_clickhouse(host: str, port: int) -> Answer | None:
    is_ready = get(f"http://{host}:{port}/ping") == (http.HTTPStatus.OK, b"Ok.\n")
    return Answer(YES, f"ClickHouse answers at {host}:{port}") if is_ready else None


def ask_http(url: str) -> Answer:
    """Whether a URL answers 200."""
    try:
        status, _ = get(url)
    except (OSError, http.client.HTTPException) as error:
        return Answer(NO, f"{url} does not answer: {error}")
    return Answer(YES if status == http.HTTPStatus.OK else NO, f"{url} answers {status}")


def ask_health(url: str) -> Answer:
    """The dashboard's verdict with its reasons: ok and degraded are yes; broken is no, unless by its sources alone."""
    try:
        status, body = get(url)
        health = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(NO, f"the dashboard does not answer at {url}: {error}")
    lines = [str(health.get("status")), *map(str, health.get("reasons", []))]
    broken = WITHOUT_SOURCES if health.get("pipeline") in {"ok", "degraded"} else NO
    return Answer(YES if status == http.HTTPStatus.OK else broken, "\n  ".join(lines))


def get(url: str) -> tuple[int, bytes]:
    """Status and body of a URL, directly: proxies are for the sources, not for one's own servers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask_free(host: str, port: int) -> Answer:
    """Whether the port can be listened on."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        return Answer(TAKEN, f"{host}:{port} can't be listened on: {error}")
    return Answer(YES, f"{host}:{port} is free")


def judge_heartbeat(
    heartbeats: list[dict[str, str]], component: str, host: str, now: float, stale_after_s: float
) -> Answer:
    """Whether an instance of `component` on `host` has refreshed its heartbeat lately."""
    ages = [now - float(beat["updated_at"]) for beat in heartbeats if _is_running(beat, component, host)]
    if not ages:
        return Answer(NO, f"{component} on {host}: no heartbeat")
    return Answer(YES if min(ages) <= stale_after_s else NO, f"{component} on {host}: heartbeat {min(ages):.0f} s old")


def _is_running(beat: Mapping[str, str], component: str, host: str) -> bool:
    return (beat.get("component"), beat.get("host")) == (component, host) and beat.get("state") != "stopped"


def ask_heartbeat(settings: Settings, component: str) -> Answer:
    queue = RedisQueue(settings)
    try:
        heartbeats = queue.heartbeats()
    except PipelineError as error:
        return Answer(NO, f"{component}: {error}")
    finally:
        queue.close()
    return judge_heartbeat(heartbeats, component, socket.gethostname(), time.time(), settings.stale_after_s)


def wait_for(
    question: Callable[[], Answer],
    limit_s: float,
    loading_limit_s: float = LOADING_LIMIT_S,
    *,
    report: Callable[[str], object] = sys.stderr.write,
) -> Answer:
    """The first yes, or the last answer within the limit. A port that something else holds is not waited for.

    A server that is loading its data is waited for up to `loading_limit_s`; one line reports it.
    """
    started = loading_at = time.monotonic()
    has_loaded = False
    # A server may be restarted while it is loading, and break off an answer.
    while (answer := question()).code in {NO, LOADING} or (has_loaded and answer.code == TAKEN):
        now = time.monotonic()
        loading = answer.code == LOADING
        loading_at = now if loading else loading_at
        if now >= (started + loading_limit_s if loading else loading_at + limit_s):
            break
        if loading and not has_loaded:
            report(f"{answer.text}; waiting for it\n")
            has_loaded = True
        time.sleep(RETRY_S)
    return answer


def wait_while_loading(settings: Settings) -> None:
    """Return once Redis is no longer loading its data; at once if it is ready, away or something else."""
    wait_for(lambda: ask_redis(settings.redis_host, settings.redis_port), limit_s=0.0)


def questions(settings: Settings, arguments: argparse.Namespace) -> dict[str, Callable[[], Answer]]:
    where, port = _pair(arguments.subject)
    dashboard = f"http://{_reachable(settings.dashboard_host)}:{settings.dashboard_port}/health"
    return {
        "settings": lambda: Answer(YES, settings_for_shell(settings)),
        "redis": lambda: ask_redis(settings.redis_host, settings.redis_port),
        "clickhouse": lambda: ask_clickhouse(settings.clickhouse_host, settings.clickhouse_port),
        "http": lambda: ask_http(where),
        "health": lambda: ask_health(dashboard),
        "heartbeat": lambda: ask_heartbeat(settings, where),
        "free": lambda: ask_free(where, int(port)),
    }


def _pair(subject: list[str]) -> tuple[str, str]:
    first, second, *_ = [*subject, "", ""]
    return first, second


def _reachable(listening_host: str) -> str:
    """An address to ask: a server that listens everywhere is asked on loopback."""
    return "127.0.0.1" if listening_host in {"", "0.0.0.0", "::"} else listening_host  # noqa: S104 - only compared


def main() -> int:
    """Answer the question of the command line."""
    parser = argparse.ArgumentParser(prog="common.probe", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", choices=["settings", "redis", "clickhouse", "http", "health", "heartbeat", "free"])
    parser.add_argument("subject", nargs="*", help="URL, component, or host and port")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="seconds to wait for a yes")
    arguments = parser.parse_args()
    try:
        question = questions(load_settings(), arguments)[arguments.question]
        if arguments.question == "settings":
            for warning in doubtful_names():
                print(warning, file=sys.stderr)  # noqa: T201 - stdout is evaluated by start.sh
        answer = wait_for(question, arguments.wait, LOADING_LIMIT_S if arguments.wait else 0.0)
    except ConfigError as error:
        answer = Answer(WRONG_CONFIGURATION, str(error))
    print(answer.text, file=sys.stdout if answer.code in {YES, WITHOUT_SOURCES} else sys.stderr)
    return answer.code


if __name__ == "__main__":
    raise SystemExit(main())
