"""How time passes in the fleet, and where it stops for a question.

At equal times completions come before arrivals, arrivals before what the fleet does by itself, and that before decisions; then the
smaller number. Where no policy has to be asked and nothing couples the replicas between two arrivals, each replica is run on its own
up to the next arrival: the same events in another order, with the same results.
"""

import numpy as np
from numba import carray

from rota.kernel.compile import call_entry, floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit, touch
from rota.worlds.serving.kernels.admit import ASK, IDLE
from rota.worlds.serving.kernels.candidates import cheapest, outstanding, possible
from rota.worlds.serving.kernels.closed import issue, issue_finished, next_pending
from rota.worlds.serving.kernels.inside import COME_ENTRY, PARKS, PROMPTS_RUN, STREAMED, inside
from rota.worlds.serving.kernels.layout import (
    A_ANSWER,
    A_ARRIVALS,
    A_CLOCK,
    A_QUEUE,
    A_ROWS,
    A_VICTIM_KEYS,
    ANSWER_WIDTH,
    ANSWERED,
    ARRIVAL,
    ASK_HOST,
    ASK_KIND,
    ASK_ROWS,
    ASYNC,
    BEGIN_ENTRY,
    BEGUN,
    BUSY,
    CLOCK_FLOATS,
    CLOSED,
    COMPLETE_ENTRY,
    DECISIONS_HERE,
    DISPATCH,
    DISPATCHED,
    DISPLACED_AT_MOST,
    DONE,
    E_ARRIVAL,
    E_LEAVE,
    ENDLESS,
    ENDS_AT,
    EVENT_COUNT,
    EVENT_ROOM,
    EVENTS,
    FINISHED,
    FULL,
    GANG,
    GANG_SIZE,
    GATE,
    GROW,
    HELD,
    HOLD_DYNAMIC,
    HOOKS,
    HOST,
    HOSTS,
    INBOX_COUNT,
    INBOX_HEAD,
    INBOX_TAIL,
    INSIDE,
    JOBS,
    KIND_HOLD,
    KIND_VICTIM,
    LAGGING,
    LOADS,
    LOADS_AT,
    NEXT_ARRIVAL,
    NEXT_IN_BOX,
    NODE,
    NOW,
    NOW_CLOCK,
    ORDER,
    PENDING,
    PLACE,
    PLACED,
    POOLED,
    PREFIX,
    PROMPT,
    QUEUE_ROOM,
    QUEUED,
    QUEUED_COUNT,
    READY,
    REJECTED,
    REVIEW_AT,
    ROUTE_ASKED,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    SENT_ENTRY,
    STANDING,
    STATE,
    STOP_COUNT,
    STOP_GATE,
    STOP_STUCK,
    STOPS,
    TARGET,
    TURN_ENTRY,
    TURNS,
    UNTIL,
    VICTIM_WIDTH,
    WAITING_AT_ROUTER,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    uncounted,
)
from rota.worlds.serving.kernels.moves import note, stuck
from rota.worlds.serving.kernels.outstanding import wait
from rota.worlds.serving.kernels.queue import first, line_keys, push, remove


@compiler.inner
def place(state, j, r, now):
    """Hand a job to a host."""
    job, seconds = job_ints(state), job_floats(state)
    host, clock = host_ints(state)[r], host_floats(state)[r]
    touch(state, r, now)
    job[HOST, j] = r
    job[STATE, j] = QUEUED
    if np.isnan(seconds[DISPATCHED, j]):
        seconds[DISPATCHED, j] = now
    wait(state, r, j)
    host[DECISIONS_HERE] += 1
    if state[SENT_ENTRY] and host[PREFIX]:
        call_entry(state[SENT_ENTRY], state[SELF], r, j, 0, 0)
    if host[ASYNC] and (host[BUSY] or host[RUNNING_COUNT] + host[LAGGING] > 0):
        if host[INBOX_COUNT] == 0:
            host[INBOX_HEAD] = j
        else:
            job[NEXT_IN_BOX, host[INBOX_TAIL]] = j
        host[INBOX_TAIL] = j
        host[INBOX_COUNT] += 1
    else:
        push(state, r, j)
    if outstanding(host) + 2 >= state[QUEUE_ROOM]:
        state[FULL] = 1
    if not host[BUSY] and not host[READY]:
        host[READY] = 1
        clock[NOW] = now
    elif host[INSIDE] & STREAMED and host[BUSY] and not inside(state, r)[PROMPTS_RUN]:
        clock[ENDS_AT] = now  # its stream of prompts has nothing to do: it looks at its line now
    elif host[INSIDE] & PARKS and host[BUSY]:
        call_entry(inside(state, r)[COME_ENTRY], state[SELF], r, j, 0, 0)


@compiler.inner
def arrive(state, j, now):
    """A job arrives at the router. Returns whether some replica could serve it; if not, it is rejected."""
    job = job_ints(state)
    job[TARGET, j] = job[PROMPT, j]
    emit(state, E_ARRIVAL, j, -1, now)
    for r in range(state[HOSTS]):
        if possible(state, r, j):
            return True
    job[STATE, j] = REJECTED
    state[FINISHED] += 1
    emit(state, E_LEAVE, j, -1, now)
    if state[CLOSED]:
        issue(state, now)
    return False


@compiler.inner
def dispatch(state, now):
    """Send waiting jobs to hosts, in the order of the router's line; the first that must wait stops the line."""
    job_ints(state)
    line = state[HOSTS]
    waiting = ints_at(state[A_QUEUE], line + 1, state[QUEUE_ROOM])[line]
    while state[WAITING_AT_ROUTER] > 0:
        if state[HOLD_DYNAMIC] and not state[ANSWERED] & (1 << KIND_HOLD):
            rows = ints_at(state[A_ROWS], 1, state[QUEUE_ROOM] + state[RUNNING_ROOM])[0]
            for position in range(state[WAITING_AT_ROUTER]):
                rows[position] = waiting[position]
            state[ASK_HOST], state[ASK_ROWS], state[ASK_KIND] = -1, state[WAITING_AT_ROUTER], KIND_HOLD
            return ORDER
        position = first(state, line)
        if position < 0:
            break
        j = waiting[position]
        if state[ROUTE_ASKED] and state[PLACED] != j + 1:
            state[ASK_HOST] = j
            return PLACE
        state[PLACED] = 0
        r = cheapest(state, j)
        if r < 0:
            break
        remove(state, line, position)
        place(state, j, r, now)
    state[ANSWERED] &= ~(1 << KIND_HOLD)
    state[DISPATCH] = 0
    return DONE


@compiler.inner
def run_host(state, r, until):
    """Run one host on its own: completions up to `until`, decisions before it."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    while True:
        if host[BUSY]:
            if clock[ENDS_AT] > until:
                return
            call_entry(state[COMPLETE_ENTRY], state[SELF], r, 0, 0, 0)
        elif host[READY]:
            if clock[NOW] >= until or state[FULL] & ENDLESS:
                return
            call_entry(state[BEGIN_ENTRY], state[SELF], r, 0, 0, 0)
        elif host[LOADS] and clock[LOADS_AT] < until:
            clock[NOW] = clock[LOADS_AT]
            host[READY] = 1
        else:
            return


@compiler.njit
def advance_apart(vector, until):
    """Open arrivals, nothing to ask: the hosts meet only when a request is placed."""
    state = uncounted(vector)
    arrival = job_floats(state)[ARRIVAL]
    while state[NEXT_ARRIVAL] < state[JOBS]:
        j = state[NEXT_ARRIVAL]
        now = arrival[j]
        if now > until:
            break
        if state[FULL]:
            return GROW
        for r in range(state[HOSTS]):
            run_host(state, r, now)
        state[NEXT_ARRIVAL] += 1
        if arrive(state, j, now):
            place(state, j, cheapest(state, j), now)
    for r in range(state[HOSTS]):
        run_host(state, r, until)
    if state[FULL] & ENDLESS:
        return GROW
    return DONE if state[FINISHED] == state[JOBS] else UNTIL


@compiler.inner
def in_step(hosts, clocks, r):
    """When a host may begin that goes in step with others: now, or when those that are under way have ended."""
    now = clocks[r, NOW]
    for g in range(hosts[r, GANG], hosts[r, GANG] + hosts[r, GANG_SIZE]):
        # NOW is when its last step ended or its next one began. One that began after this one was ready has waited for it: both begin together.
        under_way = hosts[g, BUSY] and clocks[g, BEGUN] < clocks[r, NOW]
        now = max(now, clocks[g, ENDS_AT] if under_way else clocks[g, NOW])
    return now


@compiler.inner
def free_from(hosts, clocks, r, count):
    """When a host may begin that takes turns with the others of its machine: now, or when the one that computes has ended."""
    now = clocks[r, NOW]
    for g in range(count):
        if hosts[g, NODE] == hosts[r, NODE]:
            now = max(now, clocks[g, ENDS_AT] if hosts[g, BUSY] else clocks[g, NOW])
    return now


@compiler.inner
def next_event(state):
    """The next event as (time, kind, number): 0 completion, 1 arrival, 2 dispatch, 3 begin; kind -1 when there is none."""
    hosts, clocks = host_ints(state), host_floats(state)
    clock = carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)
    time, kind, number = np.inf, -1, -1
    if state[CLOSED]:
        if state[PENDING] > 0:
            number = ints_at(state[A_ARRIVALS], 1, state[JOBS])[0, 0]
            time, kind = job_floats(state)[ARRIVAL, number], 1
    elif state[NEXT_ARRIVAL] < state[JOBS]:
        number = state[NEXT_ARRIVAL]
        time, kind = job_floats(state)[ARRIVAL, number], 1
    if state[DISPATCH] and state[WAITING_AT_ROUTER] > 0 and clock[NOW_CLOCK] < time:
        time, kind, number = clock[NOW_CLOCK], 2, 0
    for r in range(state[HOSTS]):
        if hosts[r, BUSY]:
            at, what = clocks[r, ENDS_AT], 0
        elif hosts[r, READY]:
            at, what = clocks[r, NOW], 3
            if hosts[r, GANG_SIZE] > 1:
                at = in_step(hosts, clocks, r)
            if hosts[r, TURNS]:
                at = free_from(hosts, clocks, r, state[HOSTS])
        elif hosts[r, QUEUED_COUNT] > 0:
            at, what = min(clocks[r, REVIEW_AT], clocks[r, LOADS_AT]), 3
        elif hosts[r, LOADS]:
            at, what = clocks[r, LOADS_AT], 3
        else:
            continue
        if at < time or (at == time and what < kind):
            time, kind, number = at, what, r
    return time, kind, number


@compiler.inner
def stand(state):
    """A host has found nothing to begin. Where that goes on and on while time stands it is an error, and better told than waited for."""
    state[STANDING] += 1
    if state[STANDING] > max(DISPLACED_AT_MOST, 100 * state[JOBS]):
        state[FULL] |= ENDLESS


@compiler.njit
def advance_together(vector, until):
    """All events of the fleet in the order of time, one by one.

    Decisions at `until` itself wait: who has something to do then does it first, so that all that comes at one instant is decided on together. One that
    has been asked for is made.
    """
    state = uncounted(vector)
    clock = carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)
    clocks = host_floats(state)
    while True:
        if state[STOP_COUNT]:
            return STOPS
        if state[FULL]:
            return GROW
        if state[HOOKS] and state[EVENT_COUNT] + 2 * state[RUNNING_ROOM] + 8 > state[EVENT_ROOM]:
            return EVENTS
        time, kind, number = next_event(state)
        if kind < 0 or time == np.inf:
            return DONE
        if time > until or (time == until and kind > 1 and not state[PLACED] and not state[ANSWERED]):
            return UNTIL
        if time > clock[NOW_CLOCK]:
            state[STANDING] = 0
        clock[NOW_CLOCK] = time
        if kind == 0:
            before = state[FINISHED]
            call_entry(state[COMPLETE_ENTRY], state[SELF], number, 0, 0, 0)
            if state[CLOSED]:
                issue_finished(state, before, time)
        elif kind == 1:
            if state[CLOSED]:
                next_pending(state)
            else:
                state[NEXT_ARRIVAL] += 1
            if arrive(state, number, time):
                if state[GATE]:
                    note(state, STOP_GATE, number)
                    continue
                job_ints(state)[STATE, number] = HELD
                push(state, state[HOSTS], number)
                state[DISPATCH] = 1
                if state[WAITING_AT_ROUTER] + 2 >= state[QUEUE_ROOM]:
                    state[FULL] = 1
        elif kind == 2:
            code = dispatch(state, time)
            if code != DONE:
                return code
        else:
            if host_ints(state)[number, TURNS]:
                number = call_entry(state[TURN_ENTRY], state[SELF], number, 0, 0, 0)
            clocks[number, NOW] = time
            host_ints(state)[number, READY] = 1  # also when it was woken: after an answer it begins again
            if not state[ANSWERED]:
                clocks[number, REVIEW_AT] = np.inf
            code = call_entry(state[BEGIN_ENTRY], state[SELF], number, 0, 0, 0)
            if code == ASK:
                return ORDER
            if state[POOLED] and stuck(state, number):
                note(state, STOP_STUCK, number)
            if code == IDLE:
                stand(state)


@compiler.njit
def settle(vector):
    """Take the keys that a policy has answered into the jobs' columns."""
    state = uncounted(vector)
    count, width = state[ASK_ROWS], state[ANSWER_WIDTH]
    rows = ints_at(state[A_ROWS], 1, state[QUEUE_ROOM] + state[RUNNING_ROOM])[0]
    answer = floats_at(state[A_ANSWER], state[QUEUE_ROOM] + state[RUNNING_ROOM], width)
    if state[ASK_KIND] == KIND_VICTIM:
        keys = floats_at(state[A_VICTIM_KEYS], state[JOBS], state[VICTIM_WIDTH])
    else:
        keys = line_keys(state, state[HOSTS] if state[ASK_KIND] == KIND_HOLD else 0)
    valid = True
    for i in range(count):
        for k in range(width):
            valid = valid and not np.isnan(answer[i, k])
            keys[rows[i], k] = answer[i, k]
    state[ANSWERED] |= 1 << state[ASK_KIND]
    state[ASK_ROWS] = 0
    return valid
