"""Closed loops: the next request of the trace is sent when one has ended; those on their way are a heap by arrival."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_ARRIVALS,
    ARRIVAL,
    FINISHED,
    ISSUED,
    JOBS,
    PENDING,
    THINK,
    job_floats,
)


@compiler.inner
def issue(state, now):
    """Closed loop: the next request of the trace is sent, after its think time."""
    if state[ISSUED] >= state[JOBS]:
        return
    seconds = job_floats(state)
    heap = ints_at(state[A_ARRIVALS], 1, state[JOBS])[0]
    arrival = seconds[ARRIVAL]
    j = state[ISSUED]
    state[ISSUED] += 1
    arrival[j] = now + seconds[THINK, j]
    child = state[PENDING]
    state[PENDING] += 1
    while child > 0:
        parent = (child - 1) >> 1
        if arrival[heap[parent]] <= arrival[j]:
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = j


@compiler.inner
def next_pending(state):
    """Take the earliest pending request of a closed loop; equal times: the smaller number."""
    arrival = job_floats(state)[ARRIVAL]
    heap = ints_at(state[A_ARRIVALS], 1, state[JOBS])[0]
    state[PENDING] -= 1
    count = state[PENDING]
    taken, moved, parent = heap[0], heap[count], 0
    while True:
        child = 2 * parent + 1
        if child >= count:
            break
        if child + 1 < count:
            a, b = heap[child + 1], heap[child]
            if arrival[a] < arrival[b] or (arrival[a] == arrival[b] and a < b):
                child += 1
        a = heap[child]
        if arrival[moved] < arrival[a] or (arrival[moved] == arrival[a] and moved < a):
            break
        heap[parent] = a
        parent = child
    heap[parent] = moved
    return taken


@compiler.inner
def issue_finished(state, before, now):
    """Closed loop: every request that ended lets its user send the next one."""
    for _ in range(state[FINISHED] - before):
        issue(state, now)
