"""Schedules by dispatching: of the operations that wait at a machine the one with the least key is next.

Few arrays with several rows each, so that a call is cheap. For alternatives a, operations o in job order, machines m:
`alternatives` (3, a): machine, duration, operation; `operations` (6, o): first alternative, one past the last, follower in the job or -1, moment of joining
the queues, begun, release; `starts` (2, o): start, chosen alternative; `machines` (3, m): free from, waiting, operation that joins then or -1;
`queue` (m, a): waiting alternatives; `keys` (a,), to which `slope` times the moment of joining is added; `heads` (jobs,): first operations by release;
`clock`: now, operations done, machine to look at, place in its queue that was answered or -1, jobs released.
"""

import numpy as np

from rota.worlds.shop.kernels import compiler

MACHINE, DURATION, OPERATION = range(3)
FIRST, LAST, NEXT, READY, BEGUN, RELEASE = range(6)
FREE, WAITING, COMING = range(3)
NOW, DONE, CURSOR, ANSWER, RELEASED = range(5)
NEVER = 1 << 62


@compiler.inner
def join(alternatives, operations, machines, queue, operation, now):
    """An operation waits from now on at every machine that could do it."""
    operations[READY, operation] = now
    for a in range(operations[FIRST, operation], operations[LAST, operation]):
        m = alternatives[MACHINE, a]
        queue[m, machines[WAITING, m]] = a
        machines[WAITING, m] += 1


@compiler.inner
def purge(alternatives, operations, machines, queue, m):
    """Take out of a queue what has begun at another machine."""
    kept = 0
    for k in range(machines[WAITING, m]):
        a = queue[m, k]
        if operations[BEGUN, alternatives[OPERATION, a]] == 0:
            queue[m, kept] = a
            kept += 1
    machines[WAITING, m] = kept


@compiler.inner
def least(alternatives, operations, queue, m, count, keys, slope):
    """Place of the least key in a queue; of equals the one that joined first, then the one with the smaller number."""
    best, value, moment, number = 0, np.inf, NEVER, NEVER
    for k in range(count):
        a = queue[m, k]
        joined = operations[READY, alternatives[OPERATION, a]]
        key = keys[a] + slope * joined
        if key < value or (key == value and (joined < moment or (joined == moment and a < number))):
            best, value, moment, number = k, key, joined, a
    return best


@compiler.inner
def advance(alternatives, operations, machines, queue, heads, clock):
    """To the next moment at which a machine becomes free or a job is released; what is ready then joins."""
    after = NEVER
    for m in range(machines.shape[1]):
        if machines[FREE, m] > clock[NOW]:
            after = min(after, machines[FREE, m])
    if clock[RELEASED] < len(heads):
        after = min(after, operations[RELEASE, heads[clock[RELEASED]]])
    clock[NOW] = after
    while clock[RELEASED] < len(heads) and operations[RELEASE, heads[clock[RELEASED]]] <= after:
        join(alternatives, operations, machines, queue, heads[clock[RELEASED]], after)
        clock[RELEASED] += 1
    for m in range(machines.shape[1]):
        if machines[FREE, m] == after and machines[COMING, m] >= 0:
            join(alternatives, operations, machines, queue, machines[COMING, m], after)
            machines[COMING, m] = -1


@compiler.njit
def non_delay(alternatives, operations, starts, machines, queue, keys, slope, heads, clock, asking):
    """Build a schedule in which no machine waits while it could work. `asking`: stop with the number of a machine where there is a choice. -1: done."""
    count, width = operations.shape[1], machines.shape[1]
    flexible = alternatives.shape[1] > count
    if clock[NOW] < 0:
        advance(alternatives, operations, machines, queue, heads, clock)
    while clock[DONE] < count:
        again = False
        for m in range(clock[CURSOR], width):
            if machines[FREE, m] > clock[NOW] or machines[WAITING, m] == 0:
                continue
            if flexible:
                purge(alternatives, operations, machines, queue, m)
            waiting = machines[WAITING, m]
            if waiting == 0:
                continue
            if clock[ANSWER] >= 0:
                place = clock[ANSWER]
                clock[ANSWER] = -1
            elif asking and waiting > 1:
                clock[CURSOR] = m
                return m
            else:
                place = least(alternatives, operations, queue, m, waiting, keys, slope)
            a = queue[m, place]
            queue[m, place] = queue[m, waiting - 1]
            machines[WAITING, m] = waiting - 1
            o = alternatives[OPERATION, a]
            operations[BEGUN, o] = 1
            starts[0, o], starts[1, o] = clock[NOW], a
            clock[DONE] += 1
            machines[FREE, m] = clock[NOW] + alternatives[DURATION, a]
            follower = operations[NEXT, o]
            if alternatives[DURATION, a] > 0:
                machines[COMING, m] = follower
            else:
                again = True  # this machine is free at once, and another one may have got work
                if follower >= 0:
                    join(alternatives, operations, machines, queue, follower, clock[NOW])
        clock[CURSOR] = 0
        if clock[DONE] < count and not again:
            advance(alternatives, operations, machines, queue, heads, clock)
    return -1


@compiler.njit
def active(alternatives, operations, starts, machines, keys, slope, heads):
    """Build an active schedule (Giffler and Thompson 1960): the choice is among those that could begin before the earliest possible end on its machine."""
    count, jobs = operations.shape[1], len(heads)
    front = heads.copy()
    for k in range(jobs):
        operations[READY, front[k]] = operations[RELEASE, front[k]]
    for _ in range(count):
        soonest, where = NEVER, 0
        for k in range(jobs):
            o = front[k]
            if o < 0:
                continue
            for a in range(operations[FIRST, o], operations[LAST, o]):
                m = alternatives[MACHINE, a]
                end = max(operations[READY, o], machines[FREE, m]) + alternatives[DURATION, a]
                if end < soonest:
                    soonest, where = end, m
        chosen, at, value = -1, 0, np.inf
        for k in range(jobs):
            o = front[k]
            if o < 0:
                continue
            for a in range(operations[FIRST, o], operations[LAST, o]):
                begin = max(operations[READY, o], machines[FREE, where])
                if alternatives[MACHINE, a] != where or (
                    begin >= soonest and begin + alternatives[DURATION, a] > soonest
                ):
                    continue
                key = keys[a] + slope * operations[READY, o]
                if chosen < 0 or key < value or (key == value and operations[READY, o] < operations[READY, front[at]]):
                    chosen, at, value = a, k, key
        o = front[at]
        begin = max(operations[READY, o], machines[FREE, where])
        starts[0, o], starts[1, o] = begin, chosen
        machines[FREE, where] = begin + alternatives[DURATION, chosen]
        front[at] = operations[NEXT, o]
        if front[at] >= 0:
            operations[READY, front[at]] = machines[FREE, where]
