"""Tabu search for the flexible job shop: any critical operation to any place on any of its machines, each judged exactly.

A solution is a **line** (all operations in an order that every job and machine can follow) and an alternative for every operation. For each operation
v of one critical path, the graph without v is evaluated once; then the longest way through v at a place between x and y of a machine is ``max(end of what
precedes it in its job, end of x) + duration + max(tail of what follows it in its job, tail of y)``, and the new length is the larger of that and the
length without v (Mastrolilli and Gambardella 2000, "Effective neighbourhood functions for the flexible job shop problem", whose neighbourhood Nopt is a
part of this one). A place is tried when it surely closes no cycle: nothing behind v ends before v's predecessor starts, nothing in front of it starts
after its successor has ended.

Nodes: operations 0 to n - 1, n stands for "no operation", n + 1 + m is the border of machine m: the list of a machine is a ring through it.
"""

import numpy as np

from rota.worlds.shop.kernels import compiler
from rota.worlds.shop.kernels.jobshop import below, seeded

SLICE = 64  # iterations between looks at the flag that stops the search


@compiler.njit
def construct(jobs_first, job_after, alternatives, machine, duration, head, machines, noise, seed):
    """(line, choice): each time the operation and alternative that end first, with ends blurred by a factor of up to 1 + noise."""
    count = len(alternatives) - 1
    state = seeded(seed)
    front, ready = jobs_first.copy(), head.copy()
    free = np.zeros(machines, np.int64)
    line, choice = np.empty(count, np.int64), np.empty(count, np.int64)
    for step in range(count):
        job, chosen, best, end = -1, -1, 0.0, 0
        for j in range(len(front)):
            o = front[j]
            if o == count:
                continue
            for k in range(alternatives[o], alternatives[o + 1]):
                finish = max(ready[o], free[machine[k]]) + duration[k]
                rank = np.float64(finish) * (1.0 + noise * np.float64(below(state, 1001)) / 1000.0)
                if job < 0 or rank < best:
                    job, chosen, best, end = j, k, rank, finish
        o = front[job]
        line[step], choice[o], free[machine[chosen]] = o, chosen, end
        front[job] = job_after[o]
        if front[job] < count:
            ready[front[job]] = max(ready[front[job]], end)
    return line, choice


@compiler.njit
def cross(first, second, first_choice, second_choice, share, seed):
    """(line, choice) on the way between two solutions: ranks in the lines are mixed, alternatives drawn, `share` from the second.

    Whatever both orders agree on stays, so every mixed line is one that all jobs can follow.
    """
    count = len(first)
    state = seeded(seed)
    rank = np.empty(count)
    for position in range(count):
        rank[first[position]] = (1.0 - share) * position
    for position in range(count):
        rank[second[position]] += share * position
    choice = first_choice.copy()
    for o in range(count):
        if np.float64(below(state, 1000)) < 1000.0 * share:
            choice[o] = second_choice[o]
    return np.argsort(rank, kind="mergesort"), choice


@compiler.njit
def starts(line, choice, job_before, machine, duration, head, machines):
    """The earliest start of every operation when jobs and machines follow the line."""
    count = len(line)
    free, end = np.zeros(machines, np.int64), np.zeros(count + 1, np.int64)
    start = np.empty(count, np.int64)
    for o in line:
        start[o] = max(head[o], end[job_before[o]], free[machine[choice[o]]])
        end[o] = start[o] + duration[choice[o]]
        free[machine[choice[o]]] = end[o]
    return start


@compiler.inner
def evaluate(job_before, job_after, before, after, length_of, head, tail, count, waiting, line, place, heads, tails):
    """A line of the graph, and heads and tails along it."""
    size = 0
    for o in range(count):
        waiting[o] = (job_before[o] < count) + (before[o] < count)
        if waiting[o] == 0:
            line[size] = o
            size += 1
    done = 0
    while done < size:
        o = line[done]
        place[o] = done
        done += 1
        a, b = job_before[o], before[o]
        heads[o] = max(head[o], max(heads[a] + length_of[a], heads[b] + length_of[b]))
        a, b = job_after[o], after[o]
        if a < count:
            waiting[a] -= 1
            if waiting[a] == 0:
                line[size] = a
                size += 1
        if b < count:
            waiting[b] -= 1
            if waiting[b] == 0:
                line[size] = b
                size += 1
    for k in range(count - 1, -1, -1):
        o = line[k]
        tails[o] = length_of[o] + max(tail[o], max(tails[job_after[o]], tails[after[o]]))


@compiler.inner
def without(
    v, job_before, job_after, before, after, length_of, head, tail, jobs_last, count, line, place, heads, tails, h, q
):
    """Heads h and tails q of the graph in which v takes no time and no machine; returns its length."""
    h[:] = heads
    q[:] = tails
    p, n = before[v], after[v]
    after[p], before[n] = n, p
    kept = length_of[v]
    length_of[v] = 0
    a = job_before[v]
    h[v] = max(head[v], h[a] + length_of[a])
    for k in range(place[v] + 1, count):
        o = line[k]
        a, b = job_before[o], before[o]
        h[o] = max(head[o], max(h[a] + length_of[a], h[b] + length_of[b]))
    q[v] = max(tail[v], q[job_after[v]])
    for k in range(place[v] - 1, -1, -1):
        o = line[k]
        q[o] = length_of[o] + max(tail[o], max(q[job_after[o]], q[after[o]]))
    length = -(np.int64(1) << 62)
    for o in jobs_last:
        length = max(length, h[o] + length_of[o] + tail[o])
    length_of[v] = kept
    after[p], before[n] = v, v
    return length


@compiler.inner
def critical_path(jobs_last, job_before, before, length_of, tail, heads, length, count, path, state):
    """One longest way, chosen at random where there are several, last operation first. Returns its number of operations."""
    o, seen = -1, 0
    for last in jobs_last:
        if heads[last] + length_of[last] + tail[last] == length:
            seen += 1
            if below(state, seen) == 0:
                o = last
    size = 0
    while 0 <= o < count:
        path[size] = o
        size += 1
        a, b = job_before[o], before[o]
        by_job = a < count and heads[a] + length_of[a] == heads[o]
        by_machine = b < count and heads[b] + length_of[b] == heads[o]
        if by_job and by_machine:
            o = a if below(state, 2) == 0 else b
        elif by_machine:
            o = b
        elif by_job:
            o = a
        else:
            break
    return size


@compiler.njit
def search(
    job_before, job_after, jobs_last, alternatives, machine, duration, head, tail, machines, line, choice,
    patience, most, tenure, target, seed, stop,
):  # fmt: skip
    """Tabu search from a line and a choice of alternatives.

    Args: job columns (operations + 1,) with the sentinel last. `patience`: iterations without anything better; `most`: iterations in all; `tenure`: least
    iterations that an operation may not return to its machine, and the spread; `target`: stop at this length; `stop`: a flag.
    Returns (best line, best choice, its length, iterations).
    """
    count = len(line)
    state = seeded(seed)
    line, choice = line.copy(), choice.copy()
    nodes = count + 1 + machines
    before, after = np.full(nodes, count), np.full(nodes, count)
    heads, tails, h, q = (
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
    )
    length_of, place = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    waiting, path = np.empty(count, np.int64), np.empty(count, np.int64)
    for m in range(machines):
        before[count + 1 + m] = after[count + 1 + m] = count + 1 + m
    for o in line:
        length_of[o] = duration[choice[o]]
        border = count + 1 + machine[choice[o]]
        x = before[border]
        before[o], after[o], after[x], before[border] = x, border, o, o
    until = np.zeros((count, machines), np.int64)
    best, best_line, best_choice, found_at = np.int64(1) << 62, line.copy(), choice.copy(), 0
    iteration = 0
    while True:
        evaluate(job_before, job_after, before, after, length_of, head, tail, count, waiting, line, place, heads, tails)
        length = -(np.int64(1) << 62)
        for o in jobs_last:
            length = max(length, heads[o] + length_of[o] + tail[o])
        if length < best:
            best, found_at = length, iteration
            best_line[:] = line
            best_choice[:] = choice
        if iteration >= most or iteration - found_at >= patience or best <= target:
            break
        iteration += 1
        if iteration % SLICE == 0 and stop[0]:
            break
        size = critical_path(jobs_last, job_before, before, length_of, tail, heads, length, count, path, state)
        move_v, move_x, move_k, value, second, ties = -1, -1, -1, np.int64(1) << 62, np.int64(1) << 62, 0
        any_v, any_x, any_k, tabu_seen = -1, -1, -1, 0
        for index in range(size):
            v = path[index]
            rest = without(
                v,
                job_before,
                job_after,
                before,
                after,
                length_of,
                head,
                tail,
                jobs_last,
                count,
                line,
                place,
                heads,
                tails,
                h,
                q,
            )
            if rest > value:
                continue
            a, b = job_before[v], job_after[v]
            ready, behind = h[v], q[v]
            for k in range(alternatives[v], alternatives[v + 1]):
                m = machine[k]
                border = count + 1 + m
                forbidden = until[v, m] >= iteration
                x = border
                while True:
                    y = after[x]
                    if y == v:
                        y = after[v]
                    if not (y < count and a < count and (y == a or h[y] + length_of[y] <= h[a])):
                        if x < count and b < count and (x == b or h[x] >= h[b] + length_of[b]):
                            break
                        if x != before[v]:
                            way = duration[k] + max(ready, h[x] + length_of[x]) + max(behind, q[y])
                            cost = max(rest, way)
                            if cost < best or not forbidden:
                                if cost < value or (cost == value and way < second):
                                    move_v, move_x, move_k, value, second, ties = v, x, k, cost, way, 1
                                elif cost == value and way == second:
                                    ties += 1
                                    if below(state, ties) == 0:
                                        move_v, move_x, move_k = v, x, k
                            elif move_v < 0:
                                tabu_seen += 1
                                if below(state, tabu_seen) == 0:
                                    any_v, any_x, any_k = v, x, k
                    x = y
                    if x == border:
                        break
        if move_v < 0:
            if any_v < 0:
                break  # no move at all: the critical path cannot be broken
            move_v, move_x, move_k = any_v, any_x, any_k
        v, x = move_v, move_x
        until[v, machine[choice[v]]] = iteration + tenure[0] + below(state, tenure[1] + size)
        p, n = before[v], after[v]
        after[p], before[n] = n, p
        y = after[x]
        after[x], before[v], after[v], before[y] = v, x, y, v
        choice[v] = move_k
        length_of[v] = duration[move_k]
    return best_line, best_choice, best, iteration
