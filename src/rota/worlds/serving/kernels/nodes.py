"""A replica whose model goes, or has come."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.batch import release
from rota.worlds.serving.kernels.layout import A_LAGGING, HOSTS, LAGGING, RUNNING_ROOM, host_ints
from rota.worlds.serving.kernels.moves import kick


@compiler.njit
def wake(state, r, now):
    """A host whose model has come looks at its line."""
    kick(state, r, now)


@compiler.njit
def let_go(state, r):
    """Blocks of requests that have ended, and that an engine that schedules ahead has not given back yet."""
    host = host_ints(state)[r]
    lagging = ints_at(state[A_LAGGING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[LAGGING]):
        release(state, r, lagging[position])
    host[LAGGING] = 0
