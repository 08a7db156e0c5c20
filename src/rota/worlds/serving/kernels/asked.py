"""The columns of a question about a request and all hosts, filled in one call."""

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.candidates import host_column, outstanding
from rota.worlds.serving.kernels.layout import (
    BLOCK_TOKENS,
    DECISIONS_HERE,
    FREE,
    HOSTS,
    INBOX_COUNT,
    KV_BLOCKS,
    MAX_RUNNING,
    PREFILL_RATE,
    QUEUED_COUNT,
    RUNNING_COUNT,
    SHUT,
    WAITING_AT_ROUTER,
    WAITING_PROMPT,
    host_floats,
    host_ints,
)

# Columns that are whole numbers ...
WHOLE = (
    "id",
    "queued",
    "running",
    "outstanding",
    "decisions",
    "free_blocks",
    "block_tokens",
    "up",
    "max_running",
    "held",
)
(
    N_ID, N_QUEUED, N_RUNNING, N_OUTSTANDING, N_DECISIONS, N_FREE, N_BLOCK_TOKENS, N_UP, N_MAX_RUNNING, N_HELD,
) = range(10)  # fmt: skip
# ... and columns that are not, besides those that routes are made of, whose codes are below these.
MORE = ("kv_use", "waiting_tokens", "prefill_rate")
N_KV_USE, N_WAITING_TOKENS, N_PREFILL_RATE = range(100, 103)


@compiler.inner
def whole_column(state, code, r):
    host = host_ints(state)[r]
    if code == N_ID:
        return r
    if code == N_QUEUED:
        return host[QUEUED_COUNT] + host[INBOX_COUNT]
    if code == N_RUNNING:
        return host[RUNNING_COUNT]
    if code == N_OUTSTANDING:
        return outstanding(host)
    if code == N_DECISIONS:
        return host[DECISIONS_HERE]
    if code == N_FREE:
        return host[FREE]
    if code == N_BLOCK_TOKENS:
        return host[BLOCK_TOKENS]
    if code == N_UP:
        return 1 - host[SHUT]
    return host[MAX_RUNNING] if code == N_MAX_RUNNING else state[WAITING_AT_ROUTER]


@compiler.inner
def other_column(state, code, j, r):
    if code < N_KV_USE:
        return host_column(state, code, j, r)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    if code == N_KV_USE:
        return 1.0 - host[FREE] / host[KV_BLOCKS]
    return clock[WAITING_PROMPT] if code == N_WAITING_TOKENS else clock[PREFILL_RATE]


@compiler.njit
def fill_table(state, of_job, fixed, whole, others, j, job_out, whole_out, others_out):
    """Fill the columns of request j (`of_job`: rows of `fixed`) and of all hosts (codes of whole and of other columns)."""
    for k in range(len(of_job)):
        job_out[k, 0] = fixed[of_job[k], j]
    for r in range(state[HOSTS]):
        for k in range(len(whole)):
            whole_out[k, r] = whole_column(state, whole[k], r)
        for k in range(len(others)):
            others_out[k, r] = other_column(state, others[k], j, r)
