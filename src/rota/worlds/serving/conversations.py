"""Columns that only request traces have: conversations, and the prompts' blocks as prefixes of one another."""

import numpy as np
import polars as pl

from rota.kernel.reading.columns import complain, integers, labels
from rota.kernel.reading.tables import Table
from rota.worlds.serving.model import IntColumn, PrefixBlocks


def sessions(table: Table, column: str) -> IntColumn:
    """Whole numbers as they are, other names numbered in order of first appearance; nothing is -1, no session."""
    series = table.frame[column]
    if series.dtype == pl.String:
        series = series.str.strip_chars().replace("", None)
        whole = series.cast(pl.Int64, strict=False)
        if whole.null_count() != series.null_count():
            index, names = labels(table, column)
            return np.array([-1 if not name.strip() else number for number, name in enumerate(names)], dtype=np.int64)[
                index
            ]
    return integers(table, column, least=-1, most=2**53, empty=-1)


def prefix_blocks(
    table: Table, column: str, block_tokens: int, prompt_tokens: IntColumn, order: IntColumn
) -> PrefixBlocks:
    """Block ids of every request in the given order, renumbered from 0; CSV holds them separated by spaces.

    Raises:
        InputError: ids that are missing inside a list, more blocks than the prompt has, or an id after different
        blocks.
    """
    series = table.frame[column]
    if series.dtype == pl.String:
        series = series.str.extract_all(r"\S+")
    elif series.dtype == pl.Null:
        series = series.cast(pl.List(pl.Int64))
    if not isinstance(series.dtype, pl.List) or isinstance(series.dtype.inner, pl.List):
        complain(table, np.ones(len(series), dtype=np.bool_), column, "must be a list of block ids")
    lengths = series.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    complain(
        table,
        series.list.eval(pl.element().is_null()).list.any().fill_null(False).to_numpy(),
        column,
        "must have no empty ids",
    )
    excess = lengths > -(-prompt_tokens // block_tokens)
    complain(table, excess, column, f"must not have more blocks of {block_tokens} tokens than the prompt")
    flat = series[order].filter(pl.Series(lengths[order] > 0)).explode()
    if flat.dtype == pl.String and not (whole := flat.cast(pl.Int64, strict=False)).null_count():
        flat = whole
    ids = (flat.rank("dense") - 1).cast(pl.Int64).to_numpy().copy()
    offsets = np.concatenate(([0], np.cumsum(lengths[order])))
    _check_chain(table, column, ids, offsets, order)
    return PrefixBlocks(offsets=offsets, ids=ids, block_tokens=block_tokens)


def _check_chain(table: Table, column: str, ids: IntColumn, offsets: IntColumn, order: IntColumn) -> None:
    """Equal id must mean equal blocks before it: each id has one predecessor (-1 at the start of a prompt)."""
    if not len(ids):
        return
    before = np.concatenate(([-1], ids[:-1]))
    before[offsets[:-1][np.diff(offsets) > 0]] = -1
    expected = np.empty(ids.max() + 1, dtype=np.int64)
    expected[ids[::-1]] = before[::-1]  # the first occurrence is written last
    wrong = np.flatnonzero(expected[ids] != before)
    if len(wrong):
        bad = np.zeros(len(order), dtype=np.bool_)
        bad[order[np.searchsorted(offsets, wrong[0], side="right") - 1]] = True
        complain(table, bad, column, "must use an id only after the same blocks (equal id means equal prefix)")
