"""`python -m simulator`: the simulated upstream as one process."""

import argparse
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from simulator import chain
from simulator.app import RPC_RANGE_LIMIT, create_app
from simulator.standing import MOST_MARKETS
from simulator.world import Settings, World

_OCCUPIED = 2
_DRAIN_S = 1
_NEVER = 2**32 - 2  # Unix seconds, beyond all data


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code: 0, or 2 where it cannot start."""
    options = _parser().parse_args(arguments)
    try:
        settings = settle(_settings(options), options.state_file)
    except ValueError as error:
        print(f"{options.state_file}: {error}", file=sys.stderr)  # noqa: T201 - a command talks to its caller
        return _OCCUPIED
    if options.settle:
        print(cutover_settings(settings))  # noqa: T201
        return 0
    listener = _listen(options.host, options.port)
    if isinstance(listener, str):
        print(listener, file=sys.stderr)  # noqa: T201
        return _OCCUPIED
    _announce(f"http://{options.host}:{listener.getsockname()[1]}", settings)
    world = World(settings)
    app = create_app(
        world,
        rate_limits=options.rate_limits,
        rpc_range_limit=options.rpc_range_limit,
        answer_delay_s=options.answer_delay_s,
        goldsky_api_key=options.goldsky_api_key,
    )
    return _serve(app, listener)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=".venv/bin/python3 -m simulator", description=__doc__)
    defaults = Settings()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8900, help="0: any free one")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--state-file", type=Path, help="keeps what determines the data, so that a restart serves the same"
    )
    parser.add_argument("--history-hours", type=float, default=defaults.history_hours)
    parser.add_argument("--history-rate", type=float, default=defaults.history_rate, help="fills a second before birth")
    parser.add_argument("--live-rate", type=float, default=defaults.live_rate, help="fills a second from birth on")
    parser.add_argument(
        "--markets",
        type=_market_count,
        default=defaults.markets,
        help=f"standing markets, to {MOST_MARKETS:,}",
    )
    parser.add_argument(
        "--open-markets", type=int, default=None, help="so many of them stay open at most; by default three in four"
    )
    parser.add_argument(
        "--cutover",
        type=parse_cutover,
        default=None,
        help="none, ISO time, Unix seconds, or =-600s before birth; there Goldsky ends and the later exchanges begin",
    )
    parser.add_argument(
        "--rpc-range-limit", type=int, default=RPC_RANGE_LIMIT, help="blocks that a request of /polygon may span"
    )
    parser.add_argument(
        "--answer-delay-s", type=float, default=0.0, help="seconds until each answer, as over a network; they overlap"
    )
    parser.add_argument("--goldsky-api-key", help="a bearer token that the subgraphs ask for; by default none")
    parser.add_argument(
        "--settle", action="store_true", help="only settle the data and print the pipeline's settings for its cut-over"
    )
    parser.add_argument("--rate-limits", action=argparse.BooleanOptionalAction, default=True)
    return parser


def _market_count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= MOST_MARKETS:
        raise argparse.ArgumentTypeError(f"expected 0 to {MOST_MARKETS}, got {count}")
    return count


def parse_cutover(text: str) -> int | None:
    """none → None, digits → Unix seconds, -600s → -600, else an ISO time (UTC where it names no zone)."""
    if text == "none":
        return None
    if text.startswith("-") and text.endswith("s"):
        return -int(text[1:-1])
    if text.isdecimal():
        return int(text)
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _settings(options: argparse.Namespace) -> Settings:
    birth = chain.time_of(chain.block_at(time.time()))
    is_relative = options.cutover is not None and options.cutover < 0
    return Settings(
        seed=options.seed,
        birth=birth,
        history_hours=options.history_hours,
        history_rate=options.history_rate,
        live_rate=options.live_rate,
        markets=options.markets,
        open_markets=options.open_markets,
        cutover=birth + options.cutover if is_relative else options.cutover,
    )


def settle(wanted: Settings, state_file: Path | None) -> Settings:
    """The settings that the file kept, else the wanted ones, which it keeps from now on.

    ValueError: the file is none of ours; name another or remove it.
    """
    if state_file is None:
        return wanted
    try:
        kept = json.loads(state_file.read_text())
    except FileNotFoundError:
        _keep(wanted, state_file)
        return wanted
    try:
        return Settings(**kept)
    except TypeError as error:
        raise ValueError(f"not a state of the simulator: {error}") from None


def _keep(settings: Settings, state_file: Path) -> None:
    state_file.parent.mkdir(parents=True, exist_ok=True)
    draft = state_file.with_name(f"{state_file.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(settings)))
    draft.replace(state_file)


def cutover_settings(settings: Settings) -> str:
    """Assignments of the pipeline's settings that separate its two sources of fills where this data set does."""
    moment = _NEVER if settings.cutover is None else settings.cutover
    block = chain.first_block_at(moment)
    return f"CUTOVER_BLOCK={block}\nCUTOVER_TIMESTAMP={chain.time_of(block)}"


def _listen(host: str, port: int) -> socket.socket | str:
    """A listening socket, or what stands against it."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        return (
            f"{host}:{port}: cannot listen, another server answers there or the address is not ours ({error.strerror})"
        )
    return listener


def _announce(url: str, settings: Settings) -> None:
    born = datetime.fromtimestamp(settings.birth, UTC)
    lines = (
        f"Simulated upstream, seed {settings.seed}, born {born:%Y-%m-%dT%H:%M:%SZ}",
        f"  page     {url}/",
        f"  Gamma    {url}/gamma",
        f"  Goldsky  {url}/goldsky (/goldsky-v2 for the later exchanges)",
        f"  Polygon  {url}/polygon",
        f"  truth    {url}/truth/fills?count=1",
    )
    print("\n".join(lines), flush=True)  # noqa: T201


def _serve(app: FastAPI, listener: socket.socket) -> int:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    # uvicorn stops on these signals and then raises them once more, for whoever had them before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
