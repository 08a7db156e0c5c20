"""Random draws that are keyed, not consumed: (seed, stream, entity, ordinal) always gives the same number.

In a closed loop the order of calls depends on the policy. A draw that depended on the order of calls would give every policy
its own luck; a keyed draw gives all of them the same.
"""

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

FloatColumn = npt.NDArray[np.float64]

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # SplitMix64, Steele et al. 2014
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_key(seed: int, stream: str) -> int:
    """A 64-bit number for a named stream of a seed. Independent of Python's hash seed."""
    return int.from_bytes(blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")


def generator(seed: int, stream: str) -> np.random.Generator:
    """A NumPy generator for a named stream ("arrivals", "sizes", "policy/route", ...) of a seed."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(stream_key(seed, stream))))


def uniform(seed: int, stream: str, entity: npt.ArrayLike, ordinal: npt.ArrayLike = 0) -> FloatColumn:
    """Numbers in (0, 1), one for each (entity, ordinal); both are broadcast.

    A counter through the SplitMix64 finaliser, so any draw is had without the ones before it.
    """
    with np.errstate(over="ignore"):  # wrapping is what the arithmetic is about
        entities = np.asarray(entity, dtype=np.int64).astype(np.uint64)
        ordinals = np.asarray(ordinal, dtype=np.int64).astype(np.uint64)
        mixed = _mix(np.uint64(stream_key(seed, stream)) + _GOLDEN * (entities + np.uint64(1)))
        mixed = _mix(mixed + _GOLDEN * (ordinals + np.uint64(1)))
    return np.asarray(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _mix(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))


def exponential(seed: int, stream: str, entity: npt.ArrayLike, ordinal: npt.ArrayLike = 0) -> FloatColumn:
    """Exponential draws of mean 1, keyed like `uniform`."""
    return np.asarray(-np.log(uniform(seed, stream, entity, ordinal)))


def normal(seed: int, stream: str, entity: npt.ArrayLike, ordinal: npt.ArrayLike = 0) -> FloatColumn:
    """Standard normal draws, keyed like `uniform` (Box and Muller 1958, from two ordinals)."""
    ordinals = np.asarray(ordinal, dtype=np.int64)
    radius = np.sqrt(-2.0 * np.log(uniform(seed, stream, entity, 2 * ordinals)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(seed, stream, entity, 2 * ordinals + 1)))
