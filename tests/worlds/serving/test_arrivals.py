"""Arrivals are replayed, scaled, redrawn or handed to a closed loop, and processes have the statistics they claim."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.worlds.serving.arrivals import Closed, Process, Variation, apply_arrivals, parse_arrivals
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.read import read_trace


def workload(rows: int = 1000) -> Workload:
    size = np.arange(1, rows + 1)
    return make_workload(np.arange(rows, dtype=np.float64), size, size)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_replay_changes_nothing_and_draws_nothing() -> None:
    given, stream = workload(), rng()
    assert apply_arrivals(given, "replay", stream) is given
    assert apply_arrivals(given, None, stream) is given
    assert stream.random() == rng().random()


def test_scale_multiplies_the_rate() -> None:
    got = apply_arrivals(workload(), {"scale": 2.0}, rng())
    np.testing.assert_array_equal(got.arrival, np.arange(1000) / 2)
    assert got.prompt_tokens[7] == 8


def test_poisson_is_the_cumulative_sum_of_exponential_gaps() -> None:
    got = apply_arrivals(workload(), {"poisson": {"rate": 6.0}}, rng(5))
    np.testing.assert_array_equal(got.arrival, np.cumsum(rng(5).exponential(1 / 6.0, 1000)))


def test_poisson_repeats_a_published_workload(shared_data: Path) -> None:
    told = read_trace(shared_data / "traces/peer_recipe/workload_conv10k_q6.csv.gz")
    got = apply_arrivals(told, {"poisson": {"rate": 6.0}}, rng(20261120))
    np.testing.assert_allclose(got.arrival, told.arrival, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_gamma_gaps_have_mean_and_variation(cv: float) -> None:
    rows = 200_000
    gaps = np.diff(apply_arrivals(workload(rows), {"gamma": {"rate": 4.0, "cv": cv}}, rng()).arrival)
    assert gaps.mean() == pytest.approx(0.25, rel=4 * cv / rows**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_closed_is_for_the_engine() -> None:
    spec = {"closed": {"concurrency": 32, "think": 1.5}}
    assert parse_arrivals(spec) == Closed(32, 1.5)
    assert not apply_arrivals(workload(), spec, rng()).arrival.any()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("poison", "workload.arrivals: unknown arrivals 'poison'; did you mean 'poisson'"),
        ("poisson", r"'poisson' needs a value, for example \{poisson: \{rate: 6.0\}\}"),
        ({"poison": {"rate": 1}}, "unknown key 'poison'; did you mean 'poisson'"),
        ({"poisson": {"rat": 1}}, "workload.arrivals.poisson: unknown key 'rat'; did you mean 'rate'"),
        ({"poisson": {"rate": 0}}, "workload.arrivals.poisson.rate: expected 'float' > 0.0, found 0"),
        ({"poisson": {"rate": float("nan")}}, "workload.arrivals.poisson.rate: expected 'float' > 0.0, found nan"),
        ({"poisson": {"rate": float("inf")}}, "rate must be finite, found inf"),
        ({"poisson": {}}, "workload.arrivals.poisson: missing the key 'rate'"),
        ({"scale": "fast"}, "workload.arrivals.scale: expected 'float"),
        ({"scale": 1e-320}, "gives times that overflow"),
        ({"closed": {"concurrency": 0}}, "concurrency: expected 'int' >= 1, found 0"),
        ({"closed": {"concurrency": 1, "think": -1}}, "think: expected 'float' >= 0.0, found -1"),
        ({}, "needs exactly one of scale, poisson, gamma, closed, found none"),
        ({"scale": 2, "poisson": {"rate": 1}}, "needs exactly one of .* found scale and poisson"),
        (7, "workload.arrivals: expected 'object'"),
    ],
)
def test_mistakes(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        apply_arrivals(workload(), spec, rng())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variation", [None, Variation(0.4, 20.0), Variation(2.0, 5.0)])
def test_processes_keep_their_rate_and_their_dispersion(variation: Variation | None) -> None:
    """Dispersion of counts of a modulated Poisson process: 1 + 2 m cv^2 s (1 - (s / t)(1 - exp(-t / s)))."""
    rate, window, duration = 5.0, 10.0, 200_000.0
    times = Process(rate, variation=variation).until(duration, rng())
    counts = np.histogram(times, np.arange(0, duration + 1, window))[0]
    expected = 1.0
    if variation is not None:
        ratio = window / variation.seconds
        expected += 2 * rate * variation.cv**2 * variation.seconds * (1 + np.expm1(-ratio) / ratio)
    assert counts.mean() == pytest.approx(rate * window, rel=0.05)
    assert counts.var() / counts.mean() == pytest.approx(expected, rel=0.08)


def test_first_and_until_agree_on_what_they_promise() -> None:
    process = Process(3.0, 2.0, Variation(1.5, 30.0), day=3600.0)
    first = process.first(5000, rng())
    until = process.until(1000.0, rng())
    assert len(first) == 5000
    assert np.all(np.diff(first) >= 0)
    assert first[0] >= 0
    assert until.max() <= 1000.0
    assert len(process.first(0, rng())) == 0


def test_the_day_is_a_cosine_with_its_peak_at_14() -> None:
    times = Process(20.0, day=86400.0, peak_to_trough=3.0).until(10 * 86400.0, rng())
    hours = np.bincount(((times % 86400) / 3600).astype(int), minlength=24)
    assert hours.sum() / (10 * 86400) == pytest.approx(20.0, rel=0.01)
    assert hours.argmax() in (13, 14)
    assert hours.argmin() in (1, 2)
    assert hours.max() / hours.min() == pytest.approx(3.0, rel=0.03)
