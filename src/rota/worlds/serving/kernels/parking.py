"""QLLM: an iteration is parked at the next layer when an urgent request comes, and goes on from there when nothing urgent is left to do.

See `rota.worlds.serving.policies.qllm`. The running requests of a host are its front (urgent ones, or urgent prompts only) and the others. An iteration has
requests of one part; who does not take part is set aside (PAUSED) with its KV. Of the parked iteration the members are marked, and the seconds that
are left; while it is parked, or goes on, requests that are no members of it stay aside.
"""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import touch
from rota.worlds.serving.kernels.admit import ASK, IDLE, STARTED
from rota.worlds.serving.kernels.batch import begin
from rota.worlds.serving.kernels.complete import complete
from rota.worlds.serving.kernels.decoders import context, drop, join
from rota.worlds.serving.kernels.holding import blocks_for, held, is_fresh, leave_prefills, preempt
from rota.worlds.serving.kernels.inside import (
    ASKED,
    CUT,
    FULL_END,
    LAYER_SECONDS,
    LAYERS,
    LAYERS_FROM,
    LEFT_SECONDS,
    MARKS,
    PARKED_NOW,
    PARKS_COUNT,
    SWITCH_SECONDS,
    TOGETHER,
    URGENT_NOW,
    inside,
    inside_floats,
)
from rota.worlds.serving.kernels.layout import (
    A_PREFILLS,
    A_QUEUE,
    A_RUNNING,
    ANSWERED,
    ARRIVAL,
    BASE,
    BEGUN,
    BLOCK_TOKENS,
    BUSY,
    BUSY_SECONDS,
    COMPUTED,
    DECODES,
    DECODING,
    DECODING_NOW,
    ENDS_AT,
    FREE,
    HELD_BLOCKS,
    HOSTS,
    JOBS,
    LAST_DECODE,
    LAST_TOKEN,
    MAX_RUNNING,
    NOW,
    PAUSED,
    PREFILL_COUNT,
    PREFILLING,
    PREFIX,
    QUEUE_ROOM,
    QUEUED_COUNT,
    READY,
    RESERVE,
    RESERVE_FIXED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STAGE,
    STALL,
    STATE,
    TARGET,
    TOUCHED,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.queue import before, order_keys

URGENT, MEMBER = 1, 2  # marks of a job: it is urgent; it is in the iteration that is parked


@compiler.inner
def marks(state, r):
    return ints_at(inside(state, r)[MARKS], 1, state[JOBS])[0]


@compiler.inner
def at_front(state, r, j):
    """Whether a running job goes before the others: it is urgent, and its prompt is under way where decodes go together."""
    job = job_ints(state)
    prompt = job[STATE, j] == PREFILLING or (job[STATE, j] == PAUSED and job[COMPUTED, j] < job[TARGET, j])
    return marks(state, r)[j] & URGENT != 0 and (prompt or not inside(state, r)[TOGETHER])


@compiler.inner
def set_aside(state, r, j, begun):
    """A job takes no part; `begun`: its iteration is under way, so a decoder has the block of the token that it is about to get."""
    job, seconds, host = job_ints(state), job_floats(state), host_ints(state)[r]
    if job[STATE, j] == DECODING:
        tokens = context(job, host, j)
        if not is_fresh(state, r, j):
            seconds[LAST_TOKEN, j] = host_floats(state)[r, LAST_DECODE]
        if host[RESERVE] != RESERVE_FIXED and not host[PREFIX]:
            job[HELD_BLOCKS, j] = blocks_for(tokens + begun, host[BLOCK_TOKENS])
        drop(state, r, j)
        job[BASE, j] = job[COMPUTED, j] = tokens
    else:
        leave_prefills(state, r, j)
    job[STATE, j] = PAUSED


@compiler.inner
def bring_back(state, r, j):
    """A job that was set aside takes part."""
    job, host = job_ints(state), host_ints(state)[r]
    if job[COMPUTED, j] < job[TARGET, j]:
        job[STATE, j] = PREFILLING
        ints_at(state[A_PREFILLS], state[HOSTS], state[RUNNING_ROOM])[r, host[PREFILL_COUNT]] = j
        host[PREFILL_COUNT] += 1
    else:
        join(state, r, j)


@compiler.inner
def urgent_waits(state, r):
    """Whether an urgent job runs before the others or waits."""
    host, mark = host_ints(state)[r], marks(state, r)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[RUNNING_COUNT]):
        if at_front(state, r, running[position]):
            return True
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    for position in range(host[QUEUED_COUNT]):
        if mark[waiting[position]] & URGENT:
            return True
    return False


@compiler.inner
def choose(state, r, urgent):
    """Set those aside that take no part in the next iteration, and bring the others back. In the order of admission, as prompts are."""
    job, host, mark = job_ints(state), host_ints(state)[r], marks(state, r)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] != PAUSED and at_front(state, r, j) != urgent:
            mark[j] &= ~MEMBER  # it was displaced since, if it was one
            set_aside(state, r, j, 0)
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] == PAUSED and at_front(state, r, j) == urgent:
            bring_back(state, r, j)


@compiler.inner
def longest_waiting(state, r):
    """The urgent job that came first of those in the line. -1: none."""
    mark, arrival = marks(state, r), job_floats(state)[ARRIVAL]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    found = -1
    for position in range(host_ints(state)[r, QUEUED_COUNT]):
        j = waiting[position]
        if not mark[j] & URGENT:
            continue
        if found < 0 or arrival[j] < arrival[found] or (arrival[j] == arrival[found] and j < found):
            found = j
    return found


@compiler.inner
def make_room(state, r):
    """For the urgent job that has waited longest those that are not urgent give way, the last admitted first; none does where that is not enough."""
    job, host, mark = job_ints(state), host_ints(state)[r], marks(state, r)
    j = longest_waiting(state, r)
    if j < 0:
        return
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    need = blocks_for(job[TARGET, j], host[BLOCK_TOKENS])
    slots, blocks = host[MAX_RUNNING] - host[RUNNING_COUNT], host[FREE]
    for position in range(host[RUNNING_COUNT]):
        if not mark[running[position]] & URGENT:
            slots += 1
            blocks += held(state, r, running[position])
    if slots < 1 or blocks < need:
        return
    for position in range(host[RUNNING_COUNT] - 1, -1, -1):
        if host[RUNNING_COUNT] < host[MAX_RUNNING] and need <= host[FREE]:
            return
        if not mark[running[position]] & URGENT:
            preempt(state, r, running[position])


@compiler.inner
def begin_urgent(state, r):
    """Begin an iteration of the front."""
    inside(state, r)[URGENT_NOW] = 1
    if host_ints(state)[r, STAGE] == 0:
        make_room(state, r)
    choose(state, r, True)
    return begin(state, r)


@compiler.inner
def members_left(state, r):
    """Whether the parked iteration still has somebody in it."""
    job, mark = job_ints(state), marks(state, r)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host_ints(state)[r, RUNNING_COUNT]):
        if job[STATE, running[position]] == PAUSED and mark[running[position]] & MEMBER:
            return True
    return False


@compiler.inner
def go_on(state, r):
    """The parked iteration goes on with the layers that are left."""
    job, host, clock = job_ints(state), host_ints(state)[r], host_floats(state)[r]
    own, floats, mark = inside(state, r), inside_floats(state, r), marks(state, r)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] != PAUSED:  # it has become ready since
            mark[j] &= ~MEMBER
            set_aside(state, r, j, 0)
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if mark[j] & MEMBER:
            mark[j] &= ~MEMBER
            bring_back(state, r, j)
    own[PARKED_NOW] = own[URGENT_NOW] = 0
    host[DECODING_NOW] = 1 if host[DECODES] > 0 else 0
    host[STAGE] = host[READY] = state[ANSWERED] = 0
    host[BUSY] = 1
    clock[BEGUN] = clock[NOW]
    floats[LAYERS_FROM] = clock[NOW] + floats[SWITCH_SECONDS]
    clock[ENDS_AT] = floats[LAYERS_FROM] + floats[LEFT_SECONDS]
    clock[STALL] = 0.0
    return STARTED


@compiler.inner
def begin_others(state, r):
    """Begin an iteration of those that are not at the front."""
    own, floats, clock = inside(state, r), inside_floats(state, r), host_floats(state)[r]
    own[URGENT_NOW] = 0
    choose(state, r, False)
    code = begin(state, r)
    own[ASKED] = code == ASK
    if code == STARTED:
        floats[LAYERS_FROM] = clock[NOW]
        floats[LAYER_SECONDS] = (clock[ENDS_AT] - clock[NOW]) / own[LAYERS]
    return code


@compiler.inner
def begin_parting(state, r):
    """Begin the next iteration of a host: urgent work, what is parked, or the others. Returns STARTED, IDLE, or ASK."""
    host, own = host_ints(state)[r], inside(state, r)
    own[CUT] = 0  # it is, where the host went down before the layer came
    if not own[ASKED] and urgent_waits(state, r):  # ASKED: an answer for the others has come
        code = begin_urgent(state, r)
        if code != IDLE:
            return code
        host[READY] = 1  # nothing has begun
    if own[PARKED_NOW] and members_left(state, r):
        return go_on(state, r)
    own[PARKED_NOW] = 0
    return begin_others(state, r)


@compiler.inner
def park(state, r):
    """The iteration of a host has come to the layer at which it is parked."""
    job, host, clock = job_ints(state), host_ints(state)[r], host_floats(state)[r]
    own, floats, mark = inside(state, r), inside_floats(state, r), marks(state, r)
    now = clock[ENDS_AT]
    touch(state, r, now)
    clock[BUSY_SECONDS] += now - clock[BEGUN]
    clock[NOW] = now
    host[BUSY], host[READY] = 0, 1
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] != PAUSED:
            mark[j] |= MEMBER
            set_aside(state, r, j, 1)
    host[DECODING_NOW] = 0
    own[CUT], own[PARKED_NOW] = 0, 1
    own[PARKS_COUNT] += 1
    floats[LEFT_SECONDS] = floats[FULL_END] - now
    clock[STALL] += floats[SWITCH_SECONDS]


@compiler.inner
def come(state, r, j):
    """A job has come to a host that is busy: if it is urgent and the others are under way, they are parked at the next layer."""
    clock, own, floats = host_floats(state)[r], inside(state, r), inside_floats(state, r)
    if not marks(state, r)[j] & URGENT or own[URGENT_NOW] or own[CUT]:
        return
    now = clock[TOUCHED]  # whoever brings a job has just touched its host
    layers = max(np.ceil((now - floats[LAYERS_FROM]) / floats[LAYER_SECONDS]), 0.0)
    at = max(floats[LAYERS_FROM] + layers * floats[LAYER_SECONDS], now)
    if at < clock[ENDS_AT]:
        own[CUT] = 1
        floats[FULL_END] = clock[ENDS_AT]
        clock[ENDS_AT] = at


_SIGNATURE = "int64(int64, int64, int64, int64, int64)"


@compiler.entry(_SIGNATURE)
def begin_entry(address, r, _, __, ___):
    return begin_parting(whole_state(address), r)


@compiler.entry(_SIGNATURE)
def complete_entry(address, r, _, __, ___):
    state = whole_state(address)
    if inside(state, r)[CUT]:
        park(state, r)
    else:
        complete(state, r)
    return 0


@compiler.entry(_SIGNATURE)
def come_entry(address, r, j, _, __):
    come(whole_state(address), r, j)
    return 0


@compiler.entry(_SIGNATURE)
def pick_entry(address, r, _, __, ___):
    """Position in the line of the first job of the part whose iteration is put together. -1: none."""
    state = whole_state(address)
    own, mark, keys, arrival = inside(state, r), marks(state, r), order_keys(state), job_floats(state)[ARRIVAL]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    best = -1
    for position in range(host_ints(state)[r, QUEUED_COUNT]):
        j = waiting[position]
        if (mark[j] & URGENT) != own[URGENT_NOW] or keys[j, 0] == np.inf:
            continue
        if best < 0 or before(keys, arrival, j, waiting[best]):
            best = position
    return best
