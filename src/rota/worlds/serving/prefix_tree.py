"""The tree of all prompts' beginnings, and which beginnings are worth being shared when each prompt may share one."""

import numpy as np

from rota.worlds.serving.model import FloatColumn, IntColumn, PrefixBlocks

NONE = -1


def prefix_groups(prefix: PrefixBlocks) -> tuple[IntColumn, FloatColumn]:
    """The group of each request and the tokens that its group shares. A request that shares nothing is a group of its own.

    Beginnings are chosen so that the most tokens are computed once instead of in every request, one beginning a request: in the tree a node saves
    (requests below - 1) x its depth, or what its children save together, whichever is more (BatchLLM, arXiv 2412.03594).
    """
    rows, ids, offsets = len(prefix.offsets) - 1, prefix.ids, prefix.offsets
    lengths = np.diff(offsets)
    chosen = _chosen(ids, lengths, offsets)
    row = np.repeat(np.arange(rows), lengths)
    found = np.flatnonzero(chosen[ids]) if len(ids) else np.zeros(0, np.int64)
    group = len(chosen) + np.arange(rows)
    group[row[found]] = ids[found]
    tokens = np.zeros(rows)
    tokens[row[found]] = (found - offsets[row[found]] + 1) * prefix.block_tokens
    return group, tokens


def _chosen(ids: IntColumn, lengths: IntColumn, offsets: IntColumn) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which nodes of the tree are shared; on each way down at most one is."""
    count = int(ids.max(initial=-1)) + 1
    depth, parent = np.zeros(count, np.int64), np.full(count, NONE)
    depth[ids] = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths) + 1
    before = np.concatenate([[NONE], ids[:-1]])[: len(ids)]
    parent[ids] = np.where(depth[ids] == 1, NONE, before)
    alone = (np.bincount(ids, minlength=count) - 1) * depth  # tokens saved, in blocks
    below, best = np.zeros(count, np.int64), np.zeros(count, np.int64)
    order = np.argsort(depth, kind="stable")
    levels = np.split(order, np.flatnonzero(np.diff(depth[order])) + 1) if count else []
    for level in reversed(levels):
        best[level] = np.maximum(alone[level], below[level])
        inner = level[parent[level] != NONE]
        np.add.at(below, parent[inner], best[inner])
    chosen, covered = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for level in levels:
        above = np.where(parent[level] != NONE, covered[parent[level]], False)
        chosen[level] = ~above & (alone[level] >= below[level]) & (alone[level] > 0)
        covered[level] = above | chosen[level]
    return chosen
