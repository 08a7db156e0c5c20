"""A fleet with pools in time: what `advance` stops for is done here as long as no policy must be asked.

The same things happen at the same times and in the same order as under `fleet`, `pools` and `mirrors`, which do them in Python where something else
(migration, swapping, programs, a gate, ...) acts on the same requests. Numbers of actions are shared with Python's own actions, so that of equal times the one
that was asked for first goes first.
"""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.advance import advance_together, holds_whole
from rota.worlds.serving.kernels.agenda import (
    actions,
    amounts,
    begin_transfer,
    cancel_transfer,
    end_transfer,
    later,
    pace,
    pass_time,
    take_first,
    tight,
    times,
    under_way,
)
from rota.worlds.serving.kernels.fleet import push_to, send
from rota.worlds.serving.kernels.layout import (
    A_ANSWER,
    A_STOPS,
    ASK_HOST,
    CALL_AT_END,
    DONE,
    FINISHED,
    FULL,
    GOES_TO,
    GROW,
    HERE,
    HOST,
    HOSTS,
    JOBS,
    LAGGING,
    MOVING,
    NOW_CLOCK,
    PLACE,
    PLACED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SHUT,
    SLOTS_FREE,
    SOURCE,
    STATE,
    STOP_BOUNDARY,
    STOP_COUNT,
    STOP_HANDOFF,
    STOP_MOVE,
    STOP_ROOM,
    STOPS,
    TARGET,
    UNTIL,
    host_ints,
    job_ints,
)
from rota.worlds.serving.kernels.moves import land
from rota.worlds.serving.kernels.pool_book import (
    forget,
    give_back,
    landed,
    lend_besides,
    lend_pair,
    may_begin,
    moved,
    promise,
    set_role,
)
from rota.worlds.serving.kernels.pool_copies import (
    add_copy,
    drop_copy,
    refresh_copies,
    review_soon,
    take_moves,
)
from rota.worlds.serving.kernels.pool_layout import (
    A_TAKEN,
    ACTIONS,
    ANY_HOST,
    ASKED,
    ASKED_FOR,
    ASSIGNS,
    BY_HALVES,
    BY_PAIRS,
    CACHING,
    COPY_HOST,
    COPY_NEXT,
    DECODE_AT,
    EVERY,
    FIND_DECODER,
    FIRST_COPY,
    FLIGHT,
    FLIGHT_FROM,
    FLIGHT_TO,
    GO_ON,
    HOME,
    KV_BYTES,
    LAND,
    LAST_MOVE,
    LATENCY,
    LENT,
    LENT_COUNT,
    MIRRORED,
    MOVED,
    MOVED_BYTES,
    NUMBER,
    OVERLAP,
    PENDING,
    PROMPT_AT,
    PUSH,
    REVIEWING,
    ROOM,
    TABLES,
    TAKEN,
    TAKEN_AT,
    TAKEN_ROOM,
    TRANSFERS,
    TRANSFERS_NEXT,
    TRANSFERS_NOW,
    UPDATE,
    WISH,
    WISHES,
    numbers,
    of_hosts,
    of_jobs,
    run_clock,
    sums,
)
from rota.worlds.serving.kernels.pool_rules import by_halves, by_pairs, moves_of_pairs

NOBODY = -1
GOES_ON = 0  # nobody must be asked


# -- a request comes --------------------------------------------------------------------------------------------------


@compiler.inner
def answered(state, j, prompt):
    """What dispatch looks at: the host of the prompt, or none."""
    answer = floats_at(state[A_ANSWER], 1, state[HOSTS])[0]
    for r in range(state[HOSTS]):
        answer[r] = np.inf
    if prompt >= 0:
        answer[prompt] = 0.0
    state[PLACED] = j + 1


@compiler.inner
def assign(state, pool, j, now):
    """A rule chooses the hosts of a request."""
    if pool[ASSIGNS] == BY_HALVES:
        prompt, decode, one, other = by_halves(state, pool, j)
    else:
        prompt, decode = by_pairs(state, pool, j)
        one = other = NOBODY
    job_ints(state)[GOES_TO, j] = 0
    if prompt < 0 or not may_begin(state, j, prompt, decode):
        answered(state, j, NOBODY)
        return
    lend_pair(state, pool, prompt, decode)
    if one >= 0:
        lend_besides(state, pool, one)
    if other >= 0:
        lend_besides(state, pool, other)
    begin_pair(state, pool, j, prompt, decode, now)


@compiler.inner
def begin_pair(state, pool, j, prompt, decode, now):
    promise(state, pool, j, prompt, decode)
    if pool[MIRRORED]:
        review_soon(pool, now)
    answered(state, j, prompt)


@compiler.njit
def take_answer(state, pool, j, prompt, decode, lend, now):
    """A policy has chosen the hosts of a request, and who is to be lent besides; `prompt` below 0: none can serve it now."""
    job_ints(state)[GOES_TO, j] = 0
    if prompt < 0 or not may_begin(state, j, prompt, decode):
        answered(state, j, NOBODY)
        return
    lend_pair(state, pool, prompt, decode)
    for k in range(len(lend)):
        lend_besides(state, pool, lend[k])
    begin_pair(state, pool, j, prompt, decode, now)


# -- what the kernel has stopped for ----------------------------------------------------------------------------------


@compiler.inner
def take_stops(state, pool):
    """Keep what the kernel has stopped for, in the order of kinds and of numbers."""
    stops, taken = ints_at(state[A_STOPS], state[STOP_ROOM], 2), ints_at(pool[A_TAKEN], pool[TAKEN_ROOM], 2)
    for k in range(state[STOP_COUNT]):
        kind, number, position = stops[k, 0], stops[k, 1], k
        while position > 0:
            a, b = taken[position - 1, 0], taken[position - 1, 1]
            if a < kind or (a == kind and b <= number):
                break
            taken[position, 0], taken[position, 1] = a, b
            position -= 1
        taken[position, 0], taken[position, 1] = kind, number
    pool[TAKEN], pool[TAKEN_AT] = state[STOP_COUNT], 0
    state[STOP_COUNT] = 0


@compiler.inner
def short_of_tables(state):
    """Whether a host could run out of block tables for its prefix cache."""
    hosts = host_ints(state)
    for r in range(state[HOSTS]):
        if hosts[r, SLOTS_FREE] + hosts[r, RUNNING_COUNT] + hosts[r, LAGGING] < state[RUNNING_ROOM]:
            return True
    return False


@compiler.inner
def hand_over(state, pool, j, now):
    """The KV of a computed prompt goes to the host that it was promised to. False: it is not up, or cannot hold it."""
    job, own = job_ints(state), of_jobs(state, pool)
    if own[FLIGHT, j] >= 0:
        own[FLIGHT, j] = -1
        cancel_transfer(state, pool, j, now)
    job[GOES_TO, j] = HERE  # where it decodes it stays, also when it must compute again
    r = own[DECODE_AT, j]
    if r < 0 or host_ints(state)[r, SHUT] or not holds_whole(state, r, j):
        return False
    if not (pool[PUSH] and push_to(state, j, r, now)):
        send(state, j, r, now)
    return True


@compiler.inner
def begin_flight(state, pool, j, now):
    """Blocks are set aside: the KV begins to move."""
    job, own, real = job_ints(state), of_jobs(state, pool), numbers(pool)
    source, target = job[SOURCE, j] - 1, job[HOST, j]
    size = sums(state, pool)[source, KV_BYTES] * float(job[TARGET, j]) * (1.0 - real[OVERLAP])
    own[FLIGHT, j], own[FLIGHT_FROM, j], own[FLIGHT_TO, j] = pool[NUMBER], source, target
    pool[NUMBER] += 1
    pool[MOVED] += 1
    real[MOVED_BYTES] += size
    begin_transfer(state, pool, j, source, target, size, now)


@compiler.inner
def finish_batch(state, pool, now):
    """Do what was taken, until somebody must be asked or room is needed."""
    taken = ints_at(pool[A_TAKEN], pool[TAKEN_ROOM], 2)
    while pool[TAKEN_AT] < pool[TAKEN]:
        if state[FULL]:
            return GROW
        kind, number = taken[pool[TAKEN_AT], 0], taken[pool[TAKEN_AT], 1]
        pool[TAKEN_AT] += 1
        if kind == STOP_HANDOFF:
            if not hand_over(state, pool, number, now):
                pool[ASKED_FOR] = number
                return FIND_DECODER
        elif kind == STOP_MOVE:
            begin_flight(state, pool, number, now)
        elif kind == STOP_BOUNDARY:
            host_ints(state)[number, CALL_AT_END] = 0
            if pool[MIRRORED] and review(state, pool, number, now) == WISH:
                return WISH
        else:
            forget(state, pool, number)
            drop_copy(state, pool, number, now)
    pool[TAKEN] = pool[TAKEN_AT] = 0
    if pool[LENT_COUNT]:
        give_back(state, pool)
    return GOES_ON


@compiler.inner
def review(state, pool, between, now):
    """See what should move. WISH: a policy must say it."""
    if pool[WISHES] == ASKED:
        pool[ASKED_FOR] = between
        return WISH
    if pool[WISHES] == BY_PAIRS:
        moves_of_pairs(state, pool)
        take_moves(state, pool, between, now)
    return GOES_ON


@compiler.njit
def take_wishes(state, pool, now):
    """A policy has said what should move."""
    take_moves(state, pool, pool[ASKED_FOR], now)


# -- actions ----------------------------------------------------------------------------------------------------------


@compiler.inner
def next_time(pool):
    """When something is to be done next."""
    first = times(pool)[0] if pool[ACTIONS] else np.inf
    return min(first, numbers(pool)[TRANSFERS_NEXT])


@compiler.inner
def next_number(pool):
    """The number of the first action; transfers go before all actions of their time."""
    real = numbers(pool)
    if pool[ACTIONS] == 0 or real[TRANSFERS_NEXT] <= times(pool)[0]:
        return -1
    return actions(pool)[0, 0]


@compiler.inner
def through(state, pool, now):
    """Transfers that are through: they land a latency later, in the order in which they began."""
    what, amount, real, own = under_way(pool), amounts(pool), numbers(pool), of_jobs(state, pool)
    for k in range(pool[TRANSFERS]):
        left, rate = amount[k, 0], amount[k, 1]
        if real[TRANSFERS_NOW] + left / rate <= now:
            later(pool, now + real[LATENCY], LAND, what[k, 0], -1, own[FLIGHT, what[k, 0]])
            amount[k, 1] = -1.0  # marked: passing time is for those that go on
    kept = 0
    while kept < pool[TRANSFERS]:
        if amount[kept, 1] < 0:
            end_transfer(state, pool, kept)
        else:
            kept += 1
    pass_time(pool, now)
    pace(state, pool)


@compiler.inner
def lands(state, pool, j, flight, now):
    """The KV of a request has come to the host that decodes it; the one that computed it may keep a copy."""
    own = of_jobs(state, pool)
    if own[FLIGHT, j] != flight:
        return
    own[FLIGHT, j] = -1
    here, source = job_ints(state)[HOST, j], own[PROMPT_AT, j]
    land(state, j, here, now)
    landed(state, pool, j)
    moved(state, pool, j, here)
    if pool[MIRRORED]:
        drop_copy(state, pool, j, now)
        if source >= 0 and source != here:
            add_copy(state, pool, j, source, now)
        review_soon(pool, now)


@compiler.inner
def act(state, pool, now):
    """Do what is due at `now`, which `next_time` has named. WISH: a policy must say what should move."""
    run_clock(state)[NOW_CLOCK] = now
    real = numbers(pool)
    if real[TRANSFERS_NEXT] <= now:
        through(state, pool, now)
        return GOES_ON
    kind, j, host, number = take_first(pool)
    if kind == LAND:
        lands(state, pool, j, number, now)
    elif kind == GO_ON:
        job = job_ints(state)
        if job[HOST, j] == host and job[STATE, j] == MOVING and of_jobs(state, pool)[LAST_MOVE, j] == number:
            land(state, j, host, now)
    else:
        if kind == UPDATE:
            later(pool, now + real[EVERY], UPDATE, -1, -1, 0)
            refresh_copies(state, pool, now)
        pool[REVIEWING] = 0
        return review(state, pool, ANY_HOST, now)
    return GOES_ON


@compiler.njit
def act_once(state, pool, now):
    return act(state, pool, now)


@compiler.njit
def peek(pool):
    """(when, which number): what is to be done next."""
    return next_time(pool), next_number(pool)


@compiler.njit
def go_through(state, pool, now):
    """Do what the kernel has stopped for. Returns a code as `advance_pools` does, 0 when all is done."""
    if pool[TAKEN] == 0:
        if pool[CACHING] and short_of_tables(state):
            return TABLES
        take_stops(state, pool)
    return finish_batch(state, pool, now)


@compiler.njit
def advance_pools(state, pool, until, due, number):
    """All events of the fleet up to `until`, and what the kernel does itself; `due` and `number`: of the first action that Python has."""
    while True:
        if tight(state, pool):
            return ROOM
        if pool[TAKEN] or state[STOP_COUNT]:
            code = go_through(state, pool, run_clock(state)[NOW_CLOCK])
            if code != GOES_ON:
                return code
            continue
        time = next_time(pool)
        code = advance_together(state, min(until, min(due, time)))
        if code == PLACE and pool[ASSIGNS] != ASKED:
            assign(state, pool, state[ASK_HOST], run_clock(state)[NOW_CLOCK])
        elif code in (DONE, UNTIL):
            over = state[FINISHED] == state[JOBS] or (code == DONE and pool[PENDING] + pool[TRANSFERS] == 0)
            mine = time < due or (time == due and next_number(pool) < number)
            if over or not mine or time > until or time == np.inf:
                return code
            if act(state, pool, time) == WISH:
                return WISH
        elif code != STOPS:
            return code


# -- hosts that fail, roles that change -------------------------------------------------------------------------------


@compiler.njit
def hand_over_again(state, pool, j, now):
    """A prompt that found no host to decode looks again. False: the promised one is not up."""
    return hand_over(state, pool, j, now)


@compiler.njit
def settle_role(state, pool, r, role):
    """The policy has given a host a role, which is its own from now on."""
    own = of_hosts(state, pool)
    own[r, HOME] = role
    pool[LENT_COUNT] -= own[r, LENT]
    own[r, LENT] = 0
    set_role(state, pool, r, role)


@compiler.njit
def update_first(pool, time):
    """Copies are brought up to date at a time, and from then on regularly."""
    later(pool, time, UPDATE, -1, -1, 0)


@compiler.njit
def cancel_flights(state, pool, r, now):
    """KV that was on its way to a host that has gone down, or from it, is lost."""
    own = of_jobs(state, pool)
    for j in range(state[JOBS]):
        if own[FLIGHT, j] >= 0 and (own[FLIGHT_FROM, j] == r or own[FLIGHT_TO, j] == r):
            cancel_transfer(state, pool, j, now)
            own[FLIGHT, j] = -1


@compiler.njit
def drop_copies(state, pool, r, here, now):
    """A host goes down: the copies there, and those of what runs or waits there (`here`), are gone."""
    own = of_jobs(state, pool)
    j = pool[FIRST_COPY]
    while j >= 0:
        after, gone = own[COPY_NEXT, j], own[COPY_HOST, j] == r
        for k in range(len(here)):
            gone = gone or here[k] == j
        if gone:
            drop_copy(state, pool, j, now)
        j = after
