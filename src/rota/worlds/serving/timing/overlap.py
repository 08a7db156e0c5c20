"""Nano-batches: operations that compute, read memory or use the network go on at the same time in one GPU, instead of one after the other.

Zhu et al., NanoFlow: Towards Optimal Large Language Model Serving Throughput, OSDI 2025 (arXiv 2408.12757). The batch is cut into nano-batches, each
with its own copy of every operation, so that while one computes another can read its KV cache and a third exchange its activations. With C, M and N
the seconds that the operations of each kind take alone (an operation of the roofline is of the kind that takes it longer; the all-reduces are
network), and shares r of the GPU that add up to 1,

    T = min over shares of max(C / P_c(r_c), M / P_m(r_m), N / P_n(r_n))

instead of C + M + N. P(r) is how fast a kernel is with a share r of the streaming multiprocessors beside others: in proportion for matrix products,
more for what waits for memory or network. The paper measured P on an A100; of its table 0.1, 0.2, 0.8 and 0.9 are recalled here (memory 0.2, 0.3,
0.85, 0.95; network 0.3, 0.5, 0.9, 1.0) and straight lines drawn between them. Smaller batches cost: weights are read once for each nano-batch, and
each launches its own kernels. Where the sum is shorter, the sum is taken, as the paper's search would.

Approximated: overlap is perfect but for P (no ramp at the ends of a layer, no dependencies), so this is an upper bound on what nano-batches give. The
LM head and the overhead of an iteration are not overlapped.

``{roofline: {overlap: {nano_batches: 2, interference: true}}}``; without interference P is 1, and T is the largest of the three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.catalogue import Gpu, Model
from rota.worlds.serving.timing import roofline
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

POINTS = 6  # of the lines of P
SHARES = (0.0, 0.1, 0.2, 0.8, 0.9, 1.0)
MEMORY = (0.0, 0.2, 0.3, 0.85, 0.95, 1.0)
NETWORK = (0.0, 0.3, 0.5, 0.9, 1.0, 1.0)

# Head of `parameters`, then the three rows of P's points, then the parameters of the roofline.
(_NANO, _INTERFERENCE, _REDUCES) = range(1, 4)
_OWN = 4
_ROOFLINE = _OWN + 3 * POINTS

# Where the roofline has its numbers.
_OPERATIONS, _OVERHEAD, _HOST = range(1, 4)
_PAIR, _PREFILL_TOKEN, _PREFILL_KV, _PREFILL_LAUNCH, _PREFILL_SEQUENCE = range(6, 11)
_DECODE_PAIR, _DECODE_TOKEN, _DECODE_KV, _DECODE_LAUNCH, _DECODE_SEQUENCE = range(11, 16)
_HEAD, _ROW, _OF_SAMPLES, _OF_EXPERTS = 16, 6, 1.0, 2.0


@dataclass(frozen=True)
class Overlap:
    """What `overlap` says in a scenario."""

    nano_batches: int = 2
    interference: bool = True


@compiler.inner
def share_for(points: Any, row: int, speed: float) -> float:
    """The smallest share of the GPU with which a kernel reaches a speed (1: alone)."""
    for k in range(1, POINTS):
        high = points[row * POINTS + k]
        if speed <= high:
            low = points[row * POINTS + k - 1]
            return float(
                points[k - 1] + (points[k] - points[k - 1]) * (speed - low) / (high - low) if high > low else points[k]
            )
    return 2.0  # never


@compiler.inner
def together(points: Any, compute: float, memory: float, network: float) -> float:
    """The shortest time in which all three can be done side by side, by halving; within a billionth."""
    low, high = max(compute, max(memory, network)), compute + memory + network
    if low == high:
        return high
    for _ in range(60):
        middle = 0.5 * (low + high)
        shares = compute / middle + share_for(points, 1, memory / middle) + share_for(points, 2, network / middle)
        if shares <= 1.0:
            high = middle
        else:
            low = middle
        if high - low <= 1e-9 * high:
            break
    return high


@compiler.inner
def three(parameters: int, features: int) -> tuple[float, float, float, float]:
    """Seconds of the operations in nano-batches that compute, read memory, use the network; and of the LM head."""
    own = float_array(parameters, _OWN)
    head, seen = float_array(parameters + 8 * _ROOFLINE, _HEAD), float_array(features, FEATURES)
    rows, nano = int(head[_OPERATIONS]), own[_NANO]
    operations = float_array(parameters + 8 * (_ROOFLINE + _HEAD), rows * _ROW)
    tokens = (seen[PREFILL_TOKENS] + seen[DECODES]) / nano
    active = roofline.active_experts(parameters + 8 * _ROOFLINE, tokens)
    compute, memory, network, last = 0.0, 0.0, 0.0, 0.0
    for row in range(rows):
        at = row * _ROW
        of_samples = operations[at + 5] == _OF_SAMPLES
        count = seen[SAMPLES] if of_samples else tokens
        if count <= 0.0:
            continue
        flops = operations[at + 1] * count
        fixed = operations[at + 2] * active if operations[at + 5] == _OF_EXPERTS else operations[at + 2]
        moved = fixed + operations[at + 3] * count
        seconds = operations[at] * (np.sqrt(flops * flops + moved * moved) + operations[at + 4])
        if of_samples:
            last += seconds
        elif row >= own[_REDUCES]:
            network += nano * seconds
        elif flops >= moved:
            compute += nano * seconds
        else:
            memory += nano * seconds
    if seen[PREFILL_TOKENS] > 0.0:
        flops = head[_PAIR] * seen[PREFILL_PAIRS]
        moved = head[_PREFILL_TOKEN] * seen[PREFILL_TOKENS]
        moved += head[_PREFILL_KV] * (seen[PREFILL_TOKENS] + seen[PREFILL_CONTEXT])
        seconds = np.sqrt(flops * flops + moved * moved) + nano * head[_PREFILL_LAUNCH]
        seconds += head[_PREFILL_SEQUENCE] * seen[PREFILL_REQUESTS]
        if flops >= moved:
            compute += seconds
        else:
            memory += seconds
    if seen[DECODES] > 0.0:
        contexts = seen[DECODE_CONTEXT] + seen[DECODES]
        flops = head[_DECODE_PAIR] * contexts
        moved = head[_DECODE_TOKEN] * seen[DECODES] + head[_DECODE_KV] * contexts
        seconds = np.sqrt(flops * flops + moved * moved) + nano * head[_DECODE_LAUNCH]
        memory += seconds + head[_DECODE_SEQUENCE] * seen[DECODES]
    return compute, memory, network, last


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration: side by side, or one after the other where that is shorter."""
    own, head = float_array(parameters, _OWN), float_array(parameters + 8 * _ROOFLINE, _HEAD)
    seen = float_array(features, FEATURES)
    if seen[PREFILL_TOKENS] + seen[DECODES] == 0.0:
        return 0.0
    compute, memory, network, last = three(parameters, features)
    if own[_INTERFERENCE] > 0.0:
        beside = together(float_array(parameters + 8 * _OWN, 3 * POINTS), compute, memory, network)
    else:
        beside = max(compute, max(memory, network))
    beside = max(head[_OVERHEAD] + beside + last, head[_HOST])
    tokens = seen[PREFILL_TOKENS] + seen[DECODES]
    active = roofline.active_experts(parameters + 8 * _ROOFLINE, tokens)
    return float(min(beside, roofline.iteration_seconds(parameters + 8 * _ROOFLINE, features, active, tokens)))


def build(model: Model, gpu: Gpu, tp: int, options: Mapping[str, Any]) -> Timing:
    """The roofline with nano-batches. Options: those of the roofline, and `overlap`.

    Raises:
        InputError: an unknown key of `overlap`, fewer than one nano-batch, or one that is no number.
    """
    chosen = _options(options["overlap"])
    plain = roofline.build(model, gpu, tp, {key: value for key, value in options.items() if key != "overlap"})
    rows = int(plain.parameters[_OPERATIONS])
    reduces = rows - 1 if tp > 1 else rows  # the all-reduces are the last row
    own = np.array([0.0, chosen.nano_batches, float(chosen.interference), reduces])
    parameters = np.concatenate([own, SHARES, MEMORY, NETWORK, plain.parameters])
    return Timing(
        "roofline", __name__, parameters, source=f"{plain.source}, {chosen.nano_batches} nano-batches overlap"
    )


def _options(given: Any) -> Overlap:
    where, known = "timing.roofline.overlap", ("nano_batches", "interference")
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: must be a mapping such as {{nano_batches: 2}}, found {given!r}")
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
    count, interference = given.get("nano_batches", 2), given.get("interference", True)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"{where}.nano_batches: must be a whole number of at least 1, found {count!r}")
    if not isinstance(interference, bool):
        raise InputError(f"{where}.interference: must be true or false, found {interference!r}")
    return Overlap(count, interference)
