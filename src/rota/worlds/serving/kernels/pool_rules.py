"""What the rules of `pool_rules` decide, for policies that need not be asked."""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.candidates import host_column
from rota.worlds.serving.kernels.layout import (
    A_RUNNING,
    BLOCK_TOKENS,
    DECODES,
    GOES_TO,
    HERE,
    HOSTS,
    INBOX_COUNT,
    JOBS,
    KV_BLOCKS,
    LANDED,
    LANDINGS,
    PAUSED,
    PAUSED_COUNT,
    PREFILLING,
    PROMPT,
    QUEUED_COUNT,
    ROLE,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SHUT,
    STATE,
    host_ints,
    job_ints,
)
from rota.worlds.serving.kernels.outstanding import left
from rota.worlds.serving.kernels.pool_layout import (
    A_ANSWER_TERMS,
    A_MOVES,
    A_PROMPT_TERMS,
    A_WHOLE,
    ANSWER_TERMS,
    ANSWERS,
    APART,
    ASSIGNED,
    BACKLOG,
    BOTH,
    LIMIT,
    MOVE_ROOM,
    MOVES,
    PROMISED,
    PROMPT_TERMS,
    PROMPTS,
    RANK,
    numbers,
    of_hosts,
    sums,
)

NOBODY = np.int64(-1)
OF_POOLS = 100  # columns of pools, after those of routes
(
    COLUMN_ASSIGNED, COLUMN_PROMISED, COLUMN_CAPACITY, COLUMN_DECODING, COLUMN_WAITING, COLUMN_ROLE, COLUMN_JOINED,
) = range(OF_POOLS, OF_POOLS + 7)  # fmt: skip


@compiler.inner
def decoding(host):
    return host[DECODES] + host[PAUSED_COUNT] + host[LANDINGS]


@compiler.inner
def waiting_at(state, r):
    """Prompts and answers that are at a host and not in its iteration, as `fleet.count_waiting` counts them."""
    job, host = job_ints(state), host_ints(state)[r]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    count = host[QUEUED_COUNT] + host[INBOX_COUNT]
    for position in range(host[RUNNING_COUNT]):
        j = running[position]
        what = job[STATE, j]
        if what in (PAUSED, LANDED) or (what == PREFILLING and job[GOES_TO, j] == HERE):
            count += 1
    return count


@compiler.inner
def pool_column(state, pool, column, j, r):
    """The value of a column that routes or pools have."""
    if column < OF_POOLS:
        return host_column(state, column, j, r)
    if column == COLUMN_ASSIGNED:
        return sums(state, pool)[r, ASSIGNED]
    if column == COLUMN_PROMISED:
        return sums(state, pool)[r, PROMISED]
    if column == COLUMN_CAPACITY:
        return float(capacity(state, r))
    if column == COLUMN_ROLE:
        return float(host_ints(state)[r, ROLE])
    if column == COLUMN_JOINED:
        return float(rank(state, pool, r))
    return float(decoding(host_ints(state)[r]) if column == COLUMN_DECODING else waiting_at(state, r))


@compiler.inner
def rank(state, pool, r):
    """How many hosts have had their roles for longer."""
    own, before = of_hosts(state, pool), 0
    for other in range(state[HOSTS]):
        before += own[other, RANK] < own[r, RANK]
    return before


@compiler.njit
def fill_columns(state, pool, codes, out):
    """The columns that only pools have, a row a column."""
    for k in range(len(codes)):
        for r in range(state[HOSTS]):
            out[k, r] = pool_column(state, pool, codes[k], NOBODY, r)


@compiler.inner
def capacity(state, r):
    return host_ints(state)[r, KV_BLOCKS] * host_ints(state)[r, BLOCK_TOKENS]


@compiler.inner
def pool_cost(state, pool, terms, j, r):
    """A weighted sum of columns, in the order of the terms."""
    total = 0.0
    for k in range(len(terms)):
        total += terms[k, 1] * pool_column(state, pool, int(terms[k, 0]), j, r)
    return total


@compiler.inner
def least(state, pool, terms, j, role):
    """(host, cost) of those that are up and have a role: the least cost, of equals the one that has had its role for longest. NOBODY: there is none."""
    hosts, own = host_ints(state), of_hosts(state, pool)
    best, least_cost = NOBODY, 0.0
    for r in range(state[HOSTS]):
        if hosts[r, SHUT] or hosts[r, ROLE] != role:
            continue
        cost = pool_cost(state, pool, terms, j, r)
        if best == NOBODY or cost < least_cost or (cost == least_cost and own[r, RANK] < own[best, RANK]):
            best, least_cost = r, cost
    return best, least_cost


@compiler.inner
def fit_for_prompt(state, pool, j, r, cost):
    """Whether nothing waits at a host, or the prompt is within the limit of what it may have queued."""
    return not (waiting_at(state, r) > 0 and cost + float(job_ints(state)[PROMPT, j]) > numbers(pool)[LIMIT])


@compiler.inner
def fit_for_answer(state, pool, j, r, cost):
    """Whether the whole request is within a host's memory, beside what was promised to others."""
    return not cost + floats_at(pool[A_WHOLE], 1, state[JOBS])[0, j] >= float(capacity(state, r))


@compiler.inner
def by_halves(state, pool, j):
    """(prompt, decode, two hosts to be lent): see `pool_rules.Halves`. NOBODY: no host is up."""
    prompts = floats_at(pool[A_PROMPT_TERMS], pool[PROMPT_TERMS], 2)
    answers = floats_at(pool[A_ANSWER_TERMS], pool[ANSWER_TERMS], 2)
    first = second = NOBODY
    one, cost = least(state, pool, prompts, j, PROMPTS)
    if one >= 0 and fit_for_prompt(state, pool, j, one, cost):
        first = one
    both, cost = least(state, pool, prompts, j, BOTH)
    if first < 0 and both >= 0 and fit_for_prompt(state, pool, j, both, cost):
        first = both
    one, cost = least(state, pool, answers, j, ANSWERS)
    if one >= 0 and fit_for_answer(state, pool, j, one, cost):
        second = one
    both, cost = least(state, pool, answers, j, BOTH)
    if second < 0 and both >= 0 and fit_for_answer(state, pool, j, both, cost):
        second = both
    lent_first = lent_second = NOBODY
    if first < 0:
        first, _ = least(state, pool, prompts, j, ANSWERS)
        lent_first = first
    if second < 0:
        second, _ = least(state, pool, answers, j, PROMPTS)
        lent_second = second
    if first < 0 or second < 0:
        first = second = anywhere(state, pool, prompts, j)
    return first, second, lent_first, lent_second


@compiler.inner
def anywhere(state, pool, terms, j):
    """The host that does both halves: of equal costs one for prompts goes first, then one for both; then the one that has had its role for longest."""
    best, best_cost = NOBODY, 0.0
    for role in (PROMPTS, BOTH, ANSWERS):
        one, cost = least(state, pool, terms, j, role)
        if one >= 0 and (best == NOBODY or cost < best_cost):
            best, best_cost = one, cost
    return best


# -- pairs ------------------------------------------------------------------------------------------------------------


@compiler.inner
def by_pairs(state, pool, j):
    """(prompt, decode): see `pool_rules.Pairs`. NOBODY: no host is up."""
    hosts, total, count = host_ints(state), sums(state, pool), state[HOSTS]
    best, least_load = NOBODY, 0.0
    for a in range(0, count, 2):
        b = a + 1
        up_a, up_b = not hosts[a, SHUT], b < count and not hosts[b, SHUT]
        if not up_a and not up_b:
            continue
        load = total[a, ASSIGNED] if up_a else total[b, ASSIGNED]
        if up_a and up_b:
            load = (total[a, ASSIGNED] + total[b, ASSIGNED]) / 2
        if best == NOBODY or load < least_load:
            best, least_load = a, load
    if best == NOBODY:
        return NOBODY, NOBODY
    a, b = best, best + 1
    if b >= count or hosts[b, SHUT]:
        return a, a
    if hosts[a, SHUT]:
        return b, b
    return prompt_of_pair(state, pool, j, a, b)


@compiler.inner
def prompt_left(state, r):
    """Prompt tokens of a host's requests that are not in its cache yet."""
    return left(state, r)[0]


@compiler.inner
def prompt_of_pair(state, pool, j, a, b):
    """Which of two computes a prompt, and which decodes."""
    hosts, backlog = host_ints(state), numbers(pool)[BACKLOG]
    at_a, at_b = prompt_left(state, a), prompt_left(state, b)
    some_a, some_b = 0 < at_a <= backlog, 0 < at_b <= backlog
    if some_a != some_b:
        return (a, b) if some_a else (b, a)
    if at_a != at_b:
        return (a, b) if at_a < at_b else (b, a)
    return (a, b) if decoding(hosts[a]) <= decoding(hosts[b]) else (b, a)


@compiler.inner
def moves_of_pairs(state, pool):
    """All decodes away from where a prompt is computed; where there is none, half of the difference."""
    hosts = host_ints(state)
    wished = ints_at(pool[A_MOVES], pool[MOVE_ROOM], 3)
    pool[MOVES] = 0
    for a in range(0, state[HOSTS] - 1, 2):
        b = a + 1
        if hosts[a, SHUT] or hosts[b, SHUT]:
            continue
        busy_a, busy_b = prompt_left(state, a) > 0, prompt_left(state, b) > 0
        at_a, at_b = decoding(hosts[a]), decoding(hosts[b])
        source, count = NOBODY, 0
        if busy_a != busy_b:
            source = a if busy_a else b
            count = at_a if busy_a else at_b
        elif not busy_a and abs(at_a - at_b) >= pool[APART]:
            source, count = a if at_a >= at_b else b, abs(at_a - at_b) // 2
        if source >= 0 and count > 0:
            k = pool[MOVES]
            wished[k, 0], wished[k, 1], wished[k, 2] = source, a + b - source, count
            pool[MOVES] += 1
