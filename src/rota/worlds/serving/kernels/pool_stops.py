"""What the kernel stops for in a fleet with pools, and a request that comes: done here as long as no policy must be asked."""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.agenda import (
    begin_transfer,
    cancel_transfer,
    later,
)
from rota.worlds.serving.kernels.candidates import holds_whole
from rota.worlds.serving.kernels.fleet import push_to, send
from rota.worlds.serving.kernels.knots import stay, who_stays
from rota.worlds.serving.kernels.layout import (
    A_ANSWER,
    A_STOPS,
    CALL_AT_END,
    FULL,
    GOES_TO,
    GROW,
    HERE,
    HOST,
    HOSTS,
    LAGGING,
    PLACED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SHUT,
    SLOTS_FREE,
    SOURCE,
    STOP_BOUNDARY,
    STOP_COUNT,
    STOP_HANDOFF,
    STOP_MOVE,
    STOP_ROOM,
    STOP_STUCK,
    SWAP_GROUP,
    SWAPPED,
    TARGET,
    host_ints,
    job_ints,
)
from rota.worlds.serving.kernels.moves import stuck
from rota.worlds.serving.kernels.pool_book import (
    forget,
    give_back,
    lend_besides,
    lend_pair,
    may_begin,
    promise,
)
from rota.worlds.serving.kernels.pool_copies import (
    arrives,
    drop_copies_at,
    drop_copy,
    review_soon,
    take_moves,
)
from rota.worlds.serving.kernels.pool_layout import (
    A_TAKEN,
    ASKED,
    ASKED_FOR,
    ASSIGNS,
    BACK_COPY,
    BACK_TOKEN,
    BY_HALVES,
    BY_PAIRS,
    DECODE_AT,
    FIND_DECODER,
    FLIGHT,
    FLIGHT_FROM,
    FLIGHT_TO,
    KV_BYTES,
    LAND,
    LENT_COUNT,
    MIRRORED,
    MOVED,
    MOVED_BYTES,
    NOTHING,
    NUMBER,
    OVERLAP,
    PUSH,
    STAYS,
    SWAPS,
    TAKEN,
    TAKEN_AT,
    TAKEN_ROOM,
    WISH,
    WISHES,
    numbers,
    of_jobs,
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
        answered(state, j, NOTHING)
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
        answered(state, j, NOTHING)
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
def come_back(state, pool, j, r, now):
    """The KV of a displaced request comes back from the host's memory, which no one else uses."""
    job, own, cost = job_ints(state), of_jobs(state, pool), sums(state, pool)[r]
    group = host_ints(state)[r, SWAP_GROUP]
    copies = (job[SWAPPED, j] + group - 1) // group
    took = cost[BACK_TOKEN] * float(job[TARGET, j]) + cost[BACK_COPY] * copies
    own[FLIGHT, j], own[FLIGHT_FROM, j], own[FLIGHT_TO, j] = pool[NUMBER], r, r
    pool[NUMBER] += 1
    pool[SWAPS] += 1
    later(pool, now + took, LAND, j, NOTHING, own[FLIGHT, j])


@compiler.inner
def begin_flight(state, pool, j, now):
    """Blocks are set aside: the KV begins to move."""
    job, own, real = job_ints(state), of_jobs(state, pool), numbers(pool)
    source, target = job[SOURCE, j] - 1, job[HOST, j]
    if source < 0:
        come_back(state, pool, j, target, now)
        return
    size = sums(state, pool)[source, KV_BYTES] * float(job[TARGET, j]) * (1.0 - real[OVERLAP])
    own[FLIGHT, j], own[FLIGHT_FROM, j], own[FLIGHT_TO, j] = pool[NUMBER], source, target
    pool[NUMBER] += 1
    pool[MOVED] += 1
    real[MOVED_BYTES] += size
    begin_transfer(state, pool, j, source, target, size, now)


@compiler.inner
def untie(state, pool, r, now):
    """A host runs nothing, and nothing that waits there fits: copies go, then one of those that wait for one another decodes where its KV lies."""
    if not stuck(state, r) or (pool[MIRRORED] and drop_copies_at(state, pool, r, now)):
        return
    j = who_stays(state)
    if j >= 0:
        stay(state, j, now)
        pool[STAYS] += 1
        arrives(state, pool, j, now)


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
        elif kind == STOP_STUCK:
            untie(state, pool, number, now)
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
