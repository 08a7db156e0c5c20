"""Who is ranked, who cannot be, and how sure the league is: on studies made by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rota.kernel.world import Measure
from rota.report.league import answer, troubles, versus
from rota.study.statistics import LeagueRow, _by_blocks, league
from rota.study.store import Study

MEASURES = {
    "wait_mean": Measure("wait_mean", "mean wait", "s", per_job="wait"),
    "wait_p90": Measure("wait_p90", "wait, p90", "s"),
    "good": Measure("good", "good ones a second", "1/s", smaller_is_better=False, of_served=False),
}
Waits = dict[str, list[Any]]  # policy -> a series a seed; None: that run failed


def study(
    waits: Waits,
    objective: str = "wait_mean",
    random: bool = False,
    bounds: dict[str, float] | None = None,
    **metrics: Any,
) -> Study:
    """A study of these waits; NaN: the job was rejected."""
    rows, jobs = [], []
    for name, seeds in waits.items():
        for seed, wait in enumerate(seeds):
            if wait is None:
                continue
            values = np.asarray(wait, np.float64)
            row = {
                "policy": name,
                "seed": seed,
                "wait_mean": np.nanmean(values),
                "wait_p90": np.nanpercentile(values, 90),
            }
            rows.append(row | {key: value[name] for key, value in metrics.items()})
            index = np.arange(len(values))
            finish = np.where(np.isnan(values), np.nan, index + values)
            jobs.append(pl.DataFrame({"job": index, "arrival": index.astype(float), "finish": finish, "wait": values}).select(
                pl.lit(name).alias("policy"), pl.lit(seed).alias("seed"), pl.all()))  # fmt: skip
    count = max(len(seeds) for seeds in waits.values())
    empty = pl.DataFrame()
    return Study(Path(), {}, "queues", MEASURES, objective, tuple(waits), tuple(range(count)), pl.concat(jobs), pl.DataFrame(rows), empty, empty,
                 bounds or {}, {}, [], [], [], [], {"random_workload": random})  # fmt: skip


def by_name(rows: list[LeagueRow]) -> dict[str, LeagueRow]:
    return {row.policy: row for row in rows}


def noise(seed: int, count: int = 2000) -> Any:
    return np.random.default_rng(seed).exponential(1.0, count)


def test_who_rejects_jobs_that_others_serve_is_not_ranked() -> None:
    wait = noise(1)
    picky = np.where(wait > 1, np.nan, wait)
    made = study({"picky": [picky], "fair": [wait]}, bounds={"wait_mean": 0.5, "served": 2000.0})
    rows = league(made)
    assert [row.policy for row in rows] == ["fair", "picky"]
    found = by_name(rows)
    assert found["fair"].rank == 1
    assert found["picky"].rank is None
    assert np.isfinite(found["fair"].gap)
    assert np.isnan(found["picky"].gap), "the bound is about other jobs"
    assert np.isnan(found["picky"].p_value)
    assert np.isnan(found["picky"].behind)
    assert any("picky has no rank: it left out" in line for line in troubles(made, rows))
    assert versus(made, rows) == ""


def test_jobs_that_a_group_had_no_need_of_are_not_left_out() -> None:
    """Where groups are looked at; the mean over jobs still is of an easier question. Jobs that are missing for another reason count as ever."""
    wait = noise(1)
    early = np.where(wait > 1, np.nan, wait)
    groups = {**MEASURES, "group": Measure("group", "mean of groups", "s", of_groups=True)}
    made = study({"early": [early], "whole": [wait]}, group={"early": 1.0, "whole": 2.0})
    for status, objective, ranks in (
        ("spared", "group", {"early": 1, "whole": 2}),
        ("spared", "wait_mean", {"early": None, "whole": 1}),
        ("rejected", "group", {"early": None, "whole": 1}),
    ):
        told = pl.when(pl.col("finish").is_nan()).then(pl.lit(status)).otherwise(pl.lit("finished"))
        jobs = made.outcomes.with_columns(told.alias("status"), pl.col("wait").alias("group"))
        rows = league(replace(made, measures=groups, objective=objective, outcomes=jobs))
        assert {row.policy: row.rank for row in rows} == ranks


def test_what_counts_every_job_ranks_all() -> None:
    wait = noise(1)
    picky = np.where(wait > 1, np.nan, wait)
    rows = league(study({"picky": [picky], "fair": [wait]}, "good", good={"picky": 3.0, "fair": 2.0}))
    assert [(row.policy, row.rank) for row in rows] == [("picky", 1), ("fair", 2)]


def test_a_job_in_a_thousand_may_be_missing() -> None:
    wait = noise(1)
    nearly = wait.copy()
    nearly[[5, 9]] = np.nan
    assert all(row.rank for row in league(study({"nearly": [nearly], "fair": [wait]})))


def test_who_fails_on_a_seed_is_not_ranked() -> None:
    seeds = [noise(seed) for seed in range(6)]
    hard = [None, None, *seeds[2:]]
    rows = by_name(league(study({"whole": seeds, "fails": hard}, random=True)))
    assert rows["whole"].rank == 1
    assert rows["fails"].rank is None
    assert rows["fails"].unranked == "it failed on 2 of 6 seeds"


def test_few_jobs_have_no_interval() -> None:
    rows = league(study({"a": [[1.0, 2.0]], "b": [[2.0, 3.0]]}))
    assert np.isnan(rows[0].low)
    assert np.isnan(rows[1].p_value)
    assert "too few" in rows[0].method


@pytest.mark.parametrize("objective", ["wait_mean", "wait_p90"])
def test_a_clear_difference_is_seen_among_many(objective: str) -> None:
    """A floor under p that the number of resamples sets would hide any difference among twenty policies."""
    wait = noise(1)
    many = {f"p{k}": [wait * (1 + k)] for k in range(20)}
    assert all(row.p_value < 0.001 for row in league(study(many, objective))[1:])


def test_an_interval_does_not_depend_on_the_others() -> None:
    walk = np.abs(np.cumsum(np.random.default_rng(0).normal(size=3000)))
    alone = league(study({"slow": [walk]}))[0]
    among = by_name(league(study({"slow": [walk], "quick": [noise(2, 3000)]})))["slow"]
    assert (alone.low, alone.high) == (among.low, among.high)


def test_p_values_of_equal_policies_are_seldom_small() -> None:
    """Two policies that differ by luck alone: p < 0.05 in about one of twenty."""
    small = 0
    for seed in range(300):
        compared, _ = _by_blocks(study({"a": [noise(seed, 400)], "b": [noise(1000 + seed, 400)]}), ["a", "b"], [])
        small += compared["b"].p_value < 0.05
    assert 300 * 0.05 - 3 * np.sqrt(300 * 0.05 * 0.95) < small < 300 * 0.06 + 3 * np.sqrt(300 * 0.06 * 0.94)


def test_a_lead_is_relative_to_the_runner_up() -> None:
    wait = noise(1)
    made = study({"half": [wait / 2], "whole": [wait]})
    rows = league(made)
    assert "50.0" in versus(made, rows)
    assert "50.0" in answer(made, rows)
    made = study({"much": [wait], "little": [wait]}, "good", good={"much": 3.0, "little": 2.0})
    assert "50.0" in answer(made, league(made))
