"""What a running request holds of its host: blocks, set aside and given back; who is displaced when they are too few, and what becomes of its KV."""

from rota.kernel.compile import call_entry, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit
from rota.worlds.serving.kernels.decoders import context, drop, stop_running
from rota.worlds.serving.kernels.layout import (
    A_FRESH,
    A_PREFILLS,
    A_RUNNING,
    A_VICTIM_KEYS,
    ARRIVAL,
    BASE,
    BLOCK_TOKENS,
    CHUNK,
    COMPUTED,
    COPIED,
    DECODING,
    DECODING_NOW,
    DISPLACED,
    DISPLACED_AT_MOST,
    E_PREEMPT,
    ENDLESS,
    EXTEND_ENTRY,
    FREE,
    FRESH_COUNT,
    FULL,
    GENERATED,
    HELD_BLOCKS,
    HOSTS,
    JOBS,
    LAST_DECODE,
    LAST_TOKEN,
    LOADED_ENTRY,
    LOADING,
    LOADS,
    LOADS_AT,
    MOVING,
    NOW,
    PAUSED,
    PREEMPTED_HERE,
    PREEMPTIONS,
    PREFILL_COUNT,
    PREFIX,
    PROMPT,
    QUEUED,
    RELEASE_ENTRY,
    RESERVE,
    RESERVE_FIXED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    STALL,
    STATE,
    SWAP_COPY,
    SWAP_GROUP,
    SWAP_KEEPS,
    SWAP_RATE,
    SWAP_ROOM,
    SWAPPED,
    TARGET,
    VICTIM,
    VICTIM_WIDTH,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
)
from rota.worlds.serving.kernels.outstanding import lose, wait
from rota.worlds.serving.kernels.queue import before, order_keys, push


@compiler.inner
def blocks_for(tokens, block_tokens):
    return (tokens + block_tokens - 1) // block_tokens


@compiler.inner
def held(state, r, j):
    """KV blocks that a running job holds."""
    job, host = job_ints(state), host_ints(state)[r]
    if job[STATE, j] != DECODING or host[RESERVE] == RESERVE_FIXED or host[PREFIX]:
        return job[HELD_BLOCKS, j]
    return blocks_for(context(job, host, j) + host[DECODING_NOW], host[BLOCK_TOKENS])


@compiler.inner
def release(state, r, j):
    """Give the blocks of a running job back."""
    host = host_ints(state)[r]
    if host[PREFIX]:
        call_entry(state[RELEASE_ENTRY], state[SELF], r, j, 0, 0)
    else:
        host[FREE] += held(state, r, j)
    job_ints(state)[HELD_BLOCKS, j] = 0


@compiler.inner
def reserve(state, r, j, tokens):
    """Set blocks aside so that a prefilling job can hold so many tokens."""
    job, host = job_ints(state), host_ints(state)[r]
    wanted = blocks_for(tokens, host[BLOCK_TOKENS])
    if wanted > job[HELD_BLOCKS, j]:
        if host[PREFIX]:
            call_entry(state[EXTEND_ENTRY], state[SELF], r, j, wanted, tokens)
        else:
            host[FREE] -= wanted - job[HELD_BLOCKS, j]
            job[HELD_BLOCKS, j] = wanted
    elif host[PREFIX]:
        call_entry(state[EXTEND_ENTRY], state[SELF], r, j, job[HELD_BLOCKS, j], tokens)


@compiler.inner
def leave_prefills(state, r, j):
    host = host_ints(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    position = 0
    while prefills[position] != j:
        position += 1
    host[PREFILL_COUNT] -= 1
    for k in range(position, host[PREFILL_COUNT]):
        prefills[k] = prefills[k + 1]


@compiler.inner
def is_fresh(state, r, j):
    fresh = ints_at(state[A_FRESH], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host_ints(state)[r, FRESH_COUNT]):
        if fresh[position] == j:
            return True
    return False


@compiler.inner
def last_running(state, r):
    """The running job to displace: the first to go by the victim order, otherwise the last of the order; not one whose KV is still coming in. -1: none."""
    job = job_ints(state)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    arrival = job_floats(state)[ARRIVAL]
    keys = floats_at(state[A_VICTIM_KEYS], state[JOBS], state[VICTIM_WIDTH]) if state[VICTIM] else order_keys(state)
    chosen = -1
    for position in range(host_ints(state)[r, RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] == MOVING:
            continue
        if chosen < 0 or (before(keys, arrival, j, chosen) if state[VICTIM] else before(keys, arrival, chosen, j)):
            chosen = j
    return chosen


@compiler.inner
def preempt(state, r, j):
    """Displace a running job: its blocks are free and it waits again; what it had computed is lost, or swapped out."""
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    decoding = job[STATE, j] == DECODING
    state[DISPLACED] += 1
    if state[DISPLACED] > max(DISPLACED_AT_MOST, 100 * state[JOBS]):
        state[FULL] |= ENDLESS
    release(state, r, j)
    stop_running(state, r, j)
    if decoding:
        if not is_fresh(state, r, j):
            seconds[LAST_TOKEN, j] = clock[LAST_DECODE]
        drop(state, r, j)
    elif job[STATE, j] == LOADING:
        host[LOADS] -= 1
        if host[LOADS] == 0:  # nobody waits for a load any more: a time that has passed would wake the host for ever
            clock[LOADS_AT] = float("inf")
    elif job[STATE, j] != PAUSED:
        leave_prefills(state, r, j)
    if host[LOADS]:
        call_entry(state[LOADED_ENTRY], state[SELF], r, 0, 0, 0)
    lose(job, j)
    job[STATE, j] = QUEUED
    job[TARGET, j] = job[PROMPT, j] + job[GENERATED, j]
    if decoding and host[SWAP_ROOM] > 0:
        swap_out(state, r, j)
    job[CHUNK, j] = 0
    job[PREEMPTIONS, j] += 1
    host[PREEMPTED_HERE] += 1
    push(state, r, j)
    wait(state, r, j)
    emit(state, E_PREEMPT, j, r, clock[NOW])


@compiler.inner
def swap_out(state, r, j):
    """The KV of a displaced decoder goes to the host's memory, if there is room; then only its copy has to come back."""
    job, host, clock = job_ints(state), host_ints(state)[r], host_floats(state)[r]
    tokens = job[TARGET, j] - 1  # the last token is not in the cache yet
    blocks = blocks_for(tokens, host[BLOCK_TOKENS])
    if host[SWAP_KEEPS] and blocks - job[COPIED, j] > host[SWAP_ROOM]:
        drop_copies(state, r, blocks - job[COPIED, j])
    copied, job[COPIED, j] = job[COPIED, j], 0
    if blocks - copied > host[SWAP_ROOM]:
        host[SWAP_ROOM] += copied
        return
    host[SWAP_ROOM] -= blocks - copied
    clock[STALL] += clock[SWAP_RATE] * (tokens - copied * host[BLOCK_TOKENS])
    clock[STALL] += clock[SWAP_COPY] * blocks_for(blocks - copied, host[SWAP_GROUP])
    job[SWAPPED, j] = blocks
    job[TARGET, j] = job[COMPUTED, j] = job[BASE, j] = tokens


@compiler.inner
def drop_copies(state, r, wanted):
    """Copies of what runs give way, those of the last admitted first, until so many blocks fit into the host's memory."""
    job, host = job_ints(state), host_ints(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[RUNNING_COUNT] - 1, -1, -1):
        if wanted <= host[SWAP_ROOM]:
            return
        host[SWAP_ROOM] += job[COPIED, running[position]]
        job[COPIED, running[position]] = 0
