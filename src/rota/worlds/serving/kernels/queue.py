"""Waiting lines: a binary heap while keys never change, a list that is scanned while a policy is asked anew."""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_HOLD_KEYS,
    A_KEYS,
    A_QUEUE,
    ARRIVAL,
    DYNAMIC,
    HOLD_DYNAMIC,
    HOLD_KEY_WIDTH,
    HOSTS,
    JOBS,
    KEY_WIDTH,
    QUEUE_ROOM,
    QUEUED_COUNT,
    WAITING_AT_ROUTER,
    host_ints,
    job_floats,
)


@compiler.inner
def before(keys, arrival, a, b):
    """Whether job a goes before job b: keys lexicographically, then arrival, then id."""
    for k in range(keys.shape[1]):
        if keys[a, k] != keys[b, k]:
            return keys[a, k] < keys[b, k]
    if arrival[a] != arrival[b]:
        return arrival[a] < arrival[b]
    return a < b


@compiler.inner
def order_keys(state):
    return floats_at(state[A_KEYS], state[JOBS], state[KEY_WIDTH])


@compiler.inner
def line_keys(state, line):
    """Keys of a line: those of the hosts, or of the router's own line, which is the last."""
    if line == state[HOSTS]:
        return floats_at(state[A_HOLD_KEYS], state[JOBS], state[HOLD_KEY_WIDTH])
    return order_keys(state)


@compiler.inner
def line_count(state, line):
    return state[WAITING_AT_ROUTER] if line == state[HOSTS] else host_ints(state)[line, QUEUED_COUNT]


@compiler.inner
def set_count(state, line, count):
    if line == state[HOSTS]:
        state[WAITING_AT_ROUTER] = count
    else:
        host_ints(state)[line, QUEUED_COUNT] = count


@compiler.inner
def is_scanned(state, line):
    return state[HOLD_DYNAMIC] if line == state[HOSTS] else state[DYNAMIC]


@compiler.inner
def push(state, line, job):
    """Put a job into a line. The caller has made sure that there is room."""
    count = line_count(state, line)
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[line]
    set_count(state, line, count + 1)
    waiting[count] = job
    if is_scanned(state, line):
        return
    keys, arrival = line_keys(state, line), job_floats(state)[ARRIVAL]
    child = count
    while child > 0:
        parent = (child - 1) >> 1
        if not before(keys, arrival, job, waiting[parent]):
            break
        waiting[child] = waiting[parent]
        child = parent
    waiting[child] = job


@compiler.inner
def first(state, line):
    """Position of the job that goes first, -1 when none may go now."""
    count = line_count(state, line)
    if count == 0:
        return -1
    keys = line_keys(state, line)
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[line]
    best = 0
    if is_scanned(state, line):
        arrival = job_floats(state)[ARRIVAL]
        for position in range(1, count):
            if before(keys, arrival, waiting[position], waiting[best]):
                best = position
    return -1 if keys[waiting[best], 0] == np.inf else best


@compiler.inner
def remove(state, line, position):
    """Take the job at a position out of a line."""
    count = line_count(state, line) - 1
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[line]
    set_count(state, line, count)
    moved = waiting[count]
    if is_scanned(state, line):
        waiting[position] = moved
        return
    # Let the last sink from there, or rise; from the top, which is nearly always the one to go, it can only sink.
    keys, arrival = line_keys(state, line), job_floats(state)[ARRIVAL]
    parent = position
    while parent > 0 and parent < count and before(keys, arrival, moved, waiting[(parent - 1) >> 1]):
        waiting[parent] = waiting[(parent - 1) >> 1]
        parent = (parent - 1) >> 1
    while True:
        child = 2 * parent + 1
        if child >= count:
            break
        if child + 1 < count and before(keys, arrival, waiting[child + 1], waiting[child]):
            child += 1
        if not before(keys, arrival, waiting[child], moved):
            break
        waiting[parent] = waiting[child]
        parent = child
    waiting[parent] = moved
