"""Who of those that wait begins: slots, tokens and blocks last for some of them, in their order."""

import numpy as np

from rota.kernel.compile import call_entry, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit
from rota.worlds.serving.kernels.holding import blocks_for, last_running, preempt, reserve
from rota.worlds.serving.kernels.inside import GATE_ENTRY, GATED, PACKED, PICK_ENTRY, inside
from rota.worlds.serving.kernels.layout import (
    A_PREFILLS,
    A_QUEUE,
    A_RUNNING,
    ADAPTER_ENTRY,
    ANSWERED,
    ARRIVAL,
    BLOCK_TOKENS,
    BUDGET,
    CACHED,
    CACHED_ENTRY,
    CHUNK,
    CHUNKED,
    COMPUTED,
    DECODES,
    DECODING,
    DYNAMIC,
    E_START,
    FREE,
    FULL_CHECK,
    HIT_TOKENS,
    HOSTS,
    INSIDE,
    KIND_ORDER,
    KIND_VICTIM,
    KV_BLOCKS,
    LAGGING,
    LOADED,
    LOADING,
    LOADS,
    LOOKED_TOKENS,
    MAX_RUNNING,
    MIXED,
    MOVING,
    NOW,
    OPEN_ENTRY,
    PADDED,
    PICK,
    PINS,
    PINS_YIELD,
    PREEMPTIVE,
    PREFILL_COUNT,
    PREFILLING,
    PREFIX,
    PROMPTS_FIRST,
    QUEUE_ROOM,
    QUEUED_COUNT,
    RESERVE,
    RESERVE_CHUNK,
    RESERVE_FIXED,
    RESERVE_TOKENS,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SCHEDULED,
    SELF,
    SOURCE,
    STATE,
    STOP_LOAD,
    STOP_MOVE,
    SWAPPED,
    TARGET,
    UNPIN_ENTRY,
    VICTIM,
    WATERMARK,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
)
from rota.worlds.serving.kernels.moves import note
from rota.worlds.serving.kernels.outstanding import wait_no_more
from rota.worlds.serving.kernels.queue import before, first, order_keys, remove

IDLE, STARTED, ASK = range(3)  # ASK and more: the kind of keys that are needed is added


@compiler.inner
def admit(state, r, budget):
    """The same as `admit_waiting`; those whose adapter had no room are in line again afterwards."""
    code = admit_waiting(state, r, budget)
    if state[ADAPTER_ENTRY]:
        call_entry(state[ADAPTER_ENTRY], state[SELF], r, -1, 3, 0)
    return code


@compiler.inner
def admit_waiting(state, r, budget):
    """Admit waiting jobs in their order while slots, tokens and blocks last. Returns STARTED, or ASK + the kind of keys it needs first."""
    job, host, clock = job_ints(state), host_ints(state)[r], host_floats(state)[r]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    count, longest = chunks(state, r)  # of those admitted before a policy was asked again
    adapters = state[ADAPTER_ENTRY]
    while host[QUEUED_COUNT] > 0 and budget > 0:
        full = host[RUNNING_COUNT] + host[LAGGING] >= host[MAX_RUNNING]
        if not state[PREEMPTIVE] and (full or (host[FREE] == 0 and host[PINS] == 0)):
            break
        if state[DYNAMIC] and not state[ANSWERED] & (1 << KIND_ORDER):
            return ASK + KIND_ORDER
        position = next_to_begin(state, r)
        if position < 0:
            break
        j = waiting[position]
        if adapters and not call_entry(adapters, state[SELF], r, j, 0, 0):
            remove(state, r, position)
            continue
        moved = is_elsewhere(job, j)
        found = call_entry(state[CACHED_ENTRY], state[SELF], r, j, 0, 0) if host[PREFIX] and not moved else 0
        hits, here, idle_hits = found >> 42, (found >> 21) & 0x1FFFFF, found & 0x1FFFFF
        todo = 0 if moved else job[TARGET, j] - hits * host[BLOCK_TOKENS]
        chunk = min(todo, budget) if host[CHUNKED] else todo
        if not moved and not within_budget(host, chunk, budget, count, longest):
            break
        if full or not fits(state, r, j, chunk, hits, here, idle_hits) or not may_begin(state, r, j):
            code, tokens = make_way(state, r, j, full)
            if code >= ASK:
                return code
            if code == IDLE:
                break
            budget += tokens
            count, longest = chunks(state, r)
            continue
        remove(state, r, position)
        wait_no_more(state, r, j)
        chunk = let_begin(state, r, j, chunk, hits, here)
        if chunk > 0:
            budget -= chunk
            count += 1
            longest = max(longest, chunk)
        emit(state, E_START, j, r, clock[NOW])
        if state[PICK]:
            state[ANSWERED] &= ~(1 << KIND_ORDER)
    return STARTED


@compiler.inner
def is_elsewhere(job, j):
    """Whether a job's KV is computed and not here: then it needs blocks and a slot, and no tokens."""
    return job[SOURCE, j] > 0 or job[SWAPPED, j] > 0


@compiler.inner
def within_budget(host, chunk, budget, count, longest):
    """Whether a prompt's tokens go into the iteration, beside `count` other prompts, the longest of which has so many."""
    if host[PADDED]:
        # A request alone may be longer than the budget: one that grew before it was displaced must be able to return.
        return count == 0 or (count + 1) * max(longest, chunk) <= host[BUDGET]
    return chunk <= budget or (count == 0 and (host[DECODES] == 0 or host[PROMPTS_FIRST] != 0))


@compiler.inner
def make_way(state, r, j, full):
    """Something makes way for a job that does not fit: KV that is only kept, or a running job that goes after it.

    Returns STARTED and the tokens of this iteration that this gives back, IDLE: nothing does, or ASK + the kind of keys that are needed first.
    """
    job, host = job_ints(state), host_ints(state)[r]
    if host[PINS] and not full and (state[PINS_YIELD] or host[RUNNING_COUNT] == 0):
        call_entry(state[UNPIN_ENTRY], state[SELF], r, 0, 0, 0)
        return STARTED, 0
    if not state[PREEMPTIVE] or host[RUNNING_COUNT] == 0:
        return IDLE, 0
    if state[VICTIM] == 2 and not state[ANSWERED] & (1 << KIND_VICTIM):
        return ASK + KIND_VICTIM, 0
    worst = last_running(state, r)
    if worst < 0 or not before(order_keys(state), job_floats(state)[ARRIVAL], j, worst):
        return IDLE, 0
    tokens = host[MIXED] if job[STATE, worst] == DECODING else job[CHUNK, worst]
    preempt(state, r, worst)
    return STARTED, tokens


@compiler.inner
def let_begin(state, r, j, chunk, hits, here):
    """A job gets its place in the batch, and its blocks. Returns its tokens in this iteration; 0: its KV or its adapter has to come first."""
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    moved = is_elsewhere(job, j)
    adapters = state[ADAPTER_ENTRY]
    loading = call_entry(adapters, state[SELF], r, j, 1, 0) if adapters else 0
    if host[PREFIX]:
        call_entry(state[OPEN_ENTRY], state[SELF], r, j, hits, 0)
        if not moved:
            count_hits(state, r, j, hits, here)
    running[host[RUNNING_COUNT]] = j
    host[RUNNING_COUNT] += 1
    if moved:
        reserve(state, r, j, max(host[RESERVE_TOKENS] if host[RESERVE] == RESERVE_FIXED else 0, job[TARGET, j]))
        job[STATE, j] = MOVING
        note(state, STOP_MOVE, j)
        return 0
    if np.isnan(seconds[SCHEDULED, j]):
        seconds[SCHEDULED, j] = clock[NOW]
    if (
        here < hits
    ):  # it waits, with its blocks and its slot, until the beginning of its prompt has come from a lower tier; the others go on
        job[STATE, j], job[CHUNK, j] = LOADING, 0
        host[LOADS] += 1
        return 0
    chunk = 0 if loading else chunk
    job[COMPUTED, j] = hits * host[BLOCK_TOKENS]
    job[CHUNK, j] = chunk
    job[STATE, j] = PREFILLING
    set_aside(state, r, j)
    if loading:
        job[STATE, j] = MOVING
        note(state, STOP_LOAD, j)
        return 0
    ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r, host[PREFILL_COUNT]] = j
    host[PREFILL_COUNT] += 1
    return chunk


@compiler.inner
def count_hits(state, r, j, hits, here):
    """What a job has found in the cache and below counts for its host, and when it begins for the first time for itself."""
    job, host = job_ints(state), host_ints(state)[r]
    host[LOOKED_TOKENS] += job[TARGET, j]
    host[HIT_TOKENS] += hits * host[BLOCK_TOKENS]
    if np.isnan(job_floats(state)[SCHEDULED, j]):
        job[CACHED, j] = hits * host[BLOCK_TOKENS]
        job[LOADED, j] = (hits - here) * host[BLOCK_TOKENS]


@compiler.inner
def set_aside(state, r, j):
    """The blocks that a job's batcher gives it when it begins: for its first tokens, a fixed number, or for all that it computes."""
    job, host = job_ints(state), host_ints(state)[r]
    if host[RESERVE] == RESERVE_CHUNK:
        reserve(state, r, j, job[COMPUTED, j] + job[CHUNK, j])
    elif host[RESERVE] == RESERVE_FIXED:
        reserve(state, r, j, max(host[RESERVE_TOKENS], job[TARGET, j]))
    else:
        reserve(state, r, j, job[TARGET, j])


@compiler.inner
def fits(state, r, j, chunk, hits, here, idle_hits):
    """Whether there are blocks for a job to begin: `hits` of them found, `here` of those in the cache itself, `idle_hits` of these held by nobody.

    What comes back from the host's memory must find a block more than its KV takes, for the token that it makes next, as in vLLM 0.2
    (`BlockSpaceManager.can_swap_in`): otherwise it could come back to a full cache and be displaced again without a token. vLLM gives up a request
    that would need more than all blocks; here it comes back when all are free, as alone it has room to its end.
    """
    job, host = job_ints(state), host_ints(state)[r]
    if host[RESERVE] == RESERVE_FIXED:
        tokens = max(host[RESERVE_TOKENS], job[TARGET, j])
    elif host[RESERVE] == RESERVE_CHUNK and not host[FULL_CHECK] and not job[SOURCE, j] and not job[SWAPPED, j]:
        tokens = hits * host[BLOCK_TOKENS] + chunk
    else:
        tokens = job[TARGET, j]
    blocks = blocks_for(tokens, host[BLOCK_TOKENS])
    if job[SWAPPED, j] > 0 and host[RESERVE] != RESERVE_FIXED:  # a fixed reservation has room for the next token
        blocks = min(blocks + 1, host[KV_BLOCKS] - host[WATERMARK])
    return blocks - here + idle_hits + host[WATERMARK] <= host[FREE]


@compiler.inner
def next_to_begin(state, r):
    """Position in the line of the job to admit next: the first of the order, unless the batcher packs. -1: none."""
    if host_ints(state)[r, INSIDE] & PACKED:
        return call_entry(inside(state, r)[PICK_ENTRY], state[SELF], r, 0, 0, 0)
    return first(state, r)


@compiler.inner
def may_begin(state, r, j):
    """Whether a mechanism that looks ahead lets a job begin that would fit now."""
    if not host_ints(state)[r, INSIDE] & GATED:
        return True
    return call_entry(inside(state, r)[GATE_ENTRY], state[SELF], r, j, 0, 0) != 0


@compiler.inner
def chunks(state, r):
    """How many prompts have tokens in the iteration that is put together, and the most tokens of one."""
    job, host = job_ints(state), host_ints(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    count, longest = 0, 0
    for position in range(host[PREFILL_COUNT]):
        if job[CHUNK, prefills[position]] > 0:
            count += 1
            longest = max(longest, job[CHUNK, prefills[position]])
    return count, longest
