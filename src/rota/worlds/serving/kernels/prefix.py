"""Prefix caching as vLLM does it: physical blocks, a map from block hash to block, and one queue of free blocks.

A block that nobody holds keeps its content until it is taken for something else; the least recently freed goes first, and of
one request the last block first. A hash stands for the block and everything before it. Other rules of eviction are in `eviction`,
tiers below the cache in `tiers`.
"""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.belief import tell
from rota.worlds.serving.kernels.eviction import born, least, rest, used, wake
from rota.worlds.serving.kernels.layout import (
    A_BLOCKS,
    A_ENDING,
    A_MAP_KEYS,
    A_MAP_VALUES,
    A_SLOTS,
    A_TABLES,
    ADMITTED,
    BASE,
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
    MAP_ROOM,
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
from rota.worlds.serving.kernels.names import NOBODY, block_hash, find, forget
from rota.worlds.serving.kernels.tiers import load, sink, tier_of

HASH, HOLDERS, PREVIOUS, NEXT, BLOCK_FIELDS = range(5)
FOUND_SHIFT, HERE_SHIFT, BLOCK_MASK = np.int64(42), np.int64(21), np.int64((1 << 21) - 1)


@compiler.inner
def block_fields(state, r):
    return ints_at(state[A_BLOCKS], state[HOSTS] * BLOCK_FIELDS, state[BLOCK_ROOM])[
        r * BLOCK_FIELDS : (r + 1) * BLOCK_FIELDS
    ]


@compiler.inner
def cached_blocks(state, r, j):
    """How many leading blocks of a job are in the cache or below, how many of those in the cache, and how many of these nobody holds.

    At least one token is always computed, so a prompt that is cached whole still misses its last block.
    """
    job, host = job_ints(state), host_ints(state)[r]
    keys = ints_at(state[A_MAP_KEYS], state[HOSTS], state[MAP_ROOM])[r]
    values = ints_at(state[A_MAP_VALUES], state[HOSTS], state[MAP_ROOM])[r]
    fields = block_fields(state, r)
    hits, here, idle = 0, 0, 0
    for k in range((job[TARGET, j] - 1) // host[BLOCK_TOKENS]):
        name = block_hash(state, host, j, k)
        position = find(keys, name)
        if keys[position] != NOBODY:
            here += 1
            if fields[HOLDERS, values[position]] == 0:
                idle += 1
        elif host[TIERS] == 0 or tier_of(state, r, name) < 0:
            break
        hits += 1
    return hits, here, idle


@compiler.inner
def unlink(host, fields, b):
    """Take a block out of the queue of free blocks."""
    before, after = fields[PREVIOUS, b], fields[NEXT, b]
    if before == NOBODY:
        host[FREE_HEAD] = after
    else:
        fields[NEXT, before] = after
    if after == NOBODY:
        host[FREE_TAIL] = before
    else:
        fields[PREVIOUS, after] = before
    host[FREE] -= 1


@compiler.inner
def hold(state, r, b):
    """A job holds a block that was found in the cache."""
    host, fields = host_ints(state)[r], block_fields(state, r)
    if fields[HOLDERS, b] == 0:
        if host[EVICTION]:
            wake(state, r, b)
            host[FREE] -= 1
        else:
            unlink(host, fields, b)
    fields[HOLDERS, b] += 1


@compiler.inner
def let_go(state, r, b):
    """A job holds a block no more. It keeps its content until it is needed."""
    host, fields = host_ints(state)[r], block_fields(state, r)
    fields[HOLDERS, b] -= 1
    if fields[HOLDERS, b] > 0:
        return
    host[FREE] += 1
    if host[EVICTION] and fields[HASH, b] != NOBODY:
        rest(state, r, b)
        return
    tail = host[FREE_TAIL]
    fields[PREVIOUS, b], fields[NEXT, b] = tail, NOBODY
    if tail == NOBODY:
        host[FREE_HEAD] = b
    else:
        fields[NEXT, tail] = b
    host[FREE_TAIL] = b


@compiler.inner
def take(state, r):
    """A block for new content: the first of the queue, and by other rules, when that is empty, the one that they name."""
    host, fields = host_ints(state)[r], block_fields(state, r)
    b = host[FREE_HEAD]
    if b != NOBODY:
        unlink(host, fields, b)
    else:
        b = least(state, r)
        wake(state, r, b)
        host[FREE] -= 1
    if fields[HASH, b] != NOBODY:
        keys = ints_at(state[A_MAP_KEYS], state[HOSTS], state[MAP_ROOM])[r]
        values = ints_at(state[A_MAP_VALUES], state[HOSTS], state[MAP_ROOM])[r]
        name = fields[HASH, b]
        forget(keys, values, name)
        fields[HASH, b] = NOBODY
        if host[TIERS]:
            sink(state, r, name)
        else:
            tell(state, r, name, 0)
    fields[HOLDERS, b] = 1
    return b


@compiler.inner
def table(state, r, j):
    """The blocks of a job that runs or is parked, in the order of its tokens."""
    tables = ints_at(state[A_TABLES], state[HOSTS] * state[SLOT_ROOM], state[TABLE_ROOM])
    return tables[r * state[SLOT_ROOM] + job_ints(state)[SLOT, j]]


@compiler.inner
def open_table(state, r, j, hits):
    """Give a job a block table that begins with its cached blocks."""
    job, host = job_ints(state), host_ints(state)[r]
    slots = ints_at(state[A_SLOTS], state[HOSTS], state[SLOT_ROOM])[r]
    host[SLOTS_FREE] -= 1
    job[SLOT, j] = slots[host[SLOTS_FREE]]
    keys = ints_at(state[A_MAP_KEYS], state[HOSTS], state[MAP_ROOM])[r]
    values = ints_at(state[A_MAP_VALUES], state[HOSTS], state[MAP_ROOM])[r]
    blocks = table(state, r, j)
    host[CACHE_CLOCK] += 1
    job[ADMITTED, j] = host[CACHE_CLOCK]
    gap = hits
    for k in range(hits):
        position = find(keys, block_hash(state, host, j, k))
        if keys[position] == NOBODY:
            gap = min(gap, k)
            blocks[k] = NOBODY
            continue
        blocks[k] = values[position]
        hold(state, r, blocks[k])
        if host[EVICTION]:
            used(state, r, blocks[k])
    job[HELD_BLOCKS, j] = hits
    job[REGISTERED, j] = gap
    if gap < hits:
        begin_loads(state, r, j, gap, hits)


@compiler.inner
def begin_loads(state, r, j, gap, hits):
    """The blocks of a job that are not in the cache come from the tiers below. They can be found by others when all are there."""
    job, host, clock, blocks = job_ints(state), host_ints(state)[r], host_floats(state)[r], table(state, r, j)
    ends = clock[NOW]
    for k in range(gap, hits):
        if blocks[k] == NOBODY:
            name = block_hash(state, host, j, k)
            ends = max(ends, load(state, r, tier_of(state, r, name), name, clock[NOW]))
    for k in range(gap, hits):  # only now, because what is taken goes down and may push out what is read
        if blocks[k] == NOBODY:
            blocks[k] = take(state, r)
    job[COMPUTED, j] = hits * host[BLOCK_TOKENS]
    job_floats(state)[LOADED_AT, j] = ends
    clock[LOADS_AT] = min(clock[LOADS_AT], ends)


@compiler.inner
def register(state, r, j, tokens):
    """Make the full blocks among a job's first `tokens` tokens findable."""
    job, host = job_ints(state), host_ints(state)[r]
    keys = ints_at(state[A_MAP_KEYS], state[HOSTS], state[MAP_ROOM])[r]
    values = ints_at(state[A_MAP_VALUES], state[HOSTS], state[MAP_ROOM])[r]
    fields, blocks = block_fields(state, r), table(state, r, j)
    full = tokens // host[BLOCK_TOKENS]
    for k in range(job[REGISTERED, j], full):
        key = block_hash(state, host, j, k)
        position = find(keys, key)
        if keys[position] == NOBODY:  # a second copy of a known block stays nameless
            keys[position], values[position] = key, blocks[k]
            fields[HASH, blocks[k]] = key
            if host[EVICTION]:
                born(state, r, blocks[k], job[ADMITTED, j], k)
            tell(state, r, key, 1)
    job[REGISTERED, j] = max(job[REGISTERED, j], full)


@compiler.inner
def extend_table(state, r, j, wanted, tokens):
    """Give a job blocks up to `wanted`, and name those that `tokens` tokens fill."""
    job, blocks = job_ints(state), table(state, r, j)
    for k in range(job[HELD_BLOCKS, j], wanted):
        blocks[k] = take(state, r)
    job[HELD_BLOCKS, j] = max(wanted, job[HELD_BLOCKS, j])
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
def release_table(state, r, j):
    """A job lets go of its blocks, the last one first; they keep their content until they are needed."""
    job, host = job_ints(state), host_ints(state)[r]
    blocks = table(state, r, j)
    decoding = job[STATE, j] == DECODING
    if job[STATE, j] != LOADING:  # what is on its way has no name yet
        register(state, r, j, job[BASE, j] + host[STEP] - job[JOINED, j] if decoding else job[COMPUTED, j])
    for k in range(job[HELD_BLOCKS, j] - 1, -1, -1):
        let_go(state, r, blocks[k])
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
