"""Layer profiles of LLMServingSim 2: kernel times that its profiler measured under vLLM, summed over the layers of
the model.

Cho et al., LLMServingSim 2.0 (casys-kaist/LLMServingSim). Files in ``perf/<GPU>/<model>/tp<N>/``, microseconds a layer:

- ``dense``: embedding and final_layernorm once; layernorm twice, qkv_proj, qk_norm (Qwen3), rotary_emb, o_proj,
  gate_up_proj, act_fn, down_proj once in each layer, by tokens of the iteration (the ``sequence`` lists of
  ``profiler/models/{llama,qwen3}.yaml``);
- ``per_sequence``: lm_head and sampler, by sequences. vLLM computes logits for every sequence of the iteration, also
  for one in mid-prompt;
- ``attention``: by (sum of chunks, sum of contexts of the prefills, decodes, mean context of the decodes), linear in
  each axis;
- ``moe``: by (tokens, activated experts); the experts that a batch touches are expected ones under uniform routing,
  E (1 - (1 - k/E)^tokens);
- ``skew_fit``: attention = t(mean) + alpha (t(longest) - t(mean)), because a batch of unequal contexts is slower
  than one at their mean. alpha is found by (prefill chunk, decodes, (mean - min) / (max - min), max, prefill
  context) in measured buckets; a chunk that was not profiled has the pooled alpha of ``meta.yaml``. No correction
  where ``meta.yaml`` says that none was fitted (``skew: true`` overrides).

Below the first grid point a value is held, beyond the last it goes on linearly (and the evaluation is counted).
Cells that the profiler skipped (prefill beside 256 decodes) are continued from 64 and 128 decodes. With tp > 1 two
all-reduces a layer are added, a ring of 2 (tp - 1) steps, each ``link_latency`` seconds and tokens * hidden * 2 / tp
bytes at ``link_bandwidth``: the GPU's measured collective where the catalogue has one, else its link and 5
microseconds.

vLLM replays a CUDA graph for small iterations, and what is in the graph (all but attention, head and sampler) is padded to the next size that was captured:
1, 2, 4, by 8 up to 256, by 16 up to ``graph_tokens`` (512 unless given, as vLLM has it from 256 running sequences on; 2 x max_num_seqs below that; 0: none).

``expert_parallel: N``: N replicas attend to their own requests and share the experts, E/N on each. They go in step: an iteration takes as long as the slowest
of them, and the experts have the tokens of all. Routing is even, so on each replica the experts see a share of 1/N of the token choices, and
E/N (1 - (1 - k/E)^tokens) of them are touched. In each layer an all-gather and a reduce-scatter over the ring link are added, N - 1 steps each of
tokens * hidden * 2 bytes.

Kernels were timed with ``enforce_eager``; what a server spends between iterations is the option
``overhead_seconds``, 0 unless given: vLLM 0.19 replays CUDA graphs and schedules asynchronously, so that the GPU
hardly waits.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import Gpu, Model
from rota.worlds.serving.timing.features import (
    DECODE_CONTEXT,
    DECODE_MAX,
    DECODE_MIN,
    DECODES,
    GANG_TOKENS,
    PREFILL_CONTEXT,
    PREFILL_REQUESTS,
    PREFILL_TOKENS,
    WIDTH,
)
from rota.worlds.serving.timing.files import axis, content, need, read
from rota.worlds.serving.timing.model import COUNTER, Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

Array = npt.NDArray[np.float64]

ONCE = ("embedding", "final_layernorm")
IN_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
GRAPH_TOKENS = 512
OPTIONAL = ("qk_norm",)  # only some architectures have it
DENSE_MLP = ("gate_up_proj", "act_fn", "down_proj")  # absent where every layer has experts
LINK_LATENCY = (
    5e-6  # seconds a step where nothing was measured; vLLM's custom all-reduce on NVLink (AIConfigurator tables)
)

# Head of `parameters`: sizes of the axes, then where each part starts.
(_OVERHEAD, _TOKENS, _SEQUENCES, _CHUNKS, _KV_PREFILL, _DECODES, _KV_DECODE) = range(1, 8)
(_EXPERTS, _EXPERTS_PER_TOKEN, _MOE_TOKENS, _MOE_EXPERTS, _ALPHA, _BINS_N, _BINS_RATE, _BINS_KV, _BINS_KP) = range(
    8, 17
)
(_AT_DENSE, _AT_SEQUENCE, _AT_AXES, _AT_ATTENTION, _AT_MOE, _AT_SKEW, _SIZE, _REDUCE_TOKEN, _REDUCE_STEP) = range(
    17, 26
)
_GRAPH_TOKENS, _RANKS = 26, 27
_HEAD = 28


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


@compiler.inner
def _plane(table: Any, start: int, columns: int, kp: int, share_kp: float, kd: int, share_kd: float) -> Any:
    """Bilinear in (context of prefills, mean context of decodes) at one (chunk, decodes)."""
    at = start + kp * columns + kd
    low = table[at] + share_kd * (table[at + 1] - table[at])
    if share_kp == 0.0:
        return low
    at += columns
    return low + share_kp * (table[at] + share_kd * (table[at + 1] - table[at]) - low)


@compiler.inner
def _attention(
    table: Any, head: Any, pc: int, share_pc: float, kp: int, share_kp: float, nd: int, share_nd: float, context: float
) -> Any:
    """Quadrilinear lookup; an exact grid point costs one plane instead of four."""
    columns, contexts, decodes = int(head[_KV_DECODE]), int(head[_KV_PREFILL]), int(head[_DECODES])
    axes = int(head[_AT_AXES]) + int(head[_CHUNKS]) + contexts + decodes
    kd, share_kd = _bracket(table, axes, columns, context)
    plane = contexts * columns
    at = int(head[_AT_ATTENTION]) + (pc * decodes + nd) * plane
    value = _plane(table, at, columns, kp, share_kp, kd, share_kd)
    if share_nd > 0.0:
        value += share_nd * (_plane(table, at + plane, columns, kp, share_kp, kd, share_kd) - value)
    if share_pc > 0.0:
        at += decodes * plane
        other = _plane(table, at, columns, kp, share_kp, kd, share_kd)
        if share_nd > 0.0:
            other += share_nd * (_plane(table, at + plane, columns, kp, share_kp, kd, share_kd) - other)
        value += share_pc * (other - value)
    return value


@compiler.inner
def _bin(table: Any, start: int, size: int, value: float) -> int:
    """The first bin whose upper edge is not below the value; the last one is open."""
    index = 0
    while index < size - 1 and value > table[start + index]:
        index += 1
    return index


@compiler.inner
def _alpha(
    table: Any, head: Any, pc: int, share_pc: float, n: float, rate: float, longest: float, context: float
) -> float:
    """The skew coefficient of a batch; the pooled one when its chunk was not profiled."""
    if share_pc > 0.0 and share_pc != 1.0:
        return float(head[_ALPHA])
    pc += int(share_pc)
    sizes = int(head[_BINS_N]), int(head[_BINS_RATE]), int(head[_BINS_KV]), int(head[_BINS_KP])
    at = int(head[_AT_SKEW])
    cell = pc * sizes[0] + _bin(table, at, sizes[0], n)
    at += sizes[0]
    cell = cell * sizes[1] + _bin(table, at, sizes[1], rate)
    at += sizes[1]
    cell = cell * sizes[2] + _bin(table, at, sizes[2], longest)
    at += sizes[2]
    cell = cell * sizes[3] + _bin(table, at, sizes[3], context)
    return float(table[at + sizes[3] + cell])


@compiler.inner
def _batch_attention(table: Any, head: Any, seen: Any) -> tuple[float, bool]:
    """Seconds of all attention layers, and whether the batch is outside the profile."""
    decodes, axes, chunks = seen[DECODES], int(head[_AT_AXES]), int(head[_CHUNKS])
    contexts, counts, columns = int(head[_KV_PREFILL]), int(head[_DECODES]), int(head[_KV_DECODE])
    pc, share_pc = _bracket(table, axes, chunks, seen[PREFILL_TOKENS])
    kp, share_kp = _bracket(table, axes + chunks, contexts, seen[PREFILL_CONTEXT])
    nd, share_nd = _bracket(table, axes + chunks + contexts, counts, decodes)
    mean = np.floor(seen[DECODE_CONTEXT] / decodes) if decodes > 0.0 else 0.0
    longest = table[axes + chunks + contexts + counts + columns - 1]
    outside = share_pc > 1.0 or share_kp > 1.0 or share_nd > 1.0 or mean > longest
    if seen[PREFILL_TOKENS] > 0.0 and decodes > table[axes + chunks + contexts + counts + columns]:
        outside = True
    value = _attention(table, head, pc, share_pc, kp, share_kp, nd, share_nd, mean)
    if decodes > 1.0 and head[_BINS_N] > 0.0 and seen[DECODE_MAX] > mean:
        rate = (mean - seen[DECODE_MIN]) / (seen[DECODE_MAX] - seen[DECODE_MIN])
        alpha = _alpha(table, head, pc, share_pc, decodes, rate, seen[DECODE_MAX], seen[PREFILL_CONTEXT])
        if alpha != 0.0:
            top = _attention(table, head, pc, share_pc, kp, share_kp, nd, share_nd, seen[DECODE_MAX])
            value += alpha * max(0.0, top - value)
    return value, outside


@compiler.inner
def _experts(table: Any, head: Any, tokens: float) -> tuple[float, bool]:
    """Seconds of all expert layers: bilinear in (activated experts, tokens)."""
    rows, columns, at = int(head[_MOE_EXPERTS]), int(head[_MOE_TOKENS]), int(head[_AT_MOE])
    ranks = head[_RANKS]
    active = head[_EXPERTS] / ranks * (1.0 - (1.0 - head[_EXPERTS_PER_TOKEN] / head[_EXPERTS]) ** (ranks * tokens))
    row, share_row = _bracket(table, at, rows, active)
    column, share = _bracket(table, at + rows, columns, tokens)
    cell = at + rows + columns + row * columns + column
    low = table[cell] + share * (table[cell + 1] - table[cell])
    cell += columns
    high = table[cell] + share * (table[cell + 1] - table[cell])
    return low + share_row * (high - low), share > 1.0


@compiler.inner
def captured(tokens: float) -> float:
    """The size of the CUDA graph that vLLM replays for so many tokens: 1, 2, 4, by 8 up to 256, then by 16."""
    if tokens <= 2.0:
        return tokens
    if tokens <= 4.0:
        return 4.0
    step = 8.0 if tokens <= 256.0 else 16.0
    return float(np.ceil(tokens / step) * step)


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration. Layout of `parameters`: see `_pack`."""
    head = float_array(parameters, _HEAD)
    seen = float_array(features, WIDTH)
    table = float_array(parameters, int(head[_SIZE]))
    tokens = seen[PREFILL_TOKENS] + seen[DECODES]
    if tokens == 0.0:
        return 0.0
    if tokens <= head[_GRAPH_TOKENS]:
        tokens = captured(tokens)
    dense, outside = _line(table, int(head[_AT_DENSE]), int(head[_TOKENS]), tokens)
    sequences, beyond = _line(
        table, int(head[_AT_SEQUENCE]), int(head[_SEQUENCES]), seen[PREFILL_REQUESTS] + seen[DECODES]
    )
    attention, far = _batch_attention(table, head, seen)
    total = head[_OVERHEAD] + dense + sequences + attention + head[_REDUCE_STEP] + tokens * head[_REDUCE_TOKEN]
    outside = outside or beyond or far
    if head[_EXPERTS] > 0.0:
        shared = seen[GANG_TOKENS] / head[_RANKS]  # tokens are routed to all experts alike
        experts, past = _experts(table, head, shared if shared > 0.0 else tokens)
        total += experts
        outside = outside or past
    if outside:
        head[COUNTER] += 1.0
    return float(total)


def build(path: Path, model: Model, gpu: Gpu, tp: int, options: dict[str, Any]) -> Timing:
    """Read a profile folder (``.../<model>`` or its ``tp<N>``).

    Args:
        options: ``overhead_seconds`` (0), ``graph_tokens`` (512), ``expert_parallel`` (1), ``skew`` (true, false; default what meta.yaml says),
            ``link_bandwidth``,
            ``link_latency``.
    """
    folder = path if path.name == f"tp{tp}" else path / f"tp{tp}"
    if not folder.is_dir():
        known = sorted(each.name for each in path.glob("tp*")) if path.is_dir() else []
        raise InputError(
            f"{folder}: no such profile folder"
            + (f" (there are: {', '.join(known)})" if known else "; check `timing.tables`")
        )
    parts: dict[str, Any] = {
        "dense": _dense(folder, model),
        "sequence": _sequences(folder),
        "attention": _attention_grid(folder, model.layers),
        "experts": _moe(folder, model) if model.experts else None,
        "skew": _skew(folder, options.get("skew")),
    }
    steps = 2 * (tp - 1)
    bandwidth = options.get("link_bandwidth", gpu.collective_bandwidth or gpu.link)
    latency = options.get("link_latency", gpu.collective_latency or LINK_LATENCY)
    reduce_token = 2 * model.layers * steps / tp * model.hidden * 2.0 / bandwidth
    reduce_step = 2 * model.layers * steps * latency
    ranks = _ranks(options.get("expert_parallel", 1), model)
    exchange = 2 * (ranks - 1) * model.moe_layers  # steps of an all-gather and of a reduce-scatter in each layer
    reduce_token += exchange * model.hidden * 2.0 / bandwidth
    reduce_step += exchange * latency
    parameters = _pack(parts, model, options.get("overhead_seconds", 0.0), reduce_token, reduce_step)
    parameters[_GRAPH_TOKENS] = options.get("graph_tokens", GRAPH_TOKENS)
    parameters[_RANKS] = ranks
    return Timing(
        "llmservingsim",
        __name__,
        parameters,
        source=f"LLMServingSim profile {folder.parent.name}/{folder.name}",
        ranks=ranks,
    )


def _ranks(ranks: Any, model: Model) -> int:
    """Data-parallel replicas that share one set of experts."""
    if not isinstance(ranks, int) or isinstance(ranks, bool) or ranks < 1:
        raise InputError(f"timing.expert_parallel: must be a whole number from 1 on, found {ranks!r}")
    if ranks > 1 and (not model.experts or model.experts % ranks):
        raise InputError(f"timing.expert_parallel: {model.experts} experts cannot be divided among {ranks} replicas")
    return ranks


def _curves(file: Path, key: str) -> dict[str, tuple[Array, Array]]:
    """(keys, seconds) of each layer of a dense or per_sequence file."""
    columns = read(file, (key, "time_us"), ("layer",))
    curves = {}
    for layer in np.unique(columns["layer"]):
        mine = columns["layer"] == layer
        keys, first = np.unique(columns[key][mine], return_index=True)
        if len(keys) < 2:
            raise InputError(f"{file}: layer '{layer}' needs at least two values of {key}")
        curves[str(layer)] = keys, columns["time_us"][mine][first] * 1e-6
    return curves


def _weighted(file: Path, curves: dict[str, tuple[Array, Array]], weights: dict[str, int]) -> tuple[Array, Array]:
    """The weighted sum of curves, exact on the union of their keys."""
    missing = [name for name in weights if name not in curves]
    if missing:
        raise InputError(f"{file}: layer '{missing[0]}' is missing (layers: {', '.join(sorted(curves))})")
    keys = np.unique(np.concatenate([curves[name][0] for name in weights]))
    return keys, np.sum([weight * np.interp(keys, *curves[name]) for name, weight in weights.items()], axis=0)


def _dense(folder: Path, model: Model) -> tuple[Array, Array]:
    file = need(folder / "dense")
    curves = _curves(file, "tokens")
    weights = dict.fromkeys(ONCE, 1)
    for name, times in IN_LAYER.items():
        if name in DENSE_MLP and model.moe_layers == model.layers:
            continue
        if name not in OPTIONAL or name in curves:
            weights[name] = times * (model.layers - model.moe_layers if name in DENSE_MLP else model.layers)
    return _weighted(file, curves, weights)


def _sequences(folder: Path) -> tuple[Array, Array]:
    file = need(folder / "per_sequence")
    return _weighted(file, _curves(file, "sequences"), {"lm_head": 1, "sampler": 1})


def _attention_grid(folder: Path, layers: int) -> tuple[list[Array], Array, float]:
    """Axes (chunk, prefill context, decodes, decode context), seconds of all layers on the full grid.

    Last comes the largest number of decodes that was profiled beside a prefill.
    """
    file = need(folder / "attention")
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    columns = read(file, (*names, "time_us"))
    axes = [axis(columns[name]) for name in names]
    if min(len(each) for each in axes) < 2:
        raise InputError(f"{file}: each of {', '.join(names)} needs at least two values")
    where = [np.searchsorted(each, columns[name]) for each, name in zip(axes, names, strict=True)]
    grid = np.full([len(axes[0]), len(axes[2]), len(axes[1]), len(axes[3])], np.nan)
    grid[where[0], where[2], where[1], where[3]] = columns["time_us"] * 1e-6 * layers
    measured = columns["n_decode"][columns["prefill_chunk"] > 0]
    for index in np.ndindex(*grid.shape[:2]):
        _hold(grid[index])
    for row, plane in enumerate(grid):  # a whole missing (chunk, decodes) plane
        _continue(file, plane, axes[2], axes[0][row])
    return axes, grid, float(measured.max()) if len(measured) else 0.0


def _hold(plane: Array) -> None:
    """Fill a plane where an axis does not apply (no prefill, no decode) or starts later: the nearest measured value."""
    for rows in (plane, plane.T):
        known = ~np.isnan(rows)
        for row, mask in zip(rows, known, strict=True):
            if mask.any() and not mask.all():
                at = np.flatnonzero(mask)
                row[:] = row[at[np.argmin(np.abs(np.arange(len(row))[:, None] - at), axis=1)]]


def _continue(file: Path, planes: Array, decodes: Array, chunk: float) -> None:
    """Fill missing planes along the decodes: before the first held, after the last along the line of the last two."""
    known = np.flatnonzero(~np.isnan(planes).any(axis=(1, 2)))
    if len(known) < 2 or not np.array_equal(known, np.arange(known[0], known[-1] + 1)):
        raise InputError(f"{file}: prefill_chunk {chunk:g} has holes in its grid of n_decode")
    planes[: known[0]] = planes[known[0]]
    low, high = known[-2], known[-1]
    for at in range(high + 1, len(decodes)):
        share = (decodes[at] - decodes[low]) / (decodes[high] - decodes[low])
        planes[at] = planes[low] + share * (planes[high] - planes[low])


def _moe(folder: Path, model: Model) -> tuple[Array, Array, Array]:
    """Axes (activated experts, tokens) and seconds of all expert layers.

    A cell is missing where so few tokens cannot activate so many experts: the next measured value is held.
    """
    file = need(folder / "moe")
    columns = read(file, ("tokens", "activated_experts", "time_us"))
    experts, tokens = axis(columns["activated_experts"]), axis(columns["tokens"])
    if min(len(experts), len(tokens)) < 2:
        raise InputError(f"{file}: tokens and activated_experts need at least two values each")
    grid = np.full((len(experts), len(tokens)), np.nan)
    grid[np.searchsorted(experts, columns["activated_experts"]), np.searchsorted(tokens, columns["tokens"])] = columns[
        "time_us"
    ]
    _hold(grid)
    return experts, tokens, grid * 1e-6 * model.moe_layers


def _skew(folder: Path, wanted: bool | None) -> tuple[float, list[Array], Array, Array] | None:
    """Pooled alpha, upper edges of the four kinds of bucket, profiled chunks, alpha by chunk and buckets."""
    import yaml

    meta_file = folder.parent / "meta.yaml"
    fit = (yaml.safe_load(content(meta_file)) or {}).get("skew_fit") or {} if meta_file.is_file() else {}
    if not (fit.get("enabled", False) if wanted is None else wanted):
        return None
    file = need(folder / "skew_fit")
    labels = ("n_label", "skew_rate_label", "kv_big_label", "kp_label")
    columns = read(file, ("pc", "alpha", "n_samples"), labels, signed=("alpha",))
    tp = int(folder.name.removeprefix("tp"))
    entry = (fit.get("per_tp") or {}).get(tp) or {}
    pooled = float(
        entry.get("alpha_default", np.average(columns["alpha"], weights=np.maximum(columns["n_samples"], 1)))
    )
    edges = [_edges(file, columns[name]) for name in labels]
    chunks = axis(columns["pc"])
    table = np.full([len(chunks), *(len(each) for each in edges)], pooled)
    where = [
        np.searchsorted(each, [_edge(file, label) for label in columns[name]])
        for each, name in zip(edges, labels, strict=True)
    ]
    table[(np.searchsorted(chunks, columns["pc"]), *where)] = columns["alpha"]
    return pooled, edges, chunks, table


def _edge(file: Path, label: str) -> float:
    """The upper edge that a label states: ``n<=128``, ``sr<=15%``, ``kvB<=4k``, ``kp=0``; ``>`` is open."""
    match = re.fullmatch(r"[A-Za-z]+(<=|=|>)(\d+)([k%]?)", label)
    if not match:
        raise InputError(f"{file}: bucket label '{label}' is not of the form 'n<=128'")
    if match[1] == ">":
        return float("inf")
    return int(match[2]) * {"": 1.0, "k": 1024.0, "%": 0.01}[match[3]]


def _edges(file: Path, labels: npt.NDArray[Any]) -> Array:
    """Upper edges, ascending, with an open last bin."""
    edges = sorted({_edge(file, label) for label in labels} | {float("inf")})
    return np.array(edges)


def _pack(parts: dict[str, Any], model: Model, overhead: float, reduce_token: float, reduce_step: float) -> Array:
    """Head, then dense, sequences, axes of attention, attention, experts, skew."""
    axes, grid, beside_prefill = parts["attention"]
    head = np.zeros(_HEAD)
    body: list[Array] = []
    size = _HEAD

    def place(slot: int, *arrays: Array) -> None:
        nonlocal size
        head[slot] = size
        body.extend(array.ravel() for array in arrays)
        size += sum(array.size for array in arrays)

    head[[_OVERHEAD, _REDUCE_TOKEN, _REDUCE_STEP]] = overhead, reduce_token, reduce_step
    head[[_TOKENS, _SEQUENCES]] = len(parts["dense"][0]), len(parts["sequence"][0])
    head[[_CHUNKS, _KV_PREFILL, _DECODES, _KV_DECODE]] = [len(each) for each in axes]
    place(_AT_DENSE, *parts["dense"])
    place(_AT_SEQUENCE, *parts["sequence"])
    place(_AT_AXES, *axes, np.array([beside_prefill]))
    place(_AT_ATTENTION, grid)
    if parts["experts"] is not None:
        head[[_EXPERTS, _EXPERTS_PER_TOKEN]] = model.experts, model.experts_per_token
        head[[_MOE_EXPERTS, _MOE_TOKENS]] = len(parts["experts"][0]), len(parts["experts"][1])
        place(_AT_MOE, *parts["experts"])
    if parts["skew"] is not None:
        pooled, edges, chunks, alphas = parts["skew"]
        full = np.full((len(axes[0]), *alphas.shape[1:]), pooled)
        shared = np.isin(chunks, axes[0])
        full[np.searchsorted(axes[0], chunks[shared])] = alphas[shared]
        head[[_ALPHA, _BINS_N, _BINS_RATE, _BINS_KV, _BINS_KP]] = [pooled, *(len(each) for each in edges)]
        place(_AT_SKEW, *edges, full)
    head[_SIZE] = size
    return np.concatenate([head, *body])
