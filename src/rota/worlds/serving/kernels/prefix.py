"""Prefix caching as vLLM does it: physical blocks, a map from block hash to block, and one queue of free blocks.

A block that nobody holds keeps its content until it is taken for something else; the least recently freed goes first, and of
one request the last block first. A hash stands for the block and everything before it.
"""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_BLOCKS,
    A_ENDING,
    A_MAP_KEYS,
    A_MAP_VALUES,
    A_PREFIX_IDS,
    A_PREFIX_OFFSETS,
    A_SLOTS,
    A_TABLES,
    BASE,
    BLOCK_ROOM,
    BLOCK_TOKENS,
    COMPUTED,
    DECODES,
    DECODING,
    FREE,
    FREE_HEAD,
    FREE_TAIL,
    HELD_BLOCKS,
    HOSTS,
    JOBS,
    JOINED,
    MAP_ROOM,
    OUTPUT,
    PREFIX_ANSWERS,
    PREFIX_COUNT,
    PREFIX_TOKENS,
    PROMPT,
    REGISTERED,
    RUNNING_ROOM,
    SLOT,
    SLOT_ROOM,
    SLOTS_FREE,
    STATE,
    STEP,
    TABLE_ROOM,
    TARGET,
    host_ints,
    job_ints,
    whole_state,
)

HASH, HOLDERS, PREVIOUS, NEXT, BLOCK_FIELDS = range(5)
NOBODY = -1


@compiler.inner
def block_fields(state, r):
    return ints_at(state[A_BLOCKS], state[HOSTS] * BLOCK_FIELDS, state[BLOCK_ROOM])[
        r * BLOCK_FIELDS : (r + 1) * BLOCK_FIELDS
    ]


@compiler.inner
def block_hash(state, host, j, k):
    """Identity of the k-th full block of a job: from the trace where that names it, otherwise its own."""
    job = job_ints(state)
    size, known = host[BLOCK_TOKENS], state[PREFIX_TOKENS]
    named = job[PROMPT, j] + (job[OUTPUT, j] if state[PREFIX_ANSWERS] else 0)
    if known > 0 and (k + 1) * size <= named:
        offsets = ints_at(state[A_PREFIX_OFFSETS], 1, state[JOBS] + 1)[0]
        ids = ints_at(state[A_PREFIX_IDS], 1, max(state[PREFIX_COUNT], 1))[0]
        if known >= size:  # several blocks of the cache to one of the trace
            share = known // size
            position = offsets[j] + k // share
            if position < offsets[j + 1]:
                return ids[position] * share + k % share
        else:  # a block of the cache is named by the last one of the trace in it
            share = size // known
            position = offsets[j] + (k + 1) * share - 1
            if position < offsets[j + 1]:
                return ids[position]
    shares = max(1, known // size) if known > 0 else 1
    return state[PREFIX_COUNT] * shares + j * state[TABLE_ROOM] + k


@compiler.inner
def home(key, room):
    return (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & np.uint64(room - 1)


@compiler.inner
def find(keys, key):
    """Position of a key in the map, or of the empty place where it belongs."""
    room = len(keys)
    position = np.int64(home(key, room))
    while keys[position] != NOBODY and keys[position] != key:
        position = (position + 1) & (room - 1)
    return position


@compiler.inner
def forget(keys, values, key):
    """Delete a key; those behind it move up, so that no tombstones are needed."""
    room = len(keys)
    hole = find(keys, key)
    position = hole
    while True:
        position = (position + 1) & (room - 1)
        if keys[position] == NOBODY:
            break
        wanted = np.int64(home(keys[position], room))
        if ((position - wanted) & (room - 1)) >= ((position - hole) & (room - 1)):
            keys[hole], values[hole] = keys[position], values[position]
            hole = position
    keys[hole] = NOBODY


@compiler.inner
def cached_blocks(state, r, j):
    """How many leading blocks of a job are in the cache, and how many of those nobody holds.

    At least one token is always computed, so a prompt that is cached whole still misses its last block.
    """
    job, host = job_ints(state), host_ints(state)[r]
    keys = ints_at(state[A_MAP_KEYS], state[HOSTS], state[MAP_ROOM])[r]
    values = ints_at(state[A_MAP_VALUES], state[HOSTS], state[MAP_ROOM])[r]
    fields = block_fields(state, r)
    hits, idle = 0, 0
    for k in range((job[TARGET, j] - 1) // host[BLOCK_TOKENS]):
        position = find(keys, block_hash(state, host, j, k))
        if keys[position] == NOBODY:
            break
        hits += 1
        if fields[HOLDERS, values[position]] == 0:
            idle += 1
    return hits, idle


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
    fields, blocks = block_fields(state, r), table(state, r, j)
    for k in range(hits):
        b = values[find(keys, block_hash(state, host, j, k))]
        if fields[HOLDERS, b] == 0:
            unlink(host, fields, b)
        fields[HOLDERS, b] += 1
        blocks[k] = b
    job[HELD_BLOCKS, j] = hits
    job[REGISTERED, j] = hits


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
    job[REGISTERED, j] = max(job[REGISTERED, j], full)


@compiler.inner
def extend_table(state, r, j, wanted, tokens):
    """Give a job blocks up to `wanted`, the least recently freed first, and name those that `tokens` tokens fill."""
    job, host = job_ints(state), host_ints(state)[r]
    fields, blocks = block_fields(state, r), table(state, r, j)
    keys = ints_at(state[A_MAP_KEYS], state[HOSTS], state[MAP_ROOM])[r]
    values = ints_at(state[A_MAP_VALUES], state[HOSTS], state[MAP_ROOM])[r]
    for k in range(job[HELD_BLOCKS, j], wanted):
        b = host[FREE_HEAD]
        unlink(host, fields, b)
        if fields[HASH, b] != NOBODY:
            forget(keys, values, fields[HASH, b])
            fields[HASH, b] = NOBODY
        fields[HOLDERS, b] = 1
        blocks[k] = b
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
    fields, blocks = block_fields(state, r), table(state, r, j)
    decoding = job[STATE, j] == DECODING
    register(state, r, j, job[BASE, j] + host[STEP] - job[JOINED, j] if decoding else job[COMPUTED, j])
    for k in range(job[HELD_BLOCKS, j] - 1, -1, -1):
        b = blocks[k]
        fields[HOLDERS, b] -= 1
        if fields[HOLDERS, b] == 0:
            tail = host[FREE_TAIL]
            fields[PREVIOUS, b], fields[NEXT, b] = tail, NOBODY
            if tail == NOBODY:
                host[FREE_HEAD] = b
            else:
                fields[NEXT, tail] = b
            host[FREE_TAIL] = b
            host[FREE] += 1
    slots = ints_at(state[A_SLOTS], state[HOSTS], state[SLOT_ROOM])[r]
    slots[host[SLOTS_FREE]] = job[SLOT, j]
    host[SLOTS_FREE] += 1


# Entries: these functions are compiled only for fleets that cache prefixes.
_SIGNATURE = "int64(int64, int64, int64, int64, int64)"


@compiler.entry(_SIGNATURE)
def cached_entry(address, r, j, _, __):
    hits, idle = cached_blocks(whole_state(address), r, j)
    return (hits << 32) | idle


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
