"""Chance that repeats: numbers which depend on their arguments alone, so that nothing has to be kept."""

import random
from functools import lru_cache
from hashlib import blake2b

_MASK = (1 << 64) - 1
_UNIT = 1 / (1 << 53)


def mix(*parts: int) -> int:
    """64 well-mixed bits of the parts and their order (the finaliser of SplitMix64, once a part)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + part * 0x9E3779B97F4A7C15 + 1) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def unit(*parts: int) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return (mix(*parts) >> 11) * _UNIT


def digest(*parts: int | str, size: int = 32) -> int:
    """`size` bytes as an unsigned integer; wide enough for hashes, addresses and token ids."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=size).digest(), "big")


def hex_digest(*parts: int | str, size: int = 32) -> str:
    return f"0x{digest(*parts, size=size):0{2 * size}x}"


def generator(*parts: int) -> random.Random:
    """A generator of its own for the thing that the parts name."""
    return random.Random(mix(*parts))


@lru_cache(maxsize=16_384)
def _knot(seed: int, thing: int, period_s: int, step: int) -> float:
    return unit(seed, thing, period_s, step) * 2 - 1


def drift(seed: int, thing: int, time_s: int) -> float:
    """A slow random walk in [-1, 1] that can be read at any time: three octaves of interpolated noise."""
    total = 0.0
    for period_s, weight in ((3600, 0.6), (300, 0.3), (30, 0.1)):
        step, rest = divmod(time_s, period_s)
        share = rest / period_s
        total += weight * (
            _knot(seed, thing, period_s, step) * (1 - share) + _knot(seed, thing, period_s, step + 1) * share
        )
    return total
