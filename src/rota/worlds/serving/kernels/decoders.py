"""The decoders of a host, counted instead of visited.

All decoders of a host advance together, one token a step. So a step counter, the sum of contexts, a heap of the steps at
which requests end and one counter for each phase of filling a KV block say everything that an iteration needs: O(1) each.
"""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_CLASSES,
    A_ENDING,
    A_FRESH,
    A_RUNNING,
    BASE,
    BASE_HIGH,
    BASE_LOW,
    BLOCK_TOKENS,
    CLASS_ROOM,
    CONTEXT_SUM,
    DECODES,
    DECODING,
    ENDS,
    EXTREMES,
    FRESH_COUNT,
    GENERATED,
    HOSTS,
    JOINED,
    OUTPUT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STATE,
    STEP,
    host_ints,
    job_ints,
)


@compiler.inner
def context(job, host, j):
    """Tokens of a decoding job in the KV cache of its host."""
    return job[BASE, j] + host[STEP] - job[JOINED, j]


@compiler.inner
def generated(job, host, j):
    """Tokens that a job has produced."""
    return job[GENERATED, j] + (host[STEP] - job[JOINED, j] if job[STATE, j] == DECODING else 0)


@compiler.inner
def ends_before(job, a, b):
    return job[ENDS, a] < job[ENDS, b] or (job[ENDS, a] == job[ENDS, b] and a < b)


@compiler.inner
def sift_up(job, heap, child):
    j = heap[child]
    while child > 0:
        parent = (child - 1) >> 1
        if not ends_before(job, j, heap[parent]):
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = j


@compiler.inner
def sift_down(job, heap, count, parent):
    j = heap[parent]
    while True:
        child = 2 * parent + 1
        if child >= count:
            break
        if child + 1 < count and ends_before(job, heap[child + 1], heap[child]):
            child += 1
        if not ends_before(job, heap[child], j):
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = j


@compiler.inner
def join(state, r, j):
    """A job whose prefill is done, with GENERATED tokens out and its TARGET tokens in KV, begins to decode."""
    job, host = job_ints(state), host_ints(state)[r]
    heap = ints_at(state[A_ENDING], state[HOSTS], state[RUNNING_ROOM])[r]
    fresh = ints_at(state[A_FRESH], state[HOSTS], state[RUNNING_ROOM])[r]
    job[STATE, j] = DECODING
    job[JOINED, j] = host[STEP]
    job[ENDS, j] = host[STEP] + job[OUTPUT, j] - job[GENERATED, j]
    phase = (host[STEP] - job[BASE, j]) % host[BLOCK_TOKENS]
    ints_at(state[A_CLASSES], state[HOSTS], state[CLASS_ROOM])[r, phase] += 1
    host[CONTEXT_SUM] += job[BASE, j]
    heap[host[DECODES]] = j
    host[DECODES] += 1
    sift_up(job, heap, host[DECODES] - 1)
    fresh[host[FRESH_COUNT]] = j
    host[FRESH_COUNT] += 1
    if host[EXTREMES]:
        start = job[BASE, j] - host[STEP]
        if host[DECODES] == 1 or start > host[BASE_HIGH]:
            host[BASE_HIGH] = start
        if host[DECODES] == 1 or start < host[BASE_LOW]:
            host[BASE_LOW] = start


@compiler.inner
def join_those(state, r, what, count):
    """Jobs in a state in which they stood aside decode from this iteration on; `count`: where the host counts them."""
    job, host = job_ints(state), host_ints(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[RUNNING_COUNT]):
        if job[STATE, running[position]] == what:
            join(state, r, running[position])
    host[count] = 0


@compiler.inner
def drop(state, r, j):
    """A decoding job stops: it is out of every count, its GENERATED is up to date."""
    job, host = job_ints(state), host_ints(state)[r]
    heap = ints_at(state[A_ENDING], state[HOSTS], state[RUNNING_ROOM])[r]
    position = 0
    while heap[position] != j:
        position += 1
    host[DECODES] -= 1
    count = host[DECODES]
    if position < count:
        moved = heap[count]
        heap[position] = moved
        sift_down(job, heap, count, position)
        if heap[position] == moved:
            sift_up(job, heap, position)
    phase = (job[JOINED, j] - job[BASE, j]) % host[BLOCK_TOKENS]
    ints_at(state[A_CLASSES], state[HOSTS], state[CLASS_ROOM])[r, phase] -= 1
    steps = host[STEP] - job[JOINED, j]
    host[CONTEXT_SUM] -= job[BASE, j] + steps
    job[GENERATED, j] += steps
    fresh = ints_at(state[A_FRESH], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[FRESH_COUNT]):
        if fresh[position] == j:
            host[FRESH_COUNT] -= 1
            fresh[position] = fresh[host[FRESH_COUNT]]
            break
    start = job[BASE, j] - job[JOINED, j]
    if host[EXTREMES] and (start == host[BASE_HIGH] or start == host[BASE_LOW]):
        extremes(job, host, heap)


@compiler.inner
def extremes(job, host, heap):
    """Largest and smallest context of the decoders, relative to the step counter."""
    for position in range(host[DECODES]):
        start = job[BASE, heap[position]] - job[JOINED, heap[position]]
        if position == 0 or start > host[BASE_HIGH]:
            host[BASE_HIGH] = start
        if position == 0 or start < host[BASE_LOW]:
            host[BASE_LOW] = start


@compiler.inner
def stop_running(state, r, j):
    """Take a job out of the list of running jobs, which keeps the order of admission."""
    host = host_ints(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    position = 0
    while running[position] != j:
        position += 1
    host[RUNNING_COUNT] -= 1
    for k in range(position, host[RUNNING_COUNT]):
        running[k] = running[k + 1]
