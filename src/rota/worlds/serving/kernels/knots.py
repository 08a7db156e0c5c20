"""Hosts that wait for one another: the KV of computed prompts fills one, and waits for room at another, which is full of KV that waits for the first.

Nothing runs on any of them, so nothing there is ever given back. One of those prompts then stays where it was computed and decodes there, with the KV that
lies there; it waits for nobody any more, and its end gives blocks back. That is the least that undoes the knot: nothing is computed twice.
"""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit, touch
from rota.worlds.serving.kernels.candidates import holds_whole
from rota.worlds.serving.kernels.layout import (
    A_QUEUE,
    A_RUNNING,
    DECISIONS_HERE,
    E_START,
    HELD_BLOCKS,
    HOST,
    HOSTS,
    INBOX_COUNT,
    INBOX_HEAD,
    LANDED,
    LANDINGS,
    NEXT_IN_BOX,
    QUEUE_ROOM,
    QUEUED_COUNT,
    REGISTERED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SLOT,
    SOURCE,
    SOURCE_HELD,
    SOURCE_REGISTERED,
    SOURCE_SLOT,
    STATE,
    host_ints,
    job_ints,
)
from rota.worlds.serving.kernels.moves import kick, stuck
from rota.worlds.serving.kernels.outstanding import nothing_waits, uncount
from rota.worlds.serving.kernels.queue import remove

NO_JOB = np.int64(-1)


@compiler.njit
def is_stuck(state, r):
    return stuck(state, r)


@compiler.inner
def untied(state, tied, d):
    """Hosts with KV of what is at host d, which can move on, are not tied. Returns whether one was."""
    job, host = job_ints(state), host_ints(state)[d]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[d]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[d]
    found, boxed = False, host[INBOX_HEAD]
    count, queued = host[RUNNING_COUNT], host[QUEUED_COUNT]
    for position in range(count + queued + host[INBOX_COUNT]):
        if position < count:
            j = running[position]
        elif position < count + queued:
            j = waiting[position - count]
        else:
            j = boxed
            boxed = job[NEXT_IN_BOX, j]
        s = job[SOURCE, j] - 1
        if s >= 0 and tied[s]:
            tied[s] = False
            found = True
    return found


@compiler.inner
def knot(state):
    """Which hosts are stuck and have no KV but of requests that wait at hosts of which the same is true."""
    tied = np.zeros(state[HOSTS], np.bool_)
    for r in range(state[HOSTS]):
        tied[r] = stuck(state, r)
    again = True
    while again:
        again = False
        for d in range(state[HOSTS]):
            if not tied[d] and untied(state, tied, d):
                again = True
    return tied


@compiler.njit
def who_stays(state):
    """The request in a knot that decodes where its KV lies: of those that can to their end, the first by number. -1: there is no knot.

    In a knot there is one that can: if none could, each would wait for a host that holds more tokens than its own, all the way round.
    """
    job, tied = job_ints(state), knot(state)
    best = NO_JOB
    for d in range(state[HOSTS]):
        waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[d]
        for position in range(host_ints(state)[d, QUEUED_COUNT] if tied[d] else 0):
            j = waiting[position]
            s = job[SOURCE, j] - 1
            if s >= 0 and tied[s] and (best < 0 or j < best) and holds_whole(state, s, j):
                best = j
    return best


@compiler.inner
def leave_line(state, j, now):
    """A request does not wait at its host any more, which looks at its line again."""
    d = job_ints(state)[HOST, j]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[d]
    position = 0
    while waiting[position] != j:
        position += 1
    touch(state, d, now)
    remove(state, d, position)
    uncount(state, d, j)
    nothing_waits(state, d)
    kick(state, d, now)


@compiler.njit
def stay(state, j, now):
    """A request that waits elsewhere decodes where its KV lies, at a host that runs nothing, from that host's next iteration on."""
    leave_line(state, j, now)
    job = job_ints(state)
    r = job[SOURCE, j] - 1
    host = host_ints(state)[r]
    touch(state, r, now)
    job[SLOT, j], job[HELD_BLOCKS, j], job[REGISTERED, j] = (
        job[SOURCE_SLOT, j],
        job[SOURCE_HELD, j],
        job[SOURCE_REGISTERED, j],
    )
    job[SOURCE, j] = job[SOURCE_HELD, j] = 0
    ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r, host[RUNNING_COUNT]] = j
    host[RUNNING_COUNT] += 1
    job[HOST, j], job[STATE, j] = r, LANDED
    host[DECISIONS_HERE] += 1
    host[LANDINGS] += 1
    kick(state, r, now)
    emit(state, E_START, j, r, now)
