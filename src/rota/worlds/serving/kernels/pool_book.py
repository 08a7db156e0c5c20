"""Who was promised what, and who is lent: the account of `pools.PoolBook`, kept without leaving the kernel."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.fleet import could_hold, could_take
from rota.worlds.serving.kernels.layout import (
    A_QUEUE,
    A_RUNNING,
    BUSY,
    DECODE_ROLE,
    DISPATCH,
    ELSEWHERE,
    GOES_TO,
    HERE,
    HOSTS,
    INBOX_COUNT,
    MIXED_ROLE,
    MOVING,
    PREFILL_ROLE,
    PROMPT,
    QUEUE_ROOM,
    QUEUED_COUNT,
    ROLE,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SIZE,
    SOURCE,
    STATE,
    host_ints,
    job_floats,
    job_ints,
)
from rota.worlds.serving.kernels.pool_layout import (
    ASSIGNED,
    BOTH,
    DECODE_AT,
    HOME,
    LENDS,
    LENT,
    LENT_COUNT,
    PROMISED,
    PROMPT_AT,
    RANK,
    of_hosts,
    of_jobs,
    sums,
)


@compiler.inner
def visible_tokens(state, j):
    """KV of a request at its end, as far as its answer is visible."""
    return job_ints(state)[PROMPT, j] + job_floats(state)[SIZE, j]


@compiler.inner
def landed(state, pool, j):
    """The KV has left the host that computed the prompt."""
    own = of_jobs(state, pool)
    r = own[PROMPT_AT, j]
    if r >= 0:
        sums(state, pool)[r, PROMISED] -= job_ints(state)[PROMPT, j] + 1
        own[PROMPT_AT, j] = -1


@compiler.inner
def forget(state, pool, j):
    """A request has ended, or starts again somewhere else."""
    landed(state, pool, j)
    own, total = of_jobs(state, pool), sums(state, pool)
    r = own[DECODE_AT, j]
    if r >= 0:
        total[r, ASSIGNED] -= 1
        total[r, PROMISED] -= visible_tokens(state, j)
        own[DECODE_AT, j] = -1


@compiler.inner
def promise(state, pool, j, prompt, decode):
    forget(state, pool, j)
    own, total = of_jobs(state, pool), sums(state, pool)
    own[DECODE_AT, j], own[PROMPT_AT, j] = decode, prompt if prompt != decode else -1
    total[decode, ASSIGNED] += 1
    total[decode, PROMISED] += visible_tokens(state, j)
    if prompt != decode:
        total[prompt, PROMISED] += job_ints(state)[PROMPT, j] + 1


@compiler.inner
def moved(state, pool, j, r):
    """Another host than the promised one decodes a request."""
    own, total = of_jobs(state, pool), sums(state, pool)
    before = own[DECODE_AT, j]
    if before != r and before != -1:
        tokens = visible_tokens(state, j)
        total[before, ASSIGNED] -= 1
        total[before, PROMISED] -= tokens
        total[r, ASSIGNED] += 1
        total[r, PROMISED] += tokens
        own[DECODE_AT, j] = r


@compiler.inner
def set_role(state, pool, r, role):
    """A host has another role; what it could not decode here goes on to another one when its prompt is done."""
    job, host, own = job_ints(state), host_ints(state)[r], of_hosts(state, pool)
    before, host[ROLE] = host[ROLE], role
    rank = own[0, RANK]
    for other in range(1, state[HOSTS]):
        rank = max(rank, own[other, RANK])
    own[r, RANK] = rank + 1
    state[DISPATCH] = 1
    if before != PREFILL_ROLE or role == PREFILL_ROLE:
        return
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    for position in range(host[RUNNING_COUNT] + host[QUEUED_COUNT]):
        at = position - host[RUNNING_COUNT]
        j = running[position] if at < 0 else waiting[at]
        if job[GOES_TO, j] == 0 and not could_hold(state, r, j):
            job[GOES_TO, j] = ELSEWHERE


@compiler.inner
def lend(state, pool, r):
    """A host does both until it is free."""
    set_role(state, pool, r, BOTH)
    own = of_hosts(state, pool)
    pool[LENT_COUNT] += 1 - own[r, LENT]
    own[r, LENT] = 1
    pool[LENDS] += 1


@compiler.inner
def present(state, r):
    """Whether a host has a request whose KV is there, or is to be computed there."""
    job, host = job_ints(state), host_ints(state)[r]
    if host[INBOX_COUNT] > 0:
        return True
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    for position in range(host[RUNNING_COUNT] + host[QUEUED_COUNT]):
        at = position - host[RUNNING_COUNT]
        j = running[position] if at < 0 else waiting[at]
        if job[STATE, j] != MOVING and job[SOURCE, j] <= 0:
            return True
    return False


@compiler.inner
def give_back(state, pool):
    """Lent hosts that have nothing left to do have their own roles again; KV that is still on its way does not count."""
    own = of_hosts(state, pool)
    for r in range(state[HOSTS]):
        if own[r, LENT] and not host_ints(state)[r, BUSY] and not present(state, r):
            own[r, LENT] = 0
            pool[LENT_COUNT] -= 1
            set_role(state, pool, r, own[r, HOME])


@compiler.inner
def may_begin(state, j, prompt, decode):
    """Whether two hosts can serve a request now; then it is told where it goes."""
    job, hosts = job_ints(state), host_ints(state)
    job[GOES_TO, j] = 0
    if not could_hold(state, decode, j):
        return False
    role = hosts[prompt, ROLE]
    job[GOES_TO, j] = HERE if prompt == decode else decode + 1
    if prompt != decode and role == DECODE_ROLE:
        hosts[prompt, ROLE] = MIXED_ROLE
    able = could_take(state, prompt, j)
    hosts[prompt, ROLE] = role
    if not able:
        job[GOES_TO, j] = 0
    return able


@compiler.inner
def lend_pair(state, pool, prompt, decode):
    """Those that are chosen for the half that is not theirs are lent."""
    hosts = host_ints(state)
    if prompt != decode and hosts[prompt, ROLE] == DECODE_ROLE:
        lend(state, pool, prompt)
    if prompt != decode and hosts[decode, ROLE] == PREFILL_ROLE:
        lend(state, pool, decode)


@compiler.inner
def lend_besides(state, pool, r):
    if host_ints(state)[r, ROLE] != MIXED_ROLE:
        lend(state, pool, r)
