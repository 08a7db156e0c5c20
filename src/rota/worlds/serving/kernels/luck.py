"""Keyed draws inside kernels: the same numbers as `rota.kernel.streams.uniform` for the same key."""

import numpy as np

from rota.worlds.serving.kernels import compiler

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # SplitMix64, Steele et al. 2014
_30, _27, _31, _11, _1 = (np.uint64(number) for number in (30, 27, 31, 11, 1))


@compiler.inner
def mix(number):
    number = (number ^ (number >> _30)) * _FIRST
    number = (number ^ (number >> _27)) * _SECOND
    return number ^ (number >> _31)


@compiler.inner
def uniform(key, entity, ordinal):
    """A number in (0, 1) for (entity, ordinal) of the stream whose 64-bit key is given as int64."""
    mixed = mix(np.uint64(key) + _GOLDEN * (np.uint64(entity) + _1))
    mixed = mix(mixed + _GOLDEN * (np.uint64(ordinal) + _1))
    return (np.float64(mixed >> _11) + 0.5) * 2.0**-53
