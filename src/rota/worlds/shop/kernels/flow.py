"""Permutation flow shops: insertion with Taillard's acceleration, and iterated greedy search.

A sequence is judged job by job: the **front** is when each machine becomes free. Plain, blocking (a job holds its machine until the next one is free) and
no-wait machines differ only in how a job moves the front (`append`); every regular objective is a sum or a maximum over completions.
Only the plain makespan without release dates has a shortcut: with heads e of the sequence, tails q, and f of the inserted job, the makespan with the job at
place k is ``max over machines of f[k] + q[k]`` (Taillard 1990), so that all places cost as much as one.
"""

import numpy as np

from rota.worlds.shop.kernels import compiler
from rota.worlds.shop.kernels.jobshop import below

PLAIN, BLOCKING, NO_WAIT = 0, 1, 2
MAKESPAN, FLOW, TARDINESS = 0, 1, 2  # the last two are weighted sums over jobs


@compiler.inner
def append(job, kind, time, release, front):
    """Move the front over one more job; returns its completion."""
    machines = time.shape[1]
    if kind == 2:  # the start that lets it run through
        start, before = release[job], np.int64(0)
        for m in range(machines):
            start = max(start, front[m] - before)
            before += time[job, m]
        for m in range(machines):
            start += time[job, m]
            front[m] = start
        return start
    done = max(release[job], front[0]) + time[job, 0]
    for m in range(machines - 1):
        if kind == 1:
            done = max(done, front[m + 1])  # it leaves machine m when the next one is free
            front[m] = done
            done += time[job, m + 1]
        else:
            front[m] = done
            done = max(done, front[m + 1]) + time[job, m + 1]
    front[machines - 1] = done
    return done


@compiler.inner
def worth(job, done, objective, release, due, weight, before):
    """The value of a sequence after one more job."""
    if objective == 0:
        return max(before, done)
    if objective == 1:
        return before + weight[job] * (done - release[job])
    return before + weight[job] * max(np.int64(0), done - due[job])


@compiler.njit
def value(sequence, kind, objective, time, release, due, weight):
    """The objective of a sequence."""
    front = np.zeros(time.shape[1], np.int64)
    total = np.int64(0)
    for job in sequence:
        done = append(job, kind, time, release, front)
        total = worth(job, done, objective, release, due, weight, total)
    return total


@compiler.inner
def best_place_fast(job, sequence, size, time, e, q, f, state):
    """(place, makespan) of the best insertion of a job into sequence[:size], by Taillard's acceleration.

    Among equal makespans the place with the least estimated idle time (Fernandez-Viagas and Framinan 2014), then at random.
    """
    machines = time.shape[1]
    for k in range(size):
        done = np.int64(0)
        for m in range(machines):
            done = max(done, e[k, m]) + time[sequence[k], m]  # e[k] is the front before place k
            e[k + 1, m] = done
    for m in range(machines):
        q[size, m] = 0
    for k in range(size - 1, -1, -1):
        rest = np.int64(0)
        for m in range(machines - 1, -1, -1):
            rest = max(rest, q[k + 1, m]) + time[sequence[k], m]
            q[k, m] = rest
    place, least, idle, ties = 0, np.int64(1) << 62, np.int64(1) << 62, 0
    for k in range(size + 1):
        done, longest = np.int64(0), np.int64(0)
        for m in range(machines):
            done = max(done, e[k, m]) + time[job, m]
            f[m] = done
            longest = max(longest, done + q[k, m])
        if longest > least:
            continue
        gaps = np.int64(0)
        if k == size:
            for m in range(1, machines):
                gaps += max(np.int64(0), f[m - 1] - e[k, m])
        else:
            after = f[0] + time[sequence[k], 0]
            for m in range(1, machines):
                gaps += f[m] - e[k + 1, m] + time[sequence[k], m] - time[job, m] + max(np.int64(0), after - f[m])
                after = max(after, f[m]) + time[sequence[k], m]
        if longest < least or gaps < idle:
            place, least, idle, ties = k, longest, gaps, 1
        elif gaps == idle:
            ties += 1
            if below(state, ties) == 0:
                place = k
    return place, least


@compiler.inner
def best_place(job, sequence, size, kind, objective, time, release, due, weight, fronts, totals, front, state):
    """(place, value) of the best insertion into sequence[:size]: each place from its front on, given up when it is worse than the best."""
    for k in range(size):
        fronts[k + 1] = fronts[k]
        done = append(sequence[k], kind, time, release, fronts[k + 1])
        totals[k + 1] = worth(sequence[k], done, objective, release, due, weight, totals[k])
    place, least, ties = 0, np.int64(1) << 62, 0
    for k in range(size + 1):
        front[:] = fronts[k]
        total = worth(job, append(job, kind, time, release, front), objective, release, due, weight, totals[k])
        for i in range(k, size):
            if total > least:
                break
            other = sequence[i]
            total = worth(other, append(other, kind, time, release, front), objective, release, due, weight, total)
        if total < least:
            place, least, ties = k, total, 1
        elif total == least:
            ties += 1
            if below(state, ties) == 0:
                place = k
    return place, least


@compiler.inner
def insert(sequence, size, place, job):
    for k in range(size, place, -1):
        sequence[k] = sequence[k - 1]
    sequence[place] = job


@compiler.inner
def take(sequence, size, place):
    job = sequence[place]
    for k in range(place, size - 1):
        sequence[k] = sequence[k + 1]
    return job


@compiler.njit
def iterated_greedy(
    kind, objective, time, release, due, weight, fast, order, current, now, best, best_value, removed,
    temperature, iterations, target, state,
):  # fmt: skip
    """Iterated greedy (Ruiz and Stuetzle 2007): take some jobs out, put each back at its best place, improve by reinsertion, accept like annealing.

    Args: `order`: with a negative `now`, a sequence is first built by inserting jobs in this order (NEH: Nawaz, Enscore, Ham 1983);
    `current`, `best`: sequences, changed in place. Returns (value of current, value of best, iterations done).
    """
    jobs, machines = time.shape
    e, q, f = (
        np.zeros((jobs + 1, machines), np.int64),
        np.zeros((jobs + 1, machines), np.int64),
        np.zeros(machines, np.int64),
    )
    totals, out = np.zeros(jobs + 1, np.int64), np.empty(jobs, np.int64)
    trial, shuffled = current.copy(), np.arange(jobs)
    done = 0
    while done < iterations and best_value > target:
        done += 1
        size, count = jobs, min(removed, jobs)
        if now < 0:
            size, count = 0, jobs
            out[:] = order
        else:
            trial[:] = current
            for k in range(count):
                out[k] = take(trial, size, below(state, size))
                size -= 1
        length = np.int64(0)
        for k in range(count):
            if fast:
                place, length = best_place_fast(out[k], trial, size, time, e, q, f, state)
            else:
                place, length = best_place(
                    out[k], trial, size, kind, objective, time, release, due, weight, e, totals, f, state
                )
            insert(trial, size, place, out[k])
            size += 1
        better = True
        while better:  # every job once in random order, until none finds a better place
            better = False
            for k in range(jobs - 1, 0, -1):
                other = below(state, k + 1)
                shuffled[k], shuffled[other] = shuffled[other], shuffled[k]
            for job in shuffled:
                old = 0
                while trial[old] != job:
                    old += 1
                take(trial, jobs, old)
                if fast:
                    place, found = best_place_fast(job, trial, jobs - 1, time, e, q, f, state)
                else:
                    place, found = best_place(
                        job, trial, jobs - 1, kind, objective, time, release, due, weight, e, totals, f, state
                    )
                if found < length:
                    length, better = found, True
                else:
                    place = old
                insert(trial, jobs - 1, place, job)
        worse = np.float64(length - now)
        draw = (np.float64(below(state, 1 << 30)) + 0.5) / np.float64(1 << 30)
        if now < 0 or length <= now or draw < np.exp(-worse / temperature):
            current[:] = trial
            now = length
        if length < best_value:
            best_value = length
            best[:] = trial
    return now, best_value, done


@compiler.njit
def starts(sequence, kind, time, release):
    """Start of every operation in a sequence; shape (jobs, machines)."""
    jobs, machines = time.shape
    front, start = np.zeros(machines, np.int64), np.zeros((jobs, machines), np.int64)
    for job in sequence:
        left = front.copy()
        done = append(job, kind, time, release, front)
        if kind == 2:
            for m in range(machines - 1, -1, -1):
                done -= time[job, m]
                start[job, m] = done
        else:
            start[job, 0] = max(release[job], left[0])
            for m in range(1, machines):
                start[job, m] = max(front[m - 1], left[m])
    return start
