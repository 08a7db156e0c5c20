"""A replica whose model goes, or has come; and whose turn it is on a machine that several share."""

import numpy as np
from numba import carray

from rota.kernel.compile import floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.decoders import generated
from rota.worlds.serving.kernels.holding import release
from rota.worlds.serving.kernels.layout import (
    A_CLOCK,
    A_LAGGING,
    A_PROMISES,
    A_QUEUE,
    A_RUNNING,
    ARRIVAL,
    BUSY,
    CLOCK_FLOATS,
    COLD,
    HOSTS,
    JOBS,
    LAGGING,
    NODE,
    NOW,
    NOW_CLOCK,
    QUEUE_ROOM,
    QUEUED_COUNT,
    READY,
    RUNNING_COUNT,
    RUNNING_ROOM,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import kick


@compiler.inner
def promise(state, r, j):
    """When the next token of a job is promised: arrival + limit of the first token + limit of a token for each that is out; inf: never."""
    promises = floats_at(state[A_PROMISES], 2, state[JOBS])
    tokens = generated(job_ints(state), host_ints(state)[r], j)
    later = tokens * promises[1, j] if tokens > 0 else 0.0
    return job_floats(state)[ARRIVAL, j] + promises[0, j] + later


@compiler.inner
def urgency(state, r):
    """The earliest promise to a request of a host, running or waiting."""
    host = host_ints(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    first = np.inf
    for position in range(host[RUNNING_COUNT]):
        first = min(first, promise(state, r, running[position]))
    for position in range(host[QUEUED_COUNT]):
        first = min(first, promise(state, r, waiting[position]))
    return first


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def turn_entry(address, r, _, __, ___):
    """Of the hosts of a machine that are ready: the one with the earliest promise, then the one that waits longest, then the smaller number."""
    state = whole_state(address)
    hosts, clocks = host_ints(state), host_floats(state)
    now = carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)[NOW_CLOCK]
    best, first = r, urgency(state, r)
    for g in range(state[HOSTS]):
        if g == r or hosts[g, NODE] != hosts[r, NODE] or not hosts[g, READY] or hosts[g, BUSY] or hosts[g, COLD]:
            continue
        if clocks[g, NOW] > now:
            continue
        mine = urgency(state, g)
        longer = clocks[g, NOW] < clocks[best, NOW] or (clocks[g, NOW] == clocks[best, NOW] and g < best)
        if mine < first or (mine == first and longer):
            best, first = g, mine
    return best


@compiler.njit
def wake(state, r, now):
    """A host whose model has come looks at its line."""
    kick(state, r, now)


@compiler.njit
def let_go(state, r):
    """Blocks of requests that have ended, and that an engine that schedules ahead has not given back yet."""
    host = host_ints(state)[r]
    lagging = ints_at(state[A_LAGGING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[LAGGING]):
        release(state, r, lagging[position])
    host[LAGGING] = 0
