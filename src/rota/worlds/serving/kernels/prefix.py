"""Prefix caching as vLLM does it: physical blocks, a map from a block's name to the block, and one queue of free blocks.

A block that nobody holds keeps its content until it is taken for something else; the least recently freed goes first, and of
one request the last block first. A name stands for the block and everything before it (vLLM has hashes). Other rules of eviction are in `eviction`,
tiers below the cache in `tiers`.
"""

import numpy as np

from rota.kernel.compile import ints_at, small_ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.belief import tell
from rota.worlds.serving.kernels.eviction import born, least, rest, used, wake
from rota.worlds.serving.kernels.layout import (
    A_BLOCKS,
    A_ENDING,
    A_SLOTS,
    A_TABLES,
    ADMITTED,
    BASE,
    BELIEF,
    BLOCK_ROOM,
    BLOCK_TOKENS,
    CACHE_CLOCK,
    COMPUTED,
    DECODES,
    DECODING,
    EVICTION,
    FREE,
    FREE_HEAD,
    FREE_TAIL,
    HELD_BLOCKS,
    HOSTS,
    JOINED,
    LOADED_AT,
    LOADING,
    LOADS_AT,
    NOW,
    REGISTERED,
    RUNNING_ROOM,
    SLOT,
    SLOT_ROOM,
    SLOTS_FREE,
    STATE,
    STEP,
    TABLE_ROOM,
    TARGET,
    TIERS,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.line import hook, unhook
from rota.worlds.serving.kernels.names import NOBODY, name_of, names_of
from rota.worlds.serving.kernels.pages import block_named, give_name, pages_of, take_name
from rota.worlds.serving.kernels.tiers import load, sink, tier_of

NAMED, HOLDERS, PREVIOUS, NEXT, BLOCK_FIELDS = range(5)  # NAMED: the name of what it holds
FOUND_SHIFT, HERE_SHIFT = np.int64(42), np.int64(21)


@compiler.inner
def blocks_of(state, r):
    """The blocks of a host, a row each: its name, how many hold it, and its neighbours in the queue of free blocks."""
    room = state[BLOCK_ROOM]
    return small_ints_at(state[A_BLOCKS] + 4 * BLOCK_FIELDS * room * r, room, BLOCK_FIELDS)


@compiler.inner
def cached_blocks(state, r, j):
    """How many leading blocks of a job are in the cache or below, how many of those in the cache, and how many of these nobody holds.

    At least one token is always computed, so a prompt that is cached whole still misses its last block.
    """
    host, fields = host_ints(state)[r], blocks_of(state, r)
    where, _, rows = pages_of(state, r)
    names, own = names_of(state, host, j)
    tiers = host[TIERS]
    hits, here, idle = 0, 0, 0
    for k in range((job_ints(state)[TARGET, j] - 1) // host[BLOCK_TOKENS]):
        name = name_of(names, own, k)
        b = block_named(where, rows, name)
        if b != NOBODY:
            here += 1
            if fields[b, HOLDERS] == 0:
                idle += 1
        elif tiers == 0 or tier_of(state, r, name) < 0:
            break
        hits += 1
    return hits, here, idle


@compiler.inlined
def unlink(host, fields, b):
    """Take a block out of the queue of free blocks."""
    unhook(fields[:, PREVIOUS], fields[:, NEXT], host, FREE_HEAD, FREE_TAIL, b)
    host[FREE] -= 1


@compiler.inlined
def hold(state, r, host, fields, b):
    """A job holds a block that was found in the cache."""
    if fields[b, HOLDERS] == 0:
        if host[EVICTION]:
            wake(state, r, b)
            host[FREE] -= 1
        else:
            unlink(host, fields, b)
    fields[b, HOLDERS] += 1


@compiler.inner
def let_go(state, r, host, fields, b):
    """A job holds a block no more. It keeps its content until it is needed."""
    fields[b, HOLDERS] -= 1
    if fields[b, HOLDERS] > 0:
        return
    host[FREE] += 1
    if host[EVICTION] and fields[b, NAMED] != NOBODY:
        rest(state, r, b)
        return
    hook(fields[:, PREVIOUS], fields[:, NEXT], host, FREE_HEAD, FREE_TAIL, b)


@compiler.inner
def take(state, r, host, fields):
    """A block for new content: the first of the queue, and by other rules, when that is empty, the one that they name."""
    b = host[FREE_HEAD]
    if b != NOBODY:
        unlink(host, fields, b)
    else:
        b = least(state, r)
        wake(state, r, b)
        host[FREE] -= 1
    name = np.int64(fields[b, NAMED])
    if name != NOBODY:
        where, counts, rows = pages_of(state, r)
        take_name(where, counts, rows, name)
        fields[b, NAMED] = NOBODY
        if host[TIERS]:
            sink(state, r, name)
        elif state[BELIEF]:
            tell(state, r, name, 0)
    fields[b, HOLDERS] = 1
    return b


@compiler.inner
def take_all(state, r, blocks, begin, end):
    """Blocks for new content, for these places of a table."""
    host, fields = host_ints(state)[r], blocks_of(state, r)
    if host[EVICTION] or host[TIERS] or state[BELIEF]:
        for k in range(begin, end):
            blocks[k] = take(state, r, host, fields)
        return
    # The same for the plain cache, the whole beginning of the queue at once.
    where, counts, rows = pages_of(state, r)
    b = host[FREE_HEAD]
    for k in range(begin, end):
        blocks[k] = b
        name = np.int64(fields[b, NAMED])
        if name != NOBODY:
            take_name(where, counts, rows, name)
            fields[b, NAMED] = NOBODY
        fields[b, HOLDERS] = 1
        b = np.int64(fields[b, NEXT])
    host[FREE_HEAD] = b
    if b == NOBODY:
        host[FREE_TAIL] = NOBODY
    else:
        fields[b, PREVIOUS] = NOBODY
    host[FREE] -= end - begin


@compiler.inner
def table(state, r, j):
    """The blocks of a job that runs or is parked, in the order of its tokens."""
    tables = small_ints_at(state[A_TABLES], state[HOSTS] * state[SLOT_ROOM], state[TABLE_ROOM])
    return tables[r * state[SLOT_ROOM] + job_ints(state)[SLOT, j]]


@compiler.inner
def open_table(state, r, j, hits):
    """Give a job a block table that begins with its cached blocks."""
    job, host, fields = job_ints(state), host_ints(state)[r], blocks_of(state, r)
    slots = ints_at(state[A_SLOTS], state[HOSTS], state[SLOT_ROOM])[r]
    host[SLOTS_FREE] -= 1
    job[SLOT, j] = slots[host[SLOTS_FREE]]
    where, _, rows = pages_of(state, r)
    names, own = names_of(state, host, j)
    blocks = table(state, r, j)
    host[CACHE_CLOCK] += 1
    job[ADMITTED, j] = host[CACHE_CLOCK]
    gap = hits
    for k in range(hits):
        b = block_named(where, rows, name_of(names, own, k))
        blocks[k] = b
        if b == NOBODY:
            gap = min(gap, k)
            continue
        hold(state, r, host, fields, b)
        if host[EVICTION]:
            used(state, r, b)
    job[HELD_BLOCKS, j] = hits
    job[REGISTERED, j] = gap
    if gap < hits:
        begin_loads(state, r, j, gap, hits)


@compiler.inner
def begin_loads(state, r, j, gap, hits):
    """The blocks of a job that are not in the cache come from the tiers below. They can be found by others when all are there."""
    job, host, clock, blocks = job_ints(state), host_ints(state)[r], host_floats(state)[r], table(state, r, j)
    names, own = names_of(state, host, j)
    fields = blocks_of(state, r)
    ends = clock[NOW]
    for k in range(gap, hits):
        if blocks[k] == NOBODY:
            name = name_of(names, own, k)
            ends = max(ends, load(state, r, tier_of(state, r, name), name, clock[NOW]))
    for k in range(gap, hits):  # only now, because what is taken goes down and may push out what is read
        if blocks[k] == NOBODY:
            blocks[k] = take(state, r, host, fields)
    job[COMPUTED, j] = hits * host[BLOCK_TOKENS]
    job_floats(state)[LOADED_AT, j] = ends
    clock[LOADS_AT] = min(clock[LOADS_AT], ends)


@compiler.inner
def register(state, r, j, tokens):
    """Make the full blocks among a job's first `tokens` tokens findable."""
    job, host = job_ints(state), host_ints(state)[r]
    full = tokens // host[BLOCK_TOKENS]
    if full <= job[REGISTERED, j]:
        return
    fields, blocks = blocks_of(state, r), table(state, r, j)
    where, counts, rows = pages_of(state, r)
    names, own = names_of(state, host, j)
    for k in range(job[REGISTERED, j], full):
        name = name_of(names, own, k)
        if block_named(where, rows, name) == NOBODY:  # a second copy of a known block stays nameless
            b = np.int64(blocks[k])
            give_name(where, counts, rows, name, b)
            fields[b, NAMED] = name
            if host[EVICTION]:
                born(state, r, b, job[ADMITTED, j], k)
            if state[BELIEF]:
                tell(state, r, name, 1)
    job[REGISTERED, j] = full


@compiler.inner
def extend_table(state, r, j, wanted, tokens):
    """Give a job blocks up to `wanted`, and name those that `tokens` tokens fill."""
    job = job_ints(state)
    if wanted > job[HELD_BLOCKS, j]:
        take_all(state, r, table(state, r, j), job[HELD_BLOCKS, j], wanted)
        job[HELD_BLOCKS, j] = wanted
    register(state, r, j, tokens)


@compiler.inner
def extend_decoders(state, r):
    """A new block for each decoder whose last one is full."""
    job, host = job_ints(state), host_ints(state)[r]
    heap = ints_at(state[A_ENDING], state[HOSTS], state[RUNNING_ROOM])[r]
    for position in range(host[DECODES]):
        j = heap[position]
        tokens = job[BASE, j] + host[STEP] - job[JOINED, j]
        if tokens % host[BLOCK_TOKENS] == 0:
            extend_table(state, r, j, tokens // host[BLOCK_TOKENS] + 1, tokens)


@compiler.inner
def let_all_go(state, r, blocks):
    """A job holds these blocks no more, the last one first; they keep their content until they are needed."""
    host, fields = host_ints(state)[r], blocks_of(state, r)
    if host[EVICTION]:
        for k in range(len(blocks) - 1, -1, -1):
            let_go(state, r, host, fields, np.int64(blocks[k]))
        return
    # The same for the plain cache, with the end of the queue at hand.
    tail, freed = host[FREE_TAIL], 0
    for k in range(len(blocks) - 1, -1, -1):
        b = np.int64(blocks[k])
        fields[b, HOLDERS] -= 1
        if fields[b, HOLDERS] > 0:
            continue
        freed += 1
        fields[b, PREVIOUS], fields[b, NEXT] = tail, NOBODY
        if tail == NOBODY:
            host[FREE_HEAD] = b
        else:
            fields[tail, NEXT] = b
        tail = b
    host[FREE_TAIL] = tail
    host[FREE] += freed


@compiler.inner
def release_table(state, r, j):
    """A job lets go of its blocks."""
    job, host = job_ints(state), host_ints(state)[r]
    decoding = job[STATE, j] == DECODING
    if job[STATE, j] != LOADING:  # what is on its way has no name yet
        register(state, r, j, job[BASE, j] + host[STEP] - job[JOINED, j] if decoding else job[COMPUTED, j])
    let_all_go(state, r, table(state, r, j)[: job[HELD_BLOCKS, j]])
    slots = ints_at(state[A_SLOTS], state[HOSTS], state[SLOT_ROOM])[r]
    slots[host[SLOTS_FREE]] = job[SLOT, j]
    host[SLOTS_FREE] += 1


# Entries: these functions are compiled only for fleets that cache prefixes.
_SIGNATURE = "int64(int64, int64, int64, int64, int64)"


@compiler.entry(_SIGNATURE)
def cached_entry(address, r, j, _, __):
    hits, here, idle = cached_blocks(whole_state(address), r, j)
    return (hits << FOUND_SHIFT) | (here << HERE_SHIFT) | idle


@compiler.entry(_SIGNATURE)
def open_entry(address, r, j, hits, _):
    open_table(whole_state(address), r, j, hits)
    return 0


@compiler.entry(_SIGNATURE)
def extend_entry(address, r, j, wanted, tokens):
    extend_table(whole_state(address), r, j, wanted, tokens)
    return 0


@compiler.entry(_SIGNATURE)
def extend_decoders_entry(address, r, _, __, ___):
    extend_decoders(whole_state(address), r)
    return 0


@compiler.entry(_SIGNATURE)
def release_entry(address, r, j, _, __):
    release_table(whole_state(address), r, j)
    return 0
