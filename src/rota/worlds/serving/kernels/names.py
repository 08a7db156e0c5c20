"""Names of blocks: what identifies a block and all that is before it, and a map from names to numbers."""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_PREFIX_IDS,
    A_PREFIX_OFFSETS,
    BLOCK_TOKENS,
    JOBS,
    OUTPUT,
    PREFIX_ANSWERS,
    PREFIX_COUNT,
    PREFIX_TOKENS,
    PROMPT,
    TABLE_ROOM,
    job_ints,
)

NOBODY = -1


@compiler.inner
def block_hash(state, host, j, k):
    """Identity of the k-th full block of a job: from the trace where that names it, otherwise its own."""
    job = job_ints(state)
    size, known = host[BLOCK_TOKENS], state[PREFIX_TOKENS]
    named = job[PROMPT, j] + (job[OUTPUT, j] if state[PREFIX_ANSWERS] else 0)
    if known > 0 and (k + 1) * size <= named:
        offsets = ints_at(state[A_PREFIX_OFFSETS], 1, state[JOBS] + 1)[0]
        ids = ints_at(state[A_PREFIX_IDS], 1, max(state[PREFIX_COUNT], 1))[0]
        if known >= size:  # several blocks of the cache to one of the trace
            share = known // size
            position = offsets[j] + k // share
            if position < offsets[j + 1]:
                return ids[position] * share + k % share
        else:  # a block of the cache is named by the last one of the trace in it
            share = size // known
            position = offsets[j] + (k + 1) * share - 1
            if position < offsets[j + 1]:
                return ids[position]
    shares = max(1, known // size) if known > 0 else 1
    return state[PREFIX_COUNT] * shares + j * state[TABLE_ROOM] + k


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
