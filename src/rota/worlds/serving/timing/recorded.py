"""A timing model from a recording of requests, without a look into the engine.

The linear model gives the seconds of an iteration, so the seconds of a whole decode are linear in the same coefficients: from its first token to its
last, a request of n tokens is in n - 1 iterations, and what else was in them follows from when the other requests of that engine had their first and last
tokens. Requests that came to an idle engine add their time to first token, which is prefill alone. Solved as `fit` does, by non-negative least
squares on relative errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.kernel.streams import uniform
from rota.worlds.serving.timing.fit import HELD_OUT, Fit, relative_least_squares

if TYPE_CHECKING:
    import polars as pl

Array = npt.NDArray[np.float64]

# Only answers of so many tokens are used, of the longest such length that leaves enough of them: which of the others' work fell into a short
# span is known too roughly, and that noise in what is regressed on makes prefill look cheaper than it is.
LENGTHS = (128, 64, 32, 8)
ENOUGH = 200  # answers of that length
FEWEST = 40  # equations of one engine
REWEIGHTED = 10  # rounds
NAMES = ("constant", "prefill_tokens", "prefill_pairs", "decodes", "decode_context")


@dataclass(frozen=True)
class Requests:
    """The served requests of one engine; times in seconds on one clock."""

    dispatched: Array
    first: Array
    last: Array
    prompt: Array  # tokens that had to be computed
    context: Array  # tokens of the prompt, computed or cached
    output: Array


def fit_recording(rows: "pl.DataFrame", seed: int = 1) -> dict[str, Fit]:
    """Coefficients of each backend of a recording (`rota.worlds.serving.recording.rows`).

    Raises:
        InputError: a backend with too few streamed answers to be fitted.
    """
    import polars as pl

    good = (
        (pl.col("outcome") == "complete")
        & pl.col("stream")
        & (pl.col("output_tokens") >= 1)
        & (pl.col("prompt_tokens") >= 1)
    )
    served = rows.filter(good)
    found = {}
    for name in sorted(served["backend"].unique().to_list()):
        found[name] = _fit(_requests(served.filter(pl.col("backend") == name)), name, seed)
    if not found:
        raise InputError("the recording has no streamed answer that was served to its end: there is nothing to fit")
    return found


def _requests(rows: "pl.DataFrame") -> Requests:
    arrival = rows["arrival"].dt.epoch("us").to_numpy() / 1e6
    arrival = arrival - arrival.min(initial=arrival[0])
    prompt = rows["prompt_tokens"].to_numpy().astype(np.float64)
    cached = rows["cached_tokens"].fill_null(0).to_numpy().astype(np.float64)
    return Requests(
        dispatched=arrival + rows["dispatched"].to_numpy(),
        first=arrival + rows["first_token"].to_numpy(),
        last=arrival + rows["finish"].to_numpy(),
        prompt=np.maximum(prompt - cached, 1.0),
        context=prompt,
        output=rows["output_tokens"].to_numpy().astype(np.float64),
    )


def _fit(seen: Requests, name: str, seed: int) -> Fit:
    design, seconds = equations(seen)
    if len(seconds) < FEWEST:
        raise InputError(
            f"backend {name}: {len(seconds)} answers of at least {LENGTHS[-1]} tokens or on an idle engine are too few to fit; "
            f"record at least {FEWEST}"
        )
    held = np.asarray(uniform(seed, "fit-timing/held-out", np.arange(len(seconds))) < HELD_OUT)
    error = np.abs(design[held] @ _robust(design[~held], seconds[~held]) / seconds[held] - 1)
    values = _robust(design, seconds)
    coefficients = {key: float(value) for key, value in zip(NAMES, values, strict=True) if value > 0}
    median, p90 = (float(np.quantile(error, q)) for q in (0.5, 0.9))
    return Fit(coefficients, len(seconds), int(held.sum()), median, p90)


def _robust(design: Array, seconds: Array) -> Array:
    """Least squares on relative errors, then again with large errors counted less (Huber 1964): who was preempted waits, and no sum of work says so."""
    values = relative_least_squares(design, seconds)
    for _ in range(REWEIGHTED):
        error = np.abs(design @ values / seconds - 1)
        typical = 1.4826 * float(np.median(error))
        if typical <= 1e-9:
            break
        weight = np.minimum(1.0, 1.5 * typical / np.maximum(error, 1e-12))
        values = relative_least_squares(design, seconds, weight)
    return values


def equations(seen: Requests) -> tuple[Array, Array]:
    """Sums of the features over each observed time, columns as `NAMES`, and the seconds it took."""
    span = seen.last - seen.first
    used = [(seen.output >= length) & (span > 0) for length in LENGTHS]
    long = np.flatnonzero(next((rows for rows in used if rows.sum() >= ENOUGH), used[-1]))
    start, end = seen.first[long], seen.last[long]
    decode = np.column_stack(
        [
            seen.output[long] - 1,
            _between(seen.first, seen.prompt, start, end),
            _between(seen.first, _pairs(seen), start, end),
            _flow(seen, np.ones(len(span)), start, end),
            _flow(seen, seen.context + seen.output / 2, start, end),
        ]
    )
    idle = _idle(seen)
    alone = np.zeros((len(idle), len(NAMES)))
    alone[:, 0], alone[:, 1], alone[:, 2] = 1.0, seen.prompt[idle], _pairs(seen)[idle]
    seconds = np.concatenate([span[long], seen.first[idle] - seen.dispatched[idle]])
    design = np.concatenate([decode, alone])
    usable = seconds > 0
    return design[usable], seconds[usable]


def _pairs(seen: Requests) -> Array:
    """Query-key pairs of a prompt's computed part under a causal mask."""
    return seen.prompt * (seen.context - seen.prompt + (seen.prompt + 1) / 2)


def _between(times: Array, amounts: Array, start: Array, end: Array) -> Array:
    """The sum of the amounts whose time lies in (start, end]."""
    order = np.argsort(times, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(amounts[order])])
    ranked = times[order]
    return np.asarray(total[np.searchsorted(ranked, end, "right")] - total[np.searchsorted(ranked, start, "right")])


def _flow(seen: Requests, weight: Array, start: Array, end: Array) -> Array:
    """The sum over all tokens that came out in (start, end] of their request's weight; tokens of an answer come evenly."""
    span = seen.last - seen.first
    rate = np.divide((seen.output - 1) * weight, span, out=np.zeros(len(span)), where=span > 0)
    times = np.concatenate([seen.first, seen.last])
    order = np.argsort(times, kind="stable")
    slope = np.cumsum(np.concatenate([rate, -rate])[order])
    ranked = times[order]
    total = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(ranked))])
    return np.asarray(np.interp(end, ranked, total) - np.interp(start, ranked, total))


def _idle(seen: Requests) -> npt.NDArray[np.int64]:
    """Requests that were sent when nothing was at the engine, and were joined by nobody before their first token."""
    begun, done, sent = np.sort(seen.dispatched), np.sort(seen.last), seen.dispatched
    here = np.searchsorted(begun, sent, "left") - np.searchsorted(done, sent, "right")
    joined = np.searchsorted(begun, seen.first, "right") - np.searchsorted(begun, sent, "right")
    return np.flatnonzero((here == 0) & (joined == 0))


def spread(rows: "pl.DataFrame") -> float:
    """Sigma of the logarithm of answer length over what was predicted: how much `information.output_tokens` of a replay may know."""
    import polars as pl

    good = rows.filter(
        (pl.col("outcome") == "complete") & (pl.col("output_tokens") >= 1) & (pl.col("predicted_tokens") >= 1)
    )
    if len(good) < 2:
        return 0.5
    ratio = np.log(good["output_tokens"].to_numpy() / good["predicted_tokens"].to_numpy())
    return float(ratio.std())


def timing(fit: Fit) -> Mapping[str, Mapping[str, float]]:
    """The `timing` of a scenario's group."""
    return {"linear": {name: float(f"{value:.6g}") for name, value in fit.coefficients.items()}}
