"""Pairing heaps of waiting jobs, threaded through the jobs' own columns: any number of queues, no room to reserve.

Fredman, Sedgewick, Sleator and Tarjan, The pairing heap, Algorithmica 1986. The order is total (level, key, arrival, id), so what
comes out does not depend on the heap's shape.
"""

from rota.worlds.queues.kernels import compiler
from rota.worlds.queues.kernels.layout import ARRIVAL, CHILD, KEY, LEVEL, NEXT, PREV


@compiler.inner
def before(seconds, a, b):
    """Whether job a goes before job b."""
    if seconds[LEVEL, a] != seconds[LEVEL, b]:
        return seconds[LEVEL, a] < seconds[LEVEL, b]
    if seconds[KEY, a] != seconds[KEY, b]:
        return seconds[KEY, a] < seconds[KEY, b]
    if seconds[ARRIVAL, a] != seconds[ARRIVAL, b]:
        return seconds[ARRIVAL, a] < seconds[ARRIVAL, b]
    return a < b


@compiler.inner
def meld(jobs, seconds, a, b):
    """The root of two heaps made one; -1 is an empty heap."""
    if a < 0:
        return b
    if b < 0:
        return a
    if before(seconds, b, a):
        a, b = b, a
    first = jobs[CHILD, a]
    jobs[NEXT, b] = first
    if first >= 0:
        jobs[PREV, first] = b
    jobs[CHILD, a] = b
    jobs[PREV, b] = a
    return a


@compiler.inner
def push(jobs, seconds, root, job):
    """The root after a job came in."""
    jobs[CHILD, job] = -1
    jobs[NEXT, job] = -1
    jobs[PREV, job] = -1
    return meld(jobs, seconds, root, job)


@compiler.inner
def pop(jobs, seconds, root):
    """The root after the first job went out: children are melded in pairs from the left, then together from the right."""
    child = jobs[CHILD, root]
    pairs = -1
    while child >= 0:
        second = jobs[NEXT, child]
        following = -1
        jobs[NEXT, child] = -1
        if second >= 0:
            following = jobs[NEXT, second]
            jobs[NEXT, second] = -1
        pair = meld(jobs, seconds, child, second)
        jobs[NEXT, pair] = pairs  # a stack of pairs
        pairs = pair
        child = following
    found = -1
    while pairs >= 0:
        following = jobs[NEXT, pairs]
        jobs[NEXT, pairs] = -1
        found = meld(jobs, seconds, found, pairs)
        pairs = following
    if found >= 0:
        jobs[PREV, found] = -1
    return found


@compiler.inner
def remove(jobs, seconds, root, job):
    """The root after any job went out."""
    if job == root:
        return pop(jobs, seconds, root)
    previous, following = jobs[PREV, job], jobs[NEXT, job]
    if jobs[CHILD, previous] == job:
        jobs[CHILD, previous] = following
    else:
        jobs[NEXT, previous] = following
    if following >= 0:
        jobs[PREV, following] = previous
    return meld(jobs, seconds, root, pop(jobs, seconds, job))
