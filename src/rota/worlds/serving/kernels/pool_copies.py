"""Copies of KV at a second host: the account of `mirrors.Mirrors`, kept without leaving the kernel."""

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.agenda import later
from rota.worlds.serving.kernels.fleet import hold, switch
from rota.worlds.serving.kernels.layout import (
    A_RUNNING,
    BASE,
    BLOCK_TOKENS,
    BUSY,
    CALL_AT_END,
    DECODING,
    DOWN,
    FREE,
    HOST,
    HOSTS,
    JOINED,
    KV_BLOCKS,
    QUEUED_COUNT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STATE,
    STEP,
    host_ints,
    job_ints,
)
from rota.worlds.serving.kernels.pool_book import landed, moved
from rota.worlds.serving.kernels.pool_layout import (
    A_LINE,
    A_MOVES,
    ANY_HOST,
    COPY_BEFORE,
    COPY_BLOCKS,
    COPY_HOST,
    COPY_NEXT,
    DROPPED,
    FIRST_COPY,
    GO_ON,
    KV_BYTES,
    LAST_COPY,
    LAST_MOVE,
    MIGRATED,
    MIRRORED,
    MOVE_ROOM,
    MOVED_BYTES,
    MOVES,
    NOTHING,
    PROMPT_AT,
    REVIEW,
    REVIEWING,
    numbers,
    of_jobs,
    sums,
)

SPARE = 0.05  # share of a host's blocks that copies leave free, as in mirrors


@compiler.inner
def blocks_of(state, j, r):
    """Blocks of a host that a request's KV fills."""
    job = job_ints(state)
    tokens = job[BASE, j]
    if job[STATE, j] == DECODING:
        tokens += host_ints(state)[job[HOST, j], STEP] - job[JOINED, j]
    size = host_ints(state)[r, BLOCK_TOKENS]
    return (tokens + size - 1) // size


@compiler.inner
def room_for_copies(state, r):
    host = host_ints(state)[r]
    return host[FREE] - int(SPARE * host[KV_BLOCKS])


@compiler.inner
def in_the_way(state, r):
    """Whether something waits at a host that has few blocks free."""
    host = host_ints(state)[r]
    return host[QUEUED_COUNT] > 0 and host[FREE] < 4 * SPARE * host[KV_BLOCKS]


@compiler.inner
def add_copy(state, pool, j, r, now):
    """A host keeps the KV of a request that decodes elsewhere, if there is room."""
    blocks = blocks_of(state, j, r)
    if room_for_copies(state, r) < blocks or host_ints(state)[r, DOWN]:
        return
    hold(state, r, blocks, now)
    own = of_jobs(state, pool)
    own[COPY_HOST, j], own[COPY_BLOCKS, j], own[COPY_NEXT, j], own[COPY_BEFORE, j] = r, blocks, -1, pool[LAST_COPY]
    if pool[LAST_COPY] >= 0:
        own[COPY_NEXT, pool[LAST_COPY]] = j
    else:
        pool[FIRST_COPY] = j
    pool[LAST_COPY] = j


@compiler.inner
def drop_copy(state, pool, j, now):
    """The copy of a request is not needed any more."""
    own = of_jobs(state, pool)
    r = own[COPY_HOST, j]
    if r < 0:
        return
    own[COPY_HOST, j] = -1
    before, after = own[COPY_BEFORE, j], own[COPY_NEXT, j]
    if before >= 0:
        own[COPY_NEXT, before] = after
    else:
        pool[FIRST_COPY] = after
    if after >= 0:
        own[COPY_BEFORE, after] = before
    else:
        pool[LAST_COPY] = before
    hold(state, r, -own[COPY_BLOCKS, j], now)


@compiler.inner
def drop_copies_at(state, pool, r, now):
    """Nothing runs at a host, and what waits there does not fit: no copy stays. Returns whether there was one."""
    own, dropped = of_jobs(state, pool), pool[DROPPED]
    j = pool[FIRST_COPY]
    while j >= 0:
        after = own[COPY_NEXT, j]
        if own[COPY_HOST, j] == r:
            drop_copy(state, pool, j, now)
            pool[DROPPED] += 1
        j = after
    return pool[DROPPED] > dropped


@compiler.inner
def arrives(state, pool, j, now):
    """The host with the KV of a request decodes it from now on; the one that computed it may keep a copy."""
    here, source = job_ints(state)[HOST, j], of_jobs(state, pool)[PROMPT_AT, j]
    landed(state, pool, j)
    moved(state, pool, j, here)
    if pool[MIRRORED]:
        drop_copy(state, pool, j, now)
        if source >= 0 and source != here:
            add_copy(state, pool, j, source, now)
        review_soon(pool, now)


@compiler.inner
def refresh_copies(state, pool, now):
    """Bring all copies up to date, the oldest first; those that are in the way go."""
    own, total = of_jobs(state, pool), sums(state, pool)
    j = pool[FIRST_COPY]
    while j >= 0:
        after, r = own[COPY_NEXT, j], own[COPY_HOST, j]
        more = blocks_of(state, j, r) - own[COPY_BLOCKS, j]
        if room_for_copies(state, r) < max(more, 0) or in_the_way(state, r):
            drop_copy(state, pool, j, now)
            pool[DROPPED] += 1
        elif more > 0:
            hold(state, r, more, now)
            own[COPY_BLOCKS, j] += more
            numbers(pool)[MOVED_BYTES] += total[r, KV_BYTES] * more * host_ints(state)[r, BLOCK_TOKENS]
        j = after


@compiler.inner
def review_soon(pool, now):
    """See what should move, after all that happens now."""
    if not pool[REVIEWING]:
        pool[REVIEWING] = 1
        later(pool, now, REVIEW, NOTHING, NOTHING, NOTHING)


@compiler.inner
def copied_to(state, pool, r, target):
    """How many requests decode at a host and have a copy at another one; they stand in the line, the one with the least KV first."""
    job, own = job_ints(state), of_jobs(state, pool)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    line = ints_at(pool[A_LINE], 1, state[RUNNING_ROOM])[0]
    count = 0
    for position in range(host_ints(state)[r, RUNNING_COUNT]):
        j = running[position]
        if job[STATE, j] != DECODING or own[COPY_HOST, j] != target:
            continue
        tokens, k = job[BASE, j] - job[JOINED, j], count
        while k > 0:
            other = line[k - 1]
            theirs = job[BASE, other] - job[JOINED, other]
            if theirs < tokens or (theirs == tokens and other < j):
                break
            line[k] = other
            k -= 1
        line[k] = j
        count += 1
    return count


@compiler.inner
def change_sides(state, pool, source, target, count, now):
    """The requests with a copy at the target go on there."""
    own = of_jobs(state, pool)
    line = ints_at(pool[A_LINE], 1, state[RUNNING_ROOM])[0]
    able = copied_to(state, pool, source, target)
    # As a slice does: a negative count leaves so many at the end out.
    for k in range(min(count, able) if count >= 0 else max(able + count, 0)):
        j = line[k]
        drop_copy(state, pool, j, now)
        if not switch(state, j, target, now):
            add_copy(state, pool, j, target, now)
            return
        pool[MIGRATED] += 1
        moved(state, pool, j, target)
        own[LAST_MOVE, j] += 1
        add_copy(state, pool, j, source, now)
        later(pool, now, GO_ON, j, target, own[LAST_MOVE, j])


@compiler.inner
def take_moves(state, pool, between, now):
    """Do what was wished: all of it, where hosts that are in an iteration end it first; or what concerns a host that is between two iterations."""
    wished = ints_at(pool[A_MOVES], pool[MOVE_ROOM], 3)
    for k in range(pool[MOVES]):
        source, target, count = wished[k, 0], wished[k, 1], wished[k, 2]
        if between != ANY_HOST:
            if source == between:
                change_sides(state, pool, source, target, count, now)
        elif host_ints(state)[source, BUSY]:
            host_ints(state)[source, CALL_AT_END] = 1
        else:
            change_sides(state, pool, source, target, count, now)
