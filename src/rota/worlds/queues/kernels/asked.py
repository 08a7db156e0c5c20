"""The general loop, which stops for questions: orders and shares that a policy is asked for at each decision, hooks, precedence.

Slower than the other loops (it visits the jobs of a line at each of its events), and able to do all that they do. A question is asked
when all that happens at its time has happened.
"""

import numpy as np

from rota.kernel.compile import floats_at, ints_at
from rota.worlds.queues.kernels import compiler
from rota.worlds.queues.kernels.gather import gather
from rota.worlds.queues.kernels.layout import (
    A_ANSWER,
    A_CHILD_OFFSETS,
    A_CHILDREN,
    A_CLASS_COUNTS,
    A_CLOCK,
    A_CODES,
    A_EVENTS,
    A_EXPIRY,
    A_FIXED,
    A_JOB_FLOATS,
    A_JOB_INTS,
    A_OUT,
    A_PRESENT,
    A_QUEUES,
    A_RANK_LEVEL,
    A_RANK_START,
    A_READY,
    A_ROWS,
    A_SAMPLES,
    A_SERVER_FLOATS,
    A_SERVER_INTS,
    A_SETUPS,
    A_SPEEDS,
    A_TREE,
    A_VISIBLE,
    ABANDONED,
    ADMIT,
    ADMIT_ASKED,
    ANSWER_WIDTH,
    ANSWERED,
    AREA,
    ARRIVAL,
    ASK_JOB,
    ASK_QUEUE,
    ASK_ROWS,
    ASKED,
    ASKED_NOTHING,
    ASKED_SHARE,
    ATTAINED,
    BLOCKED,
    BUFFER,
    BUSY_SECONDS,
    CLASS,
    CLASS_ATTAINED,
    CLASS_COUNTS,
    CLASS_DONE,
    CLASSES,
    CLOCK_FLOATS,
    CODES,
    DECISIONS,
    DIRTY,
    DONE,
    E_ARRIVAL,
    E_FINISH,
    E_LEAVE,
    E_PREEMPT,
    E_START,
    EVEN_SPEEDS,
    EVENT_COUNT,
    EVENT_ROOM,
    EVENTS,
    EXPIRIES,
    FINISH,
    FINISHED_STATE,
    FIXED,
    HAS_PATIENCE,
    HAS_SETUP,
    HELD,
    HELD_COUNT,
    HOOKS,
    INSIDE,
    JOB,
    JOB_FLOATS,
    JOB_INTS,
    JOBS,
    KNOWN_ATTAINED,
    KNOWN_WORK,
    LAST_CLASS,
    MEETS,
    NEXT_ARRIVAL,
    NEXT_EVENT,
    NOT_A_NUMBER,
    NOW,
    ORDER,
    OUTSTANDING,
    PARENTS_LEFT,
    PATIENCE,
    PICK,
    PIECE,
    PLACE,
    PLACED,
    PREEMPTIONS,
    PREEMPTIVE,
    PRESENT_COUNT,
    QUEUE_INTS,
    QUEUES,
    RANK_ROWS,
    RATE,
    READY_COUNT,
    REFUSED,
    REVIEW_AT,
    ROUTE_ASKED,
    ROUTE_COLUMN,
    RUNNING,
    SAMPLE_WIDTH,
    SERVER,
    SERVER_FLOATS,
    SERVER_INTS,
    SERVERS,
    SETUP_LEFT,
    SHARE,
    SHARED_TIES,
    SINCE,
    SIZE,
    SPEED,
    START,
    STATE,
    UNTIL,
    WAITING,
)
from rota.worlds.queues.kernels.ranked import expiry_pop, expiry_push, settle_tree
from rota.worlds.queues.kernels.route import choose

ADMISSION = PIECE  # a column that this loop does not need otherwise: 0 not asked yet, 1 admitted, 2 refused


@compiler.inner
def emit(state, events, kind, job, server, now):
    """Note an event for the hooks."""
    if state[HOOKS]:
        i = state[EVENT_COUNT]
        events[i, 0], events[i, 1], events[i, 2], events[i, 3] = kind, job, server, now
        state[EVENT_COUNT] = i + 1


@compiler.inner
def serve(counts, jobs, seconds, queue, present, server, server_seconds, q, first, last, now):
    """Book the service of a line's jobs up to now."""
    passed = now - server_seconds[SINCE, first]
    server_seconds[SINCE, first] = now
    if passed <= 0.0:
        return
    total = 0.0
    for i in range(queue[PRESENT_COUNT, q]):
        job = present[q, i]
        rate = seconds[RATE, job]
        if rate > 0.0:
            served = rate * passed
            seconds[ATTAINED, job] = min(seconds[SIZE, job], seconds[ATTAINED, job] + served)
            counts[CLASS_ATTAINED, jobs[CLASS, job]] += served
            total += served
    server_seconds[KNOWN_ATTAINED, first] += total
    for i in range(first, last):
        if server[JOB, i] != -1:
            server_seconds[BUSY_SECONDS, i] += passed


@compiler.inner
def next_event(state, seconds, queue, present, server, server_seconds, q, first, last, now):
    """When something happens next in a line: a job is done, a setup is done, or the policy wants to be asked again."""
    time = server_seconds[REVIEW_AT, first]
    for i in range(queue[PRESENT_COUNT, q]):
        job = present[q, i]
        if seconds[RATE, job] > 0.0:
            left = max(0.0, seconds[SIZE, job] - seconds[ATTAINED, job])
            time = min(time, now + left / seconds[RATE, job])
            if state[MEETS]:  # who has attained less catches up with who is served more slowly
                for p in range(queue[PRESENT_COUNT, q]):
                    other = present[q, p]
                    ahead = seconds[ATTAINED, other] - seconds[ATTAINED, job]
                    faster = seconds[RATE, job] - seconds[RATE, other]
                    if ahead > 0.0 and faster > 0.0:
                        time = min(time, now + ahead / faster)
    for i in range(first, last):
        if server_seconds[SETUP_LEFT, i] > 0.0:
            time = min(time, server_seconds[SETUP_LEFT, i])  # here: the time at which it is done
    return time


@compiler.inner
def meet(seconds, queue, present, q, now):
    """Make those equal who have met but for rounding: of what they attained, or of the clock, which cannot show a shorter time."""
    for i in range(queue[PRESENT_COUNT, q]):
        job = present[q, i]
        for p in range(i):
            other = present[q, p]
            apart = abs(seconds[ATTAINED, job] - seconds[ATTAINED, other])
            if apart <= max(
                1e-12 * seconds[ATTAINED, other], 1e-15 * now * max(seconds[RATE, job], seconds[RATE, other])
            ):
                seconds[ATTAINED, job] = seconds[ATTAINED, other]


@compiler.inner
def drop(queue, present, q, i):
    """Take the i-th job of a line out; the others keep their order."""
    count = queue[PRESENT_COUNT, q]
    for p in range(i, count - 1):
        present[q, p] = present[q, p + 1]
    queue[PRESENT_COUNT, q] = count - 1


@compiler.inner
def goes_before(seconds, rows, answer, width, a, b):
    """Whether row a of a question goes before row b: keys, then release, then id."""
    for c in range(width):
        x, y = answer[a * width + c], answer[b * width + c]
        if x != y:
            return x < y
    first, second = rows[a], rows[b]
    if seconds[ARRIVAL, first] != seconds[ARRIVAL, second]:
        return seconds[ARRIVAL, first] < seconds[ARRIVAL, second]
    return first < second


@compiler.inner
def same_key(answer, width, a, b):
    for c in range(width):
        if answer[a * width + c] != answer[b * width + c]:
            return False
    return True


@compiler.inner
def never(answer, width, row):
    """Whether a row is not to run now."""
    for c in range(width):
        if answer[row * width + c] == np.inf:
            return True
    return False


@compiler.inner
def start_at(state, jobs, seconds, server, server_seconds, setups, speeds, events, job, s, now):
    """Give a job a server."""
    kind = jobs[CLASS, job]
    fresh = jobs[STATE, job] != RUNNING
    server[JOB, s] = job
    jobs[STATE, job], jobs[SERVER, job] = RUNNING, s
    seconds[RATE, job] = server_seconds[SPEED, s] = speeds[s, kind]
    if fresh:
        if seconds[START, job] != seconds[START, job]:
            seconds[START, job] = now
        emit(state, events, E_START, job, s, now)
    if state[HAS_SETUP] and server[LAST_CLASS, s] != kind:
        needed = setups[server[LAST_CLASS, s] + 1, kind]
        server[LAST_CLASS, s] = kind
        if needed > 0.0:
            server_seconds[SETUP_LEFT, s] = now + needed
            seconds[RATE, job] = 0.0


@compiler.inner
def stop(state, jobs, seconds, events, job, now):
    """A running job is displaced."""
    jobs[STATE, job] = WAITING
    seconds[RATE, job] = 0.0
    jobs[PREEMPTIONS, job] += 1
    emit(state, events, E_PREEMPT, job, jobs[SERVER, job], now)


@compiler.inner
def settle_order(
    state,
    jobs,
    seconds,
    queue,
    present,
    rows,
    answer,
    server,
    server_seconds,
    setups,
    speeds,
    events,
    q,
    first,
    last,
    now,
):
    """Turn keys into service. Returns the number of jobs started."""
    count, width = state[ASK_ROWS], state[ANSWER_WIDTH]
    preemptive, shared = state[PREEMPTIVE] != 0, state[SHARED_TIES] != 0
    free = 0
    for s in range(first, last):
        if server_seconds[SETUP_LEFT, s] == 0.0 and (preemptive or server[JOB, s] == -1):
            free += 1
    taken = np.zeros(count, np.int64)  # 1: chosen
    chosen = np.empty(min(count, max(free, 0)) if not shared else count, np.int64)
    number, started = 0, 0
    for i in range(count):
        if server_seconds[SETUP_LEFT, jobs[SERVER, rows[i]]] > 0.0 and server[JOB, jobs[SERVER, rows[i]]] == rows[i]:
            taken[i] = 2  # in its setup, which is not interrupted
    left = float(free)
    while left > 0.0 and number < len(chosen):
        best = -1
        for i in range(count):
            open_ = taken[i] == 0 and not never(answer, width, i)
            if open_ and (best < 0 or goes_before(seconds, rows, answer, width, i, best)):
                best = i
        if best < 0:
            break
        taken[best] = 1
        chosen[number] = best
        number += 1
        left -= 1.0
        if not preemptive and state[PICK]:
            break
    # -- equals share what is left for their group -----------------------------------------------------------------
    if shared:
        total = float(free)
        begin = 0
        equals = number
        if number:
            last_row = chosen[number - 1]
            begin = number - 1
            while begin > 0 and same_key(answer, width, chosen[begin - 1], last_row):
                begin -= 1
            for i in range(count):
                if taken[i] == 0 and not never(answer, width, i) and same_key(answer, width, i, last_row):
                    taken[i] = 1
                    chosen[equals] = i
                    equals += 1
        speed = server_seconds[SPEED, first]
        for i in range(count):
            job = rows[i]
            if taken[i] == 0:
                if jobs[STATE, job] == RUNNING:
                    stop(state, jobs, seconds, events, job, now)
                seconds[RATE, job] = 0.0
        for p in range(equals):
            job = rows[chosen[p]]
            rate = speed if p < begin else speed * min(1.0, (total - begin) / (equals - begin))
            if jobs[STATE, job] != RUNNING:
                jobs[STATE, job] = RUNNING
                jobs[SERVER, job] = first
                if seconds[START, job] != seconds[START, job]:
                    seconds[START, job] = now
                emit(state, events, E_START, job, first, now)
                started += 1
            seconds[RATE, job] = rate
        for s in range(first, last):
            server[JOB, s] = -2 if s - first < equals else -1
        return started
    # -- one job a server --------------------------------------------------------------------------------------------
    if preemptive:
        for i in range(count):
            job = rows[i]
            if taken[i] == 0 and jobs[STATE, job] == RUNNING:
                server[JOB, jobs[SERVER, job]] = -1
                stop(state, jobs, seconds, events, job, now)
        if state[EVEN_SPEEDS] == 0:  # the first in order gets the fastest server: anybody may move
            for s in range(first, last):
                if server_seconds[SETUP_LEFT, s] == 0.0:
                    server[JOB, s] = -1
    for p in range(number):
        job = rows[chosen[p]]
        if jobs[STATE, job] == RUNNING and state[EVEN_SPEEDS]:
            continue  # it stays where it is
        kind, found = jobs[CLASS, job], -1
        for s in range(first, last):
            if server[JOB, s] == -1 and (found < 0 or speeds[s, kind] > speeds[found, kind]):
                found = s
        started += 1
        start_at(state, jobs, seconds, server, server_seconds, setups, speeds, events, job, found, now)
    return started


@compiler.inner
def settle_share(state, jobs, seconds, rows, answer, server, events, first, last, now):
    """Turn rates into service: a row's answer is its seconds of service a second."""
    active = 0
    for i in range(state[ASK_ROWS]):
        job, rate = rows[i], answer[i]
        if rate > 0.0:
            active += 1
            if jobs[STATE, job] != RUNNING:
                jobs[STATE, job], jobs[SERVER, job] = RUNNING, first
                if seconds[START, job] != seconds[START, job]:
                    seconds[START, job] = now
                emit(state, events, E_START, job, first, now)
        elif jobs[STATE, job] == RUNNING:
            stop(state, jobs, seconds, events, job, now)
        seconds[RATE, job] = rate
    for s in range(first, last):
        server[JOB, s] = -2 if s - first < active else -1


@compiler.njit
def advance_asked(state, limit):
    n, k, queues, classes = state[JOBS], state[SERVERS], state[QUEUES], state[CLASSES]
    jobs = ints_at(state[A_JOB_INTS], JOB_INTS, n)
    seconds = floats_at(state[A_JOB_FLOATS], JOB_FLOATS, n)
    server = ints_at(state[A_SERVER_INTS], SERVER_INTS, k)
    server_seconds = floats_at(state[A_SERVER_FLOATS], SERVER_FLOATS, k)
    queue = ints_at(state[A_QUEUES], QUEUE_INTS, queues)
    rank_rows = state[RANK_ROWS]
    level = floats_at(state[A_RANK_LEVEL], rank_rows, 1)
    start = floats_at(state[A_RANK_START], rank_rows, 1)
    speeds = floats_at(state[A_SPEEDS], k, classes)
    setups = floats_at(state[A_SETUPS], classes + 1, classes)
    width = 1
    while width < k:
        width *= 2
    tree = ints_at(state[A_TREE], 1, 2 * width)[0]
    expiry = ints_at(state[A_EXPIRY], 1, n if state[HAS_PATIENCE] else 1)
    sampled = state[SAMPLE_WIDTH]
    samples = ints_at(state[A_SAMPLES], n, max(1, sampled))
    present = ints_at(state[A_PRESENT], queues, n)
    rows = ints_at(state[A_ROWS], 1, n + queues)[0]
    answer = floats_at(state[A_ANSWER], 1, 8 * n + k)[0]
    events = floats_at(state[A_EVENTS], state[EVENT_ROOM], 4)
    offsets = ints_at(state[A_CHILD_OFFSETS], 1, n + 1)[0]
    children = ints_at(state[A_CHILDREN], 1, max(1, offsets[n]))[0]
    ready = ints_at(state[A_READY], 2, n)
    said = floats_at(state[A_VISIBLE], 2, n)  # the visible sizes, and what was predicted beside them
    visible = said[0]
    clock = floats_at(state[A_CLOCK], 1, CLOCK_FLOATS)[0]
    counts = floats_at(state[A_CLASS_COUNTS], CLASS_COUNTS, classes)
    codes = ints_at(state[A_CODES], 1, state[CODES])[0]
    fixed = floats_at(state[A_FIXED], max(1, state[FIXED]), n)
    out = floats_at(state[A_OUT], max(1, state[CODES]), n)
    column, buffer, asked = state[ROUTE_COLUMN], state[BUFFER], state[ASKED]
    following, now = state[NEXT_ARRIVAL], clock[NOW]
    code = DONE
    # -- an answer that was waited for ------------------------------------------------------------------------------------
    if state[ANSWERED]:
        state[ANSWERED] = 0
        q = state[ASK_QUEUE]
        first, last = (0, k) if queues == 1 else (q, q + 1)
        for i in range(state[ASK_ROWS] * state[ANSWER_WIDTH]):
            if answer[i] != answer[i]:
                return NOT_A_NUMBER
        if asked == ASKED_SHARE:
            settle_share(state, jobs, seconds, rows, answer, server, events, first, last, now)
            started = 0
        else:
            started = settle_order(
                state, jobs, seconds, queue, present, rows, answer, server, server_seconds, setups, speeds, events, q, first, last,
                now,
            )  # fmt: skip
        if state[PICK] and started and state[PREEMPTIVE] == 0:
            queue[DIRTY, q] = 1  # the next pick is another question
        server_seconds[NEXT_EVENT, first] = next_event(
            state, seconds, queue, present, server, server_seconds, q, first, last, now
        )
        settle_tree(tree, server_seconds, k, first)
    while True:
        if state[HOOKS] and state[EVENT_COUNT] + 2 * k + 16 > state[EVENT_ROOM]:
            code = EVENTS
            break
        s = tree[1]
        event = server_seconds[NEXT_EVENT, s]
        arrival = seconds[ARRIVAL, following] if following < n else np.inf
        if state[READY_COUNT] > 0:
            arrival = now
        patience = seconds[PATIENCE, expiry[0, 0]] if state[EXPIRIES] > 0 else np.inf
        time = min(event, arrival, patience)
        if min(event, arrival) > now:
            # -- decisions -----------------------------------------------------------------------------------------------
            q = -1
            for i in range(queues):
                if queue[DIRTY, i]:
                    q = i
                    break
            if q >= 0:
                queue[DIRTY, q] = 0
                first, last = (0, k) if queues == 1 else (q, q + 1)
                everybody = asked == ASKED_SHARE or state[PREEMPTIVE] != 0
                free = everybody
                for i in range(first, last):
                    free = free or server[JOB, i] == -1
                count = 0
                if free:
                    for i in range(queue[PRESENT_COUNT, q]):
                        if everybody or jobs[STATE, present[q, i]] == WAITING:
                            rows[count] = present[q, i]
                            count += 1
                if count == 0:
                    continue
                state[ASK_QUEUE], state[ASK_ROWS] = q, count
                if asked != ASKED_NOTHING:
                    gather(jobs, seconds, counts, rows, said, codes, fixed, count, out)
                    code = SHARE if asked == ASKED_SHARE else ORDER
                    break
                state[ANSWER_WIDTH] = 2
                for i in range(count):
                    row = rows[i] if rank_rows > 1 else 0
                    answer[2 * i], answer[2 * i + 1] = level[row, 0], start[row, 0]
                settle_order(
                    state, jobs, seconds, queue, present, rows, answer, server, server_seconds, setups, speeds, events, q, first,
                    last, now,
                )  # fmt: skip
                server_seconds[NEXT_EVENT, first] = next_event(
                    state, seconds, queue, present, server, server_seconds, q, first, last, now
                )
                settle_tree(tree, server_seconds, k, first)
                continue
        if time == np.inf:
            break
        if time > limit:
            code = UNTIL
            break
        clock[AREA] += clock[INSIDE] * (time - now)
        if patience <= time < min(event, arrival):
            now = time
            job = expiry[0, 0]
            expiry_pop(expiry, state[EXPIRIES], seconds)
            state[EXPIRIES] -= 1
            if jobs[STATE, job] == WAITING and seconds[START, job] != seconds[START, job]:
                q = 0 if queues == 1 else jobs[SERVER, job]
                for i in range(queue[PRESENT_COUNT, q]):
                    if present[q, i] == job:
                        drop(queue, present, q, i)
                        break
                jobs[STATE, job] = ABANDONED
                clock[INSIDE] -= 1.0
                if queues > 1:
                    server[OUTSTANDING, q] -= 1
                server_seconds[KNOWN_WORK, q] -= visible[job]
                emit(state, events, E_LEAVE, job, q, now)
            continue
        if event <= time:
            # -- a line: jobs are done, a setup is done, or the policy is asked again -----------------------------------
            now = time
            q, first, last = (0, 0, k) if queues == 1 else (s, s, s + 1)
            reviewed = server_seconds[REVIEW_AT, first] <= now
            if reviewed:
                server_seconds[REVIEW_AT, first] = np.inf
            for i in range(first, last):
                if 0.0 < server_seconds[SETUP_LEFT, i] <= now:
                    server_seconds[SETUP_LEFT, i] = 0.0
            since = server_seconds[SINCE, first]
            done = 0  # who is done by now, reckoned as `next_event` reckons it
            for i in range(queue[PRESENT_COUNT, q]):
                job = present[q, i]
                rate = seconds[RATE, job]
                if rate > 0.0:
                    left = max(0.0, seconds[SIZE, job] - seconds[ATTAINED, job])
                    if since + left / rate <= now:
                        rows[done] = job
                        done += 1
            serve(counts, jobs, seconds, queue, present, server, server_seconds, q, first, last, now)
            if state[MEETS]:
                meet(seconds, queue, present, q, now)
            for d in range(done):
                job = rows[d]
                for i in range(queue[PRESENT_COUNT, q]):
                    if present[q, i] == job:
                        drop(queue, present, q, i)
                        break
                for i in range(first, last):
                    if server[JOB, i] == job:
                        server[JOB, i] = -1
                if queues > 1:
                    server[OUTSTANDING, first] -= 1
                server_seconds[KNOWN_WORK, first] -= visible[job]
                server_seconds[KNOWN_ATTAINED, first] -= seconds[ATTAINED, job]
                seconds[ATTAINED, job], seconds[RATE, job], seconds[FINISH, job] = seconds[SIZE, job], 0.0, now
                jobs[STATE, job] = FINISHED_STATE
                clock[INSIDE] -= 1.0
                counts[CLASS_DONE, jobs[CLASS, job]] += 1.0
                emit(state, events, E_FINISH, job, jobs[SERVER, job], now)
                for c in range(offsets[job], offsets[job + 1]):
                    child = children[c]
                    jobs[PARENTS_LEFT, child] -= 1
                    if jobs[PARENTS_LEFT, child] == 0 and jobs[STATE, child] == HELD:
                        seconds[ARRIVAL, child] = now
                        ready[0, state[READY_COUNT]] = child
                        state[READY_COUNT] += 1
                for h in range(state[HELD_COUNT]):  # whom no server would take may ask again
                    ready[0, state[READY_COUNT]] = ready[1, h]
                    state[READY_COUNT] += 1
                state[HELD_COUNT] = 0
            if queue[PRESENT_COUNT, q] == 0:
                server_seconds[KNOWN_WORK, first] = server_seconds[KNOWN_ATTAINED, first] = 0.0
                for i in range(first, last):
                    server[JOB, i] = -1
            for i in range(first, last):
                job = server[JOB, i]
                if job >= 0 and server_seconds[SETUP_LEFT, i] == 0.0:
                    seconds[RATE, job] = speeds[i, jobs[CLASS, job]]
            server_seconds[NEXT_EVENT, first] = next_event(
                state, seconds, queue, present, server, server_seconds, q, first, last, now
            )
            settle_tree(tree, server_seconds, k, first)
            if queue[PRESENT_COUNT, q] > 0:
                queue[DIRTY, q] = 1
            continue
        # -- an arrival ---------------------------------------------------------------------------------------------------
        now = time
        job = ready[0, 0] if state[READY_COUNT] > 0 else following
        if state[READY_COUNT] == 0 and jobs[PARENTS_LEFT, job] > 0:
            jobs[STATE, job] = HELD
            following += 1
            continue
        if state[ADMIT_ASKED] and jobs[ADMISSION, job] == 0:
            state[ASK_JOB] = job
            code = ADMIT
            break
        if state[ADMIT_ASKED] and jobs[ADMISSION, job] == 2:
            jobs[STATE, job] = REFUSED
            emit(state, events, E_LEAVE, job, -1, now)
        else:
            if state[ROUTE_ASKED] and state[PLACED] != job + 1:
                for i in range(queues):  # the columns of the hosts are of this moment
                    serve(counts, jobs, seconds, queue, present, server, server_seconds, i, i, i + 1, now)
                state[ASK_JOB] = job
                code = PLACE
                break
            state[PLACED] = 0
            q = 0
            if queues > 1 and state[ROUTE_ASKED]:
                q = -1
                for i in range(k):
                    if answer[i] < np.inf:
                        better = q < 0 or answer[i] < answer[q]
                        if not better and answer[i] == answer[q]:
                            better = server[DECISIONS, i] < server[DECISIONS, q]
                        if better:
                            q = i
            elif queues > 1:
                q = choose(column, server, server_seconds, k, samples, sampled, job, now)
            if q < 0:
                jobs[STATE, job] = HELD
                ready[1, state[HELD_COUNT]] = job
                state[HELD_COUNT] += 1
            elif 0 <= buffer <= queue[PRESENT_COUNT, q] - (k if queues == 1 else 1):
                jobs[STATE, job] = BLOCKED
                emit(state, events, E_LEAVE, job, q, now)
            else:
                first, last = (0, k) if queues == 1 else (q, q + 1)
                serve(counts, jobs, seconds, queue, present, server, server_seconds, q, first, last, now)
                if queues > 1:
                    server[DECISIONS, q] += 1
                    server[OUTSTANDING, q] += 1
                server_seconds[KNOWN_WORK, q] += visible[job]
                jobs[STATE, job], jobs[SERVER, job] = WAITING, q
                clock[INSIDE] += 1.0
                present[q, queue[PRESENT_COUNT, q]] = job
                queue[PRESENT_COUNT, q] += 1
                emit(state, events, E_ARRIVAL, job, q, now)
                if seconds[PATIENCE, job] < np.inf:
                    expiry_push(expiry, state[EXPIRIES], seconds, job)
                    state[EXPIRIES] += 1
                queue[DIRTY, q] = 1
        if state[READY_COUNT] > 0:
            for i in range(state[READY_COUNT] - 1):
                ready[0, i] = ready[0, i + 1]
            state[READY_COUNT] -= 1
        else:
            following += 1
    state[NEXT_ARRIVAL], clock[NOW] = following, now
    return code
