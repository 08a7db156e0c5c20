"""A doubly linked line of numbers: the neighbours of each in two columns, both ends in two slots of a row."""

from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.names import NOBODY


@compiler.inlined
def unhook(before, after, row, first, last, e):
    """Take a number out of the line."""
    a, b = before[e], after[e]
    if a == NOBODY:
        row[first] = b
    else:
        after[a] = b
    if b == NOBODY:
        row[last] = a
    else:
        before[b] = a


@compiler.inlined
def hook(before, after, row, first, last, e):
    """Put a number at the end of the line."""
    a = row[last]
    before[e], after[e] = a, NOBODY
    if a == NOBODY:
        row[first] = e
    else:
        after[a] = e
    row[last] = e
