"""Vidur's execution time predictor, from its stored predictions or from its raw profiles.

Agrawal et al., Vidur: a large-scale simulation framework for LLM inference, MLSys 2024. The rules are those of
``vidur/execution_time_predictor/sklearn_execution_time_predictor.py`` and ``vidur/entities/execution_time.py``,
additions in their order:

    attention = pre_proj + post_proj + rope + kv_save + decode + prefill + all_reduce + norm
    block     = attention + (up + down + act + all_reduce + norm) + add
    seconds   = layers * block * 1e-3

- operations are looked up at the token count rounded up to a multiple of 8, kv_save at the exact count;
- decode attention at (decodes, mean KV rounded up to 64), where a decoding request's KV counts the token that is
  being processed;
- prefill attention at (sum of KV rounded up to 64, round(sqrt(sum of chunk^2)));
- both attentions cost 10 % more when more than one such request is in the batch and the model shares KV heads (GQA);
- with tp > 1, 0.02 ms of NCCL launch are added to each all-reduce;
- embedding, LM head, sampling and CPU overhead are not timed (Vidur's default skips the last).

Only the sum of the prefills' KV is known here, so the sum is rounded where Vidur rounds each: equal unless two
prefills of a batch continue. Where Vidur ends in a KeyError (more tokens, decodes or KV than were tabulated) the
table is continued linearly and the evaluation counted.

Raw profiles (``*_mlp``, ``*_attention``, ``net_*_all_reduce``) are brought onto the same grid, where Vidur trains random
forests; see `vidur_profiles`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import Gpu, Model
from rota.worlds.serving.timing.features import (
    DECODE_CONTEXT,
    DECODES,
    FEATURES,
    PREFILL_CONTEXT,
    PREFILL_REQUESTS,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
)
from rota.worlds.serving.timing.files import find, need, read
from rota.worlds.serving.timing.model import COUNTER, Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

Array = npt.NDArray[np.float64]

TOKENS_STEP = 8
KV_STEP = 64
NCCL_LAUNCH = 0.02  # ms, Vidur's nccl_cpu_launch_overhead_ms
BATCHING_OVERHEAD = 0.1  # Vidur's attention_{prefill,decode}_batching_overhead_fraction

# Head of `parameters`
_LAYERS, _TOKENS, _BATCH, _DECODE_KV, _PREFILL_KV, _CHUNK, _OVERHEAD, _REDUCE = range(1, 9)
_HEAD = 9
_SAVE_FIRST = ("attn_pre_proj", "attn_post_proj", "attn_rope")
_MLP = ("mlp_up_proj", "mlp_down_proj", "mlp_act")
_OPERATIONS = (*_SAVE_FIRST, *_MLP, "attn_kv_cache_save", "input_layernorm", "post_attention_layernorm", "add")


@compiler.inner
def _cell(table: Any, start: int, columns: int, row: int, column: int, rows: int) -> Any:
    """A cell of a flat (rows, columns) table; beyond the edges on along the line from the middle of the axis."""
    r = min(row, rows - 1)
    c = min(column, columns - 1)
    value = table[start + r * columns + c]
    if row > r:
        half = rows // 2
        value += (row - r) * (value - table[start + half * columns + c]) / (r - half)
    if column > c:
        half = columns // 2
        value += (column - c) * (value - table[start + r * columns + half]) / (c - half)
    return value


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration. Layout of `parameters`: see `_pack`."""
    head = float_array(parameters, _HEAD)
    seen = float_array(features, FEATURES)
    layers, max_tokens = head[_LAYERS], int(head[_TOKENS])
    max_batch, decode_columns = int(head[_BATCH]), int(head[_DECODE_KV])
    prefill_rows, max_chunk = int(head[_PREFILL_KV]), int(head[_CHUNK])
    rows = max_tokens // TOKENS_STEP + 1
    table = float_array(
        parameters, _HEAD + 5 * rows + max_tokens + 1 + max_batch * decode_columns + prefill_rows * max_chunk
    )
    decodes, prefills = int(seen[DECODES]), int(seen[PREFILL_REQUESTS])
    tokens = int(seen[PREFILL_TOKENS]) + decodes
    if tokens == 0:
        return 0.0
    outside = tokens > max_tokens
    row = (tokens + TOKENS_STEP - 1) // TOKENS_STEP
    start = _HEAD
    projections = _cell(table, start, 1, row, 0, rows)
    norm = _cell(table, start + rows, 1, row, 0, rows)
    mlp = _cell(table, start + 2 * rows, 1, row, 0, rows)
    mlp_norm = _cell(table, start + 3 * rows, 1, row, 0, rows)
    add = _cell(table, start + 4 * rows, 1, row, 0, rows)
    start += 5 * rows
    save = _cell(table, start, 1, tokens, 0, max_tokens + 1)
    start += max_tokens + 1
    decode = 0.0
    if decodes > 0:
        mean = int((seen[DECODE_CONTEXT] + decodes) / decodes)  # + 1 each: Vidur counts the token in flight
        column = (mean + KV_STEP - 1) // KV_STEP
        decode = _cell(table, start, decode_columns, decodes - 1, column, max_batch)
        decode *= 1.0 + head[_OVERHEAD] * (1.0 if decodes > 1 else 0.0)
        outside = outside or decodes > max_batch or column >= decode_columns
    start += max_batch * decode_columns
    prefill = 0.0
    if prefills > 0:
        kv = (int(seen[PREFILL_CONTEXT]) + KV_STEP - 1) // KV_STEP
        chunk = int(np.floor(np.sqrt(seen[PREFILL_SQUARES]) + 0.5))
        prefill = _cell(table, start, max_chunk, kv, chunk - 1, prefill_rows)
        prefill *= 1.0 + head[_OVERHEAD] * (1.0 if prefills > 1 else 0.0)
        outside = outside or kv >= prefill_rows or chunk > max_chunk
    if outside:
        head[COUNTER] += 1.0
    reduce = 0.0
    if head[_REDUCE] > 0.0:
        reduce = _cell(table, start + prefill_rows * max_chunk, 1, row, 0, rows) + NCCL_LAUNCH
    attention = projections + save + decode + prefill + reduce + norm
    block = attention + (mlp + reduce + mlp_norm) + add
    return float(block * layers * 1e-3)


def build(path: Path, model: Model, gpu: Gpu, tp: int, options: dict[str, Any]) -> Timing:
    """Stored predictions when ``PREFIX_per_token_ops`` exists, else raw profiles.

    Args:
        path: prefix of the files (or a folder with one profile of each kind).
        options: for raw profiles, ``attention`` and ``all_reduce`` name files that do not share the prefix.
    """
    stored = find(path, "_per_token_ops")
    if stored is not None:
        tables = _stored(path, stored, tp)
    else:
        from rota.worlds.serving.timing.vidur_profiles import interpolate

        tables = interpolate(path, model, tp, options)
    overhead = BATCHING_OVERHEAD if model.heads > model.kv_heads else 0.0
    parameters = _pack(model.layers, overhead, *tables)
    return Timing("vidur", __name__, parameters, source=f"Vidur predictor tables {path.name}")


def _pack(layers: int, overhead: float, operations: dict[str, Array], decode: Array, prefill: Array) -> Array:
    """Lay out the tables: five by tokens/8, kv_save by tokens, decode (batch, kv/64), prefill (kv/64, chunk),
    all_reduce by tokens/8.

    Args:
        operations: ms by token count 0..max for each operation, ``all_reduce`` when tp > 1.
    """
    coarse = slice(None, None, TOKENS_STEP)
    pre, post, rope = (operations[name][coarse] for name in _SAVE_FIRST)
    up, down, act = (operations[name][coarse] for name in _MLP)
    by_row = [
        pre + post + rope,
        operations["input_layernorm"][coarse],
        up + down + act,
        operations["post_attention_layernorm"][coarse],
        operations["add"][coarse],
    ]
    reduce = operations.get("all_reduce")
    tokens = len(operations["add"]) - 1
    head = np.zeros(_HEAD)
    head[1:] = [layers, tokens, *decode.shape, *prefill.shape, overhead, float(reduce is not None)]
    # The order in memory follows the head; all_reduce is last, because it is absent with one GPU.
    parts = [head, *by_row, operations["attn_kv_cache_save"], decode.ravel(), prefill.ravel()]
    return np.concatenate(parts if reduce is None else [*parts, reduce[coarse]])


def _stored(path: Path, file: Path, tp: int) -> tuple[dict[str, Array], Array, Array]:
    """The three files of stored predictions, as dense tables."""
    needed = ("num_tokens", *_OPERATIONS, *(("all_reduce",) if tp > 1 else ()))
    columns = read(file, needed)
    tokens = columns.pop("num_tokens").astype(np.int64)
    last = len(tokens)
    if last < 2 * TOKENS_STEP or not np.array_equal(np.sort(tokens), np.arange(1, last + 1)) or last % TOKENS_STEP:
        raise InputError(
            f"{file}: num_tokens must run over 1, 2, 3 ... to a multiple of {TOKENS_STEP}, found {last} rows"
        )
    order = np.argsort(tokens)
    operations = {name: np.concatenate([[0.0], values[order]]) for name, values in columns.items()}
    return operations, _decode_table(need(path, "_attn_decode")), _prefill_table(need(path, "_attn_prefill"), last)


def _decode_table(file: Path) -> Array:
    columns = read(file, ("batch_size", "kv_cache_size", "prediction"))
    batch, kv = columns["batch_size"].astype(np.int64), columns["kv_cache_size"].astype(np.int64) // KV_STEP
    table = np.full((batch.max(), kv.max() + 1), np.nan)
    table[batch - 1, kv] = columns["prediction"]
    return _full(file, table, "batch_size 1..n and kv_cache_size 0, 64, 128 ...")


def _prefill_table(file: Path, chunks: int) -> Array:
    """Run-length rows: a value holds from chunk_from up to the next row of the same kv_cache_size."""
    columns = read(file, ("kv_cache_size", "chunk_from", "prediction"))
    kv, first = columns["kv_cache_size"].astype(np.int64) // KV_STEP, columns["chunk_from"].astype(np.int64)
    table = np.full((kv.max() + 1, chunks), np.nan)
    for row in np.lexsort((first, kv)):
        table[kv[row], first[row] - 1 :] = columns["prediction"][row]
    return _full(file, table, "kv_cache_size 0, 64, 128 ... with chunk_from starting at 1")


def _full(file: Path, table: Array, expected: str) -> Array:
    if np.isnan(table).any() or min(table.shape) < 2:
        raise InputError(f"{file}: the grid has holes; expected {expected}")
    return table
