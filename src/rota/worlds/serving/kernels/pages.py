"""Which block of a cache holds what name: a map in two steps, as page tables have them.

A name's upper bits say which page it is on, its lower bits where on it; a page is there only while a name on it is. Names that follow one
another lie side by side, so looking up a prompt reads memory in a row. There are never more pages than blocks, whatever the names.
"""

import numpy as np

from rota.kernel.compile import small_ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import A_MAP_BLOCKS, A_MAP_PAGES, BLOCK_ROOM, HOSTS, MAP_ROOM

PAGE_BITS = 6
PAGE = 1 << PAGE_BITS  # names


@compiler.inner
def pages_of(state, r):
    """The map of a host: for each page of names where it is, 0: nowhere; the names on each of those, number 0: the next vacant one; their blocks."""
    room, most = state[MAP_ROOM], state[BLOCK_ROOM] + 1
    both = small_ints_at(state[A_MAP_PAGES], state[HOSTS], room)[r]
    rows = small_ints_at(state[A_MAP_BLOCKS] + 4 * PAGE * most * r, most, PAGE)
    return both[: room - most], both[room - most :], rows


@compiler.inlined
def block_named(where, rows, name):
    """The block that has a name, NOBODY: none. Page 0 is empty for ever."""
    return np.int64(rows[where[name >> PAGE_BITS], name & (PAGE - 1)]) - 1


@compiler.inlined
def give_name(where, counts, rows, name, b):
    """A block gets a name that none has."""
    page = where[name >> PAGE_BITS]
    if page == 0:
        page = counts[0]
        counts[0] = counts[page]  # of a vacant page: the next vacant one
        counts[page] = 0
        where[name >> PAGE_BITS] = page
    counts[page] += 1
    rows[page, name & (PAGE - 1)] = b + 1


@compiler.inlined
def take_name(where, counts, rows, name):
    """The block that has a name loses it."""
    page = where[name >> PAGE_BITS]
    rows[page, name & (PAGE - 1)] = 0
    counts[page] -= 1
    if counts[page] == 0:
        where[name >> PAGE_BITS] = 0
        counts[page] = counts[0]
        counts[0] = page
