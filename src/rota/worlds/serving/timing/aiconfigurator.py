"""Operator tables of NVIDIA AIConfigurator
(``<prefix>_{gemm,context_attention,generation_attention,custom_allreduce}_perf``), milliseconds an operation.

The tables are sampled once, when the model is built, at the shapes that this model has on one GPU:

- qkv, output, gate-up, down projections and LM head: ``gemm`` rows in bf16. n and k rarely match, so the nearest
  measured shapes are used, scaled to n * k (log distance; a product is memory- or compute-bound in n * k either
  way); linear in m between measured m;
- prefill attention: ``context_attention`` rows with the model's heads / tp and head_dim, no sliding window; a curve
  over query-key pairs of one sequence, linear between measured prompt lengths. A batch costs one launch plus what
  its pairs cost beyond it; pairs of several prefills are served at the rate of their mean chunk;
- decode attention: ``generation_attention`` rows, linear in (decodes, mean context);
- tp > 1: ``custom_allreduce`` in CUDA graphs, twice a layer, by elements (tokens * hidden).

Element-wise kernels, which the tables lack, are those of the roofline. Rows that beat the GPU's data sheet are not
measurements: a table in which the needed rows do so is refused (the H200 context attention of vLLM 0.19 does, up to
    a hundredfold). Dense models only.
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
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_SQUARES,
    PREFILL_TOKENS,
    SAMPLES,
)
from rota.worlds.serving.timing.files import Columns, axis, need, read
from rota.worlds.serving.timing.model import COUNTER, Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

Array = npt.NDArray[np.float64]

_OVERHEAD, _LINEAR, _HEADS, _PREFILL, _DECODES, _CONTEXTS, _LAUNCH = range(1, 8)
_HEAD = 8
_FASTER = 1.1  # a row may beat the data sheet by boost clocks, not by more
_SHAPES = 4  # nearest measured (n, k) that a product is read from


@compiler.inner
def _bracket(table: Any, start: int, size: int, query: float) -> tuple[int, float]:
    """Index of the grid cell and the position in it: below 0 held at 0, above 1 beyond the last point."""
    low, high = 0, size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if table[start + middle] <= query:
            low = middle
        else:
            high = middle
    return low, max(0.0, (query - table[start + low]) / (table[start + low + 1] - table[start + low]))


@compiler.inner
def _line(table: Any, start: int, size: int, query: float) -> tuple[float, bool]:
    """Linear interpolation in `size` keys followed by `size` values."""
    cell, share = _bracket(table, start, size, query)
    value = table[start + size + cell]
    return value + share * (table[start + size + cell + 1] - value), share > 1.0


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration.

    After the head: (keys, values) of linear layers, LM head and prefill attention, then the decode grid.
    """
    head = float_array(parameters, _HEAD)
    seen = float_array(features, FEATURES)
    linear, heads, prefill = int(head[_LINEAR]), int(head[_HEADS]), int(head[_PREFILL])
    decodes, contexts = int(head[_DECODES]), int(head[_CONTEXTS])
    table = float_array(parameters, _HEAD + 2 * (linear + heads + prefill) + decodes + contexts + decodes * contexts)
    tokens = seen[PREFILL_TOKENS] + seen[DECODES]
    if tokens == 0.0:
        return 0.0
    at = _HEAD
    total, outside = _line(table, at, linear, tokens)
    total += head[_OVERHEAD]
    at += 2 * linear
    if seen[SAMPLES] > 0.0:
        seconds, beyond = _line(table, at, heads, seen[SAMPLES])
        total += seconds
        outside = outside or beyond
    at += 2 * heads
    if seen[PREFILL_TOKENS] > 0.0:
        # as many equal sequences as the squares of the chunks say, each with its share of the pairs
        sequences = max(
            1.0, min(seen[PREFILL_REQUESTS], seen[PREFILL_TOKENS] * seen[PREFILL_TOKENS] / seen[PREFILL_SQUARES])
        )
        seconds, beyond = _line(table, at, prefill, seen[PREFILL_PAIRS] / sequences)
        total += head[_LAUNCH] + sequences * max(0.0, seconds - head[_LAUNCH])
        outside = outside or beyond
    at += 2 * prefill
    if seen[DECODES] > 0.0:
        row, share_row = _bracket(table, at, decodes, seen[DECODES])
        column, share = _bracket(table, at + decodes, contexts, seen[DECODE_CONTEXT] / seen[DECODES])
        cell = at + decodes + contexts + row * contexts + column
        low = table[cell] + share * (table[cell + 1] - table[cell])
        cell += contexts
        high = table[cell] + share * (table[cell + 1] - table[cell])
        total += low + share_row * (high - low)
        outside = outside or share_row > 1.0 or share > 1.0
    if outside:
        head[COUNTER] += 1.0
    return float(total)


def build(path: Path, model: Model, gpu: Gpu, tp: int, options: dict[str, Any]) -> Timing:
    """Read the tables with a common prefix, for example ``.../a100_sxm_vllm0.14.0``.

    Args:
        options: ``overhead_seconds`` (0), added to each iteration.
    """
    if model.experts or model.kv_rank:
        raise InputError(
            f"timing: aiconfigurator tables serve dense models without latent attention, {model.name} is not one; "
            "use roofline"
        )
    path = path.parent / path.name.removesuffix("_")
    linear, heads = _products(path, model, gpu, tp)
    prefill = _prefill(path, model, gpu, tp)
    batches, contexts, grid = _decode(path, model, gpu, tp)
    head = np.zeros(_HEAD)
    head[[_OVERHEAD, _LAUNCH]] = options.get("overhead_seconds", 0.0), prefill[1].min()
    head[[_LINEAR, _HEADS, _PREFILL, _DECODES, _CONTEXTS]] = [
        len(linear[0]),
        len(heads[0]),
        len(prefill[0]),
        len(batches),
        len(contexts),
    ]
    parameters = np.concatenate([head, *linear, *heads, *prefill, batches, contexts, grid.ravel()])
    return Timing("aiconfigurator", __name__, parameters, source=f"AIConfigurator tables {path.name}")


def _products(path: Path, model: Model, gpu: Gpu, tp: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Seconds of everything that depends on tokens, and of the LM head by samples."""
    file = need(path, "_gemm_perf")
    columns = read(file, ("m", "n", "k", "latency"), ("gemm_dtype",))
    keep = columns.pop("gemm_dtype") == "bfloat16"
    if not keep.any():
        raise InputError(f"{file}: no rows with gemm_dtype bfloat16")
    columns = {name: values[keep] for name, values in columns.items()}
    _plausible(file, 2 * columns["m"] * columns["n"] * columns["k"], columns["latency"], gpu)
    tokens = axis(columns["m"])
    heads, keys = model.heads * model.head_dim / tp, 2 * max(1.0, model.kv_heads / tp) * model.head_dim
    width = model.intermediate / tp
    shapes = [
        (heads + keys, model.hidden),
        (model.hidden, heads),
        ((model.matrices - 1) * width, model.hidden),
        (model.hidden, width),
    ]
    layer = np.sum([_product(columns, n, k, tokens) for n, k in shapes], axis=0) + _elementwise(model, gpu, tp, tokens)
    if tp > 1:
        layer = layer + 2 * _all_reduce(path, tp, tokens * model.hidden)
    return (tokens, model.layers * layer), (tokens, _product(columns, model.vocabulary / tp, model.hidden, tokens))


def _product(columns: Columns, n: float, k: float, tokens: Array) -> Array:
    """Seconds of an (m, k) x (k, n) product by m, from the nearest measured shapes that have every m."""
    size = columns["n"] * columns["k"]
    distance = np.abs(np.log(columns["n"] / n)) + np.abs(np.log(columns["k"] / k))
    curves, weights = [], []
    for shape in np.unique(distance):
        mine = distance == shape
        order = np.argsort(columns["m"][mine], kind="stable")
        m, first = np.unique(columns["m"][mine][order], return_index=True)
        if m[0] > tokens[0] or m[-1] < tokens[-1]:
            continue
        scale = n * k / size[mine][order][first]
        curves.append(np.interp(tokens, m, columns["latency"][mine][order][first] * scale) * 1e-3)
        weights.append(1.0 / (shape + 1e-6))
        if shape == 0.0 or len(curves) == _SHAPES:
            break
    return np.asarray(np.average(curves, axis=0, weights=weights))


def _elementwise(model: Model, gpu: Gpu, tp: int, tokens: Array) -> Array:
    """Seconds of a layer's element-wise kernels, as the roofline has them."""
    from rota.worlds.serving.timing.roofline import ELEMENTWISE_KERNELS, FACTORS

    chosen = FACTORS[gpu.architecture]
    width = model.matrices * model.intermediate / tp + 2 * model.heads * model.head_dim / tp
    moved = 2.0 * (8 * model.hidden + width) / (gpu.bandwidth * chosen.gemm_memory)
    return np.asarray(ELEMENTWISE_KERNELS * chosen.elementwise_launch + moved * tokens)


def _all_reduce(path: Path, tp: int, elements: Array) -> Array:
    file = need(path, "_custom_allreduce_perf")
    columns = read(file, ("num_gpus", "message_size", "latency"), ("backend",))
    keep = (columns["num_gpus"] == tp) & (columns["backend"] == "vllm_graph")
    if keep.sum() < 2:
        raise InputError(f"{file}: nothing measured for {tp} GPUs with backend vllm_graph")
    size, first = np.unique(columns["message_size"][keep], return_index=True)
    seconds = columns["latency"][keep][first] * 1e-3
    rate = (seconds[-1] - seconds[-2]) / (size[-1] - size[-2])  # beyond the largest message the last bandwidth holds
    return np.asarray(np.interp(elements, size, seconds) + rate * np.maximum(0.0, elements - size[-1]))


def _attention(path: Path, kind: str, model: Model, tp: int) -> tuple[Path, Columns]:
    """Rows of the model's heads on one GPU."""
    file = need(path, f"_{kind}_attention_perf")
    numbers = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")
    columns = read(file, numbers, ("kv_cache_dtype",), optional=("window_size",))
    keep = (columns.pop("kv_cache_dtype") == "bfloat16") & (columns.pop("window_size", 0 * columns["isl"]) == 0)
    wanted = {
        "head_dim": model.head_dim,
        "num_heads": model.heads / tp,
        "num_key_value_heads": max(1.0, model.kv_heads / tp),
    }
    for name, value in wanted.items():
        here = keep & (columns[name] == value)
        if not here.any():
            known = ", ".join(f"{each:g}" for each in axis(columns[name][keep]))
            raise InputError(f"{file}: nothing measured with {name} {value:g} (there are: {known}); use roofline")
        keep = here
    return file, {name: values[keep] for name, values in columns.items()}


def _prefill(path: Path, model: Model, gpu: Gpu, tp: int) -> tuple[Array, Array]:
    """Seconds of all layers by the query-key pairs of one sequence."""
    file, columns = _attention(path, "context", model, tp)
    single = (columns["batch_size"] == 1) & (columns["step"] == 0)
    if single.sum() < 2:
        raise InputError(f"{file}: needs at least two prompt lengths with batch_size 1")
    length, latency = columns["isl"][single], columns["latency"][single]
    pairs = length * (length + 1) / 2
    _plausible(file, 4 * model.heads / tp * model.head_dim * pairs, latency, gpu)
    points = axis(pairs)
    return points, model.layers * np.array([np.median(latency[pairs == point]) for point in points]) * 1e-3


def _decode(path: Path, model: Model, gpu: Gpu, tp: int) -> tuple[Array, Array, Array]:
    """Axes (decodes, context) and seconds of all layers.

    Missing corners (out of memory when they were measured) go on in proportion to the decodes.
    """
    file, columns = _attention(path, "generation", model, tp)
    batches, contexts = axis(columns["batch_size"]), axis(columns["step"])
    if min(len(batches), len(contexts)) < 2:
        raise InputError(f"{file}: needs at least two batch sizes and two steps")
    grid = np.full((len(batches), len(contexts)), np.nan)
    rows, places = np.searchsorted(batches, columns["batch_size"]), np.searchsorted(contexts, columns["step"])
    grid[rows, places] = columns["latency"] * 1e-3 * model.layers
    for column in range(len(contexts)):
        for row in range(len(batches)):
            if np.isnan(grid[row, column]):
                if row == 0:
                    raise InputError(f"{file}: batch_size {batches[0]:g} is missing at step {contexts[column]:g}")
                grid[row, column] = grid[row - 1, column] * batches[row] / batches[row - 1]
    return batches, contexts, grid


def _plausible(file: Path, flops: Array, milliseconds: Array, gpu: Gpu) -> None:
    """Refuse measurements that beat the data sheet."""
    impossible = flops > _FASTER * gpu.bf16 * milliseconds * 1e-3
    if impossible.mean() > 0.01:
        times = float(np.max(flops / (gpu.bf16 * milliseconds * 1e-3)))
        raise InputError(
            f"{file}: {impossible.sum()} of {len(flops)} needed rows are faster than {gpu.name} can be "
            f"(up to {times:.0f} times its peak); "
            "the table is not of this GPU or is damaged, use roofline"
        )
