"""One iteration of a replica: who is in it, what that costs in KV blocks, and what it leaves behind.

The batchers differ in a handful of settings (see `rota.worlds.serving.policies`): whether prefills share an iteration with
decodes, whether prompts may be cut in chunks, the token budget, and how many blocks are set aside at admission.
"""

import numpy as np

from rota.kernel.compile import call_entry, call_timing, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit, gap, touch
from rota.worlds.serving.kernels.admit import ASK, IDLE, STARTED, admit
from rota.worlds.serving.kernels.decoders import context, drop, join, join_those, stop_running
from rota.worlds.serving.kernels.holding import blocks_for, held, last_running, preempt, release, reserve
from rota.worlds.serving.kernels.inside import (
    ACCEPT_ENTRY,
    CHECK_ENTRY,
    CHECKED,
    LAYER_ENTRY,
    LAYERED,
    OBSERVE_ENTRY,
    OBSERVED,
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
    CALL_AT_END,
    CHUNK,
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
    DYNAMIC,
    E_FINISH,
    ENDS,
    ENDS_AT,
    EXTEND_DECODERS_ENTRY,
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
    GANG,
    GANG_SIZE,
    GENERATED,
    GOES_TO,
    HELD_BLOCKS,
    HERE,
    HOSTS,
    INBOX_COUNT,
    INBOX_HEAD,
    INSIDE,
    ITERATIONS,
    KIND_ORDER,
    KIND_VICTIM,
    LAGGING,
    LANDED,
    LANDINGS,
    LAST_DECODE,
    LAST_TOKEN,
    LOADED_ENTRY,
    LOADS,
    MIXED,
    NEXT_IN_BOX,
    NODE,
    NOW,
    OUTPUT,
    PINS,
    POWER_ENTRY,
    POWERED,
    PREEMPTIVE,
    PREFILL_CONTEXT,
    PREFILL_COUNT,
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_ROLE,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
    PREFIX,
    PROMPT,
    QUEUE_ROOM,
    QUEUED_COUNT,
    READY,
    RESERVE,
    RESERVE_CHUNK,
    RESERVE_FIXED,
    ROLE,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    SLOWNESS,
    SPARE,
    STAGE,
    STALL,
    STATE,
    STEP,
    STOP_BOUNDARY,
    STOP_COLD,
    STOP_FINISH,
    SWAP_ROOM,
    TARGET,
    TIMING_ENTRY,
    TIMING_PARAMETERS,
    UNPIN_ENTRY,
    VICTIM,
    WATCHED,
    WATTS,
    WHEN_EMPTY,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import note, park
from rota.worlds.serving.kernels.queue import push


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
def lacks(state, r, need):
    """Whether what runs lacks blocks. With SPARE decoders ask in order of arrival, and the last, too, must find a free one, even if it needs none."""
    host = host_ints(state)[r]
    if need != host[FREE] or not host[SPARE] or host[DECODES] < 2:  # one alone could never go on in a full cache
        return need > host[FREE]
    job, arrival = job_ints(state), job_floats(state)[ARRIVAL]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    last = -1
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] == DECODING and (last < 0 or (arrival[last], last) < (arrival[j], j)):
            last = j
    return last >= 0 and context(job, host, last) % host[BLOCK_TOKENS] != 0


@compiler.inner
def grow(state, r):
    """Let everything that runs have its blocks for this iteration; displace jobs until they fit. Returns how many were displaced.

    Taking victims from the end until the rest fits gives the same victims as asking block by block from the front.
    """
    job, host = job_ints(state), host_ints(state)[r]
    displaced = 0
    need = cut_chunks(state, r)
    while lacks(state, r, need):
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
    return host[RUNNING_COUNT] > 0 and lacks(state, r, cut_chunks(state, r))


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
        join_those(state, r, LANDED, LANDINGS)
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
