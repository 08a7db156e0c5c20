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

GATED, OBSERVED, TIMED, PACKED, CHECKED, LAYERED, STREAMED, SPECULATIVE = (1 << bit for bit in range(8))
PARKS = 1 << 8
# GATED: admission asks GATE_ENTRY. OBSERVED: finished requests are told to OBSERVE_ENTRY. TIMED: an iteration's seconds come from TIME_ENTRY.
# PACKED: PICK_ENTRY says who is admitted next. CHECKED: CHECK_ENTRY looks at what runs before each iteration. LAYERED: see layers.py.
# STREAMED: prompts and decodes have iterations of their own, see streams.py. SPECULATIVE: ACCEPT_ENTRY gives decodes more tokens.
# PARKS: COME_ENTRY is told of who comes while it is busy, see parking.py.

# A host's integers of these mechanisms.
(
    GATE_ENTRY, OBSERVE_ENTRY, TIME_ENTRY, PICK_ENTRY, CHECK_ENTRY, LAYER_ENTRY, CAPACITY, ESTIMATE, WINDOW, LIMIT,
    KEY, HISTORY, HISTORY_COUNT, HISTORY_NEXT, SCRATCH, RESERVED, LAYER_TOKENS, LAYERS, GROUPS, GROUP,
    HOST_BEGIN, HOST_COMPLETE, PROMPTS_RUN, ACCEPT_ENTRY, DRAFT_ENTRY, DRAFT_PARAMETERS, DRAFT_TOKENS,
    OFF_ABOVE, SPECULATES, LOOKAHEAD, SPECULATIVE_KEY, COME_ENTRY, MARKS, TOGETHER, URGENT_NOW, CUT, PARKED_NOW,
    PARKS_COUNT, ASKED, INSIDE_INTS,
) = range(40)  # fmt: skip
# CAPACITY: tokens that the gate may fill. HISTORY, SCRATCH, RESERVED: addresses of arrays. GROUPS: layer groups of the wave under way, GROUP: those done.
# PROMPTS_RUN: an iteration of prompts is under way in a stream of its own; the decodes' is under way while DECODING_NOW.
# HOST_BEGIN, HOST_COMPLETE: where some hosts have streams, how each begins and ends an iteration.
# MARKS: address of a mark a job. TOGETHER: urgent decodes go with the others. URGENT_NOW: the iteration is of urgent jobs. CUT: it ends at the next layer;
# PARKED_NOW: one is parked.
# SPECULATES: the iteration under way has a draft, LOOKAHEAD: blocks that are kept free for it.

# A host's floats of these mechanisms.
(
    QUANTILE, MOVING_LENGTH, SHARE, PROMPT_SCALE, DECODE_SCALE, CONTENTION, PROMPTS_END, DECODES_BEGAN, DECODES_END,
    CONTROL_SECONDS, CONTROL_FROM, TTFT_LIMIT, TPOT_LIMIT, TTFT_SUM, TTFT_COUNT, TPOT_SUM, TPOT_COUNT, LEAST_SHARE,
    ACCEPTANCE, DRAFT_COST, EXPECTED_TOKENS, FULL_END, LEFT_SECONDS, LAYER_SECONDS, LAYERS_FROM, SWITCH_SECONDS,
    INSIDE_FLOATS,
) = range(27)  # fmt: skip
# SHARE: of the compute that prompts have. *_SCALE: how much of an iteration's time is in inverse proportion to the share.
# CONTROL_SECONDS: 0: the share is fixed.
# FULL_END: of an iteration that is cut; LEFT_SECONDS: of the one that is parked; LAYERS_FROM: where its layers begin, SWITCH_SECONDS: to park or to go on.


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
    """Whether prompts are between two of their layer groups, or in a stream of their own: what they compute is settled, and none can join them."""
    own = inside(state, r)
    if own[GROUP] == 0:
        return own[PROMPTS_RUN] != 0
    job = job_ints(state)
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host_ints(state)[r, PREFILL_COUNT]):
        if job[CHUNK, prefills[position]] > 0:
            return True
    own[GROUP] = 0  # all of it was displaced
    return False
