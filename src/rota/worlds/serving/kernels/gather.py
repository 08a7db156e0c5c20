"""The table of a question: dense columns for the jobs that are asked about."""

from rota.kernel.compile import call_entry, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.decoders import generated
from rota.worlds.serving.kernels.layout import (
    A_ROWS,
    BLOCK_TOKENS,
    CACHED,
    CACHED_ENTRY,
    COMPUTED,
    DECODE_RATE,
    DECODING,
    HOST,
    PREEMPTIONS,
    PREFILL_RATE,
    PREFILLING,
    PREFIX,
    PROMPT,
    QUEUE_ROOM,
    QUEUED,
    RUNNING_ROOM,
    SELF,
    SERVED,
    SIZE,
    STATE,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    uncounted,
)

# Columns that change while a job is in the system; the others are looked up in a table of fixed columns.
CACHED_HERE, ATTAINED, REMAINING, GENERATED_TOKENS, PREFILLED_TOKENS, RUNNING_NOW, PREEMPTED = range(-7, 0)


@compiler.njit
def gather(vector, codes, fixed, count, out):
    """Fill ``out[c, i]`` with column ``codes[c]`` of the i-th job in question; codes from 0 on are rows of `fixed`."""
    state = uncounted(vector)
    job, seconds = job_ints(state), job_floats(state)
    hosts, clocks = host_ints(state), host_floats(state)
    rows = ints_at(state[A_ROWS], 1, state[QUEUE_ROOM] + state[RUNNING_ROOM])[0]
    for c in range(len(codes)):
        code = codes[c]
        for i in range(count):
            j = rows[i]
            if code >= 0:
                out[c, i] = fixed[code, j]
                continue
            r = max(job[HOST, j], 0)
            if code == CACHED_HERE:
                out[c, i] = job[CACHED, j]
                if job[STATE, j] == QUEUED and hosts[r, PREFIX]:
                    found = call_entry(state[CACHED_ENTRY], state[SELF], r, j, 0, 0) >> 42
                    out[c, i] = min(found * hosts[r, BLOCK_TOKENS], job[PROMPT, j])
                continue
            tokens = generated(job, hosts[r], j)
            prefilled = job[PROMPT, j] if job[STATE, j] == DECODING else min(job[COMPUTED, j], job[PROMPT, j])
            if code == GENERATED_TOKENS:
                out[c, i] = tokens
            elif code == PREFILLED_TOKENS:
                out[c, i] = prefilled
            elif code == RUNNING_NOW:
                out[c, i] = 1.0 if job[STATE, j] == DECODING or job[STATE, j] == PREFILLING else 0.0
            elif code == PREEMPTED:
                out[c, i] = job[PREEMPTIONS, j]
            elif code == ATTAINED:
                served = max(prefilled, job[SERVED, j])  # what is computed again is no new service
                out[c, i] = clocks[r, PREFILL_RATE] * served + clocks[r, DECODE_RATE] * tokens
            else:
                answer = max(0.0, seconds[SIZE, j] - tokens)
                out[c, i] = clocks[r, PREFILL_RATE] * (job[PROMPT, j] - prefilled) + clocks[r, DECODE_RATE] * answer
