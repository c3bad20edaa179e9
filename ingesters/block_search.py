"""The first block of a moment or later, found by halving the range that it lies in. Pure."""

from typing import NamedTuple


class Search(NamedTuple):
    """The block looked for lies from `low` to `high`, both included."""

    moment: int  # Unix seconds
    low: int
    high: int

    @property
    def probe(self) -> int:
        """The block whose time narrows the search."""
        return (self.low + self.high) // 2

    @property
    def found(self) -> int | None:
        return self.low if self.low >= self.high else None

    def narrowed(self, probe_time: int) -> "Search":
        """The search once the time of `probe` is known. Times never fall from block to block."""
        if probe_time >= self.moment:
            return self._replace(high=self.probe)
        return self._replace(low=self.probe + 1)
