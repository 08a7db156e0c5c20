"""Metrics against NumPy, values computed by hand, and properties over random inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.metrics import (
    goodput,
    jain,
    percentile,
    slowdown,
    step_average,
    step_bins,
    step_counts,
    step_integral,
    utilisation,
    weighted_mean,
    within_limits,
)

NUMBERS = st.floats(-1e6, 1e6)
COLUMNS = st.lists(NUMBERS, min_size=1, max_size=30)
PERCENTS = st.one_of(st.sampled_from([0.0, 50.0, 90.0, 99.0, 100.0]), st.floats(0, 100))
WEIGHTED = st.lists(st.tuples(NUMBERS, st.integers(0, 5)), min_size=1, max_size=20).filter(
    lambda rows: any(w for _, w in rows)
)
STEPS = st.lists(st.tuples(st.floats(0, 100), st.floats(-50, 50)), min_size=1, max_size=20).map(
    lambda rows: (np.sort([time for time, _ in rows]), np.array([value for _, value in rows]))
)


@given(COLUMNS, PERCENTS)
def test_percentile_without_weights_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == np.percentile(values, percent)


@given(WEIGHTED, PERCENTS)
def test_percentile_with_integer_weights_repeats_the_values(rows: list[tuple[float, int]], percent: float) -> None:
    values, weights = (list(column) for column in zip(*rows, strict=True))
    expected = np.percentile(np.repeat(values, weights), percent, method="inverted_cdf")
    assert percentile(values, percent, weights) == expected


@given(WEIGHTED, PERCENTS)
def test_weighted_percentile_keeps_its_definition(rows: list[tuple[float, int]], percent: float) -> None:
    values, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found, needed = percentile(values, percent, weights), percent / 100 * weights.sum()
    assert weights[values <= found].sum() >= needed
    assert weights[values < found].sum() < needed or percent == 0 or needed == 0


def test_percentiles_by_hand() -> None:
    assert percentile([10, 20, 30, 40], 50) == 25
    assert percentile([10, 20, 30, 40], 50, [1, 1, 1, 1]) == 20
    assert percentile([1, 100], 98, [99, 1]) == 1
    assert percentile([1, 100], 99.5, [99, 1]) == 100
    assert percentile([5, 1], 0, [1, 0]) == 5  # of zero weight is not there
    assert np.isnan(percentile([], 50))
    assert np.isnan(percentile([1], 50, [0]))
    assert np.isnan(percentile([1, np.nan], 50, [1, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 101.0), "percent must be in"),
        (([1.0], float("nan")), "percent must be in"),
        (([1.0], 50, [1.0, 2.0]), "2 weights for 1 values"),
        (([1.0], 50, [-1.0]), "finite and not negative"),
        (([1.0], 50, [float("nan")]), "finite and not negative"),
        (([[1.0]], 50), "one dimension"),
    ],
)
def test_percentile_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        percentile(*arguments)  # type: ignore[arg-type]


@given(WEIGHTED)
def test_weighted_mean_is_numpys(rows: list[tuple[float, int]]) -> None:
    values, weights = (list(column) for column in zip(*rows, strict=True))
    assert weighted_mean(values, weights) == pytest.approx(np.average(values, weights=weights), abs=1e-6)
    assert weighted_mean(values) == np.mean(values)


def test_weighted_mean_of_nothing_and_beside_what_is_unknown() -> None:
    assert np.isnan(weighted_mean([]))
    assert np.isnan(weighted_mean([1.0], [0.0]))
    assert weighted_mean([3.0, float("nan")], [2.0, 0.0]) == 3.0


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=30), st.sampled_from([1.0, 7.0, 1e-3]))
def test_jain_lies_between_one_share_and_equal_shares(shares: list[float], factor: float) -> None:
    index = jain(shares)
    assert 1 / len(shares) - 1e-12 <= index <= 1 + 1e-12
    assert jain(np.array(shares) * factor) == pytest.approx(index)


def test_jain_by_hand() -> None:
    assert jain([1, 1, 1, 1]) == 1
    assert jain([4, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 1
    assert jain([1, 2, 3]) == pytest.approx(36 / (3 * 14))
    assert np.isnan(jain([]))
    with pytest.raises(ValueError, match="negative"):
        jain([1, -1])


def test_goodput_counts_the_jobs_within_all_limits() -> None:
    measured = {"ttft": [0.5, 1.0, 1.5, np.nan], "tpot": [0.01, 0.06, 0.01, 0.01]}
    within = within_limits(measured, {"ttft": 1.0, "tpot": [0.05, 0.06, 0.05, 0.05]})
    assert within.tolist() == [True, True, False, False]
    assert goodput(within, 4.0) == (0.5, 0.5)
    assert within_limits(measured, {"ttft": np.inf}).tolist() == [True, True, True, False]  # who never came is not good
    assert np.isnan(goodput([], 0.0).share)
    assert np.isnan(goodput([], 0.0).rate)
    with pytest.raises(ValueError, match="e2e"):
        within_limits(measured, {"e2e": 1.0})


def test_utilisation_and_slowdown_by_hand() -> None:
    assert utilisation([2.0, 1.0], 2.0, capacity=3) == 0.5
    assert np.isnan(utilisation([], 0.0))
    assert slowdown([4.0, 3.0], [2.0, 3.0]).tolist() == [2.0, 1.0]
    assert slowdown([4.0, 0.5], [0.1, 0.1], bound=10.0).tolist() == [1.0, 1.0]
    assert slowdown([40.0], [0.1], bound=10.0).tolist() == [4.0]
    assert slowdown([1.0], [0.0]).tolist() == [np.inf]


def test_step_functions_by_hand() -> None:
    times, values = [1.0, 2.0, 4.0], [3.0, 0.0, 1.0]
    assert step_integral(times, values, [0.0, 1.0, 1.5, 2.0, 4.0, 6.0], initial=2.0).tolist() == [-2, 0, 1.5, 3, 3, 5]
    assert step_average(times, values, 0.0, 6.0) == pytest.approx(5 / 6)
    assert step_bins(times, values, [0.0, 2.0, 6.0]).tolist() == [1.5, 0.5]
    assert step_average([1.0, 1.0], [9.0, 2.0], 1.0, 3.0) == 2.0  # at equal times the last one counts
    assert step_average([], [], 0.0, 1.0, initial=4.0) == 4.0
    assert np.isnan(step_average(times, values, 1.0, 1.0))


@pytest.mark.parametrize(
    ("times", "values", "edges", "message"),
    [
        ([2.0, 1.0], [0.0, 0.0], [0.0, 1.0], "sorted"),
        ([1.0], [0.0, 0.0], [0.0, 1.0], "1 times for 2 values"),
        ([1.0], [0.0], [1.0, 1.0], "must increase"),
    ],
)
def test_step_functions_refuse(times: list[float], values: list[float], edges: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_bins(times, values, edges)


@given(STEPS, st.lists(st.floats(0, 120), min_size=2, max_size=12, unique=True).map(sorted))
def test_bins_sum_to_the_integral_and_stay_within_the_values(
    steps: tuple[np.ndarray, np.ndarray], edges: list[float]
) -> None:
    times, values = steps
    if min(np.diff(edges)) < 1e-3:
        return  # rounding of the integral over the width; widths in use are far larger
    averages = step_bins(times, values, edges)
    whole = step_integral(times, values, [edges[0], edges[-1]])
    assert averages @ np.diff(edges) == pytest.approx(whole[1] - whole[0], abs=1e-6)
    assert np.all(averages >= min(0, values.min()) - 1e-6)
    assert np.all(averages <= max(0, values.max()) + 1e-6)


@given(STEPS, st.floats(0, 100), st.floats(1, 50))
def test_step_average_is_the_sum_over_pieces(steps: tuple[np.ndarray, np.ndarray], start: float, length: float) -> None:
    times, values = steps
    points = np.unique(np.concatenate([[start, start + length], times[(times > start) & (times < start + length)]]))
    held = [values[np.searchsorted(times, at, side="right") - 1] if at >= times[0] else 0.0 for at in points[:-1]]
    expected = np.dot(held, np.diff(points)) / length
    assert step_average(times, values, start, start + length) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), max_size=20), st.integers(0, 40))
def test_step_counts_count_what_covers_a_moment(intervals: list[tuple[int, int]], moment: int) -> None:
    starts, ends = [start for start, _ in intervals], [start + length for start, length in intervals]
    times, counts = step_counts(starts, ends)
    assert np.all(np.diff(times) > 0)
    assert np.all(counts >= 0)
    row = np.searchsorted(times, moment, side="right") - 1
    found = counts[row] if row >= 0 else 0
    assert found == sum(start <= moment < end for start, end in zip(starts, ends, strict=True))


def test_step_counts_of_jobs_that_never_began_or_ended() -> None:
    times, counts = step_counts([0.0, 1.0, np.nan], [2.0, np.nan, np.nan])
    assert times.tolist() == [0, 1, 2]
    assert counts.tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="2 starts for 1 ends"):
        step_counts([1, 2], [3])
