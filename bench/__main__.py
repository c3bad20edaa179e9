"""`python3 -m bench` runs every benchmark, `python3 -m bench NAME` one. The last line of each is one JSON object.

`python3 -m bench NAME --help` shows a benchmark's options, `python3 -m bench profile NAME` where its time goes. Exit
status: 0 all ran, 1 one of them failed, 2 there is no such benchmark or option, or a package is missing.
"""

import importlib
import sys
from pathlib import Path

BENCHMARKS = (
    "publish",
    "process",
    "write",
    "pipeline",
    "ingest",
    "backfill",
    "markets",
    "latency",
    "memory",
    "storage",
    "query",
    "scale",
    "dashboard",
    "costs",
)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["profile"]:
        return int(importlib.import_module("bench.profile").main(arguments[1:]))
    name, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("-h", "--help") or (name and name not in BENCHMARKS):
        print(f"{__doc__}\nThere are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    for each in [name] if name else BENCHMARKS:
        print(f"--- {each}", file=sys.stderr, flush=True)
        print(importlib.import_module(f"bench.{each}").run(options).line(), flush=True)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except ModuleNotFoundError as error:
        if (Path(__file__).parents[1] / str(error.name).split(".", 1)[0]).exists():
            raise  # one of our own
        print(f"bench: {error}. What it needs is in .venv, which ./test.sh makes:", file=sys.stderr)
        print(" ".join([".venv/bin/python -m bench", *sys.argv[1:]]), file=sys.stderr)
        raise SystemExit(2) from None
