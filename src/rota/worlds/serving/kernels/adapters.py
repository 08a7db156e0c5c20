"""Adapters of replicas: which are loaded, who waits for one, and which one goes for another.

A replica has room for so many. A request whose adapter is not there takes the place of one that no running request uses, the least recently used, and
waits, with a slot and without computing, until its own is loaded. Where every place is in use the request stays in line, and others go before it.
"""

import numpy as np
from numba import carray

from rota.kernel.compile import floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_ADAPTERS,
    A_PREFILLS,
    A_QUEUE,
    A_RUNNING,
    CHUNK,
    HOSTS,
    JOBS,
    MOVING,
    NOW,
    PREFILL_COUNT,
    PREFILLING,
    QUEUE_ROOM,
    QUEUED_COUNT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STATE,
    host_floats,
    host_ints,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import kick
from rota.worlds.serving.kernels.queue import push

# A vector of its own: addresses, then lengths.
AD_NAMES, AD_TIMES, AD_JOBS, AD_HOSTS, AD_ASIDE, AD_ROOM, AD_COUNT, AD_FIELDS = range(8)
# Of each host: places there are, requests set aside, loads, requests that found their adapter.
H_PLACES, H_ASIDE, H_LOADS, H_HITS, H_FIELDS = range(5)
# Of each place: when its adapter is loaded, when one last asked for it. Of each host, after the places: seconds of a load.
PEEK, TAKE, HERE, PUT_BACK, AWAITED = range(5)
NO_PLACE = -1


@compiler.inner
def table(state):
    return carray(pointer(state[A_ADAPTERS]), (AD_FIELDS,), np.int64)


@compiler.inner
def names_of(state, r):
    own = table(state)
    return ints_at(own[AD_NAMES], state[HOSTS], own[AD_ROOM])[r]


@compiler.inner
def times_of(state, r):
    """(loaded at, last asked for) of the places of a host, and its seconds of a load in the last column of the first row."""
    own = table(state)
    return floats_at(own[AD_TIMES], 2 * state[HOSTS], own[AD_ROOM] + 1)[2 * r : 2 * r + 2]


@compiler.inner
def counts_of(state, r):
    return ints_at(table(state)[AD_HOSTS], state[HOSTS], H_FIELDS)[r]


@compiler.inner
def adapter_of(state, j):
    return ints_at(table(state)[AD_JOBS], 1, state[JOBS])[0, j]


@compiler.inner
def place_of(state, r, adapter):
    """The place of an adapter at a host, -1: it is not there."""
    names = names_of(state, r)
    for place in range(counts_of(state, r)[H_PLACES]):
        if names[place] == adapter:
            return place
    return NO_PLACE


@compiler.inner
def in_use(state, r, adapter):
    """Whether a running request of a host has an adapter."""
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host_ints(state)[r, RUNNING_COUNT]):
        if adapter_of(state, running[position]) == adapter:
            return True
    return False


@compiler.inner
def to_take(state, r):
    """The place for a new adapter: an empty one, else that of the least recently used that nobody uses; -1: there is none."""
    names, times = names_of(state, r), times_of(state, r)
    found = NO_PLACE
    for place in range(counts_of(state, r)[H_PLACES]):
        if names[place] < 0:
            return place
        if (found < 0 or times[1, place] < times[1, found]) and not in_use(state, r, names[place]):
            found = place
    return found


@compiler.inner
def peek(state, r, j):
    """Whether a job could have its adapter now; if not it is set aside, and its caller takes it out of the line."""
    adapter = adapter_of(state, j)
    if adapter < 0 or place_of(state, r, adapter) >= 0 or to_take(state, r) >= 0:
        return 1
    counts = counts_of(state, r)
    ints_at(table(state)[AD_ASIDE], state[HOSTS], state[QUEUE_ROOM])[r, counts[H_ASIDE]] = j
    counts[H_ASIDE] += 1
    return 0


@compiler.inner
def take(state, r, j, now):
    """A job begins to use its adapter. Returns 1 where it has to wait until that is loaded."""
    adapter = adapter_of(state, j)
    if adapter < 0:
        return 0
    counts, times = counts_of(state, r), times_of(state, r)
    place = place_of(state, r, adapter)
    if place < 0:
        place = to_take(state, r)
        names_of(state, r)[place] = adapter
        times[0, place] = now + times[0, table(state)[AD_ROOM]]
        counts[H_LOADS] += 1
    else:
        counts[H_HITS] += 1
    times[1, place] = now
    return 1 if times[0, place] > now else 0


@compiler.inner
def put_back(state, r):
    """Those that were set aside stand in line again."""
    counts = counts_of(state, r)
    aside = ints_at(table(state)[AD_ASIDE], state[HOSTS], state[QUEUE_ROOM])[r]
    for position in range(counts[H_ASIDE]):
        push(state, r, aside[position])
    counts[H_ASIDE] = 0


@compiler.njit
def loaded_at(state, r, j):
    """When the adapter of a job is loaded at its host."""
    return times_of(state, r)[0, place_of(state, r, adapter_of(state, j))]


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def adapter_entry(address, r, j, what, _):
    state = whole_state(address)
    if what == PEEK:
        return peek(state, r, j)
    if what == TAKE:
        return take(state, r, j, host_floats(state)[r, NOW])
    if what == HERE:
        adapter = adapter_of(state, j)
        return 1 if adapter < 0 or place_of(state, r, adapter) >= 0 else 0
    if what == AWAITED:
        return 1 if adapter_of(state, j) >= 0 and loaded_at(state, r, j) > host_floats(state)[r, NOW] else 0
    put_back(state, r)
    return 0


@compiler.njit
def loaded(state, r, j, now):
    """The adapter of a job is there: its prompt is computed from the next iteration on."""
    job, host = job_ints(state), host_ints(state)[r]
    if job[STATE, j] != MOVING:
        return
    job[STATE, j] = PREFILLING
    job[CHUNK, j] = 0
    ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r, host[PREFILL_COUNT]] = j
    host[PREFILL_COUNT] += 1
    kick(state, r, now)


@compiler.njit
def affinity(state, j, out):
    """For each host: whether a running, whether a waiting request has the adapter of a job; how many adapters running and only waiting requests have."""
    count = table(state)[AD_COUNT]
    seen = np.zeros(count, np.int64)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])
    mine = adapter_of(state, j)
    for r in range(state[HOSTS]):
        seen[:] = 0
        host = host_ints(state)[r]
        for position in range(host[QUEUED_COUNT]):
            adapter = adapter_of(state, waiting[r, position])
            if adapter >= 0:
                seen[adapter] |= 2
        for position in range(host[RUNNING_COUNT]):
            adapter = adapter_of(state, running[r, position])
            if adapter >= 0:
                seen[adapter] |= 1
        out[0, r] = 1.0 if mine >= 0 and seen[mine] & 1 else 0.0
        out[1, r] = 1.0 if mine >= 0 and seen[mine] & 2 else 0.0
        out[2, r] = out[3, r] = 0.0
        for adapter in range(count):
            out[2, r] += seen[adapter] & 1
            out[3, r] += 1 if seen[adapter] == 2 else 0
