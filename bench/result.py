"""What a benchmark ends with: one line of JSON."""

import argparse
import json
from collections.abc import Sequence
from typing import NamedTuple


class Result(NamedTuple):
    """A figure, and the floor that this machine allows."""

    name: str
    value: float
    unit: str
    floor: float  # the same measured with the barest means, in the same run
    goal: float
    lower_is_better: bool

    def line(self) -> str:
        reached = self.value <= self.goal if self.lower_is_better else self.value >= self.goal
        told = {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "floor": round(self.floor, 3),
            "ratio": round(self.value / self.floor, 2),
            "goal": self.goal,
            "reached": reached,
        }
        return json.dumps(told)


def options(name: str, arguments: Sequence[str], **numbers: int) -> argparse.Namespace:
    """A benchmark's own options, whole numbers with a default each."""
    parser = argparse.ArgumentParser(prog=f".venv/bin/python3 -m bench {name}")
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default:,}")
    return parser.parse_args(list(arguments))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header, numbers to the right."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        name, *numbers = row
        print(name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - a readable width
    return f"{value:,}" if isinstance(value, int) else str(value)
