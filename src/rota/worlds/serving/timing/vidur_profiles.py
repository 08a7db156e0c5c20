"""Raw Vidur profiles (``*_mlp``, ``*_attention``, ``net_*_all_reduce``), interpolated onto the grid of Vidur's
predictor tables.

Medians in milliseconds a layer on one GPU of the tensor-parallel group. Vidur trains random forests on them. What depends on one number,
the operations and the all-reduce, is what such a forest tends to with many trees (`forest`); the forest of attention over two numbers has no such
form, and lines between the measured points are used: over (batch, KV) for decodes and over a triangulation of (KV, chunk) for prefills. Prefills
outside the measured triangle take the nearest measurement, scaled by the query-key pairs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import Model
from rota.worlds.serving.timing.files import Columns, axis, need, read

Array = npt.NDArray[np.float64]

KV_STEP = 64
MAX_KV = 4096
_NEIGHBOURS = 32  # beyond them a point is the nearest one drawn with probability 1e-14
_MLP = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)


def interpolate(path: Path, model: Model, tp: int, options: dict[str, Any]) -> tuple[dict[str, Array], Array, Array]:
    """Tables in ms: operations by token count, decode attention (batch, KV / 64), prefill attention (KV / 64, chunk).

    Raises:
        InputError: a file is missing or ambiguous, or holds no rows of this model and tp.
    """
    mlp_file = _one(path, "_mlp", None)
    prefix = mlp_file.parent / mlp_file.name.split("_mlp")[0]
    attention_file = _one(prefix, "*attention*", options.get("attention"))
    operations = _operations(mlp_file, model, tp)
    tokens = len(operations["add"]) - 1
    attention = _attention_rows(attention_file, model, tp)
    save = attention.get("time_stats.attn_kv_cache_save.median")
    operations["attn_kv_cache_save"] = _save(attention, save, tokens)
    if tp > 1:
        device = prefix.name.split("_")[0]
        file = _one(prefix.parent / f"net_{device}", "*_all_reduce*", options.get("all_reduce"))
        operations["all_reduce"] = _all_reduce(file, model, tp, tokens)
    return operations, _decode(attention_file, attention), _prefill(attention_file, attention, tokens)


def _one(prefix: Path, suffix: str, given: str | None) -> Path:
    """The one file that fits, or the one that the scenario names (beside the prefix)."""
    if given is not None:
        return need(prefix.parent / given)
    pattern = f"*{suffix}.csv*" if prefix.is_dir() else f"{prefix.name}{suffix}.csv*"
    folder = prefix if prefix.is_dir() else prefix.parent
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    key = "attention" if "attention" in suffix else "all_reduce" if "all_reduce" in suffix else "tables"
    names = ", ".join(each.name for each in found) or "none"
    raise InputError(
        f"timing.{key}: need exactly one file {folder / pattern}, found {names}; name it with timing.{key}"
    )


def _mine(file: Path, columns: Columns, wanted: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    keep = np.ones(len(next(iter(columns.values()))), dtype=bool)
    for name, value in wanted.items():
        here = keep & (columns[name] == value)
        if not here.any():
            known = ", ".join(f"{each:g}" for each in axis(columns[name][keep]))
            raise InputError(f"{file}: no rows with {name} {value:g} (there are: {known})")
        keep = here
    return keep


def _curve(x: Array, y: Array, at: Array) -> Array:
    """Medians of equal points, lines between them, held outside."""
    points = axis(x)
    return np.asarray(np.interp(at, points, [np.median(y[x == point]) for point in points]))


def forest(x: Array, y: Array, at: Array) -> Array:
    """What a random forest over one number says, in the limit of many trees grown until their leaves are single points.

    Each tree is grown on n draws with replacement from the n points, splits halfway between neighbours, and so answers with the nearest
    point that it has drawn; where two are equally near, with the smaller one. None of m points is drawn with probability (1 - m/n)^n. So the
    forest is a mean over the points in order of distance, each weighted by the probability that it is drawn and no nearer one is.

    Args:
        x: Where was measured, y: what; shape (n,), equal x may repeat.
        at: Where to answer, shape (m,).

    Returns:
        Shape (m,), in the unit of `y`.
    """
    points, where, count = np.unique(x, return_inverse=True, return_counts=True)
    values = np.bincount(where, y) / count
    order = np.argsort(np.abs(points - at[:, None]), axis=1, kind="stable")[:, :_NEIGHBOURS]
    none_drawn = (1.0 - np.cumsum(count[order], axis=1) / len(x)) ** len(x)
    weights = -np.diff(none_drawn, axis=1, prepend=1.0)
    return np.asarray((weights * values[order]).sum(axis=1) / weights.sum(axis=1))


def _operations(file: Path, model: Model, tp: int) -> dict[str, Array]:
    wanted = {
        "n_head": model.heads,
        "n_kv_head": model.kv_heads,
        "n_embd": model.hidden,
        "n_expanded_embd": model.intermediate,
        "num_tensor_parallel_workers": tp,
    }
    times = [f"time_stats.{name}.median" for name in _MLP]
    columns = read(file, ("num_tokens", *wanted, *times))
    keep = _mine(file, columns, wanted)
    tokens = columns["num_tokens"][keep]
    last = int(tokens.max()) // 8 * 8
    at = np.arange(last + 1, dtype=np.float64)
    return {name: forest(tokens, columns[time][keep], at) for name, time in zip(_MLP, times, strict=True)}


def _attention_rows(file: Path, model: Model, tp: int) -> Columns:
    wanted = {
        "n_embd": model.hidden,
        "n_q_head": model.heads,
        "n_kv_head": model.kv_heads,
        "num_tensor_parallel_workers": tp,
    }
    times = ("time_stats.attn_prefill.median", "time_stats.attn_decode.median", "time_stats.attn_kv_cache_save.median")
    columns = read(file, ("batch_size", "prefill_chunk_size", "kv_cache_size", *wanted), optional=times)
    for name in times[:2]:
        if name not in columns:
            raise InputError(f"{file}: column '{name}' is missing")
    keep = _mine(file, columns, wanted)
    return {name: values[keep] for name, values in columns.items()}


def _save(attention: Columns, save: Array | None, tokens: int) -> Array:
    """Storing the keys and values, by tokens; Vidur counts 0 where it was not profiled."""
    at = np.arange(tokens + 1, dtype=np.float64)
    if save is None:
        return np.zeros(tokens + 1)
    return forest(np.maximum(attention["prefill_chunk_size"], attention["batch_size"]), np.nan_to_num(save), at)


def _all_reduce(file: Path, model: Model, tp: int, tokens: int) -> Array:
    columns = read(file, ("size", "num_workers", "devices_per_node", "time_stats.all_reduce.median"))
    keep = _mine(file, columns, {"num_workers": tp, "devices_per_node": tp})
    at = np.arange(tokens + 1, dtype=np.float64)
    return forest(columns["size"][keep] / model.hidden / 2, columns["time_stats.all_reduce.median"][keep], at)


def _decode(file: Path, attention: Columns) -> Array:
    keep = attention["prefill_chunk_size"] == 0
    batch, kv, time = (
        attention[name][keep] for name in ("batch_size", "kv_cache_size", "time_stats.attn_decode.median")
    )
    at = np.arange(0, MAX_KV + 1, KV_STEP, dtype=np.float64)
    batches = axis(batch)
    if len(batches) < 2 or np.isnan(time).any():
        raise InputError(
            f"{file}: needs decodes (prefill_chunk_size 0) of at least two batch sizes, each with attn_decode"
        )
    measured = np.array([_curve(kv[batch == each], time[batch == each], at) for each in batches])
    every = np.arange(1, batches.max() + 1)
    return np.array([np.interp(every, batches, column) for column in measured.T]).T


def _prefill(file: Path, attention: Columns, chunks: int) -> Array:
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError, cKDTree

    keep = attention["prefill_chunk_size"] > 0
    kv, chunk, time = (
        attention[name][keep] for name in ("kv_cache_size", "prefill_chunk_size", "time_stats.attn_prefill.median")
    )
    if len(kv) < 4 or np.isnan(time).any():
        raise InputError(f"{file}: needs at least four prefills (prefill_chunk_size above 0), each with attn_prefill")
    points = np.column_stack([kv, chunk])
    coarse = np.unique(np.r_[1, np.arange(16, chunks + 1, 16), chunks])  # finer than what was measured, then lines
    rows, columns = np.meshgrid(np.arange(0, MAX_KV + 1, KV_STEP), coarse, indexing="ij")
    asked = np.column_stack([rows.ravel(), columns.ravel()]).astype(np.float64)
    try:
        values = LinearNDInterpolator(points, time)(asked)
    except QhullError:
        raise InputError(
            f"{file}: the prefills lie on one line; needs several chunk sizes and several KV sizes"
        ) from None
    outside = np.isnan(values)
    nearest = cKDTree(points).query(asked[outside])[1]
    scale = _pairs(asked[outside, 0], asked[outside, 1]) / _pairs(kv[nearest], chunk[nearest])
    values[outside] = time[nearest] * np.maximum(
        scale, 1.0
    )  # a smaller prefill than any measured costs as much as the smallest
    every = np.arange(1, chunks + 1)
    return np.array([np.interp(every, coarse, row) for row in values.reshape(rows.shape)])


def _pairs(kv: Array, chunk: Array) -> Array:
    return np.asarray(chunk * (kv + (chunk + 1) / 2))
