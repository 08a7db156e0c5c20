"""Intervals hold what they promise, p values are those of scipy, and what is equal is tied."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from rota.kernel.world import Measure
from rota.study.statistics import _holm, block_bootstrap, block_length, league, paired_p, t_interval


def test_the_t_interval_and_test_are_scipys() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(5, 1, 8), rng.normal(5.5, 1, 8)
    mean, low, high = t_interval(first)
    expected = stats.t.interval(0.95, 7, loc=first.mean(), scale=stats.sem(first))
    assert (mean, low, high) == pytest.approx((first.mean(), *expected))
    assert paired_p(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_equal_values_are_certainly_equal() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert paired_p(values, values) == 1.0
    assert paired_p(values, values + 1) == 0.0
    assert np.isnan(paired_p(values[:1], values[:1]))


def test_the_t_interval_covers() -> None:
    rng = np.random.default_rng(2)
    hits = sum(low <= 3 <= high for _, low, high in (t_interval(rng.normal(3, 2, 5)) for _ in range(1000)))
    assert 925 <= hits <= 975


@pytest.mark.parametrize(("r", "least"), [(0.0, 0.91), (0.5, 0.90), (0.9, 0.86)])
def test_the_block_bootstrap_covers_what_remembers(r: float, least: float) -> None:
    """Nominal is 95 %; a block bootstrap of 2,000 jobs with memory falls a little short, and single jobs would fall far short."""
    rng, hits, runs = np.random.default_rng(3), 0, 200
    noise = rng.normal(0, 1, (runs, 2200))
    for shocks in noise:
        values = np.empty(2200)
        last = 0.0
        for i, shock in enumerate(shocks):
            last = values[i] = r * last + shock
        draws = block_bootstrap(values[200:], block_length(values[200:]))
        low, high = np.quantile(draws, [0.025, 0.975])
        hits += int(low <= 0 <= high)
    assert least <= hits / runs <= 0.99


def test_blocks_grow_with_memory() -> None:
    rng = np.random.default_rng(4)
    white = rng.normal(size=4000)
    slow = np.convolve(white, np.ones(200) / 200, "valid")
    assert block_length(white) <= 10
    assert block_length(slow) >= 100
    assert block_length(np.zeros(5)) == block_length(np.zeros(100)) == 1


def test_missing_jobs_take_no_part() -> None:
    values = np.ones(500)
    values[::7] = np.nan
    assert np.allclose(block_bootstrap(values, 10), 1.0)


def test_holm() -> None:
    assert _holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(_holm([float("nan")])[0])


def fake(values: dict[str, list[float]], bound: float = 2.0, *, smaller: bool = True, random: bool = True, jobs: int = 400) -> Any:
    seeds = len(next(iter(values.values())))
    rng = np.random.default_rng(5)
    shared = rng.normal(0, 0.1, jobs)
    rows, frames = [], []
    for name, means in values.items():
        for seed, mean in enumerate(means):
            rows.append({"policy": name, "seed": seed, "x_mean": mean})
            frames.append(
                pl.DataFrame({"job": np.arange(jobs), "arrival": np.arange(jobs) * 1.0, "x": mean + shared - shared.mean()}).with_columns(
                    pl.lit(name).alias("policy"), pl.lit(seed).alias("seed")
                )
            )
    return SimpleNamespace(
        folder=Path(), measures={"x_mean": Measure("x_mean", "mean x", "s", smaller, per_job="x")}, objective="x_mean",
        policies=tuple(values), seeds=tuple(range(seeds)), outcomes=pl.concat(frames), summary=pl.DataFrame(rows),
        bounds={"x_mean": bound}, knew={}, manifest={"random_workload": random},
    )  # fmt: skip


def test_the_league_ranks_and_compares_with_the_best() -> None:
    rows = league(fake({"slow": [5.0, 6.2, 7.1], "fast": [4.0, 5.0, 6.0]}))
    assert [(row.policy, row.rank) for row in rows] == [("fast", 1), ("slow", 2)]
    assert rows[0].gap == pytest.approx(1.5)
    assert rows[1].behind == pytest.approx(1.1 / 5)
    assert rows[1].p_value == pytest.approx(stats.ttest_rel([5.0, 6.2, 7.1], [4, 5, 6]).pvalue)
    assert "3 seeds" in rows[0].method


def test_where_more_is_better_worse_is_still_behind() -> None:
    rows = league(fake({"little": [4.0, 4.1], "much": [5.0, 5.0]}, bound=10.0, smaller=False))
    assert rows[0].policy == "much"
    assert rows[1].behind > 0
    assert rows[0].gap == pytest.approx(-0.5) or rows[0].gap == pytest.approx(0.5)


@pytest.mark.parametrize("means", [[3.0], [3.0, 4.0]])
def test_identical_policies_are_tied(means: list[float]) -> None:
    rows = league(fake({"a": means, "b": means}))
    assert [row.rank for row in rows] == [1, 1]
    assert [row.policy for row in rows] == ["a", "b"]
    assert rows[1].p_value == 1.0
    assert rows[1].behind == 0.0


def test_a_replayed_trace_is_one_observation_however_many_seeds() -> None:
    for seeds in (1, 3):
        rows = league(fake({"a": [3.0] * seeds, "b": [3.5] * seeds}, random=False))
        assert "block bootstrap" in rows[0].method
        assert rows[0].low < 3.0 < rows[0].high
        assert rows[1].p_value < 0.01  # the same jobs, always slower


def test_an_objective_that_is_no_mean_has_no_interval_from_one_trace() -> None:
    study = fake({"a": [3.0], "b": [4.0]})
    study.measures = {"x_mean": Measure("x_mean", "x", "s")}
    rows = league(study)
    assert np.isnan(rows[1].p_value)
    assert np.isnan(rows[0].low)
    assert rows[0].policy == "a"
