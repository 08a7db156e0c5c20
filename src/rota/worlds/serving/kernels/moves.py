"""Requests between hosts: their KV is parked, moves, lands; a host goes down and what it had goes back to the router.

The kernel only keeps the books. When something begins that concerns more than one host it stops (`STOPS`), and the fleet, in Python, decides
where things go and how long that takes.
"""

import numpy as np

from rota.kernel.compile import call_entry, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import touch
from rota.worlds.serving.kernels.decoders import stop_running
from rota.worlds.serving.kernels.layout import (
    A_STOPS,
    BLOCK_TOKENS,
    BUSY,
    COLD,
    COMPUTED,
    COPIED,
    DOWN,
    FREE,
    HELD_BLOCKS,
    INBOX_COUNT,
    INTERRUPTED,
    LAGGING,
    LANDED,
    LANDINGS,
    LOADS,
    NOW,
    PARKED,
    PREFIX,
    QUEUED_COUNT,
    READY,
    REGISTERED,
    RELEASE_ENTRY,
    REVIEW_AT,
    RUNNING_COUNT,
    SELF,
    SLOT,
    SOURCE,
    SOURCE_HELD,
    SOURCE_REGISTERED,
    SOURCE_SLOT,
    STATE,
    STOP_COUNT,
    STOP_HANDOFF,
    STOP_ROOM,
    SWAP_KEEPS,
    SWAP_ROOM,
    SWAPPED,
    TARGET,
    host_floats,
    host_ints,
    job_ints,
)


@compiler.inner
def note(state, kind, j):
    """Stop for the fleet after this event. There is room for what one event can bring."""
    stops = ints_at(state[A_STOPS], state[STOP_ROOM], 2)
    stops[state[STOP_COUNT], 0], stops[state[STOP_COUNT], 1] = kind, j
    state[STOP_COUNT] += 1


@compiler.inner
def kick(state, r, now):
    """Let an idle host look at its line again."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    if not host[BUSY] and not host[READY]:
        host[READY] = 1
        clock[NOW] = now


@compiler.inner
def stuck(state, r):
    """Whether a host has requests that wait, runs none, and will not look at them again unless something comes from outside."""
    host = host_ints(state)[r]
    if host[QUEUED_COUNT] == 0 or host[BUSY] or host[READY] or host[DOWN] or host[COLD]:
        return False
    here = host[RUNNING_COUNT] + host[LAGGING] + host[LOADS] + host[INBOX_COUNT]
    return here == 0 and host_floats(state)[r, REVIEW_AT] == np.inf


@compiler.inner
def park(state, r, j):
    """A job stops running; its KV stays on the host until it has been moved."""
    job = job_ints(state)
    stop_running(state, r, j)
    job[STATE, j] = PARKED
    job[SOURCE, j] = r + 1
    job[SOURCE_SLOT, j], job[SOURCE_HELD, j], job[SOURCE_REGISTERED, j] = (
        job[SLOT, j],
        job[HELD_BLOCKS, j],
        job[REGISTERED, j],
    )
    job[HELD_BLOCKS, j] = 0
    job[COMPUTED, j] = job[TARGET, j]
    note(state, STOP_HANDOFF, j)


@compiler.inner
def release_source(state, j, now):
    """Give back the blocks that a job has on the host that it left."""
    job = job_ints(state)
    r = job[SOURCE, j] - 1
    if r < 0:
        return
    host = host_ints(state)[r]
    touch(state, r, now)
    if host[PREFIX]:
        slot, held, registered = job[SLOT, j], job[HELD_BLOCKS, j], job[REGISTERED, j]
        job[SLOT, j], job[HELD_BLOCKS, j], job[REGISTERED, j] = (
            job[SOURCE_SLOT, j],
            job[SOURCE_HELD, j],
            job[SOURCE_REGISTERED, j],
        )
        call_entry(state[RELEASE_ENTRY], state[SELF], r, j, 0, 0)
        job[SLOT, j], job[HELD_BLOCKS, j], job[REGISTERED, j] = slot, held, registered
    else:
        host[FREE] += job[SOURCE_HELD, j]
    job[SOURCE, j] = job[SOURCE_HELD, j] = 0
    host[INTERRUPTED] |= host[QUEUED_COUNT] > 0
    kick(state, r, now)


@compiler.njit
def land(state, j, r, now):
    """The KV of a job has come to its host: it decodes from the next iteration on."""
    job, host = job_ints(state), host_ints(state)[r]
    release_source(state, j, now)
    touch(state, r, now)
    if job[SWAPPED, j] and host[SWAP_KEEPS]:  # whole blocks do not change any more
        job[COPIED, j] = job[TARGET, j] // host[BLOCK_TOKENS]
    host[SWAP_ROOM] += job[SWAPPED, j] - job[COPIED, j]
    job[SWAPPED, j] = 0
    job[STATE, j] = LANDED
    host[LANDINGS] += 1
    kick(state, r, now)
