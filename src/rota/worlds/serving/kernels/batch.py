"""The beginning of an iteration: who is in it, and what that costs in KV blocks.

The batchers differ in a handful of settings (see `rota.worlds.serving.policies`): whether prefills share an iteration with
decodes, whether prompts may be cut in chunks, the token budget, and how many blocks are set aside at admission.
"""

from rota.kernel.compile import call_entry, call_timing, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.admit import ASK, IDLE, STARTED, admit
from rota.worlds.serving.kernels.decoders import context, join_those
from rota.worlds.serving.kernels.holding import blocks_for, last_running, preempt, release, reserve
from rota.worlds.serving.kernels.inside import (
    CHECK_ENTRY,
    CHECKED,
    LAYERED,
    STREAMED,
    TIME_ENTRY,
    TIMED,
    inside,
    wave_under_way,
)
from rota.worlds.serving.kernels.layout import (
    A_CLASSES,
    A_FEATURES,
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
    BASE_HIGH,
    BASE_LOW,
    BATCHED_TOKENS,
    BEGUN,
    BLOCK_TOKENS,
    BUDGET,
    BUSY,
    CHUNK,
    CLASS_ROOM,
    COLD,
    COMPUTED,
    CONTEXT_SUM,
    DECODES,
    DECODING,
    DECODING_NOW,
    DYNAMIC,
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
    FREE,
    GANG,
    GANG_SIZE,
    HELD_BLOCKS,
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
    LOADED_ENTRY,
    LOADS,
    MIXED,
    NEXT_IN_BOX,
    NODE,
    NOW,
    PINS,
    POWER_ENTRY,
    POWERED,
    PREEMPTIVE,
    PREFILL_CONTEXT,
    PREFILL_COUNT,
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
    PREFIX,
    QUEUE_ROOM,
    QUEUED_COUNT,
    READY,
    RESERVE,
    RESERVE_CHUNK,
    RESERVE_FIXED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    SLOWNESS,
    SPARE,
    STAGE,
    STALL,
    STATE,
    STEP,
    STOP_COLD,
    TARGET,
    TIMING_ENTRY,
    TIMING_PARAMETERS,
    UNPIN_ENTRY,
    VICTIM,
    WHEN_EMPTY,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import note
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


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def begin_entry(address, r, _, __, ___):
    return begin(whole_state(address), r)
