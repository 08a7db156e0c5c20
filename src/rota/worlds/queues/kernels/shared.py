"""Servers that are shared: processor sharing in virtual time, and least attained service in groups of equals.

Processor sharing: all present jobs progress alike for their weight, so a job that needs x seconds is done when the virtual clock of
its line has moved by x/weight; the clock moves by capacity over present weight (Kleinrock 1967; Fayolle, Mitrani and Iasnogorodski 1980 for
unequal weights). Least attained service: the jobs with the least attained share the server until they meet the next group.
"""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.queues.kernels import compiler
from rota.worlds.queues.kernels.heap import meld, pop, push
from rota.worlds.queues.kernels.layout import (
    A_CLOCK,
    A_JOB_FLOATS,
    A_JOB_INTS,
    A_QUEUES,
    A_SAMPLES,
    A_SERVER_FLOATS,
    A_SERVER_INTS,
    A_TREE,
    A_VISIBLE,
    AREA,
    ARRIVAL,
    ATTAINED,
    BLOCKED,
    BUFFER,
    BUSY_SECONDS,
    CLOCK_FLOATS,
    DECISIONS,
    DONE,
    FINISH,
    FINISHED_STATE,
    INSIDE,
    JOB,
    JOB_FLOATS,
    JOB_INTS,
    JOBS,
    KEY,
    KNOWN_ATTAINED,
    KNOWN_WORK,
    NEXT_ARRIVAL,
    NEXT_EVENT,
    NOW,
    OUTSTANDING,
    PARENTS_LEFT,
    PIECE,
    PRESENT_COUNT,
    QUEUE_INTS,
    QUEUES,
    ROOT,
    ROUTE_COLUMN,
    RUNNING,
    SAMPLE_WIDTH,
    SERVER,
    SERVER_FLOATS,
    SERVER_INTS,
    SERVERS,
    SINCE,
    SIZE,
    SPEED,
    START,
    STATE,
    UNTIL,
    VIRTUAL,
    WEIGHT,
    WEIGHT_SUM,
)
from rota.worlds.queues.kernels.ranked import settle_tree
from rota.worlds.queues.kernels.route import choose

# The columns of the first job of a group of equals serve the group: how many it has, and which group has attained more.
COUNT, BELOW = PIECE, PARENTS_LEFT


@compiler.inner
def capacity(queue, server_seconds, q, servers, queues):
    """Seconds of service a second that a line's jobs get together."""
    used = min(servers, queue[PRESENT_COUNT, q]) if queues == 1 else min(1, queue[PRESENT_COUNT, q])
    return used * server_seconds[SPEED, q]


@compiler.inner
def account(queue, server_seconds, q, servers, queues, now):
    """Book the service since the last event of a line; returns it in seconds of service."""
    passed = now - server_seconds[SINCE, q]
    served = passed * capacity(queue, server_seconds, q, servers, queues)
    server_seconds[SINCE, q] = now
    server_seconds[BUSY_SECONDS, q] += served / server_seconds[SPEED, q]
    server_seconds[KNOWN_ATTAINED, q] += served
    return served


@compiler.inner
def admit(jobs, seconds, queue, server, server_seconds, q, job, visible, now):
    """Enter an arriving job in the counts of its line."""
    seconds[START, job] = now
    jobs[STATE, job], jobs[SERVER, job] = RUNNING, q
    queue[PRESENT_COUNT, q] += 1
    server[OUTSTANDING, q] += 1
    server[DECISIONS, q] += 1
    server[JOB, q] = -2
    server_seconds[KNOWN_WORK, q] += visible[job]


@compiler.inner
def finish(jobs, seconds, queue, server, server_seconds, q, job, visible, now):
    """A job is done: the counts of its line."""
    seconds[FINISH, job], seconds[ATTAINED, job] = now, seconds[SIZE, job]
    jobs[STATE, job] = FINISHED_STATE
    queue[PRESENT_COUNT, q] -= 1
    server[OUTSTANDING, q] -= 1
    server_seconds[KNOWN_WORK, q] -= visible[job]
    server_seconds[KNOWN_ATTAINED, q] -= seconds[SIZE, job]
    if queue[PRESENT_COUNT, q] == 0:
        server[JOB, q] = -1
        server_seconds[KNOWN_WORK, q] = server_seconds[KNOWN_ATTAINED, q] = 0.0


@compiler.njit
def advance_processor_sharing(state, limit):
    n, k, queues = state[JOBS], state[SERVERS], state[QUEUES]
    jobs = ints_at(state[A_JOB_INTS], JOB_INTS, n)
    seconds = floats_at(state[A_JOB_FLOATS], JOB_FLOATS, n)
    server = ints_at(state[A_SERVER_INTS], SERVER_INTS, k)
    server_seconds = floats_at(state[A_SERVER_FLOATS], SERVER_FLOATS, k)
    queue = ints_at(state[A_QUEUES], QUEUE_INTS, queues)
    width = 1
    while width < k:
        width *= 2
    tree = ints_at(state[A_TREE], 1, 2 * width)[0]
    sampled = state[SAMPLE_WIDTH]
    samples = ints_at(state[A_SAMPLES], n, max(1, sampled))
    visible = floats_at(state[A_VISIBLE], 2, n)[0]  # the visible sizes; row 1 is what was predicted beside them
    clock = floats_at(state[A_CLOCK], 1, CLOCK_FLOATS)[0]
    column, places = state[ROUTE_COLUMN], state[BUFFER] + (k if queues == 1 else 1)
    following, now, code = state[NEXT_ARRIVAL], clock[NOW], DONE
    area, inside = clock[AREA], clock[INSIDE]
    while True:
        q = tree[1]
        event = server_seconds[NEXT_EVENT, q]
        arrival = seconds[ARRIVAL, following] if following < n else np.inf
        if min(event, arrival) > limit:
            code = UNTIL
            break
        if event == np.inf and arrival == np.inf:
            break
        area += inside * (min(event, arrival) - now)
        if event <= arrival:
            now = event
            account(queue, server_seconds, q, k, queues, now)
            job = queue[ROOT, q]
            queue[ROOT, q] = pop(jobs, seconds, job)
            server_seconds[VIRTUAL, q] = seconds[KEY, job]  # exactly what this job waited for
            server_seconds[WEIGHT_SUM, q] -= seconds[WEIGHT, job]
            finish(jobs, seconds, queue, server, server_seconds, q, job, visible, now)
            inside -= 1.0
            if queue[PRESENT_COUNT, q] == 0:
                server_seconds[VIRTUAL, q] = server_seconds[WEIGHT_SUM, q] = 0.0
        else:
            now = arrival
            job = following
            following += 1
            q = 0
            if queues > 1:
                q = choose(column, server, server_seconds, k, samples, sampled, job, now)
            if state[BUFFER] >= 0 and queue[PRESENT_COUNT, q] >= places:
                jobs[STATE, job] = BLOCKED
                continue
            served = account(queue, server_seconds, q, k, queues, now)
            if queue[PRESENT_COUNT, q] > 0:
                server_seconds[VIRTUAL, q] += served / server_seconds[WEIGHT_SUM, q]
            seconds[KEY, job] = server_seconds[VIRTUAL, q] + seconds[SIZE, job] / seconds[WEIGHT, job]
            queue[ROOT, q] = push(jobs, seconds, queue[ROOT, q], job)
            server_seconds[WEIGHT_SUM, q] += seconds[WEIGHT, job]
            admit(jobs, seconds, queue, server, server_seconds, q, job, visible, now)
            inside += 1.0
        server_seconds[NEXT_EVENT, q] = np.inf
        if queue[ROOT, q] >= 0:
            left = max(0.0, seconds[KEY, queue[ROOT, q]] - server_seconds[VIRTUAL, q])
            pace = capacity(queue, server_seconds, q, k, queues) / server_seconds[WEIGHT_SUM, q]
            server_seconds[NEXT_EVENT, q] = now + left / pace
        settle_tree(tree, server_seconds, k, q)
    state[NEXT_ARRIVAL] = following
    clock[NOW], clock[AREA], clock[INSIDE] = now, area, inside
    return code


@compiler.njit
def advance_least_attained(state, limit):
    """Groups of equals, the least attained on top. A group's attained service stands at its first job, in ATTAINED."""
    n, k, queues = state[JOBS], state[SERVERS], state[QUEUES]
    jobs = ints_at(state[A_JOB_INTS], JOB_INTS, n)
    seconds = floats_at(state[A_JOB_FLOATS], JOB_FLOATS, n)
    server = ints_at(state[A_SERVER_INTS], SERVER_INTS, k)
    server_seconds = floats_at(state[A_SERVER_FLOATS], SERVER_FLOATS, k)
    queue = ints_at(state[A_QUEUES], QUEUE_INTS, queues)
    width = 1
    while width < k:
        width *= 2
    tree = ints_at(state[A_TREE], 1, 2 * width)[0]
    sampled = state[SAMPLE_WIDTH]
    samples = ints_at(state[A_SAMPLES], n, max(1, sampled))
    visible = floats_at(state[A_VISIBLE], 2, n)[0]  # the visible sizes; row 1 is what was predicted beside them
    clock = floats_at(state[A_CLOCK], 1, CLOCK_FLOATS)[0]
    column, places = state[ROUTE_COLUMN], state[BUFFER] + 1
    following, now, code = state[NEXT_ARRIVAL], clock[NOW], DONE
    area, inside = clock[AREA], clock[INSIDE]
    while True:
        q = tree[1]
        event = server_seconds[NEXT_EVENT, q]
        arrival = seconds[ARRIVAL, following] if following < n else np.inf
        if min(event, arrival) > limit:
            code = UNTIL
            break
        if event == np.inf and arrival == np.inf:
            break
        area += inside * (min(event, arrival) - now)
        if event <= arrival:
            now = event
            account(queue, server_seconds, q, k, queues, now)
            top = queue[ROOT, q]
            count, below = jobs[COUNT, top], jobs[BELOW, top]
            if below >= 0 and seconds[ATTAINED, below] < seconds[SIZE, top]:  # the group meets the next one
                count += jobs[COUNT, below]
                reached, further = seconds[ATTAINED, below], jobs[BELOW, below]
                root = meld(jobs, seconds, top, below)
                jobs[COUNT, root], jobs[BELOW, root], seconds[ATTAINED, root] = count, further, reached
                queue[ROOT, q] = root
            else:
                root = pop(jobs, seconds, top)
                if root >= 0:
                    jobs[COUNT, root], jobs[BELOW, root] = count - 1, below
                    seconds[ATTAINED, root] = seconds[SIZE, top]
                queue[ROOT, q] = root if root >= 0 else below
                finish(jobs, seconds, queue, server, server_seconds, q, top, visible, now)
                inside -= 1.0
        else:
            now = arrival
            job = following
            following += 1
            q = 0
            if queues > 1:
                q = choose(column, server, server_seconds, k, samples, sampled, job, now)
            if state[BUFFER] >= 0 and queue[PRESENT_COUNT, q] >= places:
                jobs[STATE, job] = BLOCKED
                continue
            served = account(queue, server_seconds, q, k, queues, now)
            seconds[KEY, job] = seconds[SIZE, job]
            jobs[COUNT, job], jobs[BELOW, job] = 1, -1
            top = queue[ROOT, q]
            if top >= 0:
                reached = seconds[ATTAINED, top] + served / jobs[COUNT, top]
                if jobs[BELOW, top] >= 0:
                    reached = min(reached, seconds[ATTAINED, jobs[BELOW, top]])
                seconds[ATTAINED, top] = min(reached, seconds[SIZE, top])
            if top >= 0 and seconds[ATTAINED, top] == 0.0:
                count, below = jobs[COUNT, top], jobs[BELOW, top]
                root = push(jobs, seconds, top, job)
                jobs[COUNT, root], jobs[BELOW, root], seconds[ATTAINED, root] = count + 1, below, 0.0
            else:
                root = push(jobs, seconds, -1, job)
                jobs[BELOW, root] = top
                seconds[ATTAINED, root] = 0.0
            queue[ROOT, q] = root
            admit(jobs, seconds, queue, server, server_seconds, q, job, visible, now)
            inside += 1.0
        server_seconds[NEXT_EVENT, q] = np.inf
        top = queue[ROOT, q]
        if top >= 0:
            end = seconds[SIZE, top]
            if jobs[BELOW, top] >= 0:
                end = min(end, seconds[ATTAINED, jobs[BELOW, top]])
            left = max(0.0, end - seconds[ATTAINED, top])
            server_seconds[NEXT_EVENT, q] = now + left * jobs[COUNT, top] / server_seconds[SPEED, q]
        settle_tree(tree, server_seconds, k, q)
    state[NEXT_ARRIVAL] = following
    clock[NOW], clock[AREA], clock[INSIDE] = now, area, inside
    return code
