"""S3: memory is set aside for the predicted answer, requests are packed by what they need, and who outgrows it comes back with twice as much.

See `rota.worlds.serving.policies.s3`.
"""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.decoders import context
from rota.worlds.serving.kernels.holding import blocks_for, preempt
from rota.worlds.serving.kernels.inside import CAPACITY, RESERVED, inside
from rota.worlds.serving.kernels.layout import (
    A_QUEUE,
    A_RUNNING,
    ARRIVAL,
    BLOCK_TOKENS,
    DECODING,
    HOSTS,
    JOBS,
    PROMPT,
    QUEUE_ROOM,
    QUEUED_COUNT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STATE,
    TARGET,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)


@compiler.inner
def reservation(state, r, j):
    """Blocks that are set aside for a job: never less than it has to compute, never more than there are."""
    own, host = inside(state, r), host_ints(state)[r]
    tokens = max(ints_at(own[RESERVED], 1, state[JOBS])[0, j], job_ints(state)[TARGET, j])
    return min(blocks_for(tokens, host[BLOCK_TOKENS]), own[CAPACITY])


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def pick_entry(address, r, _, __, ___):
    """Position in the line of the job to admit next: the one that needs most of those that fit, first fit decreasing. -1: none fits."""
    state = whole_state(address)
    host, arrival = host_ints(state)[r], job_floats(state)[ARRIVAL]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    room = inside(state, r)[CAPACITY]
    for position in range(host[RUNNING_COUNT]):
        room -= reservation(state, r, running[position])
    best, most = -1, 0
    for position in range(host[QUEUED_COUNT]):
        j, need = waiting[position], reservation(state, r, waiting[position])
        if need > room or need < most:
            continue
        if best >= 0 and need == most:
            other = waiting[best]
            if arrival[j] > arrival[other] or (arrival[j] == arrival[other] and j > other):
                continue
        best, most = position, need
    return best


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def check_entry(address, r, _, __, ___):
    """Displace the decoders whose next token has no room in what was set aside; twice the answer is set aside when they return."""
    state = whole_state(address)
    job, host, own = job_ints(state), host_ints(state)[r], inside(state, r)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    reserved = ints_at(own[RESERVED], 1, state[JOBS])[0]
    position = 0
    while position < host[RUNNING_COUNT]:
        j = running[position]
        whole = blocks_for(reserved[j], host[BLOCK_TOKENS]) >= own[CAPACITY]  # it has all that there is
        if job[STATE, j] != DECODING or context(job, host, j) < reserved[j] or whole:
            position += 1
            continue
        reserved[j] = job[PROMPT, j] + 2 * (reserved[j] - job[PROMPT, j])
        preempt(state, r, j)  # the next one takes its place in the list
    return 0
