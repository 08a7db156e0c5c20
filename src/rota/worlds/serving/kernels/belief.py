"""What the router believes to be in the caches: what it sent there itself, or what the engines told it, some time ago."""

import numpy as np
from numba import carray

from rota.kernel.compile import floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.cache_layout import (
    C_DELAY,
    C_EVENT_LINES,
    C_EVENT_TIMES,
    C_EVENTS,
    EVENT_ROOM_OF_HOST,
    RING_COUNT,
    RING_FIRST,
    RING_INTS,
    cache_state,
    index_parts,
)
from rota.worlds.serving.kernels.layout import (
    A_CLOCK,
    BELIEF,
    BLOCK_ROOM,
    BLOCK_TOKENS,
    CLOCK_FLOATS,
    FULL,
    HOSTS,
    NOW_CLOCK,
    PROMPT,
    host_ints,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.lru import drop, holds, put
from rota.worlds.serving.kernels.names import name_of, names_of

TRUE, SENT, TOLD = range(3)
EVENTS_FULL = 2  # a bit of FULL
SLACK = 8  # times the blocks of a host: more events than one iteration can bring


@compiler.inner
def tell(state, r, name, stored):
    """A host tells the router that a block is there, or is gone. There is room for all that one event can bring."""
    if state[BELIEF] != TOLD:
        return
    cache = cache_state(state)
    room = cache[EVENT_ROOM_OF_HOST]
    ring = ints_at(cache[C_EVENT_LINES], state[HOSTS], RING_INTS)[r]
    position = (ring[RING_FIRST] + ring[RING_COUNT]) & (room - 1)
    clock = carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)
    floats_at(cache[C_EVENT_TIMES], state[HOSTS], room)[r, position] = clock[NOW_CLOCK]
    ints_at(cache[C_EVENTS], state[HOSTS], room)[r, position] = 2 * name + stored
    ring[RING_COUNT] += 1
    if room - ring[RING_COUNT] < SLACK * state[BLOCK_ROOM]:
        hear(state, r)
        if room - ring[RING_COUNT] < SLACK * state[BLOCK_ROOM]:
            state[FULL] |= EVENTS_FULL


@compiler.inner
def hear(state, r):
    """The router takes note of what has reached it by now."""
    cache = cache_state(state)
    room = cache[EVENT_ROOM_OF_HOST]
    ring = ints_at(cache[C_EVENT_LINES], state[HOSTS], RING_INTS)[r]
    times = floats_at(cache[C_EVENT_TIMES], state[HOSTS], room)[r]
    events = ints_at(cache[C_EVENTS], state[HOSTS], room)[r]
    clock = carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)
    delay = floats_at(cache[C_DELAY], 1, 1)[0, 0]
    keys, values, entries, line = index_parts(state, r)
    while ring[RING_COUNT] > 0 and times[ring[RING_FIRST]] + delay <= clock[NOW_CLOCK]:
        event = events[ring[RING_FIRST]]
        if event & 1:
            put(keys, values, entries, line, event >> 1)
        else:
            drop(keys, values, entries, line, event >> 1)
        ring[RING_FIRST] = (ring[RING_FIRST] + 1) & (room - 1)
        ring[RING_COUNT] -= 1


@compiler.inner
def believed_blocks(state, r, j):
    """How many leading blocks of a prompt the router believes to be at a host. One token at least is always computed."""
    if state[BELIEF] == TOLD:
        hear(state, r)
    keys, _, _, _ = index_parts(state, r)
    job, host = job_ints(state), host_ints(state)[r]
    names, own = names_of(state, host, j)
    found = 0
    while (found + 1) * host[BLOCK_TOKENS] < job[PROMPT, j] and holds(keys, name_of(names, own, found)):
        found += 1
    return found


@compiler.inner
def note_sent(state, r, j):
    """The router sends a prompt: its blocks will be there. The first block is used last, so that of one prompt the end is forgotten first."""
    keys, values, entries, line = index_parts(state, r)
    job, host = job_ints(state), host_ints(state)[r]
    names, own = names_of(state, host, j)
    for k in range(job[PROMPT, j] // host[BLOCK_TOKENS] - 1, -1, -1):
        put(keys, values, entries, line, name_of(names, own, k))


_SIGNATURE = "int64(int64, int64, int64, int64, int64)"


@compiler.entry(_SIGNATURE)
def believed_entry(address, r, j, _, __):
    return believed_blocks(whole_state(address), r, j)


@compiler.entry(_SIGNATURE)
def sent_entry(address, r, j, _, __):
    note_sent(whole_state(address), r, j)
    return 0
