"""Projects: serial schedule generation, justification, and a population that is bred from windows of good schedules.

A schedule is made from a **line**, the activities in an order that respects the precedences: each in turn starts as early as its predecessors and
the resources allow (serial schedule generation; Kolisch 1996). **Justification** (Valls, Ballestin, Quintanilla 2005) does the same from the right, in
the order of the ends, and then from the left again, in the order of the starts; a schedule never gets longer by it.

The free amounts of all resources at one moment are packed into 64-bit words, a lane each with a guard bit above: one subtraction
and one comparison tell whether an activity fits, ``(free - need) & guard == guard``. So time is counted in units, and the profile has a row for each.

Everything runs forwards and backwards: the backward columns are those of the reversed project, where time 0 is the end.
"""

import numpy as np

from rota.worlds.shop.kernels import compiler
from rota.worlds.shop.kernels.jobshop import below, seeded


@compiler.njit
def generate(line, before_offsets, before, release, duration, need, level, guard, free, start):
    """Start every activity as early as possible in the order of the line; returns the latest end. `free` is returned as it came: full."""
    words = len(level)
    latest = np.int64(0)
    for i in line:
        t = release[i]
        for k in range(before_offsets[i], before_offsets[i + 1]):
            t = max(t, start[before[k]] + duration[before[k]])
        d = duration[i]
        if words == 1:
            amount, bits, run = need[i, 0], guard[0], 0
            while run < d:
                run = run + 1 if (free[t, 0] - amount) & bits == bits else 0
                t += 1
            t -= d
            for s in range(t, t + d):
                free[s, 0] -= amount
        else:
            run = 0
            while run < d:
                run += 1
                for w in range(words):
                    if (free[t, w] - need[i, w]) & guard[w] != guard[w]:
                        run = 0
                        break
                t += 1
            t -= d
            for s in range(t, t + d):
                for w in range(words):
                    free[s, w] -= need[i, w]
        start[i] = t
        latest = max(latest, t + d)
    for t in range(latest):
        for w in range(words):
            free[t, w] = level[w]
    return latest


@compiler.inner
def sort_by(key, smallest, largest, base, count, line):
    """The activities by key, equal ones in the order of `base` (a counting sort; `count` is scratch)."""
    width = largest - smallest + 2
    for k in range(width):
        count[k] = 0
    for i in base:
        count[key[i] - smallest + 1] += 1
    for k in range(1, width):
        count[k] += count[k - 1]
    for i in base:
        slot = key[i] - smallest
        line[count[slot]] = i
        count[slot] += 1


@compiler.inner
def repair(wish, before_offsets, before, done, stack, line):
    """The line nearest to a wish: whatever must precede an activity comes directly before it."""
    done[:] = False
    size = 0
    for wanted in wish:
        if done[wanted]:
            continue
        stack[0], depth = wanted, 1
        while depth > 0:
            i = stack[depth - 1]
            open_before = -1
            for k in range(before_offsets[i], before_offsets[i + 1]):
                if not done[before[k]]:
                    open_before = before[k]
                    break
            if open_before >= 0:
                stack[depth] = open_before
                depth += 1
            else:
                depth -= 1
                done[i] = True
                line[size] = i
                size += 1


@compiler.inner
def justify(
    forward_offsets, forward, backward_offsets, backward, release, nothing, duration, need, level, guard, topological, reverse,
    free, count, line, key, mirrored, start, length,
):  # fmt: skip
    """Right, then left; again while that makes it shorter. Returns the length."""
    n = len(duration)
    while True:
        for i in range(n):
            key[i] = length - start[i] - duration[i]
        sort_by(key, 0, length, reverse, count, line)
        right = generate(line, backward_offsets, backward, nothing, duration, need, level, guard, free, mirrored)
        for i in range(n):
            key[i] = right - mirrored[i] - duration[i]
        sort_by(key, 0, right, topological, count, line)
        left = generate(line, forward_offsets, forward, release, duration, need, level, guard, free, start)
        if left >= length:
            return left
        length = left


@compiler.njit
def evolve(
    forward_offsets, forward, backward_offsets, backward, release, duration, need, level, guard, topological, horizon,
    members, lengths, state, children, target, change,
):  # fmt: skip
    """Breed `children` schedules into a population, in place; returns how many were made (fewer when the target was reached).

    Args: `members`: starts (population, activities); `lengths` (population,): negative where a member is still to be made.
    """
    n, population = len(duration), len(lengths)
    words = len(level)
    free = np.empty((horizon + 1, words), np.int64)
    for t in range(horizon + 1):
        for w in range(words):
            free[t, w] = level[w]
    count = np.empty(4 * horizon + 8, np.int64)
    line, wish, stack = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    key, start, mirrored = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    done, nothing = np.empty(n, np.bool_), np.zeros(n, np.int64)
    reverse = topological[::-1].copy()
    made = 0
    while made < children:
        made += 1
        slot = -1
        for p in range(population):
            if lengths[p] < 0:
                slot = p
                break
        if slot >= 0:  # a random line
            for k in range(n):
                wish[k] = k
            for k in range(n - 1, 0, -1):
                other = below(state, k + 1)
                wish[k], wish[other] = wish[other], wish[k]
            repair(wish, forward_offsets, forward, done, stack, line)
        else:
            a, b = below(state, population), below(state, population)
            c = below(state, population)
            if lengths[b] < lengths[a]:
                a = b
            span = lengths[a]
            width = 1 + span // 4 + below(state, span // 2 + 1)
            first = below(state, max(1, span - width + 1))
            last = first + width
            backwards = below(state, 2) == 0
            for i in range(n):  # a's window in the middle, around it what c has before and after
                x, y = members[a, i], members[c, i]
                if backwards:
                    x, y = lengths[a] - x - duration[i], lengths[c] - y - duration[i]
                if first <= x < last:
                    key[i] = horizon + x
                elif y < first:
                    key[i] = y
                elif y >= last:
                    key[i] = 2 * horizon + y
                elif x < first:
                    key[i] = y
                else:
                    key[i] = 2 * horizon + y
            for i in range(n):
                if below(state, 1000) < change:
                    key[i] = max(0, min(3 * horizon, key[i] + below(state, 21) - 10))
            if backwards:
                sort_by(key, 0, 3 * horizon, reverse, count, wish)
                repair(wish, backward_offsets, backward, done, stack, line)
                right = generate(
                    line, backward_offsets, backward, nothing, duration, need, level, guard, free, mirrored
                )
                for i in range(n):
                    key[i] = right - mirrored[i] - duration[i]
                sort_by(key, 0, right, topological, count, line)
            else:
                sort_by(key, 0, 3 * horizon, topological, count, wish)
                repair(wish, forward_offsets, forward, done, stack, line)
        length = generate(line, forward_offsets, forward, release, duration, need, level, guard, free, start)
        length = justify(
            forward_offsets, forward, backward_offsets, backward, release, nothing, duration, need, level, guard, topological, reverse,
            free, count, line, key, mirrored, start, length,
        )  # fmt: skip
        if slot < 0:
            same = False
            for p in range(population):
                if lengths[p] == length:
                    equal = True
                    for i in range(n):
                        if members[p, i] != start[i]:
                            equal = False
                            break
                    if equal:
                        same = True
                        break
            if not same:
                worst = a if lengths[a] > lengths[c] else c
                if length <= lengths[worst]:
                    slot = worst
        if slot >= 0:
            lengths[slot] = length
            for i in range(n):
                members[slot, i] = start[i]
        if length <= target:
            break
    return made


@compiler.njit
def generator_state(seed):
    """The state of a generator of random numbers."""
    return seeded(seed)
