"""Iterations in which prompts go first: decoders that find no token left in the budget stand aside for that iteration.

The decoders of a host are counted, not visited (see `decoders`); only those that stand aside, and come back, are taken out of the counts and put in again.
"""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.admit import ASK, admit
from rota.worlds.serving.kernels.batch import ask, batched, begin, grow, short, start
from rota.worlds.serving.kernels.decoders import context, drop, join_those
from rota.worlds.serving.kernels.holding import blocks_for, is_fresh
from rota.worlds.serving.kernels.layout import (
    A_QUEUE,
    A_RUNNING,
    ALONE,
    ANSWERED,
    BASE,
    BLOCK_TOKENS,
    BUDGET,
    COMPUTED,
    DECODES,
    DECODING,
    DECODING_NOW,
    DYNAMIC,
    FREE,
    GOES_TO,
    HELD_BLOCKS,
    HERE,
    HOSTS,
    INTERRUPTED,
    ITERATIONS,
    KIND_ORDER,
    KIND_VICTIM,
    LANDED,
    LANDINGS,
    LAST_DECODE,
    LAST_TOKEN,
    LONG_WAIT,
    PAUSED,
    PAUSED_COUNT,
    PREFIX,
    PROMPTS_FIRST,
    QUEUE_ROOM,
    QUEUED_COUNT,
    RESERVE,
    RESERVE_FIXED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SOURCE,
    STAGE,
    STATE,
    TARGET,
    VICTIM,
    WAS_PAUSED,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)


@compiler.inner
def iteration_mark(state, r):
    """Names the last iteration of a host; a host's next one is `HOSTS` further on."""
    return host_ints(state)[r, ITERATIONS] * state[HOSTS] + r + 1


@compiler.inner
def pause(state, r, j):
    """A decoder stands aside: it keeps its KV, without the block for the token that it does not get."""
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    tokens = context(job, host, j)
    if not is_fresh(state, r, j):
        seconds[LAST_TOKEN, j] = clock[LAST_DECODE]
    if host[RESERVE] != RESERVE_FIXED and not host[PREFIX]:
        job[HELD_BLOCKS, j] = blocks_for(tokens, host[BLOCK_TOKENS])
        host[FREE] += blocks_for(tokens + 1, host[BLOCK_TOKENS]) - job[HELD_BLOCKS, j]
    drop(state, r, j)
    job[BASE, j] = job[COMPUTED, j] = tokens
    job[STATE, j] = PAUSED
    job[WAS_PAUSED, j] = iteration_mark(state, r) + state[HOSTS]
    host[PAUSED_COUNT] += 1


@compiler.inner
def make_room(state, r):
    """Let as many decoders take part as there are tokens: those that stood aside before the others, each in the order of admission."""
    job, host = job_ints(state), host_ints(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    prompts = batched(state, r)
    room = host[BUDGET] - prompts if prompts > 0 else max(host[BUDGET], 1)
    mark = iteration_mark(state, r)
    for again in (True, False):
        for position in range(host[RUNNING_COUNT]):
            j = running[position]
            if job[STATE, j] == DECODING and (job[WAS_PAUSED, j] == mark) == again:
                if room > 0:
                    room -= 1
                else:
                    pause(state, r, j)


@compiler.inner
def goes_on(state, r):
    """Whether decoders go on without a look at the line: none has ended, no KV has come or left, and only prompts over the budget wait, decoded elsewhere."""
    job, host = job_ints(state), host_ints(state)[r]
    changed = host[INTERRUPTED] or host[LANDINGS] or host[DECODES] != host[ALONE]
    if changed or host[DECODES] == 0 or host[QUEUED_COUNT] == 0:
        return False
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    for position in range(host[QUEUED_COUNT]):
        j = waiting[position]
        if job[TARGET, j] <= host[BUDGET] or job[GOES_TO, j] in (0, HERE) or job[SOURCE, j] > 0:
            return False
    return True


@compiler.inner
def start_decodes(state, r):
    """Start the iteration; keep in mind whether decoders are alone in it."""
    host = host_ints(state)[r]
    host[INTERRUPTED] = 0
    host[ALONE] = host[DECODES] if batched(state, r) == 0 else 0
    return start(state, r)


@compiler.inner
def begin_prompts_first(state, r):
    """Begin the next iteration of a host. Returns STARTED, IDLE, or ASK (resume by calling again after the answer)."""
    host = host_ints(state)[r]
    alone = host[STAGE] == 0 and host[LONG_WAIT] and goes_on(state, r)
    if host[LANDINGS]:
        join_those(state, r, LANDED, LANDINGS)
    if host[STAGE] == 0:
        if host[PAUSED_COUNT]:
            join_those(state, r, PAUSED, PAUSED_COUNT)
        if (state[DYNAMIC] or state[VICTIM] == 2) and short(state, r):
            kind = KIND_VICTIM if state[VICTIM] == 2 else KIND_ORDER
            if not state[ANSWERED] & (1 << kind) and state[VICTIM] != 1:
                return ask(state, r, kind)
        displaced = grow(state, r)
        host[DECODING_NOW] = 1 if host[DECODES] > 0 else 0
        if displaced > 0 and host[RUNNING_COUNT] > 0:
            make_room(state, r)
            return start_decodes(state, r)
        if alone and displaced == 0:
            return start_decodes(state, r)
        host[STAGE] = 1
    code = admit(state, r, host[BUDGET] - batched(state, r))
    if code >= ASK:
        return ask(state, r, code - ASK)
    if host[DECODES] > 0 and (batched(state, r) + host[DECODES] > host[BUDGET]):
        make_room(state, r)
    if host[DECODES] == 0:
        host[DECODING_NOW] = 0
    return start_decodes(state, r)


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def begin_entry(address, r, _, __, ___):
    state = whole_state(address)
    if host_ints(state)[r, PROMPTS_FIRST]:
        return begin_prompts_first(state, r)
    return begin(state, r)
