"""What happens to a request at the gate: it comes in, or is shed, also later while it waits at the router."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit
from rota.worlds.serving.kernels.closed import issue
from rota.worlds.serving.kernels.fleet import to_router
from rota.worlds.serving.kernels.layout import (
    A_QUEUE,
    CLOSED,
    DISPATCH,
    E_LEAVE,
    FINISH,
    FINISHED,
    FIRST_TOKEN,
    HOSTS,
    QUEUE_ROOM,
    RECALLED,
    SHED,
    STATE,
    WAITING_AT_ROUTER,
    job_floats,
    job_ints,
)
from rota.worlds.serving.kernels.queue import push, set_count


@compiler.njit
def let_in(state, j):
    """A job that stood at the gate waits at the router."""
    to_router(state, j)


@compiler.njit
def shed(state, j, now):
    """A job that stands at the gate is turned away; in a closed loop its user sends the next one."""
    job_ints(state)[STATE, j] = SHED
    state[FINISHED] += 1
    emit(state, E_LEAVE, j, -1, now)
    if state[CLOSED]:
        issue(state, now)


@compiler.njit
def shed_waiting(state, j, now):
    """A job that waits at the router is turned away: the line is built again without it."""
    line = state[HOSTS]
    waiting = ints_at(state[A_QUEUE], line + 1, state[QUEUE_ROOM])[line]
    before = waiting[: state[WAITING_AT_ROUTER]].copy()
    set_count(state, line, 0)
    for position in range(len(before)):
        if before[position] != j:
            push(state, line, before[position])
    state[DISPATCH] = 1
    shed(state, j, now)


@compiler.njit
def recall(state, j, now):
    """A job is answered from what was stored; in a closed loop its user sends the next one."""
    seconds = job_floats(state)
    job_ints(state)[STATE, j] = RECALLED
    seconds[FIRST_TOKEN, j] = seconds[FINISH, j] = now
    state[FINISHED] += 1
    emit(state, E_LEAVE, j, -1, now)
    if state[CLOSED]:
        issue(state, now)
