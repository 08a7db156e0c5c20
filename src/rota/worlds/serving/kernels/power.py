"""What an iteration draws, and how long it takes at the clock that its host has: see `rota.worlds.serving.power_model`, which says the same in Python."""

import numpy as np

from rota.kernel.compile import floats_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import touch
from rota.worlds.serving.kernels.layout import (
    A_FEATURES,
    A_POWER,
    COMPUTE_SECONDS,
    ENDS_AT,
    F_DECODE_CONTEXT,
    F_DECODES,
    FEATURES,
    FULL_SECONDS,
    HOSTS,
    JOULES,
    NOW,
    PREFILL_PAIRS,
    PREFILL_TOKENS,
    STALL,
    WATTS,
    host_floats,
    whole_state,
)
from rota.worlds.serving.power_model import (
    BUSY,
    CAP,
    CLOCK,
    COMPUTE,
    CONTEXT_SECONDS,
    DENSE_SECONDS,
    EXPERT_SECONDS,
    EXPERT_SHARE,
    FLOOR,
    HBM,
    IDLE,
    LIMIT,
    MEMORY,
    PAIR_SECONDS,
    POWER_FLOATS,
    TOKEN_SECONDS,
)

SLOWEST = 0.1  # no cap lowers a clock further; what is drawn then may be above the cap


@compiler.inner
def at_clock(row, c, m, seconds, clock):
    """(how much longer, watts above idle) of an iteration with c seconds of arithmetic and m of memory traffic."""
    whole = c * c + m * m
    longer = np.sqrt(((c / clock) ** 2 + m * m) / whole) if whole > 0.0 else 1.0
    took = seconds * longer
    u_c, u_m = (min(c / clock / took, 1.0), min(m / took, 1.0)) if took > 0.0 else (0.0, 0.0)
    hbm = row[HBM] * u_m
    core = row[BUSY] + max(row[MEMORY] * u_m - hbm, 0.0) + row[COMPUTE] * u_c
    return longer, row[LIMIT] * (
        min(row[IDLE] + hbm + core * clock * max(clock, FLOOR) ** 2, max(1.0, row[IDLE])) - row[IDLE]
    )


@compiler.inner
def capped_clock(row, c, m, seconds):
    """The highest clock, not above the host's own, at which the iteration is within its cap; within 0.1 %."""
    high, low = row[CLOCK], SLOWEST
    room = row[CAP] - row[LIMIT] * row[IDLE]
    if at_clock(row, c, m, seconds, high)[1] <= room:
        return high
    while high - low > 0.001:
        middle = 0.5 * (high + low)
        if at_clock(row, c, m, seconds, middle)[1] <= room:
            low = middle
        else:
            high = middle
    return low


@compiler.njit
def read_joules(state, now, out):
    """What each host has drawn above idle until now."""
    for r in range(state[HOSTS]):
        touch(state, r, now)
        out[r] = host_floats(state)[r, JOULES]


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def power_entry(address, r, _, __, ___):
    """An iteration that has just begun: its end at the host's clock, and its watts."""
    state = whole_state(address)
    clock = host_floats(state)[r]
    row = floats_at(state[A_POWER], state[HOSTS], POWER_FLOATS)[r]
    f = floats_at(state[A_FEATURES], state[HOSTS], FEATURES)[r]
    touch(state, r, clock[NOW])
    tokens, context = f[PREFILL_TOKENS] + f[F_DECODES], f[F_DECODE_CONTEXT]
    experts = row[EXPERT_SECONDS] * (1.0 - (1.0 - row[EXPERT_SHARE]) ** tokens)
    c = row[TOKEN_SECONDS] * tokens + row[PAIR_SECONDS] * (f[PREFILL_PAIRS] + context)
    m = row[DENSE_SECONDS] + experts + row[CONTEXT_SECONDS] * context
    seconds = clock[ENDS_AT] - clock[NOW] - clock[STALL]
    longer, watts = at_clock(row, c, m, seconds, capped_clock(row, c, m, seconds))
    clock[ENDS_AT] += seconds * (longer - 1.0)
    clock[WATTS] = watts
    clock[FULL_SECONDS] += seconds
    clock[COMPUTE_SECONDS] += seconds * c * c / (c * c + m * m)
    return 0
