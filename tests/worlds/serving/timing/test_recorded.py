"""The timing model is found again from nothing but when requests had their first and last tokens."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rota.kernel.errors import InputError
from rota.study.scenario import parse
from rota.worlds.serving.timing.recorded import fit_recording, timing

TRUE = {"constant": 0.006, "prefill_tokens": 8.0e-5, "decodes": 6.0e-5, "decode_context": 3.0e-8}


def simulated(
    coefficients: dict[str, float], rate: float, requests: int, seed: int = 1
) -> tuple[pl.DataFrame, dict[str, float]]:
    """What a router would have recorded before one engine of these coefficients, and the run's metrics."""
    document: dict[str, Any] = {
        "world": "serving",
        "workload": {"generate": {"kind": "chat", "requests": requests, "rate": rate}},
        "fleet": [{"model": "llama-3.1-8b", "gpu": "h100", "timing": {"linear": coefficients}}],
        "policies": [{"name": "p"}],
        "seeds": [seed],
    }
    made = parse(document, Path())
    result = made.world.run(made.case, made.world.workload(made.case, seed), made.policies[0], seed)
    rows = result.outcomes
    start = datetime(2025, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "arrival": [start + timedelta(seconds=float(each)) for each in rows["arrival"]],
            "dispatched": np.zeros(requests),
            "first_token": rows["ttft"],
            "finish": rows["e2e"],
            "prompt_tokens": rows["prompt_tokens"],
            "output_tokens": rows["output_tokens"],
            "cached_tokens": pl.Series([None] * requests, dtype=pl.Int64),
            "predicted_tokens": rows["output_tokens"].astype(float),
            "outcome": ["complete"] * requests,
            "stream": [True] * requests,
            "backend": ["a"] * requests,
        }
    )
    return frame, result.metrics


@pytest.mark.parametrize("rate", [0.5, 3.0, 6.0])
def test_the_coefficients_are_found_again(rate: float) -> None:
    frame, metrics = simulated(TRUE, rate, 1500)
    found = fit_recording(frame)["a"]
    assert found.median_error < 0.03
    for name in ("constant", "prefill_tokens"):
        assert found.coefficients[name] == pytest.approx(TRUE[name], rel=0.2)
    _, again = simulated(dict(timing(found)["linear"]), rate, 1500)
    for name in ("e2e_mean", "tpot_mean"):
        assert again[name] == pytest.approx(metrics[name], rel=0.05), name
    assert again["ttft_mean"] == pytest.approx(metrics["ttft_mean"], rel=0.15)  # what `rota loop` then calibrates


def test_too_little_is_said(tmp_path: Path) -> None:
    frame, _ = simulated(TRUE, 3.0, 20)
    with pytest.raises(InputError, match="too few to fit"):
        fit_recording(frame)
    with pytest.raises(InputError, match="nothing to fit"):
        fit_recording(frame.with_columns(stream=pl.lit(False)))
