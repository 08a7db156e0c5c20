"""What Llumnix's virtual usage is made of besides blocks that are held: the first of a host's line, and urgent jobs that run."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.holding import blocks_for
from rota.worlds.serving.kernels.layout import (
    A_QUEUE,
    A_RUNNING,
    BLOCK_TOKENS,
    HOSTS,
    INBOX_COUNT,
    INBOX_HEAD,
    QUEUE_ROOM,
    QUEUED_COUNT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    TARGET,
    host_ints,
    job_ints,
    uncounted,
)
from rota.worlds.serving.kernels.migrate import tokens_held
from rota.worlds.serving.kernels.queue import first


@compiler.njit
def head_blocks(vector, out):
    """For each host the KV blocks that the first of its line needs to begin; 0: nobody waits, or nobody may go now.

    Who came while an iteration ran that was put together ahead is behind the others.
    """
    state = uncounted(vector)
    job, hosts = job_ints(state), host_ints(state)
    for r in range(state[HOSTS]):
        out[r] = 0
        j = -1
        if hosts[r, QUEUED_COUNT] > 0:
            position = first(state, r)
            if position >= 0:
                j = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r, position]
        elif hosts[r, INBOX_COUNT] > 0:
            j = hosts[r, INBOX_HEAD]
        if j >= 0:
            out[r] = blocks_for(tokens_held(hosts[r], job[TARGET, j]), hosts[r, BLOCK_TOKENS])


@compiler.njit
def urgent_running(vector, priority, least_urgent, out):
    """For each host the running jobs that are more urgent than the least urgent of all."""
    state = uncounted(vector)
    hosts = host_ints(state)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])
    for r in range(state[HOSTS]):
        out[r] = 0
        for position in range(hosts[r, RUNNING_COUNT]):
            if priority[running[r, position]] < least_urgent:
                out[r] += 1
