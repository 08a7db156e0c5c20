"""Prompts whose beginning comes from a lower tier of the cache: when it is there, they go on."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_PREFILLS,
    A_RUNNING,
    CHUNK,
    COMPUTED,
    HOSTS,
    LOADED_AT,
    LOADING,
    LOADS,
    LOADS_AT,
    NOW,
    PREFILL_COUNT,
    PREFILLING,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STATE,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.prefix import register


@compiler.inner
def join_loaded(state, r):
    """Those whose blocks have come are computed from now on, in the order of admission; others can find the blocks."""
    job, host, clock = job_ints(state), host_ints(state)[r], host_floats(state)[r]
    loaded_at = job_floats(state)[LOADED_AT]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    clock[LOADS_AT] = float("inf")
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] != LOADING:
            continue
        if loaded_at[j] > clock[NOW]:
            clock[LOADS_AT] = min(clock[LOADS_AT], loaded_at[j])
            continue
        job[STATE, j], job[CHUNK, j] = PREFILLING, 0
        prefills[host[PREFILL_COUNT]] = j
        host[PREFILL_COUNT] += 1
        host[LOADS] -= 1
        register(state, r, j, job[COMPUTED, j])


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def loaded_entry(address, r, _, __, ___):
    join_loaded(whole_state(address), r)
    return 0
