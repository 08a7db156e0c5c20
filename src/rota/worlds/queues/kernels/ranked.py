"""One job at a time on each server, the order known ahead: static keys, or ranks that follow from attained service.

Covers first come first served, shortest job first, preemptive shortest remaining time, Gittins, multi-level feedback and their like, with
one line before all servers or a line a server. At equal times completions come before arrivals, arrivals before decisions, and these before
patience is over.
"""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.queues.kernels import compiler
from rota.worlds.queues.kernels.heap import pop, push, remove
from rota.worlds.queues.kernels.layout import (
    A_CLOCK,
    A_EXPIRY,
    A_JOB_FLOATS,
    A_JOB_INTS,
    A_QUEUES,
    A_RANK_LEVEL,
    A_RANK_SLOPE,
    A_RANK_START,
    A_RANK_UNTIL,
    A_ROWS,
    A_SAMPLES,
    A_SERVER_FLOATS,
    A_SERVER_INTS,
    A_SETUPS,
    A_SPEEDS,
    A_TREE,
    A_VISIBLE,
    ABANDONED,
    AREA,
    ARRIVAL,
    ATTAINED,
    BLOCKED,
    BUFFER,
    BUSY_SECONDS,
    CLASS,
    CLASSES,
    CLOCK_FLOATS,
    COLUMN_WORK,
    DECISIONS,
    DIRTY,
    DONE,
    EXPIRIES,
    FINISH,
    FINISHED_STATE,
    HAS_PATIENCE,
    HAS_SETUP,
    INSIDE,
    JOB,
    JOB_FLOATS,
    JOB_INTS,
    JOBS,
    KEY,
    KNOWN_ATTAINED,
    KNOWN_WORK,
    LAST_CLASS,
    LEVEL,
    NEXT_ARRIVAL,
    NEXT_EVENT,
    NOW,
    OUTSTANDING,
    PATIENCE,
    PIECE,
    PIECES,
    PREEMPTIONS,
    PREEMPTIVE,
    PRESENT_COUNT,
    QUEUE_INTS,
    QUEUES,
    RANK_ROWS,
    ROOT,
    ROUTE_COLUMN,
    RUNNING,
    SAMPLE_WIDTH,
    SERVER,
    SERVER_FLOATS,
    SERVER_INTS,
    SERVERS,
    SETUP_LEFT,
    SINCE,
    SIZE,
    SPEED,
    START,
    STATE,
    UNTIL,
    WAITING,
    WAITING_COUNT,
)
from rota.worlds.queues.kernels.route import choose


@compiler.inner
def settle_tree(tree, server_seconds, servers, s):
    """Play the matches of one server again: the next server event is at the top of the tree."""
    width = len(tree) // 2
    i = (width + s) // 2
    while i >= 1:
        left, right = tree[2 * i], tree[2 * i + 1]
        late = left < 0 or (right >= 0 and server_seconds[NEXT_EVENT, right] < server_seconds[NEXT_EVENT, left])
        tree[i] = right if late else left
        i //= 2


@compiler.inner
def expiry_push(heap, count, seconds, job):
    """Add a job to the binary heap of those who may lose patience, soonest on top."""
    i = count
    while i > 0:
        parent = (i - 1) // 2
        if seconds[PATIENCE, heap[0, parent]] <= seconds[PATIENCE, job]:
            break
        heap[0, i] = heap[0, parent]
        i = parent
    heap[0, i] = job


@compiler.inner
def expiry_pop(heap, count, seconds):
    """Remove the top of `count` entries."""
    last = heap[0, count - 1]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count - 1:
            break
        if child + 1 < count - 1 and seconds[PATIENCE, heap[0, child + 1]] < seconds[PATIENCE, heap[0, child]]:
            child += 1
        if seconds[PATIENCE, heap[0, child]] >= seconds[PATIENCE, last]:
            break
        heap[0, i] = heap[0, child]
        i = child
    heap[0, i] = last


@compiler.inner
def enter_piece(jobs, seconds, until, level, start, slope, rank_rows, job):
    """Set a job's key for what it has attained; a piece that ends here is over."""
    row = job if rank_rows > 1 else 0
    piece = jobs[PIECE, job]
    attained = seconds[ATTAINED, job]
    while attained >= until[row, piece]:
        piece += 1
    jobs[PIECE, job] = piece
    seconds[LEVEL, job] = level[row, piece]
    seconds[KEY, job] = start[row, piece] + slope[0, piece] * attained


@compiler.inner
def plan_event(jobs, seconds, until, rank_rows, server, server_seconds, s, now):
    """When the running job is done or its rank changes piece."""
    job = server[JOB, s]
    end = min(seconds[SIZE, job], until[job if rank_rows > 1 else 0, jobs[PIECE, job]])
    server_seconds[SINCE, s] = now
    server_seconds[NEXT_EVENT, s] = now + max(0.0, end - seconds[ATTAINED, job]) / server_seconds[SPEED, s]


@compiler.njit
def advance_ranked(state, limit):
    n, k, queues = state[JOBS], state[SERVERS], state[QUEUES]
    pieces, rank_rows, classes = state[PIECES], state[RANK_ROWS], state[CLASSES]
    jobs = ints_at(state[A_JOB_INTS], JOB_INTS, n)
    seconds = floats_at(state[A_JOB_FLOATS], JOB_FLOATS, n)
    server = ints_at(state[A_SERVER_INTS], SERVER_INTS, k)
    server_seconds = floats_at(state[A_SERVER_FLOATS], SERVER_FLOATS, k)
    queue = ints_at(state[A_QUEUES], QUEUE_INTS, queues)
    until = floats_at(state[A_RANK_UNTIL], rank_rows, pieces)
    level = floats_at(state[A_RANK_LEVEL], rank_rows, pieces)
    start = floats_at(state[A_RANK_START], rank_rows, pieces)
    slope = floats_at(state[A_RANK_SLOPE], 1, pieces)
    speeds = floats_at(state[A_SPEEDS], k, classes)
    setups = floats_at(state[A_SETUPS], classes + 1, classes)
    width = 1
    while width < k:
        width *= 2
    tree = ints_at(state[A_TREE], 1, 2 * width)[0]
    expiry = ints_at(state[A_EXPIRY], 1, n if state[HAS_PATIENCE] else 1)
    sampled = state[SAMPLE_WIDTH]
    samples = ints_at(state[A_SAMPLES], n, max(1, sampled))
    dirty = ints_at(state[A_ROWS], 1, queues)[0]
    visible = floats_at(state[A_VISIBLE], 2, n)[0]  # the visible sizes; row 1 is what was predicted beside them
    clock = floats_at(state[A_CLOCK], 1, CLOCK_FLOATS)[0]
    column, buffer, preemptive = state[ROUTE_COLUMN], state[BUFFER], state[PREEMPTIVE] != 0
    has_setup, has_patience, by_work = state[HAS_SETUP] != 0, state[HAS_PATIENCE] != 0, column == COLUMN_WORK
    following, expiries, now = state[NEXT_ARRIVAL], state[EXPIRIES], clock[NOW]
    area, inside = clock[AREA], clock[INSIDE]
    dirty_count = 0
    for q in range(queues):
        if queue[DIRTY, q]:
            dirty[dirty_count] = q
            dirty_count += 1
    code = DONE
    while True:
        s = tree[1]
        event = server_seconds[NEXT_EVENT, s]
        arrival = seconds[ARRIVAL, following] if following < n else np.inf
        patience = seconds[PATIENCE, expiry[0, 0]] if expiries > 0 else np.inf
        time = min(event, arrival, patience)
        if dirty_count > 0 and min(event, arrival) > now:
            # -- decisions, when all that happens at this time has happened -------------------------------------------
            dirty_count -= 1
            q = dirty[dirty_count]
            queue[DIRTY, q] = 0
            first, last = (0, k) if queues == 1 else (q, q + 1)
            while queue[ROOT, q] >= 0:
                job = queue[ROOT, q]
                kind = jobs[CLASS, job]
                chosen = -1
                for i in range(first, last):
                    if server[JOB, i] == -1 and (chosen < 0 or speeds[i, kind] > speeds[chosen, kind]):
                        chosen = i
                if chosen < 0:
                    if not preemptive:
                        break
                    worst_level, worst_key, worst = 0.0, 0.0, -1
                    for i in range(first, last):
                        if server_seconds[SETUP_LEFT, i] > 0.0:
                            continue  # a setup is not interrupted
                        other = server[JOB, i]
                        row, piece = other if rank_rows > 1 else 0, jobs[PIECE, other]
                        attained = seconds[ATTAINED, other] + server_seconds[SPEED, i] * (
                            now - server_seconds[SINCE, i]
                        )
                        its_level, its_key = level[row, piece], start[row, piece] + slope[0, piece] * attained
                        later = chosen < 0 or its_level > worst_level
                        if not later and its_level == worst_level:
                            later = its_key > worst_key
                            if not later and its_key == worst_key:
                                since = seconds[ARRIVAL, other] - seconds[ARRIVAL, worst]
                                later = since > 0.0 or (since == 0.0 and other > worst)
                        if later:
                            chosen, worst, worst_level, worst_key = i, other, its_level, its_key
                    if chosen < 0:
                        break
                    better = seconds[LEVEL, job] < worst_level
                    if not better and seconds[LEVEL, job] == worst_level:
                        better = seconds[KEY, job] < worst_key
                        if not better and seconds[KEY, job] == worst_key:
                            since = seconds[ARRIVAL, job] - seconds[ARRIVAL, worst]
                            better = since < 0.0 or (since == 0.0 and job < worst)
                    if not better:
                        break
                    spent = now - server_seconds[SINCE, chosen]
                    server_seconds[BUSY_SECONDS, chosen] += spent
                    served = server_seconds[SPEED, chosen] * spent
                    seconds[ATTAINED, worst] = min(seconds[SIZE, worst], seconds[ATTAINED, worst] + served)
                    server_seconds[KNOWN_ATTAINED, chosen] += served
                    jobs[STATE, worst] = WAITING
                    jobs[PREEMPTIONS, worst] += 1
                    enter_piece(jobs, seconds, until, level, start, slope, rank_rows, worst)
                    queue[ROOT, q] = push(jobs, seconds, pop(jobs, seconds, job), worst)
                else:
                    queue[ROOT, q] = pop(jobs, seconds, job)
                    queue[WAITING_COUNT, q] -= 1
                server[JOB, chosen] = job
                jobs[STATE, job], jobs[SERVER, job] = RUNNING, chosen
                server_seconds[SPEED, chosen] = speeds[chosen, kind]
                if seconds[START, job] != seconds[START, job]:
                    seconds[START, job] = now
                if has_setup and server[LAST_CLASS, chosen] != kind:
                    needed = setups[server[LAST_CLASS, chosen] + 1, kind]
                    server[LAST_CLASS, chosen] = kind
                    if needed > 0.0:
                        server_seconds[SETUP_LEFT, chosen] = needed
                        server_seconds[SINCE, chosen] = now
                        server_seconds[NEXT_EVENT, chosen] = now + needed
                if server_seconds[SETUP_LEFT, chosen] == 0.0:
                    plan_event(jobs, seconds, until, rank_rows, server, server_seconds, chosen, now)
                settle_tree(tree, server_seconds, k, chosen)
            continue
        if time == np.inf:
            break
        if time > limit:
            code = UNTIL
            break
        area += inside * (time - now)
        now = time
        if patience <= time < min(event, arrival):
            # -- patience is over: whoever was never served leaves -----------------------------------------------------
            job = expiry[0, 0]
            expiry_pop(expiry, expiries, seconds)
            expiries -= 1
            if jobs[STATE, job] == WAITING and seconds[START, job] != seconds[START, job]:
                q = 0 if queues == 1 else jobs[SERVER, job]
                queue[ROOT, q] = remove(jobs, seconds, queue[ROOT, q], job)
                queue[WAITING_COUNT, q] -= 1
                queue[PRESENT_COUNT, q] -= 1
                jobs[STATE, job] = ABANDONED
                inside -= 1.0
                if queues > 1:
                    server[OUTSTANDING, q] -= 1
                    if by_work:
                        server_seconds[KNOWN_WORK, q] -= visible[job]
            continue
        if event <= time:
            # -- a server: a setup or a job is done, or a rank enters its next piece ----------------------------------
            q = 0 if queues == 1 else s
            server_seconds[BUSY_SECONDS, s] += now - server_seconds[SINCE, s]
            job = server[JOB, s]
            if server_seconds[SETUP_LEFT, s] > 0.0:
                server_seconds[SETUP_LEFT, s] = 0.0
                plan_event(jobs, seconds, until, rank_rows, server, server_seconds, s, now)
            else:
                end = until[job if rank_rows > 1 else 0, jobs[PIECE, job]]
                if seconds[SIZE, job] <= end:
                    seconds[FINISH, job] = now
                    jobs[STATE, job] = FINISHED_STATE
                    inside -= 1.0
                    if by_work:
                        # what earlier stretches and this one took away is given back with the job's size
                        server_seconds[KNOWN_WORK, s] -= visible[job]
                        server_seconds[KNOWN_ATTAINED, s] -= seconds[ATTAINED, job]
                    seconds[ATTAINED, job] = seconds[SIZE, job]
                    server[JOB, s] = -1
                    server[OUTSTANDING, s] -= 1
                    queue[PRESENT_COUNT, q] -= 1
                    server_seconds[NEXT_EVENT, s] = np.inf
                    if server[OUTSTANDING, s] == 0:
                        server_seconds[KNOWN_WORK, s] = server_seconds[KNOWN_ATTAINED, s] = 0.0
                else:
                    server_seconds[KNOWN_ATTAINED, s] += max(0.0, end - seconds[ATTAINED, job])
                    seconds[ATTAINED, job] = max(end, seconds[ATTAINED, job])
                    enter_piece(jobs, seconds, until, level, start, slope, rank_rows, job)
                    plan_event(jobs, seconds, until, rank_rows, server, server_seconds, s, now)
            settle_tree(tree, server_seconds, k, s)
            if queue[DIRTY, q] == 0 and queue[ROOT, q] >= 0:
                queue[DIRTY, q] = 1
                dirty[dirty_count] = q
                dirty_count += 1
            continue
        # -- an arrival --------------------------------------------------------------------------------------------------
        job = following
        following += 1
        s = q = 0
        if queues > 1:
            s = q = choose(column, server, server_seconds, k, samples, sampled, job, now)
        places = (k if queues == 1 else 1) + buffer
        if buffer >= 0 and queue[PRESENT_COUNT, q] >= places:
            jobs[STATE, job] = BLOCKED
            continue
        if queues > 1:
            jobs[SERVER, job] = s
            server[DECISIONS, s] += 1
            server[OUTSTANDING, s] += 1
            if by_work:
                server_seconds[KNOWN_WORK, s] += visible[job]
        jobs[STATE, job] = WAITING
        inside += 1.0
        enter_piece(jobs, seconds, until, level, start, slope, rank_rows, job)
        queue[ROOT, q] = push(jobs, seconds, queue[ROOT, q], job)
        queue[WAITING_COUNT, q] += 1
        queue[PRESENT_COUNT, q] += 1
        if has_patience and seconds[PATIENCE, job] < np.inf:
            expiry_push(expiry, expiries, seconds, job)
            expiries += 1
        if queue[DIRTY, q] == 0:
            queue[DIRTY, q] = 1
            dirty[dirty_count] = q
            dirty_count += 1
    state[NEXT_ARRIVAL], state[EXPIRIES] = following, expiries
    clock[NOW], clock[AREA], clock[INSIDE] = now, area, inside
    return code
