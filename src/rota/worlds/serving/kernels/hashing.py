"""A map from names to numbers: open addressing, without tombstones. For sets of names of any size, see `pages` for those of a cache's own blocks."""

import numpy as np

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.names import NOBODY


@compiler.inner
def home(key, room):
    return (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & np.uint64(room - 1)


@compiler.inner
def find(keys, key):
    """Position of a key in the map, or of the empty place where it belongs."""
    room = len(keys)
    position = np.int64(home(key, room))
    while keys[position] != NOBODY and keys[position] != key:
        position = (position + 1) & (room - 1)
    return position


@compiler.inner
def forget(keys, values, key):
    """Delete a key; those behind it move up, so that no tombstones are needed."""
    room = len(keys)
    hole = find(keys, key)
    position = hole
    while True:
        position = (position + 1) & (room - 1)
        if keys[position] == NOBODY:
            break
        wanted = np.int64(home(keys[position], room))
        if ((position - wanted) & (room - 1)) >= ((position - hole) & (room - 1)):
            keys[hole], values[hole] = keys[position], values[position]
            hole = position
    keys[hole] = NOBODY
