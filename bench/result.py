"""What a benchmark ends with: one line of JSON."""

import json
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
