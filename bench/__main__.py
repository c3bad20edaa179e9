"""`python3 -m bench` runs every benchmark, `python3 -m bench NAME` one. The last line of each is one JSON object."""

import importlib
import sys

BENCHMARKS = ("latency",)


def main(arguments: list[str]) -> int:
    names = arguments or list(BENCHMARKS)
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names:
        print(importlib.import_module(f"bench.{name}").run().line())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
