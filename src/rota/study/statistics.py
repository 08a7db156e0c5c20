"""Who is better, and how sure that is.

All policies of a study see the same workload, so differences are paired.

Several seeds of a random workload: each seed is one observation. Intervals are t intervals over the seeds, p values come from the
paired t test.

One recorded trace: there is one observation of the world, but a long one. Jobs in order of arrival are resampled in blocks of time, the
same blocks for every policy (circular block bootstrap, Politis and Romano 1992). The block length is the automatic choice
of Politis and White 2004, so that queues that remember get long blocks.

p values are against the best policy, two-sided, corrected for the number of comparisons by Holm 1979.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, log10, nan, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rota.kernel.streams import generator
from rota.study.store import Study

FloatColumn = npt.NDArray[np.float64]
RESAMPLES = 1000
QUANTILE_RESAMPLES = 200
LEVEL = 0.95


@dataclass(frozen=True)
class LeagueRow:
    """A policy's place. `behind` and `gap` are shares: 0.1 = ten per cent worse than the best, or than the bound."""

    rank: int
    policy: str
    mean: float
    low: float  # 95 % confidence interval of the mean
    high: float
    behind: float
    behind_low: float
    behind_high: float
    p_value: float  # against the best; NaN where it cannot be had
    gap: float
    knew: str
    method: str
    metrics: dict[str, float]  # means over the seeds


@dataclass(frozen=True)
class _Compared:
    mean: float
    low: float
    high: float
    difference: tuple[float, float]  # interval of the difference to the best
    p_value: float


def league(study: Study) -> list[LeagueRow]:
    """The policies, best first by the study's objective."""
    measure = study.measures[study.objective]
    if study.objective not in study.summary.columns:
        return []
    numbers = [name for name, kind in study.summary.schema.items() if kind.is_numeric() and name != "seed"]
    known = (pl.col(name).cast(pl.Float64).fill_nan(None).mean() for name in numbers)
    means = {row["policy"]: row for row in study.summary.group_by("policy").agg(known).to_dicts()}
    found = [name for name in study.policies if _finite(means[name].get(study.objective))]
    sign = 1.0 if measure.smaller_is_better else -1.0
    order = sorted(found, key=lambda name: sign * float(means[name][study.objective]))
    if not order:
        return []
    by_seed = len(study.seeds) > 1 and bool(study.manifest.get("random_workload", True))
    compared, method = _by_seeds(study, order) if by_seed else _by_blocks(study, order)
    p_values = [nan, *_holm([compared[name].p_value for name in order[1:]])]
    best, bound = compared[order[0]].mean, study.bounds.get(study.objective, nan)
    rows: list[LeagueRow] = []
    for place, name in enumerate(order):
        mine = compared[name]
        low, high = sorted(sign * end / abs(best) if best else nan for end in mine.difference)
        rows.append(
            LeagueRow(
                rank=rows[-1].rank if rows and rows[-1].mean == mine.mean else place + 1,
                policy=name,
                mean=mine.mean,
                low=mine.low,
                high=mine.high,
                behind=sign * (mine.mean - best) / abs(best) if best else nan,
                behind_low=low,
                behind_high=high,
                p_value=p_values[place],
                gap=sign * (mine.mean - bound) / bound if isfinite(bound) and bound else nan,
                knew=study.knew.get(name, ""),
                method=method,
                metrics={key: float(value) for key, value in means[name].items() if _finite(value) and key != "seed"},
            )
        )
    return rows


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _by_seeds(study: Study, order: Sequence[str]) -> tuple[dict[str, _Compared], str]:
    values = {name: _seed_values(study, name) for name in order}
    best = values[order[0]]
    compared = {}
    for name in order:
        mean, low, high = t_interval(values[name])
        _, *difference = t_interval(values[name] - best)
        p_value = nan if name == order[0] else paired_p(values[name], best)
        compared[name] = _Compared(mean, low, high, (difference[0], difference[1]), p_value)
    return compared, f"t intervals over {len(study.seeds)} seeds; p: paired t test against the best, Holm-corrected"


def _seed_values(study: Study, policy: str) -> FloatColumn:
    """The objective on each seed, NaN where that run failed."""
    rows = study.summary.filter(pl.col("policy") == policy)
    known = dict(zip(rows["seed"].to_list(), rows[study.objective].to_list(), strict=True))
    return np.array([known.get(seed, nan) for seed in study.seeds], np.float64)


def t_interval(values: FloatColumn, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean and its t confidence interval; NaN values are left out. One value has no interval."""
    from scipy.stats import t

    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else nan
    if len(values) < 2:
        return mean, nan, nan
    half = float(t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / sqrt(len(values)))
    return mean, mean - half, mean + half


def paired_p(first: FloatColumn, second: FloatColumn) -> float:
    """Two-sided p of the paired t test; 1 when the two are equal everywhere, NaN with fewer than two pairs."""
    from scipy.stats import t

    differences = (first - second)[~np.isnan(first - second)]
    if len(differences) < 2:
        return nan
    spread = float(differences.std(ddof=1))
    if spread == 0.0:
        return 1.0 if differences[0] == 0 else 0.0
    statistic = float(differences.mean()) / (spread / sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def _by_blocks(study: Study, order: Sequence[str]) -> tuple[dict[str, _Compared], str]:
    stem, _, kind = study.objective.rpartition("_")
    column = study.measures[study.objective].per_job or (stem if kind.startswith("p") and kind[1:].isdigit() else "")
    if column not in study.outcomes.columns:
        compared = {name: _alone(_seed_values(study, name)) for name in order}
        return compared, f"one observation of {study.objective}: no interval; use seeds of a generated workload for one"
    jobs = _per_job(study, order, column)
    if jobs is None:
        compared = {name: _alone(_seed_values(study, name)) for name in order}
        return compared, "the runs do not have the same jobs, so that they cannot be compared in blocks: no interval"
    length = block_length(jobs[order[0]])
    quantile = float(kind[1:]) if kind.startswith("p") and kind[1:].isdigit() else None
    over = "one trace, one seed" if len(study.seeds) == 1 else f"one trace, mean of {len(study.seeds)} seeds"
    draws = {name: block_bootstrap(values, length, quantile) for name, values in jobs.items()}
    best = draws[order[0]]
    compared = {}
    for name in order:
        mean = _alone(_seed_values(study, name)).mean
        low, high = np.quantile(draws[name], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        gaps = draws[name] - best
        ends = np.quantile(gaps, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        side = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))  # both hold where nothing differs: p = 1
        p_value = nan if name == order[0] else min(1.0, 2 * (side + 1) / (len(gaps) + 1))
        compared[name] = _Compared(mean, float(low), float(high), (float(ends[0]), float(ends[1])), p_value)
    return compared, (
        f"{over}: block bootstrap over time, {len(best):,} resamples in blocks of {length:,} jobs, "
        "the same blocks for every policy; p: against the best, Holm-corrected"
    )


def _per_job(study: Study, order: Sequence[str], column: str) -> dict[str, FloatColumn] | None:
    """A column of the outcomes, mean over the seeds, of each policy's jobs in one order of arrival; None where jobs differ."""
    rows = study.outcomes.select("policy", "job", "arrival", pl.col(column).cast(pl.Float64).fill_nan(None))
    if len(study.seeds) > 1:
        rows = rows.group_by("policy", "job").agg(pl.col("arrival").mean(), pl.col(column).mean())
    tables = {name: rows.filter(pl.col("policy") == name).sort("job") for name in order}
    first = tables[order[0]]
    if any(not table["job"].equals(first["job"]) for table in tables.values()):
        return None
    places = np.lexsort((first["job"].to_numpy(), first["arrival"].to_numpy()))
    return {name: table[column].cast(pl.Float64).fill_null(nan).to_numpy()[places] for name, table in tables.items()}


def _alone(values: FloatColumn) -> _Compared:
    known = values[np.isfinite(values)]
    return _Compared(float(known.mean()) if len(known) else nan, nan, nan, (nan, nan), nan)


def block_length(values: FloatColumn) -> int:
    """Jobs in a block, between 1 and n / 10: the automatic choice of Politis and White 2004 for the circular bootstrap.

    n^(1/3) (2 G^2 / D)^(1/3) with G = sum |k| R(k), D = 4/3 (sum R(k))^2 over the lags at which the correlation is significant, and as
    many again with falling weight. A queue's memory is found also where the sizes of the jobs hide most of it at lag one.
    """
    known = values[~np.isnan(values)]
    count = len(known)
    if count < 20 or float(known.std()) == 0.0:
        return 1
    centred = known - known.mean()
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[:count] / count
    significant = np.abs(covariance / covariance[0]) >= 2 * sqrt(log10(count) / count)
    patience = max(5, ceil(sqrt(log10(count))))
    quiet = np.convolve(~significant[1:], np.ones(patience), "valid") == patience
    last = int(np.argmax(quiet)) if quiet.any() else count // 4
    lags = np.arange(min(2 * max(last, 1), count - 1) + 1)
    weights = np.clip(2 * (1 - lags / max(lags[-1], 1)), 0, 1) * np.where(lags == 0, 1, 2)
    level = float((weights * covariance[lags]).sum())
    slope = float((weights * lags * covariance[lags]).sum())
    length = ceil((1.5 * slope * slope / (level * level) * count) ** (1 / 3)) if level else 1
    return int(min(max(1, length), count // 10))


def block_bootstrap(values: FloatColumn, length: int, quantile: float | None = None) -> FloatColumn:
    """Resampled means (or quantiles, in per cent) of a series in blocks; NaN values take part as absent.

    The blocks depend on the number of jobs and the block length only, so two policies on one trace are resampled alike.
    """
    count = len(values)
    blocks = max(1, round(count / length))
    resamples = RESAMPLES if quantile is None else QUANTILE_RESAMPLES
    starts = generator(0, f"bootstrap/{count}/{length}").integers(0, max(count, 1), (resamples, blocks))
    if quantile is None:
        known = ~np.isnan(values)
        sums = np.concatenate([[0.0], np.cumsum(np.tile(np.where(known, values, 0.0), 2))])
        counts = np.concatenate([[0.0], np.cumsum(np.tile(known, 2))])
        total = (sums[starts + length] - sums[starts]).sum(axis=1)
        return np.asarray(total / np.maximum((counts[starts + length] - counts[starts]).sum(axis=1), 1))
    steps = np.arange(length)
    return np.array([np.nanpercentile(values[(row[:, None] + steps).ravel() % count], quantile) for row in starts])


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and is not counted."""
    known = sorted((p, position) for position, p in enumerate(p_values) if not np.isnan(p))
    corrected, floor = list(p_values), 0.0
    for rank, (p, position) in enumerate(known):
        floor = max(floor, min(1.0, p * (len(known) - rank)))
        corrected[position] = floor
    return corrected
