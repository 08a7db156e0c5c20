"""What a host has still to do: prompt tokens not yet in its cache, and answer tokens that policies know of and that are not out.

The requests that wait are kept as two sums; those that run, at most a batch of them, are looked at when somebody asks.
"""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.decoders import generated
from rota.worlds.serving.kernels.layout import (
    A_RUNNING,
    COMPUTED,
    DECODE_RATE,
    DECODING,
    GENERATED,
    HOSTS,
    INBOX_COUNT,
    PREFILL_RATE,
    PROMPT,
    QUEUED_COUNT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SERVED,
    SIZE,
    SOURCE,
    STATE,
    SWAPPED,
    WAITING_ANSWER,
    WAITING_PROMPT,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    uncounted,
)


@compiler.inner
def prompt_left(job, j):
    return 0 if job[STATE, j] == DECODING else job[PROMPT, j] - min(job[COMPUTED, j], job[PROMPT, j])


@compiler.inner
def lose(job, j):
    """A job's KV is lost. What it had of its prompt remains service that it has received."""
    job[SERVED, j] = max(job[SERVED, j], job[PROMPT, j] - prompt_left(job, j))
    job[COMPUTED, j] = 0


@compiler.inner
def answer_left(job, seconds, host, j):
    """Tokens of the visible answer that are not out: none where it is hidden, or has become longer than was predicted."""
    return max(0.0, seconds[SIZE, j] - generated(job, host, j))


@compiler.inner
def wait(state, r, j):
    """A job begins to wait at a host, with nothing of it computed, or all of its prompt."""
    job, clock = job_ints(state), host_floats(state)[r]
    clock[WAITING_PROMPT] += 0 if job[SOURCE, j] or job[SWAPPED, j] else job[PROMPT, j]
    clock[WAITING_ANSWER] += max(0.0, job_floats(state)[SIZE, j] - job[GENERATED, j])


@compiler.inner
def wait_no_more(state, r, j):
    """A job that waited runs; it is out of the counts already."""
    uncount(state, r, j)
    nothing_waits(state, r)


@compiler.inner
def uncount(state, r, j):
    """What a job that waited has to do is waited for no more."""
    job, clock = job_ints(state), host_floats(state)[r]
    clock[WAITING_PROMPT] -= 0 if job[SOURCE, j] or job[SWAPPED, j] else job[PROMPT, j]
    clock[WAITING_ANSWER] -= max(0.0, job_floats(state)[SIZE, j] - job[GENERATED, j])


@compiler.inner
def nothing_waits(state, r):
    """Where nothing waits, nothing is to do for it: what rounding left must not break ties."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    if host[QUEUED_COUNT] + host[INBOX_COUNT] == 0:
        clock[WAITING_PROMPT] = clock[WAITING_ANSWER] = 0.0


@compiler.inner
def left(state, r):
    """(prompt tokens, visible answer tokens) that a host has still to do."""
    job, seconds, host, clock = job_ints(state), job_floats(state), host_ints(state)[r], host_floats(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    prompt, answer = clock[WAITING_PROMPT], clock[WAITING_ANSWER]
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        prompt += prompt_left(job, j)
        answer += answer_left(job, seconds, host, j)
    return prompt, answer


@compiler.inner
def work_left(state, r):
    """The same in seconds of work."""
    clock = host_floats(state)[r]
    prompt, answer = left(state, r)
    return clock[PREFILL_RATE] * prompt + clock[DECODE_RATE] * answer


@compiler.njit
def outstanding_work(vector, tokens, seconds):
    """Fill for each host the tokens that it has still to do, and the seconds of work that these are."""
    state = uncounted(vector)
    for r in range(state[HOSTS]):
        prompt, answer = left(state, r)
        tokens[r] = prompt + answer
        seconds[r] = work_left(state, r)
