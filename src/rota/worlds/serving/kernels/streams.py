"""semi-PD: an iteration of prompts and one of decodes go on at the same time in one host, each as fast as its share of the compute allows.

See `rota.worlds.serving.policies.semi_pd`. The host is busy while either goes on, and ENDS_AT is the end of the earlier one; a request that comes
while the stream of prompts is idle sets it to now.
"""

import numpy as np

from rota.kernel.compile import call_entry, call_timing, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import touch
from rota.worlds.serving.kernels.admit import ASK, IDLE, STARTED, admit
from rota.worlds.serving.kernels.batch import ask, batched, cut_chunks, measure
from rota.worlds.serving.kernels.complete import complete_decodes, complete_prefills
from rota.worlds.serving.kernels.decoders import join_those
from rota.worlds.serving.kernels.holding import last_running, preempt
from rota.worlds.serving.kernels.inside import (
    CONTENTION,
    CONTROL_FROM,
    CONTROL_SECONDS,
    DECODE_SCALE,
    DECODES_BEGAN,
    DECODES_END,
    HOST_BEGIN,
    HOST_COMPLETE,
    LEAST_SHARE,
    PROMPT_SCALE,
    PROMPTS_END,
    PROMPTS_RUN,
    SHARE,
    TPOT_COUNT,
    TPOT_LIMIT,
    TPOT_SUM,
    TTFT_COUNT,
    TTFT_LIMIT,
    TTFT_SUM,
    inside,
    inside_floats,
)
from rota.worlds.serving.kernels.layout import (
    A_CLASSES,
    A_FEATURES,
    A_PREFILLS,
    ANSWERED,
    ARRIVAL,
    BASE_HIGH,
    BASE_LOW,
    BATCHED_TOKENS,
    BEGUN,
    BLOCK_TOKENS,
    BUDGET,
    BUSY,
    BUSY_SECONDS,
    CHUNK,
    CLASS_ROOM,
    COMPUTED,
    CONTEXT_SUM,
    DECODES,
    DECODING_NOW,
    DYNAMIC,
    ENDS_AT,
    EXTEND_DECODERS_ENTRY,
    EXTREMES,
    F_DECODE_CONTEXT,
    F_DECODE_MAX,
    F_DECODE_MIN,
    F_DECODES,
    F_SAMPLES,
    FEATURES,
    FIRST_TOKEN,
    FREE,
    HOSTS,
    ITERATIONS,
    KIND_ORDER,
    KIND_VICTIM,
    LANDED,
    LANDINGS,
    NOW,
    PREFILL_COUNT,
    PREFIX,
    READY,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    SLOWNESS,
    STAGE,
    STALL,
    STEP,
    TARGET,
    TIMING_ENTRY,
    TIMING_PARAMETERS,
    VICTIM,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)

DISPLACED = -1


@compiler.inner
def end_of(state, r, share, scale, other):
    """When an iteration with the features of the host ends that begins now with a share of the compute, beside another one or alone."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    seconds = call_timing(host[TIMING_ENTRY], host[TIMING_PARAMETERS], state[A_FEATURES] + 8 * FEATURES * r)
    seconds *= 1.0 - scale + scale / share
    if other:
        seconds *= 1.0 + inside_floats(state, r)[CONTENTION]
    end = clock[NOW] + clock[SLOWNESS] * seconds + clock[STALL]
    clock[STALL] = 0.0
    host[ITERATIONS] += 1
    return end


@compiler.inner
def decode_features(state, r):
    """The features of an iteration of all decodes."""
    host = host_ints(state)[r]
    f = floats_at(state[A_FEATURES], state[HOSTS], FEATURES)[r]
    f[:] = 0.0
    f[F_DECODES] = f[F_SAMPLES] = host[DECODES]
    f[F_DECODE_CONTEXT] = host[CONTEXT_SUM]
    if host[EXTREMES]:
        f[F_DECODE_MAX] = host[BASE_HIGH] + host[STEP]
        f[F_DECODE_MIN] = host[BASE_LOW] + host[STEP]
    host[BATCHED_TOKENS] += host[DECODES]


@compiler.inner
def begin_decodes(state, r):
    """Begin an iteration of decodes, if there are any: who has landed joins, and the last of the order goes until all have their blocks.

    Returns STARTED, DISPLACED where somebody had to go, or ASK + the kind of keys that are needed to know who is last.
    """
    host, clock, floats = host_ints(state)[r], host_floats(state)[r], inside_floats(state, r)
    if host[LANDINGS]:
        join_those(state, r, LANDED, LANDINGS)
    classes = ints_at(state[A_CLASSES], state[HOSTS], state[CLASS_ROOM])[r]
    kind = KIND_VICTIM if state[VICTIM] == 2 else KIND_ORDER
    code = STARTED
    asked = (state[DYNAMIC] and state[VICTIM] != 1) or state[VICTIM] == 2
    while host[DECODES] > 0 and classes[host[STEP] % host[BLOCK_TOKENS]] > host[FREE]:
        if asked and not state[ANSWERED] & (1 << kind):
            host[STAGE] = 0
            return ASK + kind
        preempt(state, r, last_running(state, r))
        code = DISPLACED
    if host[DECODES] == 0:
        return code
    if host[PREFIX]:
        call_entry(state[EXTEND_DECODERS_ENTRY], state[SELF], r, 0, 0, 0)
    else:
        host[FREE] -= classes[host[STEP] % host[BLOCK_TOKENS]]
    host[DECODING_NOW] = 1
    decode_features(state, r)
    floats[DECODES_BEGAN] = clock[NOW]
    beside = inside(state, r)[PROMPTS_RUN]
    floats[DECODES_END] = end_of(state, r, 1.0 - floats[SHARE], floats[DECODE_SCALE], beside)
    return code


@compiler.inner
def begin_prompts(state, r, displaced):
    """Begin an iteration of prompts, if there are any; nobody is admitted where somebody has just been displaced.

    Returns STARTED, or ASK + the kind of keys that are needed first.
    """
    host, floats = host_ints(state)[r], inside_floats(state, r)
    cut_chunks(state, r)
    if not displaced or host[RUNNING_COUNT] == 0:
        host[STAGE] = 1
        code = admit(state, r, host[BUDGET] - batched(state, r))
        if code >= ASK:
            return code
        host[STAGE] = 0
    if measure(state, r, 0):
        inside(state, r)[PROMPTS_RUN] = 1
        floats[PROMPTS_END] = end_of(state, r, floats[SHARE], floats[PROMPT_SCALE], host[DECODING_NOW])
    return STARTED


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def any_begin_entry(address, r, _, __, ___):
    """Where some hosts have streams: each host's own way to begin."""
    return call_entry(inside(whole_state(address), r)[HOST_BEGIN], address, r, 0, 0, 0)


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def any_complete_entry(address, r, _, __, ___):
    """Each host's own way to end what ends now."""
    return call_entry(inside(whole_state(address), r)[HOST_COMPLETE], address, r, 0, 0, 0)


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def begin_entry(address, r, _, __, ___):
    """Begin whatever stream is idle. Returns STARTED, IDLE, or ASK."""
    state = whole_state(address)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    own, floats = inside(state, r), inside_floats(state, r)
    if host[RUNNING_COUNT] == 0:
        own[PROMPTS_RUN] = 0  # the host went down
    displaced = False
    if not host[DECODING_NOW]:
        code = begin_decodes(state, r)
        if code >= ASK:
            return ask(state, r, code - ASK)
        displaced = code == DISPLACED
    if not own[PROMPTS_RUN]:
        code = begin_prompts(state, r, displaced)
        if code >= ASK:
            return ask(state, r, code - ASK)
    state[ANSWERED] = 0
    host[READY] = 0
    if not host[DECODING_NOW] and not own[PROMPTS_RUN]:
        return IDLE
    host[BUSY] = 1
    clock[BEGUN] = clock[NOW]
    clock[ENDS_AT] = np.inf
    if host[DECODING_NOW]:
        clock[ENDS_AT] = floats[DECODES_END]
    if own[PROMPTS_RUN]:
        clock[ENDS_AT] = min(clock[ENDS_AT], floats[PROMPTS_END])
    return STARTED


@compiler.inner
def note_first_tokens(state, r, now):
    """Times to first token of the prompts that are whole at the end of this iteration."""
    job, seconds, host, floats = job_ints(state), job_floats(state), host_ints(state)[r], inside_floats(state, r)
    prefills = ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[PREFILL_COUNT]):
        j = prefills[position]
        if job[COMPUTED, j] + job[CHUNK, j] == job[TARGET, j] and np.isnan(seconds[FIRST_TOKEN, j]):
            floats[TTFT_SUM] += now - seconds[ARRIVAL, j]
            floats[TTFT_COUNT] += 1.0


@compiler.inner
def control(state, r, now):
    """At the end of a window in which a limit was not kept: the share at which both means are equally far from their limits."""
    floats = inside_floats(state, r)
    if now - floats[CONTROL_FROM] < floats[CONTROL_SECONDS] or floats[TTFT_COUNT] * floats[TPOT_COUNT] == 0.0:
        return
    prompts = floats[TTFT_SUM] / floats[TTFT_COUNT] / floats[TTFT_LIMIT]
    decodes = floats[TPOT_SUM] / floats[TPOT_COUNT] / floats[TPOT_LIMIT]
    if max(prompts, decodes) > 1.0:
        prompts *= floats[SHARE]
        decodes *= 1.0 - floats[SHARE]
        share = prompts / (prompts + decodes)
        floats[SHARE] = min(max(share, floats[LEAST_SHARE]), 1.0 - floats[LEAST_SHARE])
    floats[TTFT_SUM] = floats[TTFT_COUNT] = floats[TPOT_SUM] = floats[TPOT_COUNT] = 0.0
    floats[CONTROL_FROM] = now


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def complete_entry(address, r, _, __, ___):
    """End what ends now, decodes first. Nothing does where a request has come."""
    state = whole_state(address)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    own, floats = inside(state, r), inside_floats(state, r)
    now = clock[ENDS_AT]
    touch(state, r, now)
    clock[BUSY_SECONDS] += now - clock[BEGUN]
    clock[NOW] = now
    host[BUSY], host[READY] = 0, 1
    if host[DECODING_NOW] and floats[DECODES_END] <= now:
        floats[TPOT_SUM] += (now - floats[DECODES_BEGAN]) * host[DECODES]
        floats[TPOT_COUNT] += float(host[DECODES])
        complete_decodes(state, r, now)
    if own[PROMPTS_RUN] and floats[PROMPTS_END] <= now:
        own[PROMPTS_RUN] = 0
        note_first_tokens(state, r, now)
        complete_prefills(state, r, now)
    if floats[CONTROL_SECONDS] > 0.0:
        control(state, r, now)
    return 0
