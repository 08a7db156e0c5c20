"""Numbers that summarise a run: percentiles, fairness, goodput, utilisation, slowdown, averages over time.

Everything takes and gives plain NumPy and floats. What is undefined (a mean of nothing) is NaN, never zero. SI units.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatColumn = npt.NDArray[np.float64]
BoolColumn = npt.NDArray[np.bool_]

NAN = float("nan")


def percentile(values: npt.ArrayLike, percent: float, weights: npt.ArrayLike | None = None) -> float:
    """The value below which `percent` per cent of the values lie; NaN of nothing.

    Without weights: linear interpolation between order statistics at rank ``(n - 1) p``, NumPy's default and type 7 of
    Hyndman and Fan, Sample quantiles in statistical packages, 1996. With weights: the inverse of the weighted empirical
    distribution, ``min {x : sum_{x_i <= x} w_i >= p sum w_i}`` (type 1; equal to repeating each value ``w_i`` times).
    Values of zero weight are not there at all.

    Raises:
        ValueError: `percent` outside 0..100, a weight that is negative or not finite, or unequal lengths.
    """
    column = _column(values)
    if not 0.0 <= percent <= 100.0:
        raise ValueError(f"percent must be in 0..100, found {percent}")
    if weights is not None:
        return _inverted_cdf(column, percent / 100.0, _weights(weights, len(column)))
    return float(np.percentile(column, percent)) if len(column) else NAN


def _inverted_cdf(column: FloatColumn, share: float, weights: FloatColumn) -> float:
    present = weights > 0
    column, weights = column[present], weights[present]
    if not len(column) or np.isnan(column).any():
        return NAN
    order = np.argsort(column, kind="stable")
    reached = np.cumsum(weights[order])
    row = int(np.searchsorted(reached, share * reached[-1], side="left"))
    return float(column[order[min(row, len(column) - 1)]])


def weighted_mean(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """``sum w_i x_i / sum w_i``, equal weights when none are given; NaN where the weights sum to zero.

    Raises:
        ValueError: a weight that is negative or not finite, or unequal lengths.
    """
    column = _column(values)
    if weights is None:
        return float(column.mean()) if len(column) else NAN
    heavy = _weights(weights, len(column))
    total = float(heavy.sum())
    return float(np.where(heavy > 0, column, 0.0) @ heavy) / total if total > 0 else NAN


def jain(shares: npt.ArrayLike) -> float:
    """Jain's fairness index ``(sum x)^2 / (n sum x^2)``: 1 when all shares are equal, ``1/n`` when one has everything.

    All zero is equal, hence 1; NaN of nothing. Jain, Chiu and Hawe, A quantitative measure of fairness, DEC TR-301,
    1984.

    Raises:
        ValueError: a negative share.
    """
    column = _column(shares)
    if (column < 0).any():
        raise ValueError(f"shares must not be negative, found {column.min()}")
    largest = column.max(initial=0.0)
    if not len(column) or largest == 0.0:
        return 1.0 if len(column) else NAN
    scaled = column / largest  # the index has no unit; without this the squares may overflow
    return float(scaled.sum() ** 2 / (len(scaled) * (scaled @ scaled)))


class Goodput(NamedTuple):
    """Jobs that kept all their limits: as a share of all jobs, and per second."""

    share: float
    rate: float


def within_limits(measured: Mapping[str, npt.ArrayLike], limits: Mapping[str, npt.ArrayLike]) -> BoolColumn:
    """Whether each job kept every limit, ``measured[name] <= limits[name]``.

    A limit is one number or one a job; ``inf`` is none.
    A measurement that is NaN (the job never came so far) keeps no limit, not even an infinite one.

    Raises:
        ValueError: nothing measured, or a limit without a measurement.
    """
    missing = sorted(set(limits) - set(measured))
    if missing or not measured:
        raise ValueError(f"limits on {', '.join(missing) or 'nothing'} but nothing measured for them")
    kept = [~np.isnan(_column(column)) for column in measured.values()]
    kept += [_column(measured[name]) <= np.asarray(limit, dtype=np.float64) for name, limit in limits.items()]
    return np.asarray(np.logical_and.reduce(kept))


def goodput(within: npt.ArrayLike, duration: float) -> Goodput:
    """Share and rate (1/s over `duration` seconds) of the jobs that kept all their limits.

    Zhong et al., DistServe: Disaggregating prefill and decoding for goodput-optimized LLM serving, OSDI 2024.
    """
    kept = np.asarray(within, dtype=np.bool_)
    count = int(np.count_nonzero(kept))
    return Goodput(count / len(kept) if len(kept) else NAN, count / duration if duration > 0 else NAN)


def utilisation(busy: npt.ArrayLike, duration: float, capacity: float = 1.0) -> float:
    """``sum(busy) / (capacity duration)`` of busy seconds, `capacity` servers, `duration` seconds; NaN of no time."""
    possible = capacity * duration
    return float(np.sum(np.asarray(busy, dtype=np.float64))) / possible if possible > 0 else NAN


def slowdown(response: npt.ArrayLike, service: npt.ArrayLike, bound: float = 0.0) -> FloatColumn:
    """Response time over service time, one a job: how many times longer than alone.

    With a `bound` in seconds the bounded slowdown ``max(1, response / max(service, bound))`` of Feitelson et al.,
    Theory and practice in parallel job scheduling, 1997, in which jobs of no length do not count for everything. Zero
    service without a bound gives ``inf`` (NaN where the response is zero too).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _column(response) / np.maximum(_column(service), bound)
    return np.maximum(ratio, 1.0) if bound > 0 else ratio


def step_counts(starts: npt.ArrayLike, ends: npt.ArrayLike) -> tuple[FloatColumn, FloatColumn]:
    """How many intervals ``[start, end)`` cover each moment: the step function as (times, values).

    A NaN end never comes, and with a NaN start the interval never was. Times are distinct and increasing; the count is
    zero before the first.

    Raises:
        ValueError: unequal lengths.
    """
    begun, ended = _column(starts), _column(ends)
    if len(begun) != len(ended):
        raise ValueError(f"{len(begun)} starts for {len(ended)} ends")
    begun, ended = begun[~np.isnan(begun)], ended[~np.isnan(begun) & ~np.isnan(ended)]
    times, rows = np.unique(np.concatenate([begun, ended]), return_inverse=True)
    changes = np.zeros(len(times))
    np.add.at(changes, rows[: len(begun)], 1.0)
    np.add.at(changes, rows[len(begun) :], -1.0)
    return times, np.cumsum(changes)


def step_integral(
    times: npt.ArrayLike, values: npt.ArrayLike, points: npt.ArrayLike, initial: float = 0.0
) -> FloatColumn:
    """Integral of a step function from its first time to each of `points` (negative before it).

    The function is ``values[i]`` on ``[times[i], times[i + 1])``, the last value for ever, `initial` before the first
    time. At equal times the last value counts.

    Raises:
        ValueError: times that are not sorted, or unequal lengths.
    """
    at, held, where = _column(times), _column(values), _column(points)
    if len(at) != len(held):
        raise ValueError(f"{len(at)} times for {len(held)} values")
    if not len(at):
        return initial * where
    if not np.all(np.diff(at) >= 0):
        raise ValueError("the times of a step function must be sorted")
    areas = np.concatenate([[0.0], np.cumsum(held[:-1] * np.diff(at))])
    rows = np.searchsorted(at, where, side="right") - 1
    inside = np.maximum(rows, 0)
    return np.asarray(areas[inside] + np.where(rows < 0, initial, held[inside]) * (where - at[inside]))


def step_average(times: npt.ArrayLike, values: npt.ArrayLike, start: float, end: float, initial: float = 0.0) -> float:
    """Time-weighted average of a step function (see `step_integral`) over ``[start, end)``; NaN of no time."""
    areas = step_integral(times, values, [start, end], initial)
    return float(areas[1] - areas[0]) / (end - start) if end > start else NAN


def step_bins(times: npt.ArrayLike, values: npt.ArrayLike, edges: npt.ArrayLike, initial: float = 0.0) -> FloatColumn:
    """Time-weighted average of a step function (see `step_integral`) in each bin ``[edges[i], edges[i + 1])``.

    Averages times widths sum to the integral: nothing is lost between samples.

    Raises:
        ValueError: edges that do not increase.
    """
    bounds = _column(edges)
    widths = np.diff(bounds)
    if not np.all(widths > 0):
        raise ValueError("the edges of bins must increase")
    return np.asarray(np.diff(step_integral(times, values, bounds, initial)) / widths)


def _column(values: npt.ArrayLike) -> FloatColumn:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise ValueError(f"expected one dimension, found shape {column.shape}")
    return column


def _weights(weights: npt.ArrayLike, rows: int) -> FloatColumn:
    column = _column(weights)
    if len(column) != rows:
        raise ValueError(f"{len(column)} weights for {rows} values")
    if not np.all((column >= 0) & (column < np.inf)):
        raise ValueError("weights must be finite and not negative")
    return column
