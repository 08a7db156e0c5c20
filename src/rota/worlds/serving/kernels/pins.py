"""Ended requests whose KV is kept for a while: their blocks are held until a time, or until something that runs needs them."""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import touch
from rota.worlds.serving.kernels.cache_layout import C_PINS, PIN_ROOM, cache_state
from rota.worlds.serving.kernels.layout import (
    BLOCK_TOKENS,
    HOSTS,
    OUTPUT,
    PIN_ENDS,
    PINNED,
    PINS,
    PROMPT,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import kick
from rota.worlds.serving.kernels.names import NOBODY, name_of, names_of
from rota.worlds.serving.kernels.pages import block_named, pages_of
from rota.worlds.serving.kernels.prefix import blocks_of, hold, let_go


@compiler.njit
def pin(state, r, j, until, now):
    """Hold the blocks of an ended job that are in the cache. There is room for one pin more. Returns how many blocks these are."""
    job, host, cache = job_ints(state), host_ints(state)[r], cache_state(state)
    where, _, rows = pages_of(state, r)
    names, own = names_of(state, host, j)
    fields = blocks_of(state, r)
    touch(state, r, now)
    for k in range((job[PROMPT, j] + job[OUTPUT, j] - 1) // host[BLOCK_TOKENS]):
        b = block_named(where, rows, name_of(names, own, k))
        if b == NOBODY:
            break
        hold(state, r, host, fields, b)
        job[PINNED, j] = k + 1
    if job[PINNED, j] > 0:
        job_floats(state)[PIN_ENDS, j] = until
        ints_at(cache[C_PINS], state[HOSTS], cache[PIN_ROOM])[r, host[PINS]] = j
        host[PINS] += 1
    return job[PINNED, j]


@compiler.inner
def release_pin(state, r, position):
    """Let go of the blocks of the pin at a position, the last block first."""
    job, host, cache = job_ints(state), host_ints(state)[r], cache_state(state)
    pins = ints_at(cache[C_PINS], state[HOSTS], cache[PIN_ROOM])[r]
    where, _, rows = pages_of(state, r)
    fields = blocks_of(state, r)
    j = pins[position]
    host[PINS] -= 1
    pins[position] = pins[host[PINS]]
    names, own = names_of(state, host, j)
    for k in range(job[PINNED, j] - 1, -1, -1):
        let_go(state, r, host, fields, block_named(where, rows, name_of(names, own, k)))
    job[PINNED, j] = 0


@compiler.njit
def unpin(state, r, j, now):
    """A pin ends, if it has not been given up before."""
    host, cache = host_ints(state)[r], cache_state(state)
    pins = ints_at(cache[C_PINS], state[HOSTS], cache[PIN_ROOM])[r]
    for position in range(host[PINS]):
        if pins[position] == j:
            touch(state, r, now)
            release_pin(state, r, position)
            kick(state, r, now)
            return


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def unpin_one_entry(address, r, _, __, ___):
    """Memory is short: the pin that would end first is given up."""
    state = whole_state(address)
    host, cache, ends = host_ints(state)[r], cache_state(state), job_floats(state)[PIN_ENDS]
    pins = ints_at(cache[C_PINS], state[HOSTS], cache[PIN_ROOM])[r]
    best = 0
    for position in range(1, host[PINS]):
        a, b = pins[position], pins[best]
        if ends[a] < ends[b] or (ends[a] == ends[b] and a < b):
            best = position
    release_pin(state, r, best)
    return np.int64(0)
