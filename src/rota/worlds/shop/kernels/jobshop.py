"""Tabu search for the job shop: moves in critical blocks, judged by estimate, until nothing better was found for a while.

A solution is a **line**: all operations in an order that every job and every machine can follow, a topological order of its disjunctive graph.
Operation o has a head (its earliest start) and a tail (its own duration and the longest way from there to the end), so that head + tail is the longest way
through it. The neighbourhood is N7 (Zhang, Li, Guan, Rao 2007, "A tabu search algorithm with a new neighborhood structure for the job shop
scheduling problem"): in each block of one critical path an operation goes behind the last or before the first, and the first and the last go
inside. The estimate is that of Balas and Vazacopoulos (1998). A move is tabu that would turn back a pair which was turned a short while ago; to
forbid only the exact piece of a machine's order at its positions, as the papers on N7 do, let the search go in circles of six moves for ever.

Heads are computed anew only behind the first operation that moved in the line, tails only before the last; the walk through the line between them
decides exactly whether a move closes a cycle. Row `operations` of every column is a sentinel that stands for "none".
"""

import numpy as np

from rota.worlds.shop.kernels import compiler

SLICE = 512  # iterations between looks at the flag that stops the search


@compiler.inner
def draw(state):
    """The next 64 random bits (xorshift*)."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return (x * np.uint64(2685821657736338717)) >> np.uint64(11)


@compiler.inner
def below(state, count):
    """A random integer from 0 to count - 1."""
    return np.int64(draw(state) % np.uint64(count))


@compiler.inner
def seeded(seed):
    """State of the generator; scrambled, so that seeds that follow each other have nothing in common."""
    state = np.empty(1, np.uint64)
    state[0] = (np.uint64(seed) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    for _ in range(8):
        draw(state)
    return state


@compiler.njit
def construct(job_before, job_after, machine, duration, head, tail, machines, noise, seed):
    """A line by non-delay dispatching, most work remaining first, with that work blurred by a factor from 1 - noise to 1 + noise."""
    count = len(machine)
    state = seeded(seed)
    ready, free = head.copy(), np.zeros(machines, np.int64)
    remaining = np.zeros(count + 1, np.int64)
    for o in range(count - 1, -1, -1):  # operations of a job have consecutive numbers
        remaining[o] = duration[o] + max(remaining[job_after[o]], tail[o])
    front = np.empty(count, np.int64)
    fronts = 0
    for o in range(count):
        if job_before[o] == count:
            front[fronts] = o
            fronts += 1
    line = np.empty(count, np.int64)
    for step in range(count):
        chosen, soonest, most = -1, 0, 0.0
        for k in range(fronts):
            o = front[k]
            start = max(ready[o], free[machine[o]])
            if chosen >= 0 and start > soonest:
                continue
            rank = remaining[o] * (1.0 + noise * (np.float64(below(state, 2001)) / 1000.0 - 1.0))
            if chosen < 0 or start < soonest or rank > most:
                chosen, soonest, most = k, start, rank
        o = front[chosen]
        line[step] = o
        free[machine[o]] = soonest + duration[o]
        after = job_after[o]
        if after < count:
            ready[after] = max(ready[after], soonest + duration[o])
            front[chosen] = after
        else:
            fronts -= 1
            front[chosen] = front[fronts]
    return line


@compiler.njit
def blend(first, second, share):
    """A line on the way from one to another: operations by (1 - share) of their rank in the first plus share of that in the second.

    What both agree on stays, so that every such line is one that all jobs can follow: a step of path relinking without any repair.
    """
    count = len(first)
    rank = np.empty(count)
    for position in range(count):
        rank[first[position]] = (1.0 - share) * position
    for position in range(count):
        rank[second[position]] += share * position
    return np.argsort(rank, kind="mergesort")


@compiler.njit
def distance(first, second, machine, machines):
    """In how many pairs of operations of one machine two lines differ."""
    count = len(first)
    rank = np.empty(count, np.int64)
    for position in range(count):
        rank[second[position]] = position
    sequence = np.empty((machines, count), np.int64)
    size = np.zeros(machines, np.int64)
    for position in range(count):
        o = first[position]
        sequence[machine[o], size[machine[o]]] = rank[o]
        size[machine[o]] += 1
    found = 0
    for m in range(machines):
        for i in range(size[m]):
            for j in range(i + 1, size[m]):
                if sequence[m, i] > sequence[m, j]:
                    found += 1
    return found


@compiler.njit
def starts(line, job_before, machine, duration, head, machines):
    """The earliest start of every operation when jobs and machines follow the line."""
    count = len(machine)
    free, start = np.zeros(machines, np.int64), np.zeros(count + 1, np.int64)
    end = np.zeros(count + 1, np.int64)
    for o in line:
        start[o] = max(head[o], end[job_before[o]], free[machine[o]])
        end[o] = start[o] + duration[o]
        free[machine[o]] = end[o]
    return start[:count]


@compiler.inner
def link(line, machine, machines, before, after, position, place):
    """Machine neighbours and positions from a line."""
    count = len(line)
    last = np.full(machines, count, np.int64)
    filled = np.zeros(machines, np.int64)
    for k in range(count):
        o = line[k]
        place[o] = k
        m = machine[o]
        before[o] = last[m]
        if last[m] < count:
            after[last[m]] = o
        after[o] = count
        position[o] = filled[m]
        filled[m] += 1
        last[m] = o


@compiler.inner
def update_heads(line, begin, job_before, before, duration, head, heads):
    for k in range(begin, len(line)):
        o = line[k]
        a, b = job_before[o], before[o]
        heads[o] = max(head[o], max(heads[a] + duration[a], heads[b] + duration[b]))


@compiler.inner
def update_tails(line, end, job_after, after, duration, tail, tails):
    for k in range(end, -1, -1):
        o = line[k]
        tails[o] = duration[o] + max(tail[o], max(tails[job_after[o]], tails[after[o]]))


@compiler.inner
def estimate_behind(u, v, job_before, job_after, before, after, duration, head, tail, heads, tails, new_heads):
    """Longest way through what moves when u goes behind v, on the same machine, heads and tails outside being as they are."""
    x, p = after[u], before[u]
    done = heads[p] + duration[p]
    while True:
        a = job_before[x]
        begin = max(head[x], max(heads[a] + duration[a], done))
        new_heads[x] = begin
        done = begin + duration[x]
        if x == v:
            break
        x = after[x]
    a = job_before[u]
    begin = max(head[u], max(heads[a] + duration[a], done))
    rest = duration[u] + max(tail[u], max(tails[job_after[u]], tails[after[v]]))
    longest = begin + rest
    x = v
    while x != u:
        rest = duration[x] + max(tail[x], max(tails[job_after[x]], rest))
        longest = max(longest, new_heads[x] + rest)
        x = before[x]
    return longest


@compiler.inner
def estimate_before(u, v, job_before, job_after, before, after, duration, head, tail, heads, tails, new_tails):
    """The same when v goes before u."""
    x, n = before[v], after[v]
    rest = tails[n]
    while True:
        rest = duration[x] + max(tail[x], max(tails[job_after[x]], rest))
        new_tails[x] = rest
        if x == u:
            break
        x = before[x]
    rest = duration[v] + max(tail[v], max(tails[job_after[v]], rest))
    a, p = job_before[v], before[u]
    begin = max(head[v], max(heads[a] + duration[a], heads[p] + duration[p]))
    longest = begin + rest
    done = begin + duration[v]
    x = u
    while x != v:
        a = job_before[x]
        begin = max(head[x], max(heads[a] + duration[a], done))
        longest = max(longest, begin + new_tails[x])
        done = begin + duration[x]
        x = after[x]
    return longest


@compiler.inner
def forbidden(u, v, behind, column, after, until, iteration):
    """Whether a move would turn a pair of operations back that was turned a short while ago."""
    x = u
    if behind == 1:
        while x != v:
            x = after[x]
            if until[x, column[u]] >= iteration:
                return True
        return False
    while x != v:
        if until[v, column[x]] >= iteration:
            return True
        x = after[x]
    return False


@compiler.inner
def forbid(u, v, behind, column, after, until, iteration):
    """Until an iteration, what a move is about to turn may not be turned back: of each pair the first may not go before the second again."""
    x = u
    if behind == 1:
        while x != v:
            x = after[x]
            until[u, column[x]] = iteration
    else:
        while x != v:
            until[x, column[v]] = iteration
            x = after[x]


@compiler.inner
def forbid_move(u, v, behind, column, after, until, iteration):
    """Forbid a move itself: the pairs that it would make."""
    x = u
    if behind == 1:
        while x != v:
            x = after[x]
            until[x, column[u]] = iteration
    else:
        while x != v:
            until[v, column[x]] = iteration
            x = after[x]


@compiler.inner
def reorder(u, v, behind, line, place, job_before, job_after, before, after, marked, aside):
    """Put the line between u and v in an order that fits the move. False, and nothing changed, when the move closes a cycle."""
    count = len(line)
    a, b = place[u], place[v]
    kept, moved = 0, 0
    if behind == 1:  # u and all that follows it go behind v
        marked[u] = True
        for k in range(a + 1, b + 1):
            x = line[k]
            m = before[x]
            marked[x] = marked[job_before[x]] or (m != u and marked[m])
        closes = marked[v]
        if not closes:
            for k in range(a, b + 1):
                x = line[k]
                if marked[x]:
                    aside[moved] = x
                    moved += 1
                else:
                    line[a + kept] = x
                    kept += 1
            for k in range(moved):
                line[a + kept + k] = aside[k]
    else:  # v and all that must precede it go before u
        marked[v] = True
        for k in range(b - 1, a - 1, -1):
            x = line[k]
            m = after[x]
            marked[x] = marked[job_after[x]] or (m != v and marked[m])
        closes = marked[u]
        if not closes:
            for k in range(b, a - 1, -1):
                x = line[k]
                if marked[x]:
                    aside[moved] = x
                    moved += 1
                else:
                    line[b - kept] = x
                    kept += 1
            for k in range(moved):
                line[b - kept - k] = aside[k]
    for k in range(a, b + 1):
        x = line[k]
        marked[x] = False
        place[x] = k
    marked[count] = False
    return not closes


@compiler.inner
def relink(u, v, behind, before, after, count):
    """Move u behind v, or v before u, in the machine's order."""
    p, n = before[u], after[v]
    if behind == 1:
        x = after[u]
        before[x] = p
        if p < count:
            after[p] = x
        after[v], before[u], after[u] = u, v, n
        if n < count:
            before[n] = u
    else:
        x = before[v]
        after[x] = n
        if n < count:
            before[n] = x
        before[u], after[v], before[v] = v, u, p
        if p < count:
            after[p] = v


@compiler.inner
def longest(jobs_last, heads, duration, tail):
    """The longest way of all."""
    found = np.int64(-1) << 62
    for o in jobs_last:
        found = max(found, heads[o] + duration[o] + tail[o])
    return found


@compiler.inner
def critical_path(jobs_last, job_before, before, duration, tail, heads, length, path, state):
    """One longest way, chosen at random where there are several, last operation first. Returns its number of operations."""
    count = len(duration) - 1
    o, seen = -1, 0
    for last in jobs_last:
        if heads[last] + duration[last] + tail[last] == length:
            seen += 1
            if below(state, seen) == 0:
                o = last
    size = 0
    while o < count:
        path[size] = o
        size += 1
        a, b = job_before[o], before[o]
        by_job = a < count and heads[a] + duration[a] == heads[o]
        by_machine = b < count and heads[b] + duration[b] == heads[o]
        if by_job and by_machine:
            o = a if below(state, 2) == 0 else b
        elif by_machine:
            o = b
        elif by_job:
            o = a
        else:
            break
    return size


@compiler.inner
def blocks_to_moves(path, size, before, job_before, job_after, duration, heads, tails, moves):
    """The N7 moves of a critical path that surely close no cycle, as rows (u, v, u goes behind v? 1 : v goes before u). Returns their number."""
    count = 0
    top = 0
    while top < size:  # path[top] is the last operation of a block, path[bottom] its first
        bottom = top
        while bottom + 1 < size and before[path[bottom]] == path[bottom + 1]:
            bottom += 1
        first, last = path[bottom], path[top]
        for k in range(top, bottom):
            x, y = path[k + 1], path[k]  # x runs over all but the last, y over all but the first
            if tails[last] >= tails[job_after[x]]:
                moves[count, 0], moves[count, 1], moves[count, 2] = x, last, 1
                count += 1
            if bottom - top == 1:
                break  # of two, the other moves are the same one
            if heads[first] + duration[first] >= heads[job_before[y]] + duration[job_before[y]]:
                moves[count, 0], moves[count, 1], moves[count, 2] = first, y, 0
                count += 1
            if k > top and tails[y] >= tails[job_after[first]]:
                moves[count, 0], moves[count, 1], moves[count, 2] = first, y, 1
                count += 1
            if k + 1 < bottom and heads[x] + duration[x] >= heads[job_before[last]] + duration[job_before[last]]:
                moves[count, 0], moves[count, 1], moves[count, 2] = x, last, 0
                count += 1
        top = bottom + 1
    return count


@compiler.njit
def search(
    job_before, job_after, jobs_last, machine, duration, head, tail, machines, line, patience, tenure, seed, stop
):
    """Tabu search from a line, until nothing better was found for `patience` iterations or `stop[0]` is set.

    Columns have shape (operations + 1,) with the sentinel last, except `line` and `machine` (operations,) and `jobs_last` (jobs,). `tenure`: least and
    most iterations that something is tabu. Returns (best line, its length, iterations).
    """
    count = len(machine)
    state = seeded(seed)
    line = line.copy()
    before, after = np.full(count + 1, count), np.full(count + 1, count)
    column, place = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    heads, tails, scratch = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    marked, aside, path = np.zeros(count + 1, np.bool_), np.empty(count, np.int64), np.empty(count, np.int64)
    moves = np.empty((4 * count, 3), np.int64)
    link(line, machine, machines, before, after, column, place)
    until = np.zeros((count, column.max() + 1), np.int64)
    update_heads(line, 0, job_before, before, duration, head, heads)
    update_tails(line, count - 1, job_after, after, duration, tail, tails)
    length = longest(jobs_last, heads, duration, tail)
    best, best_line, found_at = length, line.copy(), 0
    iteration = 0
    while iteration - found_at < patience:
        iteration += 1
        if iteration % SLICE == 0 and stop[0]:
            break
        size = critical_path(jobs_last, job_before, before, duration, tail, heads, length, path, state)
        found = blocks_to_moves(path, size, before, job_before, job_after, duration, heads, tails, moves)
        if found == 0:
            break  # the critical path cannot be broken
        chosen, value, ties = -1, np.int64(0), 0
        fallback, tabu = -1, 0  # one of the tabu moves, for when there are only such
        for k in range(found):
            u, v, behind = moves[k, 0], moves[k, 1], moves[k, 2]
            if behind == 1:
                cost = estimate_behind(
                    u, v, job_before, job_after, before, after, duration, head, tail, heads, tails, scratch
                )
            else:
                cost = estimate_before(
                    u, v, job_before, job_after, before, after, duration, head, tail, heads, tails, scratch
                )
            if chosen >= 0 and cost > value:
                continue
            if cost >= best and forbidden(u, v, behind, column, after, until, iteration):
                tabu += 1
                if below(state, tabu) == 0:
                    fallback = k
            elif chosen < 0 or cost < value:
                chosen, value, ties = k, cost, 1
            else:
                ties += 1
                if below(state, ties) == 0:
                    chosen = k
        if chosen < 0:
            chosen = fallback
        u, v, behind = moves[chosen, 0], moves[chosen, 1], moves[chosen, 2]
        first, last = place[u], place[v]
        if reorder(u, v, behind, line, place, job_before, job_after, before, after, marked, aside):
            hold = iteration + tenure[0] + below(state, tenure[1] - tenure[0] + 1)
            forbid(u, v, behind, column, after, until, hold)
            relink(u, v, behind, before, after, count)
            update_heads(line, first, job_before, before, duration, head, heads)
            update_tails(line, last, job_after, after, duration, tail, tails)
            length = longest(jobs_last, heads, duration, tail)
        else:  # it closes a cycle, which only operations that take no time can do
            forbid_move(u, v, behind, column, after, until, iteration + tenure[1])
        if length < best:
            best, found_at = length, iteration
            best_line[:] = line
    return best_line, best, iteration
