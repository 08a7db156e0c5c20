"""Which cached block goes first, where that is not the least recently used one.

Blocks that hold something and that nobody holds are kept in a heap: the smallest key goes first, then the one freed longest ago. Rules:
`fifo`, who came in first (all blocks of one admission are equally old); `lfu`, who was found by the fewest requests; `two_class`, who was
never found before who was (a scan that is read once does not push out what is shared); `recompute`, least value by greedy-dual size frequency
(Cherkasova, Improving WWW proxies performance with greedy-dual-size-frequency caching policy, HP Labs 1998): uses times the seconds to compute
the block again at its depth in the prompt, plus an age that rises to the value of what was evicted last.
"""

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.cache_layout import BORN, DEPTH, FREED, PLACE_IN_HEAP, USES, block_facts
from rota.worlds.serving.kernels.layout import (
    AGE,
    BLOCK_COST,
    BLOCK_COST_SLOPE,
    CACHE_CLOCK,
    EVICTION,
    RESTING,
    host_floats,
    host_ints,
)

LRU, FIFO, LFU, TWO_CLASS, RECOMPUTE = range(5)


@compiler.inner
def value(state, r, facts, b):
    """The key of a block: the smallest goes first."""
    rule, clock = host_ints(state)[r, EVICTION], host_floats(state)[r]
    if rule == FIFO:
        return float(facts[BORN, b])
    if rule == LFU:
        return float(facts[USES, b])
    if rule == TWO_CLASS:
        return float(min(facts[USES, b], 1))
    cost = clock[BLOCK_COST] + clock[BLOCK_COST_SLOPE] * facts[DEPTH, b]
    return clock[AGE] + (facts[USES, b] + 1) * cost


@compiler.inner
def goes_first(facts, keys, a, b):
    return keys[a] < keys[b] or (keys[a] == keys[b] and facts[FREED, a] < facts[FREED, b])


@compiler.inner
def rise(facts, heap, keys, child):
    b = heap[child]
    while child > 0:
        parent = (child - 1) >> 1
        if not goes_first(facts, keys, b, heap[parent]):
            break
        heap[child] = heap[parent]
        facts[PLACE_IN_HEAP, heap[child]] = child
        child = parent
    heap[child] = b
    facts[PLACE_IN_HEAP, b] = child


@compiler.inner
def fall(facts, heap, keys, count, parent):
    b = heap[parent]
    while True:
        child = 2 * parent + 1
        if child >= count:
            break
        if child + 1 < count and goes_first(facts, keys, heap[child + 1], heap[child]):
            child += 1
        if not goes_first(facts, keys, heap[child], b):
            break
        heap[parent] = heap[child]
        facts[PLACE_IN_HEAP, heap[parent]] = parent
        parent = child
    heap[parent] = b
    facts[PLACE_IN_HEAP, b] = parent


@compiler.inner
def rest(state, r, b):
    """A block with a name is held by nobody any more."""
    host = host_ints(state)[r]
    facts, heap, keys = block_facts(state, r)
    host[CACHE_CLOCK] += 1
    facts[FREED, b] = host[CACHE_CLOCK]
    keys[b] = value(state, r, facts, b)
    heap[host[RESTING]] = b
    host[RESTING] += 1
    rise(facts, heap, keys, host[RESTING] - 1)


@compiler.inner
def wake(state, r, b):
    """A block that rested is held again, or taken for something else."""
    host = host_ints(state)[r]
    facts, heap, keys = block_facts(state, r)
    position = facts[PLACE_IN_HEAP, b]
    host[RESTING] -= 1
    moved = heap[host[RESTING]]
    if moved != b:
        heap[position] = moved
        facts[PLACE_IN_HEAP, moved] = position
        fall(facts, heap, keys, host[RESTING], position)
        rise(facts, heap, keys, facts[PLACE_IN_HEAP, moved])


@compiler.inner
def least(state, r):
    """The block to go first. What is evicted by value makes all that stays older."""
    _, heap, keys = block_facts(state, r)
    if host_ints(state)[r, EVICTION] == RECOMPUTE:
        host_floats(state)[r, AGE] = keys[heap[0]]
    return heap[0]


@compiler.inner
def born(state, r, b, admission, depth):
    """A block has got a name, at a depth of so many blocks."""
    facts, _, _ = block_facts(state, r)
    facts[USES, b], facts[BORN, b], facts[DEPTH, b] = 0, admission, depth


@compiler.inner
def used(state, r, b):
    """Another request has found a block."""
    facts, _, _ = block_facts(state, r)
    facts[USES, b] += 1
