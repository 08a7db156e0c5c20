"""The tree of all prompts' beginnings, and which beginnings are worth being shared when each prompt may share one.

A node of the tree is a beginning of a depth, in blocks. When the nodes C are chosen, each prompt shares the deepest of them on its way, and each is
computed once: the tokens saved are the depths of the nodes that prompts share, less the depth of every chosen node. BatchLLM (arXiv
2412.03594) asks the same: whether the prompts of a branch share more by themselves, and compute again what is before it.
"""

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.model import FloatColumn, IntColumn, PrefixBlocks

NONE = -1


def prefix_groups(prefix: PrefixBlocks) -> tuple[IntColumn, FloatColumn]:
    """The group of each request and the tokens that its group shares. A request that shares nothing is a group of its own."""
    rows, ids, offsets = len(prefix.offsets) - 1, prefix.ids, prefix.offsets
    lengths = np.diff(offsets)
    chosen = _chosen(ids, lengths, offsets)
    row = np.repeat(np.arange(rows), lengths)
    found = np.flatnonzero(chosen[ids]) if len(ids) else np.zeros(0, np.int64)
    group, tokens = len(chosen) + np.arange(rows), np.zeros(rows)
    for position, request in zip(found.tolist(), row[found].tolist(), strict=True):  # the deepest is the last
        group[request] = ids[position]
        tokens[request] = (position - offsets[request] + 1) * prefix.block_tokens
    return group, tokens


def _chosen(ids: IntColumn, lengths: IntColumn, offsets: IntColumn) -> npt.NDArray[np.bool_]:
    """The nodes that save the most together, exactly.

    Bottom up, for each node and each node above it that might be the deepest chosen one there (or none): what is saved below, with
    this node chosen or not.
    """
    count = int(ids.max(initial=-1)) + 1
    chosen = np.zeros(count, np.bool_)
    size, depth, above = _forks(ids, lengths, offsets, count)
    nodes = np.flatnonzero((size >= 2) & (above != count))
    nodes = nodes[np.argsort(depth[nodes], kind="stable")]
    depths: dict[int, npt.NDArray[np.float64]] = {}  # of none and of the nodes above, from the root on
    below: dict[int, npt.NDArray[np.float64]] = {}
    takes: dict[int, npt.NDArray[np.bool_]] = {}
    for v in nodes.tolist():
        up = int(above[v])
        depths[v] = np.zeros(1) if up == NONE else np.append(depths[up], depth[up])
        below[v] = np.zeros(len(depths[v]) + 1)
    for v in reversed(nodes.tolist()):
        with_it = size[v] * (depth[v] - depths[v]) - depth[v] + below[v][-1]
        takes[v] = with_it > below[v][:-1]
        if above[v] != NONE:
            below[int(above[v])] += np.maximum(with_it, below[v][:-1])
    option: dict[int, int] = {}  # which of the nodes above is the deepest chosen one
    for v in nodes.tolist():
        up = int(above[v])
        option[v] = 0 if up == NONE else len(depths[up]) if chosen[up] else option[up]
        chosen[v] = takes[v][option[v]]
    return chosen


def _forks(
    ids: IntColumn, lengths: IntColumn, offsets: IntColumn, count: int
) -> tuple[IntColumn, IntColumn, IntColumn]:
    """Of each node: prompts below, depth, and the next node above where prompts part or end (-1: none). `count` where itself is no such node."""
    depth, parent = np.zeros(count, np.int64), np.full(count, NONE)
    depth[ids] = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths) + 1
    parent[ids] = np.where(depth[ids] == 1, NONE, np.concatenate([[NONE], ids[:-1]])[: len(ids)])
    size = np.bincount(ids, minlength=count)
    inner = parent != NONE
    passes = np.zeros(count, np.bool_)  # all its prompts go on the same way
    passes[parent[inner]] |= size[inner] == size[parent[inner]]
    above = np.full(count, NONE)
    order = np.argsort(depth, kind="stable")
    levels = np.split(order, np.flatnonzero(np.diff(depth[order])) + 1) if count else []
    for level in levels:
        deep = level[parent[level] != NONE]
        up = parent[deep]
        above[deep] = np.where(passes[up], above[up], up)
    return size, depth, np.where(passes, count, above)
