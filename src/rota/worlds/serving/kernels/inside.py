"""What goes on inside a replica beyond the plain batcher: where the numbers of such mechanisms lie, and how the batcher finds them.

`INSIDE` among a host's integers says as bits which act there; a run without them looks at one bit and goes on. Each mechanism has a kernel file of
its own, reached through an address that is kept here, so that what is not used is not compiled.
"""

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_INSIDE,
    A_INSIDE_FLOATS,
    A_PREFILLS,
    CHUNK,
    HOSTS,
    PREFILL_COUNT,
    RUNNING_ROOM,
    host_ints,
    job_ints,
)

GATED, OBSERVED, TIMED, PACKED, CHECKED, LAYERED = (1 << bit for bit in range(6))
# GATED: admission asks GATE_ENTRY. OBSERVED: finished requests are told to OBSERVE_ENTRY. TIMED: an iteration's seconds come from TIME_ENTRY.
# PACKED: PICK_ENTRY says who is admitted next. CHECKED: CHECK_ENTRY looks at what runs before each iteration. LAYERED: see layers.py.

# A host's integers of these mechanisms.
(
    GATE_ENTRY, OBSERVE_ENTRY, TIME_ENTRY, PICK_ENTRY, CHECK_ENTRY, LAYER_ENTRY, CAPACITY, ESTIMATE, WINDOW, LIMIT,
    KEY, HISTORY, HISTORY_COUNT, HISTORY_NEXT, SCRATCH, RESERVED, LAYER_TOKENS, LAYERS, GROUPS, GROUP,
    INSIDE_INTS,
) = range(21)  # fmt: skip
# CAPACITY: tokens that the gate may fill. HISTORY, SCRATCH, RESERVED: addresses of arrays. GROUPS: layer groups of the wave under way, GROUP: those done.

# A host's floats of these mechanisms.
QUANTILE, MOVING_LENGTH, INSIDE_FLOATS = range(3)


@compiler.inner
def inside(state, r):
    """The integers of a host."""
    return ints_at(state[A_INSIDE], state[HOSTS], INSIDE_INTS)[r]


@compiler.inner
def inside_floats(state, r):
    """The floats of a host."""
    return floats_at(state[A_INSIDE_FLOATS], state[HOSTS], INSIDE_FLOATS)[r]


@compiler.inner
def wave_under_way(state, r):
    """Layered prefill: whether prompts are between two of their layer groups, so that none can join them."""
    own = inside(state, r)
    if own[GROUP] == 0:
        return False
    job = job_ints(state)
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host_ints(state)[r, PREFILL_COUNT]):
        if job[CHUNK, prefills[position]] > 0:
            return True
    own[GROUP] = 0  # all of it was displaced
    return False
