"""The end of an iteration: tokens are out, jobs end, prompts become decoders or leave for another host."""

import numpy as np

from rota.kernel.compile import call_entry, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit, gap, touch
from rota.worlds.serving.kernels.decoders import drop, join, stop_running
from rota.worlds.serving.kernels.holding import held, release
from rota.worlds.serving.kernels.inside import (
    ACCEPT_ENTRY,
    LAYER_ENTRY,
    LAYERED,
    OBSERVE_ENTRY,
    OBSERVED,
    SPECULATIVE,
    inside,
)
from rota.worlds.serving.kernels.layout import (
    A_ENDING,
    A_FRESH,
    A_LAGGING,
    A_PREFILLS,
    ASYNC,
    BASE,
    BEGUN,
    BUSY,
    BUSY_SECONDS,
    CALL_AT_END,
    CHUNK,
    COMPUTED,
    CONTEXT_SUM,
    COPIED,
    DECODES,
    DECODING,
    DECODING_NOW,
    DISPATCH,
    DISPLACED,
    E_FINISH,
    ENDS,
    ENDS_AT,
    FINISH,
    FINISHED,
    FINISHED_STATE,
    FIRST_TOKEN,
    FRESH_COUNT,
    GANG_SIZE,
    GENERATED,
    GOES_TO,
    HELD_BLOCKS,
    HERE,
    HOSTS,
    INSIDE,
    LAGGING,
    LANDED,
    LANDINGS,
    LAST_DECODE,
    LAST_TOKEN,
    NOW,
    OUTPUT,
    PREFILL_COUNT,
    PREFILL_ROLE,
    PROMPT,
    READY,
    ROLE,
    RUNNING_ROOM,
    SELF,
    STALL,
    STATE,
    STEP,
    STOP_BOUNDARY,
    STOP_FINISH,
    SWAP_ROOM,
    TARGET,
    WATCHED,
    WATTS,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.moves import note, park


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
def complete_entry(address, r, _, __, ___):
    complete(whole_state(address), r)
    return 0
