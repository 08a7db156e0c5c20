"""Prompts whose beginning comes from a lower tier of the cache: when it is there, they go on."""

from rota.kernel.compile import call_entry, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_PREFILLS,
    A_RUNNING,
    ADAPTER_ENTRY,
    CHUNK,
    COMPUTED,
    HOSTS,
    LOADED_AT,
    LOADING,
    LOADS,
    LOADS_AT,
    MOVING,
    NOW,
    PREFILL_COUNT,
    PREFILLING,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    STATE,
    STOP_LOAD,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import note
from rota.worlds.serving.kernels.prefix import register

AWAITED = 4  # what the entry of `adapters` is asked, which is compiled only where there are some


@compiler.inner
def join_loaded(state, r):
    """Those whose blocks have come are computed from now on, in the order of admission; others can find the blocks. Who waits for an adapter still does."""
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
        host[LOADS] -= 1
        register(state, r, j, job[COMPUTED, j])
        job[CHUNK, j] = 0
        if state[ADAPTER_ENTRY] and call_entry(state[ADAPTER_ENTRY], state[SELF], r, j, AWAITED, 0):
            job[STATE, j] = MOVING
            note(state, STOP_LOAD, j)
            continue
        job[STATE, j] = PREFILLING
        prefills[host[PREFILL_COUNT]] = j
        host[PREFILL_COUNT] += 1


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def loaded_entry(address, r, _, __, ___):
    join_loaded(whole_state(address), r)
    return 0
