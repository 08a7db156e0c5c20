"""A recording as a scenario: the fleet that was there, as far as requests tell, and the requests that came.

What the replay knows is the recording alone: rows of requests, and `fleet.json` with the sizes that engines report. The timing of each backend is
fitted (`rota.worlds.serving.timing.recorded`), then calibrated: its own requests are replayed on it, and prefill and decode are scaled until the means
of time to first token and of decode agree with what was measured.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rota.kernel.errors import InputError
from rota.study.scenario import Scenario, parse
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.recording import rows, under_policy
from rota.worlds.serving.timing.fit import Fit
from rota.worlds.serving.timing.recorded import fit_recording, spread, timing

if TYPE_CHECKING:
    import polars as pl

ROUNDS = 12  # of calibration
CLOSE = 0.005  # share by which the means may differ in the end
PREFILL = ("prefill_tokens", "prefill_pairs")
DECODE = ("constant", "decodes", "decode_context")


@dataclass(frozen=True)
class Shape:
    """What a recording does not say of an engine. `model` and `gpu` name the catalogue's entries; with known KV blocks and a fitted timing only the
    model's longest context is taken from them."""

    model: str = "llama-3.1-8b"
    gpu: str = "h100"
    tp: int = 1
    kv_blocks: int | None = None
    max_batched_tokens: int = 8192
    prefix_caching: bool = False


@dataclass(frozen=True)
class Replay:
    """A recording, ready to be replayed."""

    folder: Path
    rows: "pl.DataFrame"  # of all that came
    fits: Mapping[str, Fit]  # by backend, calibrated
    off: Mapping[
        str, float
    ]  # by backend, how far a replay of its own requests still is from what was measured, as a share
    document: Mapping[str, Any]  # the scenario without policies

    @property
    def backends(self) -> list[str]:
        return list(self.fits)

    def scenario(self, policies: list[Mapping[str, Any]]) -> Scenario:
        """The scenario under these policies."""
        return parse({**self.document, "policies": policies}, self.folder.parent)


def read_replay(folder: Path, shape: Shape, under: str | None = None, follow: bool = True) -> Replay:
    """Fit, calibrate and describe. Raises InputError where the recording does not suffice.

    Args:
        under: The place policy whose requests are replayed, where the recording has several.
        follow: Requests of a session wait for answers, as they did; otherwise they come when they came.
    """
    every = rows(folder)
    if under is not None:
        every = under_policy(every, under, folder.name)
    sizes = _sizes(folder)
    fits = _as_in_the_router(fit_recording(every), sizes)
    done = {name: calibrate(every, name, fit, _group(name, fit, sizes, shape)) for name, fit in fits.items()}
    fitted = {name: fit for name, (fit, _) in done.items()}
    document = {
        "world": "serving",
        "name": f"replay of {folder.name}",
        "workload": {"trace": folder.name, **({"under": under} if under is not None else {}), "follow": follow},
        "fleet": [_group(name, fit, sizes, shape) for name, fit in fitted.items()],
        "information": {"output_tokens": {"predicted": {"error": round(spread(every), 3)}}},
        "seeds": 1,
    }
    return Replay(folder.resolve(), every, fitted, {name: off for name, (_, off) in done.items()}, document)


def _as_in_the_router(fits: dict[str, Fit], sizes: Mapping[str, Any]) -> dict[str, Fit]:
    """Backends in the router's order, because turns and ties go by it."""
    return {
        name: fits[name]
        for name in sorted(fits, key=lambda name: list(sizes).index(name) if name in sizes else len(sizes))
    }


def _sizes(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads((folder / "fleet.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _group(name: str, fit: Fit, sizes: Mapping[str, Mapping[str, Any]], shape: Shape) -> dict[str, Any]:
    said = sizes.get(name, {})
    blocks = shape.kv_blocks or said.get("kv_blocks")
    group: dict[str, Any] = {
        "model": shape.model,
        "gpu": shape.gpu,
        "tp": shape.tp,
        "max_batched_tokens": shape.max_batched_tokens,
        "max_running": int(said.get("max_running") or 256),
        "block_tokens": int(said.get("block_tokens") or 16),
        "prefix_caching": shape.prefix_caching,
        "timing": timing(fit),
    }
    if blocks:
        group["kv_blocks"] = int(blocks)
    if said.get("max_outstanding"):
        group["max_outstanding"] = int(said["max_outstanding"])
    return group


def calibrate(every: "pl.DataFrame", name: str, fit: Fit, group: Mapping[str, Any]) -> tuple[Fit, float]:
    """Scale prefill and decode until a replay of the backend's own requests has the measured mean of time to first token and of decode.

    Returns the fit, and by which share the worse of the two means still differs: much where the engine was overloaded or had to preempt.
    """
    import polars as pl

    own = every.filter((pl.col("backend") == name) & (pl.col("outcome") == "complete") & pl.col("stream"))
    own = own.filter((pl.col("prompt_tokens") >= 1) & (pl.col("output_tokens") >= 1))
    work, first, decode = _own_workload(own)
    alone = {key: value for key, value in group.items() if key != "max_outstanding"}
    best, least = fit, float("inf")
    for _ in range(ROUNDS):
        any_work = {"generate": {"kind": "chat", "requests": 1}}  # replaced by the engine's own
        fleet = [{**alone, "timing": timing(fit)}]
        made = parse({"world": "serving", "workload": any_work, "fleet": fleet, "policies": [{"name": "own"}]}, Path())
        run = made.world.run(made.case, work, made.policies[0], 0).outcomes
        simulated = float(np.nanmean(run["ttft"])), float(np.nanmean(run["e2e"] - run["ttft"]))
        off = max(abs(simulated[0] / first - 1), abs(simulated[1] / decode - 1) if decode > 0 else 0.0)
        if off < least:
            best, least = fit, off
        if off < CLOSE:
            break
        fit = _scaled(fit, _step(first, simulated[0]), _step(decode, simulated[1]))
    return best, least


def _own_workload(own: "pl.DataFrame") -> tuple[Workload, float, float]:
    """The requests as the engine saw them: they came when they were dispatched. Also the mean seconds of first tokens and of decode."""
    sent = own["arrival"].dt.epoch("us").to_numpy() / 1e6 + own["dispatched"].to_numpy()
    order = np.argsort(sent, kind="stable")
    cached = own["cached_tokens"].fill_null(0).to_numpy()
    prompt = np.maximum(own["prompt_tokens"].to_numpy() - cached, 1)
    work = make_workload((sent - sent.min())[order], prompt[order], own["output_tokens"].to_numpy()[order])
    first = float((own["first_token"] - own["dispatched"]).drop_nulls().to_numpy().mean())
    decode = float((own["finish"] - own["first_token"]).drop_nulls().to_numpy().mean())
    return work, first, decode


def _step(measured: float, simulated: float) -> float:
    """A factor in the right direction: damped, because waiting grows faster than work."""
    return float(np.clip(measured / simulated, 0.25, 4.0) ** 0.6) if measured > 0 and simulated > 0 else 1.0


def _scaled(fit: Fit, prefill: float, decode: float) -> Fit:
    factor = {**dict.fromkeys(PREFILL, prefill), **dict.fromkeys(DECODE, decode)}
    return replace(fit, coefficients={name: value * factor[name] for name, value in fit.coefficients.items()})


def measured(served: "pl.DataFrame") -> dict[str, float]:
    """Means and percentiles of what was served, under the names of the world's metrics."""
    import polars as pl

    good = served.filter(pl.col("outcome") == "complete")
    if not len(good):
        raise InputError("nothing was served in that time: there is nothing to compare")
    found = {}
    for name, column in (("ttft", "first_token"), ("e2e", "finish")):
        values = (good.filter(pl.col("stream")) if name == "ttft" else good)[column].drop_nulls().to_numpy()
        if len(values):
            found[f"{name}_mean"] = float(values.mean())
            found |= {f"{name}_p{p}": float(np.percentile(values, p)) for p in (50, 90, 99)}
    long = good.filter(pl.col("stream") & (pl.col("output_tokens") > 1))
    each = ((long["finish"] - long["first_token"]) / (long["output_tokens"] - 1)).drop_nulls()
    if len(each):
        found["tpot_mean"] = float(each.to_numpy().mean())
    return found
