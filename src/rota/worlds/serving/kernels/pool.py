"""A fleet with pools in time: what `advance` stops for is done here as long as no policy must be asked.

The same things happen at the same times and in the same order as under `fleet`, `pools` and `mirrors`, which do them in Python where something else
(migration, programs, a gate, ...) acts on the same requests. Numbers of actions are shared with Python's own actions, so that of equal times the one
that was asked for first goes first.
"""

import numpy as np

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.advance import advance_together
from rota.worlds.serving.kernels.agenda import (
    actions,
    amounts,
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
from rota.worlds.serving.kernels.layout import (
    ASK_HOST,
    DONE,
    FINISHED,
    HOST,
    JOBS,
    MOVING,
    NOW_CLOCK,
    PLACE,
    STATE,
    STOP_COUNT,
    STOPS,
    UNTIL,
    job_ints,
)
from rota.worlds.serving.kernels.moves import land
from rota.worlds.serving.kernels.pool_book import (
    set_role,
)
from rota.worlds.serving.kernels.pool_copies import (
    arrives,
    drop_copy,
    refresh_copies,
)
from rota.worlds.serving.kernels.pool_layout import (
    ACTIONS,
    ANY_HOST,
    ASKED,
    ASSIGNS,
    CACHING,
    COPY_HOST,
    COPY_NEXT,
    EVERY,
    FIRST_COPY,
    FLIGHT,
    FLIGHT_FROM,
    FLIGHT_TO,
    GO_ON,
    HOME,
    LAND,
    LAST_MOVE,
    LATENCY,
    LENT,
    LENT_COUNT,
    NOTHING,
    PENDING,
    REVIEWING,
    ROOM,
    TABLES,
    TAKEN,
    TRANSFERS,
    TRANSFERS_NEXT,
    TRANSFERS_NOW,
    UPDATE,
    WISH,
    numbers,
    of_hosts,
    of_jobs,
    run_clock,
)
from rota.worlds.serving.kernels.pool_stops import (
    GOES_ON,
    assign,
    finish_batch,
    hand_over,
    review,
    short_of_tables,
    take_stops,
)

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
            later(pool, now + real[LATENCY], LAND, what[k, 0], NOTHING, own[FLIGHT, what[k, 0]])
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
    """The KV of a request has come to the host that decodes it."""
    own = of_jobs(state, pool)
    if own[FLIGHT, j] != flight:
        return
    own[FLIGHT, j] = -1
    land(state, j, job_ints(state)[HOST, j], now)
    arrives(state, pool, j, now)


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
            later(pool, now + real[EVERY], UPDATE, NOTHING, NOTHING, NOTHING)
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
    later(pool, time, UPDATE, NOTHING, NOTHING, NOTHING)


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
