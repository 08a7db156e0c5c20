"""Sequences of one machine: rules for total tardiness, and iterated dynasearch for weighted tardiness. Arrays of shape (jobs,), all jobs there at time 0."""

import numpy as np

from rota.worlds.shop.kernels import compiler
from rota.worlds.shop.kernels.jobshop import below, seeded

EDD, MDD, PSK, MDDC, EDDC = range(5)


@compiler.njit
def tardiness(duration, due, weight, sequence):
    """Total weighted tardiness of a sequence."""
    now, total = np.int64(0), np.int64(0)
    for j in sequence:
        now += duration[j]
        total += weight[j] * max(np.int64(0), now - due[j])
    return total


@compiler.inner
def urgency(rule, t, p, d, longest, mean):
    """The key of a job at time t: modified due date, or that of MDDC."""
    if rule == MDD:
        return float(max(t + p, d))
    share = min(p / (t + longest), 1.0)
    twist = share * share / (1.0 + share * share)
    return max(1.1 * p + t, float(d)) * (1.0 + twist) + p / (t + mean)


@compiler.njit
def by_urgency(duration, due, rule, augmented):
    """Repeatedly the least key (MDD or MDDC), ties by duration, then due date. `augmented`: after each step every earlier job is tried as the last."""
    count = len(duration)
    sequence = np.empty(count, np.int64)
    left = np.ones(count, np.bool_)
    now, rest = np.int64(0), np.int64(duration.sum())
    for place in range(count):
        longest = np.int64(0)
        for j in range(count):
            if left[j]:
                longest = max(longest, duration[j])
        mean = rest / (count - place)
        best, key = -1, 0.0
        for j in range(count):
            if left[j]:
                mine = urgency(rule, now, duration[j], due[j], longest, mean)
                if best < 0 or mine < key or (mine == key and (duration[j], due[j]) < (duration[best], due[best])):
                    best, key = j, mine
        sequence[place] = best
        left[best] = False
        now += duration[best]
        rest -= duration[best]
        if augmented:
            behind(duration, due, sequence, place)
    return sequence


@compiler.inner
def behind(duration, due, sequence, last):
    """Try each job before `last` at the place `last`, and keep what lowers the tardiness of the part."""
    for place in range(last):
        now = np.int64(0)
        for k in range(place):
            now += duration[sequence[k]]
        moved = sequence[place]
        old, new, a, b = np.int64(0), np.int64(0), now, now
        for k in range(place, last + 1):
            j = sequence[k]
            a += duration[j]
            old += max(np.int64(0), a - due[j])
            if k > place:
                b += duration[j]
                new += max(np.int64(0), b - due[j])
        b += duration[moved]
        new += max(np.int64(0), b - due[moved])
        if new < old:
            for k in range(place, last):
                sequence[k] = sequence[k + 1]
            sequence[last] = moved


@compiler.njit
def eddc(duration, due, sequence):
    """EDDC from a sequence by (duration, due date): a job moves forward past later due ones that are on time where they stand."""
    count = len(sequence)
    sequence = sequence.copy()
    ends = np.empty(count, np.int64)
    now = np.int64(0)
    for k in range(count):
        now += duration[sequence[k]]
        ends[k] = now
    for i in range(1, count):
        j = i
        while j > 0 and due[sequence[j]] < due[sequence[j - 1]]:
            if due[sequence[j - 1]] > ends[j - 1]:
                sequence[j], sequence[j - 1] = sequence[j - 1], sequence[j]
                ends[j - 1] = ends[j] - duration[sequence[j]]
            j -= 1
    return sequence


@compiler.njit
def psk(duration, due, order):
    """Panwalkar, Smith and Koulamas (1993): through the jobs by duration, giving way to one that is due earlier and would still be on time."""
    count = len(order)
    left = order.copy()
    sequence = np.empty(count, np.int64)
    now = np.int64(0)
    for place in range(count):
        size = count - place
        active = 0
        k = 1
        while k < size:
            i, j = left[active], left[k]
            if now + duration[i] >= due[i] or due[i] <= now + duration[j]:
                break
            if due[i] > due[j]:
                active = k
            k += 1
        chosen = left[active]
        sequence[place] = chosen
        now += duration[chosen]
        for k in range(active, size - 1):
            left[k] = left[k + 1]
    return sequence


@compiler.inner
def dynasearch_pass(duration, due, weight, sequence, value, jump):
    """The best set of independent exchanges of two jobs, by dynamic programming; carried out. Returns what it saves."""
    count = len(sequence)
    start = np.int64(0)
    ends = np.empty(count + 1, np.int64)
    ends[0] = 0
    value[0] = 0
    for k in range(count):
        start += duration[sequence[k]]
        ends[k + 1] = start
    for k in range(1, count + 1):  # value[k]: least tardiness of the first k places
        j = sequence[k - 1]
        value[k] = value[k - 1] + weight[j] * max(np.int64(0), ends[k] - due[j])
        jump[k] = k
        for i in range(k - 1, 0, -1):  # exchange places i and k
            first = sequence[i - 1]
            now = ends[i - 1] + duration[j]
            cost = value[i - 1] + weight[j] * max(np.int64(0), now - due[j])
            if cost >= value[k]:
                continue
            for m in range(i, k - 1):
                x = sequence[m]
                now += duration[x]
                cost += weight[x] * max(np.int64(0), now - due[x])
                if cost >= value[k]:
                    break
            cost += weight[first] * max(np.int64(0), ends[k] - due[first])
            if cost < value[k]:
                value[k], jump[k] = cost, i
    k = count
    while k > 0:
        i = jump[k]
        if i < k:
            sequence[i - 1], sequence[k - 1] = sequence[k - 1], sequence[i - 1]
            k = i - 1
        else:
            k -= 1


@compiler.njit
def iterated_dynasearch(duration, due, weight, sequence, best, passes, state, kicks, patience):
    """Dynasearch to a local optimum, a kick of random exchanges, again; from the best found after every `patience` kicks.

    Congram, Potts and van de Velde, An iterated dynasearch algorithm for the single-machine total weighted tardiness scheduling problem, INFORMS
    Journal on Computing 14 (2002). `sequence`, `best`, `state` (random bits, kicks since the last return) are kept between calls. Returns the best value.
    """
    count = len(sequence)
    value, jump = np.empty(count + 1, np.int64), np.empty(count + 1, np.int64)
    known = tardiness(duration, due, weight, best)
    for _ in range(passes):
        before = tardiness(duration, due, weight, sequence)
        while True:
            dynasearch_pass(duration, due, weight, sequence, value, jump)
            after = tardiness(duration, due, weight, sequence)
            if after >= before:
                break
            before = after
        if before < known:
            known = before
            best[:] = sequence
            state[1] = 0
        state[1] += np.uint64(1)
        if state[1] >= np.uint64(patience):
            state[1] = 0
            sequence[:] = best
        for _ in range(kicks):
            a, b = below(state, count), below(state, count)
            sequence[a], sequence[b] = sequence[b], sequence[a]
    return known


@compiler.njit
def random_state(seed):
    """State for `iterated_dynasearch`."""
    state = np.zeros(2, np.uint64)
    state[0] = seeded(seed)[0]
    return state
