"""Tiers below the cache: the host's memory, a disk. A block that leaves the cache goes down; a hit below is copied up again.

A tier keeps its copy when it is read, so what comes and goes is written once. Of each tier what was used longest ago goes down to
the next. Each tier has one channel: a load waits for the one before it. Writing takes no time.
"""

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.belief import tell
from rota.worlds.serving.kernels.cache_layout import (
    HITS,
    TIER_FREE_AT,
    TIER_LATENCY,
    TIER_SECONDS,
    tier_floats,
    tier_parts,
)
from rota.worlds.serving.kernels.layout import BLOCK_TOKENS, TIERS, host_ints
from rota.worlds.serving.kernels.lru import holds, put
from rota.worlds.serving.kernels.names import NOBODY
from rota.worlds.serving.kernels.pages import block_named, pages_of


@compiler.inner
def tier_of(state, r, name):
    """The first tier that has a block, -1: none."""
    for t in range(host_ints(state)[r, TIERS]):
        keys, _, _, _ = tier_parts(state, r, t)
        if holds(keys, name):
            return t
    return -1


@compiler.inner
def sink(state, r, name):
    """A block has left the cache: it goes to the first tier, and what leaves that one to the next. What leaves the last is gone."""
    for t in range(host_ints(state)[r, TIERS]):
        keys, values, entries, line = tier_parts(state, r, t)
        name = put(keys, values, entries, line, name)
        if name == NOBODY:
            return
    where, _, rows = pages_of(state, r)
    if block_named(where, rows, name) == NOBODY and tier_of(state, r, name) < 0:
        tell(state, r, name, 0)


@compiler.inner
def load(state, r, t, name, now):
    """A block is read from a tier. Returns when it is in the cache, seconds."""
    keys, values, entries, line = tier_parts(state, r, t)
    put(keys, values, entries, line, name)
    line[HITS] += host_ints(state)[r, BLOCK_TOKENS]
    tier = tier_floats(state, r, t)
    tier[TIER_FREE_AT] = max(tier[TIER_FREE_AT], now) + tier[TIER_SECONDS]
    return tier[TIER_FREE_AT] + tier[TIER_LATENCY]
