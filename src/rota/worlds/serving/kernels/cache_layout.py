"""Where the parts of the caches lie that few runs have: eviction by rules, lower tiers, pins, and what the router believes.

One int64 vector of its own, whose address is in the state: addresses of arrays, then lengths.
"""

import numpy as np
from numba import carray

from rota.kernel.compile import floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import A_CACHE, BLOCK_ROOM, HOSTS

(
    C_HEAP, C_HEAP_KEYS, C_FACTS, C_PINS, C_TIER_KEYS, C_TIER_VALUES, C_TIER_ENTRIES, C_TIER_LINES, C_TIER_FLOATS,
    C_INDEX_KEYS, C_INDEX_VALUES, C_INDEX_ENTRIES, C_INDEX_LINES, C_EVENT_TIMES, C_EVENTS, C_EVENT_LINES, C_DELAY, CACHE_ARRAYS,
) = range(18)  # fmt: skip
(
    TIER_COUNT, TIER_ROOM, TIER_MAP_ROOM, PIN_ROOM, INDEX_ROOM, INDEX_MAP_ROOM, EVENT_ROOM_OF_HOST, CACHE_SCALARS,
) = range(CACHE_ARRAYS, CACHE_ARRAYS + 8)  # fmt: skip

# Facts of a block, for eviction by rules. PLACE: its position in the heap of those that nobody holds.
USES, BORN, DEPTH, FREED, PLACE_IN_HEAP, FACTS = range(6)

# A line of names, the one that was used longest ago first; see lru.py.
NAME, BEFORE, AFTER, ENTRY_FIELDS = range(4)
LIMIT, COUNT, OLDEST, NEWEST, VACANT, HITS, LINE_INTS = range(7)

# A tier: seconds to load a block, seconds before the first byte, when its channel is free.
TIER_SECONDS, TIER_LATENCY, TIER_FREE_AT, TIER_FLOATS = range(4)

# A ring of events on their way to the router.
RING_FIRST, RING_COUNT, RING_INTS = range(3)


@compiler.inner
def cache_state(state):
    return carray(pointer(state[A_CACHE]), (CACHE_SCALARS,), np.int64)


@compiler.inner
def block_facts(state, r):
    """The facts of a host's blocks, and the heap of those that nobody holds, with its keys by block."""
    cache, room = cache_state(state), state[BLOCK_ROOM]
    facts = ints_at(cache[C_FACTS], state[HOSTS] * FACTS, room)[r * FACTS : (r + 1) * FACTS]
    heap = ints_at(cache[C_HEAP], state[HOSTS], room)[r]
    return facts, heap, floats_at(cache[C_HEAP_KEYS], state[HOSTS], room)[r]


@compiler.inner
def tier_parts(state, r, t):
    """The names in a host's tier: map, its values, entries, and the line."""
    cache = cache_state(state)
    row, rows = r * cache[TIER_COUNT] + t, state[HOSTS] * cache[TIER_COUNT]
    return (
        ints_at(cache[C_TIER_KEYS], rows, cache[TIER_MAP_ROOM])[row],
        ints_at(cache[C_TIER_VALUES], rows, cache[TIER_MAP_ROOM])[row],
        ints_at(cache[C_TIER_ENTRIES], rows * ENTRY_FIELDS, cache[TIER_ROOM])[
            row * ENTRY_FIELDS : (row + 1) * ENTRY_FIELDS
        ],
        ints_at(cache[C_TIER_LINES], rows, LINE_INTS)[row],
    )


@compiler.inner
def tier_floats(state, r, t):
    cache = cache_state(state)
    return floats_at(cache[C_TIER_FLOATS], state[HOSTS] * cache[TIER_COUNT], TIER_FLOATS)[r * cache[TIER_COUNT] + t]


@compiler.inner
def index_parts(state, r):
    """The names that the router believes to be at a host."""
    cache, hosts = cache_state(state), state[HOSTS]
    return (
        ints_at(cache[C_INDEX_KEYS], hosts, cache[INDEX_MAP_ROOM])[r],
        ints_at(cache[C_INDEX_VALUES], hosts, cache[INDEX_MAP_ROOM])[r],
        ints_at(cache[C_INDEX_ENTRIES], hosts * ENTRY_FIELDS, cache[INDEX_ROOM])[
            r * ENTRY_FIELDS : (r + 1) * ENTRY_FIELDS
        ],
        ints_at(cache[C_INDEX_LINES], hosts, LINE_INTS)[r],
    )
