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


@compiler.inner
def conflict(alternatives, operations, front, ready, free, patience, found):
    """The machine of the earliest possible end, and what may be next there, with its job, in `found`; how many.

    With patience 1 whatever could begin before that end: active schedules (Giffler and Thompson 1960). With 0 what can begin first: schedules
    without delay. Between them, before that share of the time from the one to the other (Bierwirth and Mattfeld 1999).
    """
    soonest, where = NEVER, 0
    for k in range(len(front)):
        o = front[k]
        if o < 0:
            continue
        for a in range(operations[FIRST, o], operations[LAST, o]):
            m = alternatives[MACHINE, a]
            end = max(ready[k], free[m]) + alternatives[DURATION, a]
            if end < soonest:
                soonest, where = end, m
    count, first = 0, NEVER
    for k in range(len(front)):
        o = front[k]
        if o < 0:
            continue
        for a in range(operations[FIRST, o], operations[LAST, o]):
            if alternatives[MACHINE, a] == where:
                found[0, count], found[1, count] = a, k
                first = min(first, max(ready[k], free[where]))
                count += 1
    kept, last = 0, first + patience * (soonest - first)
    for c in range(count):
        a, k = found[0, c], found[1, c]
        begin = max(ready[k], free[where])
        at_the_end = patience == 1 and begin + alternatives[DURATION, a] == soonest  # takes no time, at that end itself
        if begin < last or at_the_end or (begin == first and patience < 1):
            found[0, kept], found[1, kept] = a, k
            kept += 1
    return kept


@compiler.inner
def choose(found, count, ready, keys, slope):
    """Place in `found` of the least key; of equals the job that joined first."""
    best, value = 0, np.inf
    for c in range(count):
        k = found[1, c]
        key = keys[found[0, c]] + slope * ready[k]
        if c == 0 or key < value or (key == value and ready[k] < ready[found[1, best]]):
            best, value = c, key
    return best


@compiler.inner
def put(alternatives, operations, front, ready, free, a, k):
    """An alternative of the job in front k begins as early as it can: when."""
    m = alternatives[MACHINE, a]
    begin = max(ready[k], free[m])
    free[m] = ready[k] = begin + alternatives[DURATION, a]
    front[k] = operations[NEXT, front[k]]
    return begin


@compiler.njit
def choices(alternatives, operations, starts, keys, slope, heads, forced, machines, patience):
    """Build a schedule choice by choice, see `conflict`; the first are the alternatives `forced`, the others the rule's."""
    count = operations.shape[1]
    front, free = heads.copy(), np.zeros(machines, np.int64)
    ready = operations[RELEASE][heads]
    found = np.empty((2, alternatives.shape[1]), np.int64)
    for step in range(count):
        open_now = conflict(alternatives, operations, front, ready, free, patience, found)
        c = 0
        if step < len(forced):
            while found[0, c] != forced[step]:
                c += 1
        else:
            c = choose(found, open_now, ready, keys, slope)
        a = found[0, c]
        o = alternatives[OPERATION, a]
        starts[0, o], starts[1, o] = put(alternatives, operations, front, ready, free, a, found[1, c]), a


@compiler.njit
def branch(alternatives, operations, keys, slope, front, ready, free, patience, spread, origin, children, ends):
    """For partial schedules (rows of `front`, `ready`, `free`): their `spread` best next choices, each completed by the rule.

    Out, a row a child, how many is returned: `origin` parent, alternative, job; `children` (child, 2 jobs + machines) front, ready, free; `ends` (child, jobs).
    """
    jobs, count = front.shape[1], 0
    found = np.empty((2, alternatives.shape[1]), np.int64)
    later = np.empty((2, alternatives.shape[1]), np.int64)
    for parent in range(len(front)):
        choices = conflict(alternatives, operations, front[parent], ready[parent], free[parent], patience, found)
        for _ in range(min(spread, choices)):
            c = choose(found, choices, ready[parent], keys, slope)
            a, k = found[0, c], found[1, c]
            choices -= 1
            found[0, c], found[1, c] = found[0, choices], found[1, choices]
            f, r, m = front[parent].copy(), ready[parent].copy(), free[parent].copy()
            put(alternatives, operations, f, r, m, a, k)
            origin[count, 0], origin[count, 1], origin[count, 2] = parent, a, k
            children[count, :jobs], children[count, jobs : 2 * jobs], children[count, 2 * jobs :] = f, r, m
            while True:
                rest = conflict(alternatives, operations, f, r, m, patience, later)
                if rest == 0:
                    break
                c = choose(later, rest, r, keys, slope)
                put(alternatives, operations, f, r, m, later[0, c], later[1, c])
            ends[count] = r
            count += 1
    return count
