"""A set of names with a limit: whoever was used longest ago leaves first. A map, and a doubly linked line of entries."""

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.cache_layout import AFTER, BEFORE, COUNT, LIMIT, NAME, NEWEST, OLDEST, VACANT
from rota.worlds.serving.kernels.hashing import find, forget
from rota.worlds.serving.kernels.line import hook, unhook
from rota.worlds.serving.kernels.names import NOBODY


@compiler.inner
def holds(keys, name):
    return keys[find(keys, name)] != NOBODY


@compiler.inner
def drop(keys, values, entries, line, name):
    """A name leaves, if it is there."""
    position = find(keys, name)
    if keys[position] == NOBODY:
        return
    e = values[position]
    forget(keys, values, name)
    unhook(entries[BEFORE], entries[AFTER], line, OLDEST, NEWEST, e)
    entries[AFTER, e] = line[VACANT]
    line[VACANT] = e
    line[COUNT] -= 1


@compiler.inner
def put(keys, values, entries, line, name):
    """A name is used: it goes to the end of the line. Returns the name that had to leave for it, or NOBODY."""
    position = find(keys, name)
    if keys[position] != NOBODY:
        unhook(entries[BEFORE], entries[AFTER], line, OLDEST, NEWEST, values[position])
        hook(entries[BEFORE], entries[AFTER], line, OLDEST, NEWEST, values[position])
        return NOBODY
    left = NOBODY
    if line[COUNT] == line[LIMIT]:
        left = entries[NAME, line[OLDEST]]
        drop(keys, values, entries, line, left)
        position = find(keys, name)
    e = line[VACANT]
    line[VACANT] = entries[AFTER, e]
    entries[NAME, e] = name
    keys[position], values[position] = name, e
    hook(entries[BEFORE], entries[AFTER], line, OLDEST, NEWEST, e)
    line[COUNT] += 1
    return left
