"""An iteration from first principles: each operation costs what its arithmetic or its memory traffic costs,
whichever is more.

Williams, Waterman, Patterson, Roofline, CACM 2009, for every operation of a transformer layer:

    seconds = sqrt((flops / (peak * compute))^2 + (bytes / (bandwidth * memory))^2) + launch

The root of squares is the maximum with a rounded corner: near the ridge both limits bite. ``compute`` and ``memory``
are the shares of the data sheet that real kernels reach. The operations are the projections of attention and MLP
(weights / tp), prefill attention (query-key pairs under the causal mask), decode attention (KV cache read once),
element-wise kernels, the LM head for the sequences that sample, and two all-reduces a layer with tp > 1. In a layer
of experts the weights read are those of the expected number of distinct experts, E (1 - (1 - k/E)^tokens) under
uniform routing. Latent attention (DeepSeek) is timed as in its absorbed form for decodes. Constant cost an
evaluation, whatever the batch.

Where the factors come from (``bench/roofline_accuracy.py`` repeats the fits; least mean absolute logarithmic error
on one half of the rows, drawn by a keyed seed, error reported on the other half):

- ``ampere``, ``hopper``: AIConfigurator's silicon tables under vLLM 0.14 and 0.19 (A100, H100 and H200 SXM; bf16;
  without sliding window); H200's context attention is left out, because that table beats the data sheet up to a
  hundredfold;
- ``ada``, ``blackwell-workstation``: LLMServingSim's layer profiles under vLLM 0.19 (RTX 4090, RTX PRO 6000);
- ``blackwell`` (B200): assumed equal to Hopper, no measurements at hand.
- ``stack: eager-2023`` replaces them by what Splitwise measured (``perf_model.csv``, Llama-2-70B on A100 and H100):
  a stack without CUDA graphs, where an iteration cannot be shorter than the host needs to launch it (``host_seconds``).

Every factor can be given in the scenario: ``{roofline: {gemm_compute: 0.7, overhead_seconds: 0.002}}``. ``overlap: {...}`` lets
operations that want different resources go on at the same time, see `overlap`; ``experts: {...}`` says how unevenly experts are chosen and how
many replicas share them, see `experts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.catalogue import Gpu, Model
from rota.worlds.serving.timing.features import (
    DECODE_CONTEXT,
    DECODES,
    FEATURES,
    PREFILL_CONTEXT,
    PREFILL_PAIRS,
    PREFILL_REQUESTS,
    PREFILL_TOKENS,
    SAMPLES,
)
from rota.worlds.serving.timing.model import Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """Shares of the data sheet that kernels reach (0 to 1), and fixed costs in seconds."""

    gemm_compute: float
    gemm_memory: float
    gemm_launch: float  # each matrix product
    prefill_compute: float
    prefill_memory: float
    prefill_launch: float  # each layer
    prefill_sequence: float  # each prefill, layer and KV head
    decode_compute: float
    decode_memory: float
    decode_launch: float  # each layer
    decode_sequence: float  # each decode, layer and KV head
    link: float  # share of the link in an all-reduce
    link_latency: float  # each all-reduce
    elementwise_launch: float = 2.5e-6  # each of the five element-wise kernels of a layer
    overhead_seconds: float = 0.0  # each iteration
    host_seconds: float = 0.0  # an iteration is never shorter; what the host does meanwhile is hidden


ELEMENTWISE_KERNELS = 5  # two norms with residual, rotary embedding, KV store, activation

HOPPER = Factors(
    gemm_compute=0.797,
    gemm_memory=0.834,
    gemm_launch=2.98e-6,
    prefill_compute=0.513,
    prefill_memory=0.451,
    prefill_launch=10.1e-6,
    prefill_sequence=12.8e-9,
    decode_compute=0.145,
    decode_memory=0.911,
    decode_launch=9.36e-6,
    decode_sequence=20.9e-9,
    link=0.734,
    link_latency=4.71e-6,
)
AMPERE = Factors(
    gemm_compute=0.797,
    gemm_memory=0.723,
    gemm_launch=5.01e-6,
    prefill_compute=0.517,
    prefill_memory=0.282,
    prefill_launch=11.1e-6,
    prefill_sequence=27.2e-9,
    decode_compute=0.259,
    decode_memory=0.747,
    decode_launch=17.6e-6,
    decode_sequence=28.8e-9,
    link=0.641,
    link_latency=5.3e-6,
)
ADA = replace(
    AMPERE,
    gemm_compute=1.0,  # boards run above the clock of the data sheet
    gemm_memory=0.947,
    gemm_launch=5.67e-6,
    prefill_compute=0.873,
    prefill_memory=0.216,
    prefill_launch=6.87e-6,
    prefill_sequence=24.5e-9,
    decode_compute=0.0627,
    decode_memory=1.0,
    decode_launch=12.2e-6,
    decode_sequence=21.6e-9,
)
BLACKWELL_WORKSTATION = replace(
    HOPPER,
    gemm_compute=0.755,
    gemm_memory=0.86,
    gemm_launch=6.01e-6,
    prefill_compute=0.569,
    prefill_memory=0.128,
    prefill_launch=4.38e-6,
    prefill_sequence=68.3e-9,
    decode_compute=0.239,
    decode_memory=0.818,
    decode_launch=12.3e-6,
    decode_sequence=13.2e-9,
)
FACTORS = {
    "ampere": AMPERE,
    "ada": ADA,
    "hopper": HOPPER,
    "blackwell": HOPPER,
    "blackwell-workstation": BLACKWELL_WORKSTATION,
}
_EAGER_AMPERE = {
    "gemm_compute": 0.628,
    "gemm_memory": 1.0,
    "prefill_compute": 0.18,
    "elementwise_launch": 56.3e-6,
    "link_latency": 2.2e-6,
    "host_seconds": 0.045,
}
_EAGER_HOPPER = {
    "gemm_compute": 0.518,
    "gemm_memory": 1.0,
    "prefill_compute": 0.478,
    "elementwise_launch": 7.5e-6,
    "link_latency": 75.5e-6,
    "host_seconds": 0.030,
}
STACKS: dict[str, dict[str, dict[str, float]]] = {
    "kernels": {},  # the default: time on the GPU alone
    "eager-2023": {"ampere": _EAGER_AMPERE, "hopper": _EAGER_HOPPER},
}

# `parameters`: a head, then the operations, one a row: how often, seconds of compute a token, of memory, of memory a
# token, launch, and what its tokens are.
(_OPERATIONS, _OVERHEAD, _HOST, _EXPERTS, _EXPERTS_PER_TOKEN) = range(1, 6)
(_PAIR, _PREFILL_TOKEN, _PREFILL_KV, _PREFILL_LAUNCH, _PREFILL_SEQUENCE) = range(6, 11)
(_DECODE_PAIR, _DECODE_TOKEN, _DECODE_KV, _DECODE_LAUNCH, _DECODE_SEQUENCE) = range(11, 16)
_HEAD = 16
_ROW = 6
_TOKENS, _SAMPLES, _ACTIVE = 0.0, 1.0, 2.0  # _ACTIVE: the fixed memory is that of one expert


@compiler.inner
def active_experts(parameters: int, tokens: float) -> float:
    """Distinct experts that so many tokens are expected to choose under uniform routing, a layer; 1 where there are none."""
    head = float_array(parameters, _HEAD)
    if head[_EXPERTS] == 0.0:
        return 1.0
    return float(head[_EXPERTS] * (1.0 - (1.0 - head[_EXPERTS_PER_TOKEN] / head[_EXPERTS]) ** tokens))


@compiler.inner
def iteration_seconds(parameters: int, features: int, active: float, expert_tokens: float) -> float:
    """Seconds of an iteration. Layout of `parameters`: see `build`.

    Args:
        active: experts whose weights are read, a layer.
        expert_tokens: tokens that they compute.
    """
    head = float_array(parameters, _HEAD)
    seen = float_array(features, FEATURES)
    tokens = seen[PREFILL_TOKENS] + seen[DECODES]
    if tokens == 0.0:
        return 0.0
    rows = int(head[_OPERATIONS])
    operations = float_array(parameters + 8 * _HEAD, rows * _ROW)
    total = head[_OVERHEAD]
    for row in range(rows):
        at = row * _ROW
        count, fixed = tokens, operations[at + 2]
        if operations[at + 5] == _ACTIVE:
            count, fixed = expert_tokens, fixed * active
        elif operations[at + 5] == _SAMPLES:
            count = seen[SAMPLES]
        if count > 0.0:
            compute = operations[at + 1] * count
            memory = fixed + operations[at + 3] * count
            total += operations[at] * (np.sqrt(compute * compute + memory * memory) + operations[at + 4])
    if seen[PREFILL_TOKENS] > 0.0:
        compute = head[_PAIR] * seen[PREFILL_PAIRS]
        memory = head[_PREFILL_TOKEN] * seen[PREFILL_TOKENS] + head[_PREFILL_KV] * (
            seen[PREFILL_TOKENS] + seen[PREFILL_CONTEXT]
        )
        total += (
            np.sqrt(compute * compute + memory * memory)
            + head[_PREFILL_LAUNCH]
            + head[_PREFILL_SEQUENCE] * seen[PREFILL_REQUESTS]
        )
    if seen[DECODES] > 0.0:
        contexts = seen[DECODE_CONTEXT] + seen[DECODES]
        compute = head[_DECODE_PAIR] * contexts
        memory = head[_DECODE_TOKEN] * seen[DECODES] + head[_DECODE_KV] * contexts
        total += (
            np.sqrt(compute * compute + memory * memory) + head[_DECODE_LAUNCH] + head[_DECODE_SEQUENCE] * seen[DECODES]
        )
    return float(max(total, head[_HOST]))


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration."""
    seen = float_array(features, FEATURES)
    tokens = seen[PREFILL_TOKENS] + seen[DECODES]
    return float(iteration_seconds(parameters, features, active_experts(parameters, tokens), tokens))


def factors(gpu: Gpu, options: Mapping[str, Any]) -> Factors:
    """The factors of a GPU with the scenario's changes.

    Args:
        options: ``stack`` and any field of `Factors`.

    Raises:
        InputError: unknown key or stack, a share outside (0, 1], a negative time.
    """
    names = [field.name for field in fields(Factors)]
    stack = options.get("stack", "kernels")
    if stack not in STACKS:
        raise InputError(f"timing.roofline.stack: unknown stack '{stack}'{nearest(str(stack), STACKS)}")
    if STACKS[stack] and gpu.architecture not in STACKS[stack]:
        raise InputError(
            f"timing.roofline.stack: {stack} was measured on {' and '.join(STACKS[stack])} GPUs only, "
            f"{gpu.name} is {gpu.architecture}"
        )
    chosen = replace(FACTORS[gpu.architecture], **STACKS[stack].get(gpu.architecture, {}))
    for key, value in options.items():
        if key == "stack":
            continue
        if key not in names:
            raise InputError(
                f"timing.roofline: unknown key '{key}'{nearest(str(key), [*names, 'stack', 'overlap', 'experts'])}"
            )
        share = not key.endswith(("_launch", "_sequence", "_latency", "_seconds"))
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < np.inf
            or (share and not 0 < value <= 1)
        ):
            rule = "must be a share above 0 and at most 1" if share else "must be a finite number of seconds >= 0"
            raise InputError(f"timing.roofline.{key}: {rule}, found {value!r}")
    return replace(chosen, **{key: float(value) for key, value in options.items() if key != "stack"})


def build(model: Model, gpu: Gpu, tp: int, options: Mapping[str, Any], folder: Path = Path()) -> Timing:
    """The roofline of a model on `tp` GPUs. Options: see `factors`, `overlap` and `experts`."""
    if "overlap" in options and "experts" in options:
        raise InputError("timing.roofline: overlap and experts do not go together yet; leave one of them out")
    if "experts" in options:
        from rota.worlds.serving.timing import experts

        return experts.build(model, gpu, tp, options, folder)
    if "overlap" in options:
        from rota.worlds.serving.timing import overlap

        return overlap.build(model, gpu, tp, options)
    chosen = factors(gpu, options)
    rows = _operations(model, gpu, tp, chosen)
    head = np.zeros(_HEAD)
    head[[_OPERATIONS, _OVERHEAD, _HOST]] = len(rows), chosen.overhead_seconds, chosen.host_seconds
    head[[_EXPERTS, _EXPERTS_PER_TOKEN]] = model.experts, model.experts_per_token
    head[_PAIR : _PREFILL_SEQUENCE + 1] = model.layers * _prefill(model, gpu, tp, chosen)
    head[_DECODE_PAIR : _DECODE_SEQUENCE + 1] = model.layers * _decode(model, gpu, tp, chosen)
    return Timing(
        "roofline", __name__, np.concatenate([head, *rows]), source=f"roofline of {model.name} on {tp} x {gpu.name}"
    )


def _kv_heads(model: Model, tp: int) -> float:
    """KV heads on each GPU; a head is never split."""
    return 1.0 if model.kv_rank else max(1.0, model.kv_heads / tp)


def _prefill(model: Model, gpu: Gpu, tp: int, chosen: Factors) -> Array:
    """Seconds a layer for each query-key pair, each new token, each token in the KV cache, the launch, each prefill."""
    query, value = model.head_dim + model.rope_dim, model.value_dim or model.head_dim
    pair = 2.0 * model.heads / tp * (query + value) / (gpu.bf16 * chosen.prefill_compute)
    rate = gpu.bandwidth * chosen.prefill_memory
    token = 2.0 * model.heads / tp * (query + value) / rate
    return np.array(
        [
            pair,
            token,
            _kv_bytes(model, tp) / rate,
            chosen.prefill_launch,
            chosen.prefill_sequence * _kv_heads(model, tp),
        ]
    )


def _decode(model: Model, gpu: Gpu, tp: int, chosen: Factors) -> Array:
    """The same for decodes; with latent attention the query meets the compressed KV."""
    query, value = model.head_dim, model.head_dim
    if model.kv_rank:
        query, value = model.kv_rank + model.rope_dim, model.kv_rank
    pair = 2.0 * model.heads / tp * (query + value) / (gpu.bf16 * chosen.decode_compute)
    rate = gpu.bandwidth * chosen.decode_memory
    token = 2.0 * model.heads / tp * (query + value) / rate
    return np.array(
        [pair, token, _kv_bytes(model, tp) / rate, chosen.decode_launch, chosen.decode_sequence * _kv_heads(model, tp)]
    )


def _kv_bytes(model: Model, tp: int) -> float:
    """Bytes of KV cache of a token and layer on each GPU."""
    return (
        model.kv_width * model.kv_bytes if model.kv_rank else 2 * _kv_heads(model, tp) * model.head_dim * model.kv_bytes
    )


def _operations(model: Model, gpu: Gpu, tp: int, chosen: Factors) -> list[Array]:
    """Rows of matrix products, element-wise kernels and all-reduces."""
    peak = (gpu.fp8 if model.weight_bytes <= 1 and gpu.fp8 else gpu.bf16) * chosen.gemm_compute
    rate = gpu.bandwidth * chosen.gemm_memory

    def gemm(
        count: float,
        inputs: float,
        outputs: float,
        tokens: float = _TOKENS,
        weights: float = 0.0,
        per_token: float = 1.0,
    ) -> Array:
        """A product inputs x outputs on each GPU; `weights` where they are not inputs * outputs."""
        size = weights or inputs * outputs
        moved = per_token * 2.0 * (inputs + outputs) / rate
        return np.array(
            [count, per_token * 2.0 * size / peak, size * model.weight_bytes / rate, moved, chosen.gemm_launch, tokens]
        )

    hidden, heads = model.hidden, model.heads * model.head_dim / tp
    rows = []
    if model.kv_rank:
        rows.append(gemm(model.layers, hidden, hidden, weights=model.attention_weights / tp))
    else:
        rows.append(gemm(model.layers, hidden, heads + 2 * _kv_heads(model, tp) * model.head_dim))
        rows.append(gemm(model.layers, heads, hidden))
    wide = model.matrices - 1
    dense = model.layers - model.moe_layers
    if dense:
        rows += [gemm(dense, hidden, wide * model.intermediate / tp), gemm(dense, model.intermediate / tp, hidden)]
    if model.moe_layers:
        width, chosen_experts = model.expert_intermediate / tp, float(model.experts_per_token)
        rows.append(gemm(model.moe_layers, hidden, model.experts))
        rows.append(gemm(model.moe_layers, hidden, wide * width, _ACTIVE, per_token=chosen_experts))
        rows.append(gemm(model.moe_layers, width, hidden, _ACTIVE, per_token=chosen_experts))
        if model.shared_experts:
            shared = width * model.shared_experts
            rows += [gemm(model.moe_layers, hidden, wide * shared), gemm(model.moe_layers, shared, hidden)]
    rows.append(gemm(1, hidden, model.vocabulary / tp, _SAMPLES))
    # norms read and write the residual and the hidden state twice each, the activation reads what the wide product
    # wrote
    width = model.expert_intermediate * model.experts_per_token if model.moe_layers else model.intermediate
    moved = 2.0 * (8 * hidden + (wide + 1) * width / tp + 2 * heads) / rate
    rows.append(np.array([model.layers, 0.0, 0.0, moved, ELEMENTWISE_KERNELS * chosen.elementwise_launch, _TOKENS]))
    if tp > 1:
        rows.append(_all_reduce(model, gpu, tp, chosen))
    return rows


def _all_reduce(model: Model, gpu: Gpu, tp: int, chosen: Factors) -> Array:
    """Two ring all-reduces a layer, with the measured collective of the GPU where the catalogue has one."""
    sent = 2.0 * (tp - 1) / tp * 2.0 * model.hidden
    rate = gpu.collective_bandwidth or gpu.link * chosen.link
    latency = 2 * (tp - 1) * gpu.collective_latency if gpu.collective_latency else chosen.link_latency
    return np.array([2 * model.layers, 0.0, 0.0, sent / rate, latency, _TOKENS])
