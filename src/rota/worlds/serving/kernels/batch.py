"""One iteration of a replica: who is in it, what that costs in KV blocks, and what it leaves behind.

The batchers differ in a handful of settings (see `rota.worlds.serving.policies`): whether prefills share an iteration with
decodes, whether prompts may be cut in chunks, the token budget, and how many blocks are set aside at admission.
"""

import numpy as np

from rota.kernel.compile import call_entry, call_timing, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit, gap, touch
from rota.worlds.serving.kernels.decoders import context, drop, join, stop_running
from rota.worlds.serving.kernels.inside import (
    ACCEPT_ENTRY,
    CHECK_ENTRY,
    CHECKED,
    GATE_ENTRY,
    GATED,
    LAYER_ENTRY,
    LAYERED,
    OBSERVE_ENTRY,
    OBSERVED,
    PACKED,
    PICK_ENTRY,
    SPECULATIVE,
    STREAMED,
    TIME_ENTRY,
    TIMED,
    inside,
    wave_under_way,
)
from rota.worlds.serving.kernels.layout import (
    A_CLASSES,
    A_ENDING,
    A_FEATURES,
    A_FRESH,
    A_LAGGING,
    A_PREFILLS,
    A_QUEUE,
    A_ROWS,
    A_RUNNING,
    A_VICTIM_KEYS,
    ADAPTER_ENTRY,
    ANSWERED,
    ARRIVAL,
    ASK_HOST,
    ASK_KIND,
    ASK_ROWS,
    ASYNC,
    BASE,
    BASE_HIGH,
    BASE_LOW,
    BATCHED_TOKENS,
    BEGUN,
    BLOCK_TOKENS,
    BUDGET,
    BUSY,
    BUSY_SECONDS,
    CACHED,
    CACHED_ENTRY,
    CALL_AT_END,
    CHUNK,
    CHUNKED,
    CLASS_ROOM,
    COLD,
    COMPUTED,
    CONTEXT_SUM,
    COPIED,
    DECODES,
    DECODING,
    DECODING_NOW,
    DISPATCH,
    DISPLACED,
    DISPLACED_AT_MOST,
    DYNAMIC,
    E_FINISH,
    E_PREEMPT,
    E_START,
    ENDLESS,
    ENDS,
    ENDS_AT,
    EXTEND_DECODERS_ENTRY,
    EXTEND_ENTRY,
    EXTREMES,
    F_DECODE_CONTEXT,
    F_DECODE_MAX,
    F_DECODE_MIN,
    F_DECODES,
    F_GANG_TOKENS,
    F_SAMPLES,
    FEATURES,
    FINISH,
    FINISHED,
    FINISHED_STATE,
    FIRST_TOKEN,
    FREE,
    FRESH_COUNT,
    FULL,
    FULL_CHECK,
    GANG,
    GANG_SIZE,
    GENERATED,
    GOES_TO,
    HELD_BLOCKS,
    HERE,
    HIT_TOKENS,
    HOSTS,
    INBOX_COUNT,
    INBOX_HEAD,
    INSIDE,
    ITERATIONS,
    JOBS,
    KIND_ORDER,
    KIND_VICTIM,
    LAGGING,
    LANDED,
    LANDINGS,
    LAST_DECODE,
    LAST_TOKEN,
    LOADED,
    LOADED_ENTRY,
    LOADING,
    LOADS,
    LOOKED_TOKENS,
    MAX_RUNNING,
    MIXED,
    MOVING,
    NEXT_IN_BOX,
    NODE,
    NOW,
    OPEN_ENTRY,
    OUTPUT,
    PADDED,
    PAUSED,
    PICK,
    PINS,
    PINS_YIELD,
    POWER_ENTRY,
    POWERED,
    PREEMPTED_HERE,
    PREEMPTIONS,
    PREEMPTIVE,
    PREFILL_CONTEXT,
    PREFILL_COUNT,
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_ROLE,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
    PREFILLING,
    PREFIX,
    PROMPT,
    PROMPTS_FIRST,
    QUEUE_ROOM,
    QUEUED,
    QUEUED_COUNT,
    READY,
    RELEASE_ENTRY,
    RESERVE,
    RESERVE_CHUNK,
    RESERVE_FIXED,
    RESERVE_TOKENS,
    ROLE,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SCHEDULED,
    SELF,
    SLOWNESS,
    SOURCE,
    STAGE,
    STALL,
    STATE,
    STEP,
    STOP_BOUNDARY,
    STOP_COLD,
    STOP_FINISH,
    STOP_LOAD,
    STOP_MOVE,
    SWAP_COPY,
    SWAP_GROUP,
    SWAP_KEEPS,
    SWAP_RATE,
    SWAP_ROOM,
    SWAPPED,
    TARGET,
    TIMING_ENTRY,
    TIMING_PARAMETERS,
    UNPIN_ENTRY,
    VICTIM,
    VICTIM_WIDTH,
    WATCHED,
    WATERMARK,
    WATTS,
    WHEN_EMPTY,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import join_landed, note, park
from rota.worlds.serving.kernels.outstanding import wait, wait_no_more
from rota.worlds.serving.kernels.queue import before, first, order_keys, push, remove

IDLE, STARTED, ASK = range(3)  # ASK and more: the kind of keys that are needed is added


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
    elif job[STATE, j] != PAUSED:
        leave_prefills(state, r, j)
    if host[LOADS]:
        call_entry(state[LOADED_ENTRY], state[SELF], r, 0, 0, 0)
    job[STATE, j] = QUEUED
    job[TARGET, j] = job[PROMPT, j] + job[GENERATED, j]
    job[COMPUTED, j] = 0
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
def cut_chunks(state, r):
    """Give every prefill under way its share of the token budget, and count the blocks that decodes and prefills need."""
    job, host = job_ints(state), host_ints(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    budget = host[BUDGET] - (host[DECODES] if host[MIXED] else 0)
    under_way = host[INSIDE] & (LAYERED | STREAMED) and wave_under_way(state, r)
    need = 0
    if host[RESERVE] != RESERVE_FIXED:
        phase = host[STEP] % host[BLOCK_TOKENS]
        need = ints_at(state[A_CLASSES], state[HOSTS], state[CLASS_ROOM])[r, phase]
    for position in range(host[PREFILL_COUNT]):
        j = prefills[position]
        chunk = job[CHUNK, j] if under_way else max(0, min(job[TARGET, j] - job[COMPUTED, j], budget))
        job[CHUNK, j] = chunk
        budget -= chunk
        if host[RESERVE] == RESERVE_CHUNK:
            need += max(0, blocks_for(job[COMPUTED, j] + chunk, host[BLOCK_TOKENS]) - job[HELD_BLOCKS, j])
    return need


@compiler.inner
def grow(state, r):
    """Let everything that runs have its blocks for this iteration; displace jobs until they fit. Returns how many were displaced.

    Taking victims from the end until the rest fits gives the same victims as asking block by block from the front.
    """
    job, host = job_ints(state), host_ints(state)[r]
    displaced = 0
    need = cut_chunks(state, r)
    while need > host[FREE]:
        if host[PINS]:
            call_entry(state[UNPIN_ENTRY], state[SELF], r, 0, 0, 0)
            continue
        worst = last_running(state, r)
        if worst < 0:
            break
        preempt(state, r, worst)
        displaced += 1
        need = cut_chunks(state, r)
    phase = host[STEP] % host[BLOCK_TOKENS]
    full = ints_at(state[A_CLASSES], state[HOSTS], state[CLASS_ROOM])[r, phase]  # decoders whose last block is full
    if host[PREFIX]:
        if full > 0:
            call_entry(state[EXTEND_DECODERS_ENTRY], state[SELF], r, 0, 0, 0)
    elif host[RESERVE] != RESERVE_FIXED:
        host[FREE] -= full
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[PREFILL_COUNT]):
        j = prefills[position]
        if host[RESERVE] == RESERVE_CHUNK:
            reserve(state, r, j, job[COMPUTED, j] + job[CHUNK, j])
    return displaced


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
def fits(state, r, j, chunk, hits, here, idle_hits):
    """Whether there are blocks for a job to begin: `hits` of them found, `here` of those in the cache itself, `idle_hits` of these held by nobody."""
    job, host = job_ints(state), host_ints(state)[r]
    if host[RESERVE] == RESERVE_FIXED:
        tokens = max(host[RESERVE_TOKENS], job[TARGET, j])
    elif host[RESERVE] == RESERVE_CHUNK and not host[FULL_CHECK] and not job[SOURCE, j] and not job[SWAPPED, j]:
        tokens = hits * host[BLOCK_TOKENS] + chunk
    else:
        tokens = job[TARGET, j]
    return blocks_for(tokens, host[BLOCK_TOKENS]) - here + idle_hits + host[WATERMARK] <= host[FREE]


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
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
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
        moved = (
            job[SOURCE, j] > 0 or job[SWAPPED, j] > 0
        )  # computed, and not here: it needs blocks and a slot, and no tokens
        found = call_entry(state[CACHED_ENTRY], state[SELF], r, j, 0, 0) if host[PREFIX] and not moved else 0
        hits, here, idle_hits = found >> 42, (found >> 21) & 0x1FFFFF, found & 0x1FFFFF
        todo = 0 if moved else job[TARGET, j] - hits * host[BLOCK_TOKENS]
        chunk = min(todo, budget) if host[CHUNKED] else todo
        if moved:
            pass
        elif host[PADDED]:
            # A request alone may be longer than the budget: one that grew before it was displaced must be able to return.
            if count > 0 and (count + 1) * max(longest, chunk) > host[BUDGET]:
                break
        elif chunk > budget and (count > 0 or (host[DECODES] > 0 and not host[PROMPTS_FIRST])):
            break
        if full or not fits(state, r, j, chunk, hits, here, idle_hits) or not may_begin(state, r, j):
            if host[PINS] and not full and (state[PINS_YIELD] or host[RUNNING_COUNT] == 0):
                call_entry(state[UNPIN_ENTRY], state[SELF], r, 0, 0, 0)
                continue
            if state[PREEMPTIVE] and host[RUNNING_COUNT] > 0:
                if state[VICTIM] == 2 and not state[ANSWERED] & (1 << KIND_VICTIM):
                    return ASK + KIND_VICTIM
                worst = last_running(state, r)
                if worst >= 0 and before(order_keys(state), seconds[ARRIVAL], j, worst):
                    # Its tokens of this iteration go back into the budget.
                    budget += host[MIXED] if job[STATE, worst] == DECODING else job[CHUNK, worst]
                    preempt(state, r, worst)
                    count, longest = chunks(state, r)
                    continue
            break
        remove(state, r, position)
        wait_no_more(state, r, j)
        loading = call_entry(adapters, state[SELF], r, j, 1, 0) if adapters else 0
        if loading and not moved:
            chunk = 0
        if host[PREFIX]:
            call_entry(state[OPEN_ENTRY], state[SELF], r, j, hits, 0)
        if host[PREFIX] and not moved:
            host[LOOKED_TOKENS] += job[TARGET, j]
            host[HIT_TOKENS] += hits * host[BLOCK_TOKENS]
            if np.isnan(seconds[SCHEDULED, j]):
                job[CACHED, j] = hits * host[BLOCK_TOKENS]
                job[LOADED, j] = (hits - here) * host[BLOCK_TOKENS]
        running[host[RUNNING_COUNT]] = j
        host[RUNNING_COUNT] += 1
        if moved:
            reserve(state, r, j, max(host[RESERVE_TOKENS] if host[RESERVE] == RESERVE_FIXED else 0, job[TARGET, j]))
            job[STATE, j] = MOVING
            note(state, STOP_MOVE, j)
            emit(state, E_START, j, r, clock[NOW])
            if state[PICK]:
                state[ANSWERED] &= ~(1 << KIND_ORDER)
            continue
        if here < hits:
            await_loads(state, r, j)
            continue
        job[COMPUTED, j] = hits * host[BLOCK_TOKENS]
        job[CHUNK, j] = chunk
        job[STATE, j] = PREFILLING
        if host[RESERVE] == RESERVE_CHUNK:
            reserve(state, r, j, job[COMPUTED, j] + chunk)
        elif host[RESERVE] == RESERVE_FIXED:
            reserve(state, r, j, max(host[RESERVE_TOKENS], job[TARGET, j]))
        else:
            reserve(state, r, j, job[TARGET, j])
        if np.isnan(seconds[SCHEDULED, j]):
            seconds[SCHEDULED, j] = clock[NOW]
        if loading:
            job[STATE, j] = MOVING
            note(state, STOP_LOAD, j)
            emit(state, E_START, j, r, clock[NOW])
            if state[PICK]:
                state[ANSWERED] &= ~(1 << KIND_ORDER)
            continue
        prefills[host[PREFILL_COUNT]] = j
        host[PREFILL_COUNT] += 1
        budget -= chunk
        count += 1
        longest = max(longest, chunk)
        emit(state, E_START, j, r, clock[NOW])
        if state[PICK]:
            state[ANSWERED] &= ~(1 << KIND_ORDER)
    return STARTED


@compiler.inner
def await_loads(state, r, j):
    """An admitted job waits, with its blocks and its slot, until the beginning of its prompt has come from a lower tier; the others go on."""
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    job[STATE, j], job[CHUNK, j] = LOADING, 0
    host[LOADS] += 1
    if np.isnan(seconds[SCHEDULED, j]):
        seconds[SCHEDULED, j] = clock[NOW]
    emit(state, E_START, j, r, clock[NOW])
    if state[PICK]:
        state[ANSWERED] &= ~(1 << KIND_ORDER)


@compiler.inner
def measure(state, r, decodes):
    """Fill the features of the iteration that is about to start; returns whether there is anything in it."""
    job, host = job_ints(state), host_ints(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    f = floats_at(state[A_FEATURES], state[HOSTS], FEATURES)[r]
    f[:] = 0.0
    tokens = 0
    for position in range(host[PREFILL_COUNT]):
        j = prefills[position]
        chunk, done = job[CHUNK, j], job[COMPUTED, j]
        if chunk == 0:
            continue
        tokens += chunk
        f[PREFILL_REQUESTS] += 1
        f[PREFILL_CONTEXT] += done
        f[PREFILL_SQUARES] += float(chunk) * chunk
        f[PREFILL_PAIRS] += chunk * (done + 0.5 * (chunk + 1))
        if done + chunk == job[TARGET, j]:
            f[F_SAMPLES] += 1
    f[PREFILL_TOKENS] = tokens
    if decodes:
        f[F_DECODES] = host[DECODES]
        f[F_SAMPLES] += host[DECODES]
        f[F_DECODE_CONTEXT] = host[CONTEXT_SUM]
        if host[EXTREMES] and host[DECODES] > 0:
            f[F_DECODE_MAX] = host[BASE_HIGH] + host[STEP]
            f[F_DECODE_MIN] = host[BASE_LOW] + host[STEP]
        tokens += host[DECODES]
    host[BATCHED_TOKENS] += tokens
    return tokens > 0


@compiler.inner
def catch_up(state, r):
    """Asynchronous scheduling: an iteration is put together while the one before it runs.

    So what ended and what arrived during that one is seen only now, after the decision. Returns whether anything was.
    """
    job, host = job_ints(state), host_ints(state)[r]
    lagging = ints_at(state[A_LAGGING], state[HOSTS], state[RUNNING_ROOM])[r]
    seen = host[LAGGING] + host[INBOX_COUNT] > 0
    for position in range(host[LAGGING]):
        release(state, r, lagging[position])
    host[LAGGING] = 0
    while host[INBOX_COUNT] > 0:
        j = host[INBOX_HEAD]
        host[INBOX_HEAD] = job[NEXT_IN_BOX, j]
        host[INBOX_COUNT] -= 1
        push(state, r, j)
    return seen


@compiler.inner
def start(state, r):
    """Start the iteration that has been put together. Returns STARTED, or IDLE when it is empty."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    host[STAGE] = 0
    state[ANSWERED] = 0
    host[READY] = 0
    if host[ASYNC] and catch_up(state, r) and host[RUNNING_COUNT] == host[LOADS]:
        host[READY] = 1  # nothing was scheduled ahead: schedule what has become visible
        return IDLE
    if not measure(state, r, host[DECODING_NOW]):
        host[DECODING_NOW] = 0
        return IDLE
    features = state[A_FEATURES] + 8 * FEATURES * r
    clock[BEGUN] = clock[NOW]
    if host[INSIDE] & TIMED:
        seconds = call_timing(inside(state, r)[TIME_ENTRY], state[SELF], r)
    else:
        seconds = call_timing(host[TIMING_ENTRY], host[TIMING_PARAMETERS], features)
    if host[NODE]:
        seconds *= sharing(state, r)
    clock[ENDS_AT] = clock[NOW] + clock[SLOWNESS] * seconds + clock[STALL]
    if host[POWERED]:
        call_entry(state[POWER_ENTRY], state[SELF], r, 0, 0, 0)
    host[BUSY] = 1
    host[ITERATIONS] += 1
    if host[GANG_SIZE] > 1:
        keep_step(
            state, r
        )  # a member that begins at the same time makes it count again: STALL is kept until the step ends
    else:
        clock[STALL] = 0.0
    return STARTED


@compiler.inner
def sharing(state, r):
    """How many replicas of a host's machine compute, itself with them, when it begins an iteration."""
    hosts = host_ints(state)
    busy = 1.0
    for g in range(state[HOSTS]):
        if g != r and hosts[g, NODE] == hosts[r, NODE] and hosts[g, BUSY]:
            busy += 1.0
    return busy


@compiler.inner
def keep_step(state, r):
    """Hosts that share experts begin together and end together: with the slowest, and with the tokens of all in the experts."""
    hosts, clocks = host_ints(state), host_floats(state)
    first, last = hosts[r, GANG], hosts[r, GANG] + hosts[r, GANG_SIZE]
    f = floats_at(state[A_FEATURES], state[HOSTS], FEATURES)
    tokens = 0.0
    for g in range(first, last):
        if hosts[g, BUSY] and clocks[g, BEGUN] == clocks[r, BEGUN]:
            tokens += f[g, PREFILL_TOKENS] + f[g, F_DECODES]
    slowest = 0.0
    for g in range(first, last):
        if hosts[g, BUSY] and clocks[g, BEGUN] == clocks[r, BEGUN]:
            f[g, F_GANG_TOKENS] = tokens
            seconds = call_timing(
                hosts[g, TIMING_ENTRY], hosts[g, TIMING_PARAMETERS], state[A_FEATURES] + 8 * FEATURES * g
            )
            slowest = max(slowest, clocks[g, SLOWNESS] * seconds + clocks[g, STALL])
    for g in range(first, last):
        if hosts[g, BUSY] and clocks[g, BEGUN] == clocks[r, BEGUN]:
            clocks[g, ENDS_AT] = clocks[r, BEGUN] + slowest


@compiler.inner
def short(state, r):
    """Whether what runs needs more blocks than are free."""
    host = host_ints(state)[r]
    return host[RUNNING_COUNT] > 0 and cut_chunks(state, r) > host[FREE]


@compiler.inner
def ask(state, r, kind):
    """Prepare a question about the jobs of a host: their numbers, waiting ones first, then those that may be displaced."""
    host = host_ints(state)[r]
    displacing = state[VICTIM] == 0 and host[STAGE] == 0 and short(state, r)
    with_running = state[PREEMPTIVE] or kind == KIND_VICTIM or displacing
    rows = ints_at(state[A_ROWS], 1, state[QUEUE_ROOM] + state[RUNNING_ROOM])[0]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    count = 0
    if kind == KIND_ORDER:
        for position in range(host[QUEUED_COUNT]):
            rows[count] = waiting[position]
            count += 1
    if with_running:
        for position in range(host[RUNNING_COUNT]):
            rows[count] = running[position]
            count += 1
    state[ASK_HOST], state[ASK_ROWS], state[ASK_KIND] = r, count, kind
    return ASK


@compiler.inner
def batched(state, r):
    """Prompt tokens in the iteration that is put together."""
    job, host = job_ints(state), host_ints(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    tokens = 0
    for position in range(host[PREFILL_COUNT]):
        tokens += job[CHUNK, prefills[position]]
    return tokens


@compiler.inner
def begin(state, r):
    """Begin the next iteration of a host. Returns STARTED, IDLE, or ASK (resume by calling again after the answer)."""
    host = host_ints(state)[r]
    if host[COLD]:
        host[READY] = 0
        note(state, STOP_COLD, r)
        return IDLE
    if host[LANDINGS]:
        join_landed(state, r)
    if host[LOADS]:
        call_entry(state[LOADED_ENTRY], state[SELF], r, 0, 0, 0)
    if host[STAGE] == 0:
        # Where a batch is whole prompts, all that runs may have been admitted before a policy was asked again.
        empty = host[RUNNING_COUNT] == host[PREFILL_COUNT]
        if not host[MIXED] and (not host[WHEN_EMPTY] or empty) and host[QUEUED_COUNT] > 0:
            code = admit(state, r, host[BUDGET] - batched(state, r))
            if code >= ASK:
                return ask(state, r, code - ASK)
            if host[PREFILL_COUNT] > 0:
                return start(state, r)
        if host[INSIDE] & CHECKED:
            call_entry(inside(state, r)[CHECK_ENTRY], state[SELF], r, 0, 0, 0)
        if (state[DYNAMIC] or state[VICTIM] == 2) and short(state, r):
            kind = KIND_VICTIM if state[VICTIM] == 2 else KIND_ORDER
            if not state[ANSWERED] & (1 << kind) and state[VICTIM] != 1:
                return ask(state, r, kind)
        displaced = grow(state, r)
        host[DECODING_NOW] = 1 if host[DECODES] > 0 else 0
        if not host[MIXED] or (displaced > 0 and host[RUNNING_COUNT] > 0):
            if host[RUNNING_COUNT] == 0 and host[QUEUED_COUNT] > 0:
                code = admit(state, r, host[BUDGET])
                if code >= ASK:
                    return ask(state, r, code - ASK)
            return start(state, r)
        host[STAGE] = 1
    waits = host[QUEUED_COUNT] > 0 or state[ADAPTER_ENTRY]
    if waits and not (host[INSIDE] & LAYERED and wave_under_way(state, r)):
        code = admit(state, r, host[BUDGET] - host[DECODES] - batched(state, r))
        if code >= ASK:
            return ask(state, r, code - ASK)
    if host[DECODES] == 0:
        host[DECODING_NOW] = 0
    return start(state, r)


@compiler.inner
def finish(state, r, j, now):
    """A job has all its tokens."""
    job, seconds = job_ints(state), job_floats(state)
    host = host_ints(state)[r]
    if host[ASYNC]:
        job[HELD_BLOCKS, j] = held(state, r, j)
        ints_at(state[A_LAGGING], state[HOSTS], state[RUNNING_ROOM])[r, host[LAGGING]] = j
        host[LAGGING] += 1
    else:
        release(state, r, j)
    stop_running(state, r, j)
    if job[STATE, j] == DECODING:
        drop(state, r, j)
        job[COMPUTED, j] = job[PROMPT, j] + job[OUTPUT, j] - 1
    job[STATE, j] = FINISHED_STATE
    host[SWAP_ROOM] += job[COPIED, j]
    job[COPIED, j] = 0
    seconds[FINISH, j] = now
    seconds[LAST_TOKEN, j] = now
    state[FINISHED] += 1
    state[DISPATCH] = 1
    if host[INSIDE] & OBSERVED:
        call_entry(inside(state, r)[OBSERVE_ENTRY], state[SELF], r, j, 0, 0)
    if job[WATCHED, j]:
        note(state, STOP_FINISH, j)
    emit(state, E_FINISH, j, r, now)


@compiler.inner
def complete_decodes(state, r, now):
    """Every decoder has one token more; those that have all of theirs are done."""
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    heap = ints_at(state[A_ENDING], state[HOSTS], state[RUNNING_ROOM])[r]
    fresh = ints_at(state[A_FRESH], state[HOSTS], state[RUNNING_ROOM])[r]
    state[DISPLACED] = 0
    gap(state, now - clock[LAST_DECODE], host[DECODES] - host[FRESH_COUNT])
    for position in range(host[FRESH_COUNT]):
        gap(state, now - seconds[LAST_TOKEN, fresh[position]], 1)
    host[FRESH_COUNT] = 0
    clock[LAST_DECODE] = now
    host[STEP] += 1
    host[CONTEXT_SUM] += host[DECODES]
    host[DECODING_NOW] = 0
    if host[INSIDE] & SPECULATIVE:
        call_entry(inside(state, r)[ACCEPT_ENTRY], state[SELF], r, 0, 0, 0)
    while host[DECODES] > 0 and job[ENDS, heap[0]] == host[STEP]:
        finish(state, r, heap[0], now)


@compiler.inner
def complete_prefills(state, r, now):
    """Chunks are computed; a prompt that is whole gives its next token and the job joins the decoders."""
    job, seconds = job_ints(state), job_floats(state)
    host = host_ints(state)[r]
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    kept = 0
    for position in range(host[PREFILL_COUNT]):
        j = prefills[position]
        job[COMPUTED, j] += job[CHUNK, j]
        job[CHUNK, j] = 0
        if job[COMPUTED, j] < job[TARGET, j]:
            prefills[kept] = j
            kept += 1
            continue
        job[GENERATED, j] += 1
        job[BASE, j] = job[TARGET, j]
        state[DISPLACED] = 0
        if np.isnan(seconds[FIRST_TOKEN, j]):
            seconds[FIRST_TOKEN, j] = now
        else:
            gap(state, now - seconds[LAST_TOKEN, j], 1)
        seconds[LAST_TOKEN, j] = now
        if job[GENERATED, j] == job[OUTPUT, j]:
            finish(state, r, j, now)
        elif job[GOES_TO, j] != HERE and (host[ROLE] == PREFILL_ROLE or job[GOES_TO, j] != 0):
            park(state, r, j)
        elif host[DECODING_NOW]:  # decodes go on in a stream of their own: it joins them with their next iteration
            job[STATE, j] = LANDED
            host[LANDINGS] += 1
        else:
            join(state, r, j)
    host[PREFILL_COUNT] = kept


@compiler.inner
def complete(state, r):
    """End the iteration of a host: tokens are out, jobs end, the host is ready for the next."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    now = clock[ENDS_AT]
    touch(state, r, now)
    clock[BUSY_SECONDS] += now - clock[BEGUN]
    clock[WATTS] = 0.0
    clock[NOW] = now
    host[BUSY] = 0
    host[READY] = 1
    if host[GANG_SIZE] > 1:
        clock[STALL] = 0.0
    if host[DECODING_NOW]:
        complete_decodes(state, r, now)
    # Where prompts go through the layers group by group they may only have come to the next group.
    layered = host[PREFILL_COUNT] > 0 and host[INSIDE] & LAYERED
    through = not layered or call_entry(inside(state, r)[LAYER_ENTRY], state[SELF], r, 0, 0, 0)
    if host[PREFILL_COUNT] > 0 and through:
        complete_prefills(state, r, now)
    if host[CALL_AT_END]:
        note(state, STOP_BOUNDARY, r)


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def begin_entry(address, r, _, __, ___):
    return begin(whole_state(address), r)


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def complete_entry(address, r, _, __, ___):
    complete(whole_state(address), r)
    return 0
