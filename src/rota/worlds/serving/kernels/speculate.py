"""Speculative decoding: what an iteration with a draft costs, and the tokens that every decode gets of it.

See `rota.worlds.serving.speculative`. Decodes no longer advance alike, so each is visited: the step counter gives every one of them a token, and what a
draft adds is put into the decode's own numbers.
"""

from rota.kernel.compile import call_timing, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import gap
from rota.worlds.serving.kernels.decoders import context, extremes, sift_down
from rota.worlds.serving.kernels.holding import blocks_for
from rota.worlds.serving.kernels.inside import (
    ACCEPTANCE,
    DRAFT_COST,
    DRAFT_ENTRY,
    DRAFT_PARAMETERS,
    DRAFT_TOKENS,
    EXPECTED_TOKENS,
    LOOKAHEAD,
    OFF_ABOVE,
    SPECULATES,
    SPECULATIVE_KEY,
    inside,
    inside_floats,
)
from rota.worlds.serving.kernels.layout import (
    A_CLASSES,
    A_ENDING,
    A_FEATURES,
    BASE,
    BLOCK_TOKENS,
    CLASS_ROOM,
    CONTEXT_SUM,
    DECODES,
    ENDS,
    EXTREMES,
    F_DECODE_CONTEXT,
    F_DECODE_MAX,
    F_DECODE_MIN,
    F_DECODES,
    F_SAMPLES,
    FEATURES,
    FREE,
    GENERATED,
    HOSTS,
    JOINED,
    PREFILL_CONTEXT,
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
    RESERVE,
    RESERVE_FIXED,
    RUNNING_ROOM,
    STEP,
    TIMING_ENTRY,
    TIMING_PARAMETERS,
    host_ints,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.luck import uniform

AUTO = -1


@compiler.inner
def more_blocks(state, r, j, tokens, ahead):
    """Blocks that a decode needs for so many tokens more, beside what it holds; `ahead`: it holds the block of its next token already."""
    job, host = job_ints(state), host_ints(state)[r]
    if host[RESERVE] == RESERVE_FIXED:
        return 0
    now = context(job, host, j) + ahead
    return blocks_for(now + tokens, host[BLOCK_TOKENS]) - blocks_for(now, host[BLOCK_TOKENS])


@compiler.inner
def room_ahead(state, r):
    """Blocks that all decodes need if every draft token is accepted. No answer goes beyond its end."""
    job, host = job_ints(state), host_ints(state)[r]
    heap = ints_at(state[A_ENDING], state[HOSTS], state[RUNNING_ROOM])[r]
    tokens, need = inside(state, r)[DRAFT_TOKENS], 0
    for position in range(host[DECODES]):
        j = heap[position]
        need += more_blocks(state, r, j, min(tokens, job[ENDS, j] - host[STEP] - 1), 1)
    return need


@compiler.inner
def draft_seconds(state, r, f):
    """Seconds of the draft's own iterations: k decodes one after the other, each with a token more in the cache."""
    own, floats = inside(state, r), inside_floats(state, r)
    host, features = host_ints(state)[r], state[A_FEATURES] + 8 * FEATURES * r
    k = float(own[DRAFT_TOKENS])
    mine = f.copy()
    f[:] = 0.0
    f[F_DECODES] = f[F_SAMPLES] = mine[F_DECODES]
    if own[DRAFT_ENTRY]:
        f[F_DECODE_CONTEXT] = mine[F_DECODE_CONTEXT] + mine[F_DECODES] * 0.5 * (k - 1.0)
        seconds = k * call_timing(own[DRAFT_ENTRY], own[DRAFT_PARAMETERS], features)
    else:
        f[:] = mine
        f[PREFILL_TOKENS] = f[PREFILL_REQUESTS] = f[PREFILL_CONTEXT] = f[PREFILL_SQUARES] = f[PREFILL_PAIRS] = 0.0
        f[F_SAMPLES] = f[F_DECODES]
        seconds = k * floats[DRAFT_COST] * call_timing(host[TIMING_ENTRY], host[TIMING_PARAMETERS], features)
    f[:] = mine
    return seconds


@compiler.inner
def draft_prompts(state, r, f):
    """Seconds in which the draft model computes the prompts of the iteration."""
    own = inside(state, r)
    if not own[DRAFT_ENTRY] or f[PREFILL_TOKENS] == 0.0:
        return 0.0
    mine = f.copy()
    f[F_DECODES] = f[F_DECODE_CONTEXT] = f[F_DECODE_MAX] = f[F_DECODE_MIN] = f[F_SAMPLES] = 0.0
    seconds = call_timing(own[DRAFT_ENTRY], own[DRAFT_PARAMETERS], state[A_FEATURES] + 8 * FEATURES * r)
    f[:] = mine
    return seconds


@compiler.inner
def prompts_alone(state, r, f):
    """Seconds of the iteration if it had no decodes: what decodes cost is the rest."""
    if f[PREFILL_TOKENS] == 0.0:
        return 0.0
    host, mine = host_ints(state)[r], f.copy()
    f[F_SAMPLES] -= f[F_DECODES]
    f[F_DECODES] = f[F_DECODE_CONTEXT] = f[F_DECODE_MAX] = f[F_DECODE_MIN] = 0.0
    seconds = call_timing(host[TIMING_ENTRY], host[TIMING_PARAMETERS], state[A_FEATURES] + 8 * FEATURES * r)
    f[:] = mine
    return seconds


@compiler.entry("float64(int64, int64)")
def time_entry(address, r):
    """Seconds of an iteration, with a draft where one pays and has room."""
    state = whole_state(address)
    host, own, floats = host_ints(state)[r], inside(state, r), inside_floats(state, r)
    features = state[A_FEATURES] + 8 * FEATURES * r
    f = floats_at(state[A_FEATURES], state[HOSTS], FEATURES)[r]
    own[SPECULATES] = own[LOOKAHEAD] = 0
    plain = call_timing(host[TIMING_ENTRY], host[TIMING_PARAMETERS], features)
    prompts = draft_prompts(state, r, f)
    decodes = f[F_DECODES]
    if decodes == 0.0 or (own[OFF_ABOVE] != AUTO and decodes > own[OFF_ABOVE]):
        return plain + prompts
    need = room_ahead(state, r)
    if need > host[FREE]:
        return plain + prompts
    k = float(own[DRAFT_TOKENS])
    f[F_DECODES] = decodes * (k + 1.0)
    f[F_SAMPLES] += decodes * k
    verified = call_timing(host[TIMING_ENTRY], host[TIMING_PARAMETERS], features)
    f[F_DECODES] = decodes
    f[F_SAMPLES] -= decodes * k
    seconds = verified + draft_seconds(state, r, f)
    if own[OFF_ABOVE] == AUTO:
        alone = prompts_alone(state, r, f)
        if seconds - alone >= floats[EXPECTED_TOKENS] * (plain - alone):
            return plain + prompts
    own[SPECULATES], own[LOOKAHEAD] = 1, need
    host[FREE] -= need
    return seconds + prompts


@compiler.inner
def accepted(own, floats, j, out, most):
    """Draft tokens of a request that are accepted after `out` tokens of its answer, at most so many."""
    count = 0
    while count < most and uniform(own[SPECULATIVE_KEY], j, out + count) < floats[ACCEPTANCE]:
        count += 1
    return count


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def accept_entry(address, r, _, __, ___):
    """Every decode has had its one token: give it what was accepted of the draft."""
    state = whole_state(address)
    job, host = job_ints(state), host_ints(state)[r]
    own, floats = inside(state, r), inside_floats(state, r)
    if not own[SPECULATES]:
        return 0
    own[SPECULATES] = 0
    host[FREE] += own[LOOKAHEAD]
    own[LOOKAHEAD] = 0
    heap = ints_at(state[A_ENDING], state[HOSTS], state[RUNNING_ROOM])[r]
    classes = ints_at(state[A_CLASSES], state[HOSTS], state[CLASS_ROOM])[r]
    size = host[BLOCK_TOKENS]
    for position in range(host[DECODES]):
        j = heap[position]
        left = job[ENDS, j] - host[STEP]  # after the one token that it has had
        out = job[GENERATED, j] + host[STEP] - job[JOINED, j] - 1  # before it
        more = accepted(own, floats, j, out, min(own[DRAFT_TOKENS], left))
        if more == 0:
            continue
        host[FREE] -= more_blocks(state, r, j, more, 0)
        classes[(job[JOINED, j] - job[BASE, j]) % size] -= 1
        job[BASE, j] += more
        classes[(job[JOINED, j] - job[BASE, j]) % size] += 1
        job[GENERATED, j] += more
        job[ENDS, j] -= more
        host[CONTEXT_SUM] += more
        gap(state, 0.0, more)
    for parent in range(host[DECODES] // 2 - 1, -1, -1):
        sift_down(job, heap, host[DECODES], parent)
    if host[EXTREMES] and host[DECODES] > 0:
        extremes(job, host, heap)
    return 0
