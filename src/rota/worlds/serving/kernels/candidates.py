"""Which hosts can serve a job, what each costs by a route's terms, and which is the cheapest."""

import numpy as np

from rota.kernel.compile import call_entry, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.holding import blocks_for
from rota.worlds.serving.kernels.layout import (
    A_ANSWER,
    A_ASKED,
    A_ROUTE_TERMS,
    A_SAMPLES,
    A_SERVES,
    ADAPTER_ENTRY,
    BELIEF,
    BELIEF_ENTRY,
    BLOCK_TOKENS,
    BUDGET,
    CACHED_ENTRY,
    CHUNKED,
    COLD,
    COLUMN_ACTIVE,
    COLUMN_ADAPTER,
    COLUMN_CACHED,
    COLUMN_DECISIONS,
    COLUMN_ID,
    COLUMN_MISSING,
    COLUMN_OUTSTANDING,
    COLUMN_PREFILL,
    COLUMN_QUEUED,
    COLUMN_RESIDENT,
    COLUMN_RUNNING,
    COLUMN_WORK,
    CONTEXT_LIMIT,
    DECISIONS_HERE,
    DECODE_ROLE,
    FREE,
    GOES_TO,
    HERE,
    HOSTS,
    INBOX_COUNT,
    JOBS,
    KV_BLOCKS,
    MAX_OUTSTANDING,
    MIXED,
    MIXED_ROLE,
    MODELS,
    OUTPUT,
    PREFILL_ROLE,
    PREFIX,
    PROMPT,
    QUEUED_COUNT,
    RESERVE,
    RESERVE_FIXED,
    RESERVE_TOKENS,
    ROLE,
    ROUTE_ASKED,
    ROUTE_SAMPLED,
    ROUTE_TERMS,
    RUNNING_COUNT,
    SAMPLE_WIDTH,
    SELF,
    SHUT,
    WAITING_PROMPT,
    WATERMARK,
    host_floats,
    host_ints,
    job_ints,
)
from rota.worlds.serving.kernels.outstanding import left, work_left

WAITS = -1


@compiler.inner
def can_decode_somewhere(state, j):
    """Whether some replica could hold prompt and answer of a job whose prompt is computed elsewhere."""
    for r in range(state[HOSTS]):
        if host_ints(state)[r, ROLE] != PREFILL_ROLE and holds_whole(state, r, j):
            return True
    return False


@compiler.inner
def holds_whole(state, r, j):
    """Whether prompt and answer of a job are within a replica's context, its KV cache and what it sets aside."""
    job, host = job_ints(state), host_ints(state)[r]
    tokens = job[PROMPT, j] + job[OUTPUT, j]
    if tokens > host[CONTEXT_LIMIT] or (host[RESERVE] == RESERVE_FIXED and tokens - 1 > host[RESERVE_TOKENS]):
        return False
    return blocks_for(tokens - 1, host[BLOCK_TOKENS]) + host[WATERMARK] <= host[KV_BLOCKS]


@compiler.inner
def has_model(state, r, j):
    """Whether a replica serves a model that a job accepts."""
    asked = ints_at(state[A_ASKED], 1, state[JOBS])[0, j]
    return ints_at(state[A_SERVES], state[MODELS], state[HOSTS])[asked, r] == 1


@compiler.inner
def possible(state, r, j):
    """Whether a replica could ever serve a job: its model, context limit, KV cache, and the token budget where prompts are not cut."""
    job, host = job_ints(state), host_ints(state)[r]
    if state[MODELS] and not has_model(state, r, j):
        return False
    if not host[CHUNKED] and not host[MIXED] and job[PROMPT, j] > host[BUDGET]:
        return False
    if host[ROLE] == MIXED_ROLE or job[GOES_TO, j] == HERE:
        return holds_whole(state, r, j)
    return possible_prompt(state, r, j)


@compiler.inner
def possible_prompt(state, r, j):
    """Whether a replica could compute the prompt of a job that another one decodes."""
    job, host = job_ints(state), host_ints(state)[r]
    if host[ROLE] == DECODE_ROLE or job[PROMPT, j] > host[CONTEXT_LIMIT]:
        return False
    tokens = max(job[PROMPT, j], host[RESERVE_TOKENS] if host[RESERVE] == RESERVE_FIXED else 0)
    fits = blocks_for(tokens, host[BLOCK_TOKENS]) + host[WATERMARK] <= host[KV_BLOCKS]
    return fits and can_decode_somewhere(state, j)


@compiler.inner
def outstanding(host):
    return host[QUEUED_COUNT] + host[INBOX_COUNT] + host[RUNNING_COUNT]


@compiler.inner
def host_column(state, column, j, r):
    """The value of a host column for a job. What is only looked up is here, so that it is a part of the loop over the hosts."""
    host = host_ints(state)[r]
    if column == COLUMN_OUTSTANDING:
        return float(outstanding(host))
    if column == COLUMN_DECISIONS:
        return float(host[DECISIONS_HERE])
    return computed_column(state, column, j, r)


@compiler.inner
def computed_column(state, column, j, r):
    """The other ones."""
    job, host = job_ints(state), host_ints(state)[r]
    if column == COLUMN_QUEUED:
        return float(host[QUEUED_COUNT] + host[INBOX_COUNT])
    if column == COLUMN_RUNNING:
        return float(host[RUNNING_COUNT])
    if column == COLUMN_ID:
        return float(r)
    if column == COLUMN_WORK:
        return work_left(state, r)
    if column == COLUMN_ACTIVE:
        return float((host[KV_BLOCKS] - host[FREE]) * host[BLOCK_TOKENS]) + host_floats(state)[r, WAITING_PROMPT]
    if column == COLUMN_RESIDENT:
        return 0.0 if host[COLD] == 1 else 1.0
    if column == COLUMN_ADAPTER:
        return float(call_entry(state[ADAPTER_ENTRY], state[SELF], r, j, 2, 0)) if state[ADAPTER_ENTRY] else 1.0
    if column in (COLUMN_CACHED, COLUMN_MISSING):
        cached = 0
        if host[PREFIX]:
            if state[BELIEF]:
                cached = call_entry(state[BELIEF_ENTRY], state[SELF], r, j, 0, 0) * host[BLOCK_TOKENS]
            else:
                cached = (call_entry(state[CACHED_ENTRY], state[SELF], r, j, 0, 0) >> 42) * host[BLOCK_TOKENS]
        return float(cached if column == COLUMN_CACHED else max(job[PROMPT, j] - cached, 0))
    prompt, answer = left(state, r)
    return prompt if column == COLUMN_PREFILL else prompt + answer


@compiler.inner
def cost(terms, j, r, state):
    """A weighted sum of host columns, in the order of the terms."""
    total = 0.0
    for k in range(len(terms)):
        total += terms[k, 1] * host_column(state, int(terms[k, 0]), j, r)
    return total


@compiler.inner
def cheapest(state, j):
    """The host with the smallest cost among those that can take the job now; fewest decisions, then id, break ties."""
    hosts = host_ints(state)
    asked = state[ROUTE_ASKED]
    answer = floats_at(state[A_ANSWER], 1, state[HOSTS])[0]
    samples = ints_at(state[A_SAMPLES], state[JOBS] if state[ROUTE_SAMPLED] else 1, state[SAMPLE_WIDTH])
    sampled = state[ROUTE_SAMPLED] and any_possible(state, j, samples)
    terms = floats_at(state[A_ROUTE_TERMS], state[ROUTE_TERMS], 2)
    best, best_cost = WAITS, np.inf
    for k in range(state[SAMPLE_WIDTH] if sampled else state[HOSTS]):
        r = samples[j, k] if sampled else k
        if outstanding(hosts[r]) >= hosts[r, MAX_OUTSTANDING] or hosts[r, SHUT]:
            continue
        mine = answer[r] if asked else cost(terms, j, r, state)
        if mine == np.inf or mine > best_cost:
            continue
        if best >= 0 and mine == best_cost:
            fewer = hosts[r, DECISIONS_HERE] - hosts[best, DECISIONS_HERE]
            if fewer > 0 or (fewer == 0 and r > best):
                continue
        if not possible(state, r, j):  # last, because few come so far
            continue
        best, best_cost = r, mine
    return best


@compiler.inner
def any_possible(state, j, samples):
    """Whether one of the sampled hosts is open and could ever serve the job; if not, all hosts are candidates."""
    for k in range(state[SAMPLE_WIDTH]):
        if possible(state, samples[j, k], j) and not host_ints(state)[samples[j, k], SHUT]:
            return True
    return False
