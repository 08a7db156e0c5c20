"""Intervals that cover, p values that mean what they say."""

import numpy as np
import pytest
from scipy import stats

from rota.study.statistics import _holm, block_bootstrap, block_length, paired_p, t_interval


def test_t_interval_and_paired_test_equal_scipy() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(3, 1, 9), rng.normal(3.5, 1, 9)
    mean, low, high = t_interval(first)
    assert (mean, low, high) == pytest.approx(
        (first.mean(), *stats.t.interval(0.95, 8, first.mean(), stats.sem(first)))
    )
    assert paired_p(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_equal_policies_are_a_tie() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert paired_p(values, values) == 1.0


def test_a_difference_without_luck_has_no_p() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert np.isnan(paired_p(values, values + 1))


def test_one_value_has_no_interval() -> None:
    assert np.isnan(t_interval(np.array([2.0]))[1:]).all()


def test_block_bootstrap_covers_the_mean_of_a_series_with_memory() -> None:
    """AR(1) with r = 0.8: an interval that took the values for independent would cover in about half of the cases."""
    covered, runs, count = 0, 120, 3000
    for seed in range(runs):
        noise = np.random.default_rng(seed).normal(size=count)
        values = np.empty(count)
        values[0] = noise[0] / 0.6
        for k in range(1, count):
            values[k] = 0.8 * values[k - 1] + noise[k]
        low, high = np.quantile(block_bootstrap(values, block_length(values)), [0.025, 0.975])
        covered += low <= 0 <= high
    # 95 % nominal; blocks of finite length lose a little. Three standard errors of a proportion of 0.92 on 120 runs: 0.074.
    assert covered / runs > 0.92 - 0.074


def test_blocks_are_longer_where_the_series_remembers() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=4000)
    assert block_length(noise) < block_length(np.cumsum(noise))
    assert block_length(np.ones(5)) == 1


def test_absent_values_take_no_part() -> None:
    values = np.array([1.0, np.nan, 1.0, np.nan] * 50)
    assert block_bootstrap(values, 4) == pytest.approx(1.0)


def test_quantiles_are_resampled_too() -> None:
    draws = block_bootstrap(np.arange(1000.0), 10, 50.0)
    assert abs(np.median(draws) - 499.5) < 60


def test_holm_equals_the_textbook() -> None:
    """Holm 1979: 0.01 x 3, then max with 0.02 x 2, then 0.04."""
    assert _holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
