"""The league: ranked, compared with the best, and honest about one trace."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from rota.kernel.world import Measure
from rota.study.statistics import league, t_interval


def fake(values: dict[str, list[float]], bound: float = 2.0, *, smaller: bool = True, random: bool = True) -> Any:
    """A study of given means, a value a seed; its 400 jobs scatter alike under every policy."""
    jobs, shared = 400, np.random.default_rng(5).normal(0, 0.1, 400)
    rows, frames = [], []
    for name, means in values.items():
        for seed, mean in enumerate(means):
            rows.append({"policy": name, "seed": seed, "x_mean": mean})
            x = mean + shared - shared.mean()
            frame = pl.DataFrame({"job": np.arange(jobs), "arrival": np.arange(jobs) * 1.0, "x": x})
            frames.append(frame.with_columns(pl.lit(name).alias("policy"), pl.lit(seed).alias("seed")))
    return SimpleNamespace(
        folder=Path(),
        measures={"x_mean": Measure("x_mean", "mean x", "s", smaller, per_job="x")},
        objective="x_mean",
        policies=tuple(values),
        seeds=tuple(range(len(means))),
        outcomes=pl.concat(frames),
        summary=pl.DataFrame(rows),
        bounds={"x_mean": bound},
        knew={},
        manifest={"random_workload": random},
    )


def test_the_t_interval_covers() -> None:
    rng = np.random.default_rng(2)
    hits = sum(low <= 3 <= high for _, low, high in (t_interval(rng.normal(3, 2, 5)) for _ in range(1000)))
    assert 925 <= hits <= 975


def test_ranks_and_comparison_with_the_best() -> None:
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
    assert rows[0].gap == pytest.approx(0.5)


@pytest.mark.parametrize("means", [[3.0], [3.0, 4.0]])
def test_identical_policies_are_tied(means: list[float]) -> None:
    rows = league(fake({"a": means, "b": means}))
    assert [(row.policy, row.rank) for row in rows] == [("a", 1), ("b", 1)]
    assert rows[1].p_value == 1.0
    assert rows[1].behind == 0.0


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_replayed_trace_is_one_observation_however_many_seeds(seeds: int) -> None:
    rows = league(fake({"a": [3.0] * seeds, "b": [3.5] * seeds}, random=False))
    assert "block bootstrap" in rows[0].method
    assert rows[0].low < 3.0 < rows[0].high
    assert rows[1].p_value < 0.01  # the same jobs, always slower


def test_an_objective_that_is_no_mean_has_no_interval_from_one_trace() -> None:
    study = fake({"a": [3.0], "b": [4.0]})
    study.measures = {"x_mean": Measure("x_mean", "x", "s")}
    rows = league(study)
    assert rows[0].policy == "a"
    assert np.isnan(rows[0].low)
    assert np.isnan(rows[1].p_value)
