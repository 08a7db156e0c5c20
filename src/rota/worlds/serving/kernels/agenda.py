"""What pools do later: a heap of actions by time, then by number, as the fleet's own; and KV on its way, as in `links`."""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import HOSTS, RUNNING_ROOM
from rota.worlds.serving.kernels.pool_layout import (
    A_ACTIONS,
    A_AMOUNTS,
    A_TIMES,
    A_TRANSFERS,
    ACTION_ROOM,
    ACTIONS,
    BANDWIDTH,
    INTO,
    NUMBER,
    OUT,
    PENDING,
    SHARED,
    TRANSFER_ROOM,
    TRANSFERS,
    TRANSFERS_NEXT,
    TRANSFERS_NOW,
    UPDATE,
    numbers,
    of_hosts,
)


@compiler.inner
def times(pool):
    return floats_at(pool[A_TIMES], 1, pool[ACTION_ROOM])[0]


@compiler.inner
def actions(pool):
    """Number, kind, request, and what else it needs: a host, a number."""
    return ints_at(pool[A_ACTIONS], pool[ACTION_ROOM], 5)


@compiler.inner
def tight(state, pool):
    """Whether one event could bring more actions than there is room for: one for each running request, twice."""
    return pool[ACTIONS] + 2 * state[HOSTS] * state[RUNNING_ROOM] + 8 > pool[ACTION_ROOM]


@compiler.inner
def earlier(when, what, a, b):
    return when[a] < when[b] or (when[a] == when[b] and what[a, 0] < what[b, 0])


@compiler.inner
def swap(when, what, a, b):
    when[a], when[b] = when[b], when[a]
    for k in range(5):
        what[a, k], what[b, k] = what[b, k], what[a, k]


@compiler.inner
def later(pool, time, kind, j, host, number):
    """Do something at a time; of equal times what was asked for first."""
    when, what = times(pool), actions(pool)
    child = pool[ACTIONS]
    pool[ACTIONS] += 1
    when[child] = time
    what[child, 0], what[child, 1], what[child, 2], what[child, 3], what[child, 4] = pool[NUMBER], kind, j, host, number
    pool[NUMBER] += 1
    pool[PENDING] += kind != UPDATE
    while child > 0:
        parent = (child - 1) >> 1
        if not earlier(when, what, child, parent):
            break
        swap(when, what, child, parent)
        child = parent


@compiler.inner
def take_first(pool):
    """(kind, request, host, number) of the first action, which is no more on the agenda."""
    when, what = times(pool), actions(pool)
    kind, j, host, number = what[0, 1], what[0, 2], what[0, 3], what[0, 4]
    pool[PENDING] -= kind != UPDATE
    pool[ACTIONS] -= 1
    count = pool[ACTIONS]
    swap(when, what, 0, count)
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= count:
            break
        if child + 1 < count and earlier(when, what, child + 1, child):
            child += 1
        if not earlier(when, what, child, parent):
            break
        swap(when, what, child, parent)
        parent = child
    return kind, j, host, number


# -- transfers --------------------------------------------------------------------------------------------------------


@compiler.inner
def under_way(pool):
    """Request, source and target of each transfer."""
    return ints_at(pool[A_TRANSFERS], pool[TRANSFER_ROOM], 3)


@compiler.inner
def amounts(pool):
    """Bytes left, and bytes a second."""
    return floats_at(pool[A_AMOUNTS], pool[TRANSFER_ROOM], 2)


@compiler.inner
def pass_time(pool, now):
    clock, amount = numbers(pool), amounts(pool)
    for k in range(pool[TRANSFERS]):
        amount[k, 0] = max(0.0, amount[k, 0] - amount[k, 1] * (now - clock[TRANSFERS_NOW]))
    clock[TRANSFERS_NOW] = now


@compiler.inner
def pace(state, pool):
    clock, what, amount, hosts = numbers(pool), under_way(pool), amounts(pool), of_hosts(state, pool)
    clock[TRANSFERS_NEXT] = np.inf
    for k in range(pool[TRANSFERS]):
        crowd = max(hosts[what[k, 1], OUT], hosts[what[k, 2], INTO]) if pool[SHARED] else 1
        amount[k, 1] = clock[BANDWIDTH] / crowd
        clock[TRANSFERS_NEXT] = min(clock[TRANSFERS_NEXT], clock[TRANSFERS_NOW] + amount[k, 0] / amount[k, 1])


@compiler.inner
def begin_transfer(state, pool, j, source, target, size, now):
    pass_time(pool, now)
    k, what, hosts = pool[TRANSFERS], under_way(pool), of_hosts(state, pool)
    pool[TRANSFERS] += 1
    what[k, 0], what[k, 1], what[k, 2] = j, source, target
    amounts(pool)[k, 0], amounts(pool)[k, 1] = size, 0.0
    hosts[source, OUT] += 1
    hosts[target, INTO] += 1
    pace(state, pool)


@compiler.inner
def end_transfer(state, pool, k):
    """The k-th transfer is over; the others keep their order. The caller sets the pace anew."""
    what, amount, hosts = under_way(pool), amounts(pool), of_hosts(state, pool)
    hosts[what[k, 1], OUT] -= 1
    hosts[what[k, 2], INTO] -= 1
    pool[TRANSFERS] -= 1
    for i in range(k, pool[TRANSFERS]):
        what[i, 0], what[i, 1], what[i, 2] = what[i + 1, 0], what[i + 1, 1], what[i + 1, 2]
        amount[i, 0], amount[i, 1] = amount[i + 1, 0], amount[i + 1, 1]


@compiler.inner
def cancel_transfer(state, pool, j, now):
    """The transfer of a request ends before its time, if there is one."""
    what = under_way(pool)
    for k in range(pool[TRANSFERS]):
        if what[k, 0] == j:
            pass_time(pool, now)
            end_transfer(state, pool, k)
            pace(state, pool)
            return
