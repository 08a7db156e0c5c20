"""Measured prompt and token times of splitwise-sim: one curve over the tokens of a batch for each (model, GPU, tp).

Patel et al., Splitwise, ISCA 2024; ``perf_model.csv`` and the rules of splitwise-sim's ``performance_model.py``:

- prompts only: prompt time at the sum of the prompt tokens (medians of the repeated measurements at batch_size x
  prompt_size);
- tokens only: token time at the number of decodes, measured by batch_size. splitwise-sim keys this curve by
  prompt_size x batch_size and looks it up at the number of decodes, far below its first point (option
  ``as_splitwise_sim: true`` does so);
- mixed: 1.1 times the prompt time of all tokens together (option ``mixed_factor``).

Linear between measurements, continued linearly beyond them and counted. Below the first point its value is held
(splitwise-sim continues the line; so does the option).
The context of the decodes has no influence: the measurements do not vary it enough.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.catalogue import Gpu, Model
from rota.worlds.serving.timing.features import DECODES, FEATURES, PREFILL_TOKENS
from rota.worlds.serving.timing.files import need, read
from rota.worlds.serving.timing.model import COUNTER, Timing
from rota.worlds.serving.timing.pointer import compiler, float_array

HARDWARE = {"a100-80g": "a100-80gb", "h100": "h100-80gb"}  # our names -> those of the file
MODELS = {"llama-2-70b": "llama2-70b"}
MIXED_FACTOR = 1.1
_PROMPTS, _DECODES, _MIXED, _FLOOR = 1, 2, 3, 4  # _FLOOR: lowest share of the first interval, 0 holds, -inf continues
_HEAD = 5


@compiler.inner
def _line(table: Any, start: int, size: int, query: float, floor: float) -> tuple[float, bool]:
    """Linear interpolation in `size` keys followed by `size` values."""
    cell = 0
    while cell < size - 2 and table[start + cell + 1] <= query:
        cell += 1
    share = max(floor, (query - table[start + cell]) / (table[start + cell + 1] - table[start + cell]))
    low = table[start + size + cell]
    return low + share * (table[start + size + cell + 1] - low), share > 1.0


@compiler.entry("float64(int64, int64)")
def entry(parameters: int, features: int) -> float:
    """Seconds of an iteration: prompts, tokens or both."""
    head = float_array(parameters, _HEAD)
    seen = float_array(features, FEATURES)
    prompts, decodes = int(head[_PROMPTS]), int(head[_DECODES])
    table = float_array(parameters, _HEAD + 2 * (prompts + decodes))
    if seen[PREFILL_TOKENS] + seen[DECODES] == 0.0:
        return 0.0
    if seen[PREFILL_TOKENS] > 0.0:
        seconds, outside = _line(table, _HEAD, prompts, seen[PREFILL_TOKENS] + seen[DECODES], head[_FLOOR])
        if seen[DECODES] > 0.0:
            seconds *= head[_MIXED]
    else:
        seconds, outside = _line(table, _HEAD + 2 * prompts, decodes, seen[DECODES], head[_FLOOR])
    if outside:
        head[COUNTER] += 1.0
    return float(seconds)


def build(path: Path, model: Model, gpu: Gpu, tp: int, options: dict[str, Any]) -> Timing:
    """Read ``perf_model.csv`` for one model, GPU and tensor-parallel degree.

    Args:
        options: ``mixed_factor``, ``as_splitwise_sim``, and ``rows: {model: NAME, hardware: NAME}`` where the file
            names them otherwise than the catalogue.
    """
    file = need(path / "perf_model") if path.is_dir() else need(path)
    columns = read(
        file,
        ("prompt_size", "batch_size", "token_size", "prompt_time", "token_time", "tensor_parallel"),
        ("model", "hardware"),
    )
    rows = options.get("rows") or {}
    keep = _pick(file, columns["model"], rows.get("model", MODELS.get(model.name, model.name)), "model")
    keep &= _pick(file, columns["hardware"], rows.get("hardware", HARDWARE.get(gpu.name, gpu.name)), "hardware")
    degrees = np.unique(columns["tensor_parallel"][keep])
    keep &= columns["tensor_parallel"] == tp
    if not keep.any():
        raise InputError(
            f"{file}: nothing measured at tp {tp} for {model.name} on {gpu.name} "
            f"(tp: {', '.join(f'{each:g}' for each in degrees)})"
        )
    same = options.get("as_splitwise_sim", False)
    tokens = columns["prompt_size"][keep] * columns["batch_size"][keep]
    prompts = _medians(tokens, columns["prompt_time"][keep])
    decodes = _medians(tokens if same else columns["batch_size"][keep], columns["token_time"][keep])
    if min(prompts.shape[1], decodes.shape[1]) < 2:
        raise InputError(
            f"{file}: {model.name} on {gpu.name} at tp {tp} needs at least two prompt sizes and two batch sizes"
        )
    head = [
        0.0,
        prompts.shape[1],
        decodes.shape[1],
        options.get("mixed_factor", MIXED_FACTOR),
        -np.inf if same else 0.0,
    ]
    parameters = np.concatenate([head, prompts.ravel(), decodes.ravel()])
    return Timing("splitwise", __name__, parameters, source=f"splitwise-sim {file.name}")


def _pick(file: Path, column: npt.NDArray[Any], name: str, what: str) -> npt.NDArray[np.bool_]:
    keep: npt.NDArray[np.bool_] = column == name
    if not keep.any():
        raise InputError(f"{file}: no rows with {what} '{name}'{nearest(name, np.unique(column).tolist())}")
    return keep


def _medians(keys: npt.NDArray[np.float64], milliseconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(2, points): distinct keys, and the median of their measurements in seconds."""
    points = np.unique(keys)
    return np.array([points, [np.median(milliseconds[keys == point]) * 1e-3 for point in points]])
