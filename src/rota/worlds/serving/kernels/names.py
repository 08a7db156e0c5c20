"""Names of blocks: what identifies a block and all that is before it, as a number.

Numbers are dense, 0, 1, 2, ..., and blocks that follow one another in a prompt mostly have numbers that do: maps of them lie close in memory. What
the trace knows of a prompt is laid out before the run, a number for each block of the cache; a block that it does not know has a number
that no other request has.
"""

import numpy as np

from rota.kernel.compile import ints_at, small_ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import A_NAME_STARTS, A_NAMES, JOBS, PREFIX

NOBODY = -1


@compiler.inner
def names_of(state, host, j):
    """The names of a job's first blocks, which the trace knows, and what to add to the number of a later one to get its own name."""
    row = 2 * (host[PREFIX] - 1)
    starts = ints_at(state[A_NAME_STARTS], row + 2, state[JOBS] + 1)
    first = starts[row, j]
    return small_ints_at(state[A_NAMES] + 4 * first, 1, starts[row, j + 1] - first)[0], starts[row + 1, j]


@compiler.inlined
def name_of(names, own, k):
    """The name of the k-th full block of a job."""
    return np.int64(names[k]) if k < len(names) else own + k


@compiler.njit
def fill_names(offsets, ids, known, size, starts, names):
    """Lay the names of all jobs out for blocks of `size` tokens, where the trace has an id for each `known` tokens."""
    share = known // size if known >= size else size // known
    for j in range(len(offsets) - 1):
        first, at, end = offsets[j], starts[j], starts[j + 1]
        if share == 1:
            for k in range(end - at):
                names[at + k] = ids[first + k]
        elif known < size:  # a block of the cache is named by the last one of the trace in it
            for k in range(end - at):
                names[at + k] = ids[first + (k + 1) * share - 1]
        else:  # several blocks of the cache to one of the trace
            for k in range(end - at):
                names[at + k] = ids[first + k // share] * share + k % share
