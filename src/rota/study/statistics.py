"""Who is better, and how sure that is.

All policies of a study see the same workload, so differences are paired.

Several seeds of a random workload: each seed is one observation. Intervals are t intervals over the seeds, p values come from the
paired t test.

One recorded trace: there is one observation of the world, but a long one. Jobs in order of arrival are resampled in blocks of time, and
for a difference the same blocks for both policies (circular block bootstrap, Politis and Romano 1992). The block length is the automatic
choice of Politis and White 2004, so that queues that remember get long blocks; of two policies the longer one counts. p values come from the
difference and its bootstrap standard error, by the t distribution with one degree less than there are blocks.

p values are against the best policy, two-sided, corrected for the number of comparisons by Holm 1979.

Who is compared: a policy that left out jobs that another one served, or that failed on a seed, answers an easier question. Where the objective
only sees served jobs it is shown without a rank and without a comparison, and the reason is said.
"""

from collections.abc import Mapping, Sequence
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
FEWEST_JOBS = 20  # with fewer there is no interval
MISSED = 0.001  # share of the jobs that a policy may serve less than another one and still be compared with it
LEVEL = 0.95


@dataclass(frozen=True)
class LeagueRow:
    """A policy's place. `behind` and `gap` are shares: 0.1 = ten per cent worse than the best, or than the bound.

    `rank` is None for a policy that cannot be compared with the others; `unranked` then says why.
    """

    rank: int | None
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
    unranked: str = ""


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
    found.sort(key=lambda name: sign * float(means[name][study.objective]))
    if not found:
        return []
    served = _served(study)
    reasons = {name: _incomparable(study, name, found, served) for name in found}
    order = [name for name in found if not reasons[name]]
    apart = [name for name in found if reasons[name]]
    by_seed = len(study.seeds) > 1 and bool(study.manifest.get("random_workload", True))
    compared, method = (_by_seeds if by_seed else _by_blocks)(study, order, apart)
    p_values = [nan, *_holm([compared[name].p_value for name in order[1:]])]
    best, bound = compared[order[0]].mean if order else nan, study.bounds.get(study.objective, nan)
    rows: list[LeagueRow] = []
    for place, name in enumerate((*order, *apart)):
        mine, ranked = compared[name], name in order
        low, high = sorted(sign * end / abs(best) if best else nan for end in mine.difference)
        tied = rows and ranked and rows[-1].mean == mine.mean
        bounded = isfinite(bound) and bound and served.get(name) == study.bounds.get("served", served.get(name))
        rows.append(
            LeagueRow(
                rank=(rows[-1].rank if tied else place + 1) if ranked else None,
                policy=name,
                mean=mine.mean,
                low=mine.low,
                high=mine.high,
                behind=sign * (mine.mean - best) / abs(best) if best and ranked else nan,
                behind_low=low,
                behind_high=high,
                p_value=p_values[place] if ranked else nan,
                gap=sign * (mine.mean - bound) / bound if bounded else nan,
                knew=study.knew.get(name, ""),
                method=method,
                metrics={key: float(value) for key, value in means[name].items() if _finite(value) and key != "seed"},
                unranked=reasons[name],
            )
        )
    return rows


def _served(study: Study) -> dict[str, float]:
    """Jobs that each policy served, mean over its seeds; empty where the world's jobs have no end. Of groups, those too that were not needed."""
    if "finish" not in study.outcomes.columns:
        return {}
    known = pl.col("finish").is_not_null() & pl.col("finish").is_not_nan()
    if study.measures[study.objective].of_groups and "status" in study.outcomes.columns:
        known = known | (pl.col("status") == "spared")
    counted = study.outcomes.group_by("policy", "seed").agg(known.sum().alias("served"))
    return dict(counted.group_by("policy").agg(pl.col("served").mean()).iter_rows())


def _incomparable(study: Study, name: str, names: Sequence[str], served: Mapping[str, float]) -> str:
    """Why a policy cannot be ranked among the others; empty: it can."""
    failed = len(study.seeds) - study.summary.filter(pl.col("policy") == name)["seed"].n_unique()
    if failed and any(
        study.summary.filter(pl.col("policy") == each)["seed"].n_unique() == len(study.seeds) for each in names
    ):
        return f"it failed on {failed} of {len(study.seeds)} seeds"
    most = max((served[each] for each in names), default=0.0) if served else 0.0
    if served and study.measures[study.objective].of_served and served[name] < (1 - MISSED) * most:
        return (
            f"it left out {most - served[name]:,.0f} jobs that others served, and {study.objective} does not count them"
        )
    return ""


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _by_seeds(study: Study, order: Sequence[str], apart: Sequence[str]) -> tuple[dict[str, _Compared], str]:
    values = {name: _seed_values(study, name) for name in (*order, *apart)}
    compared = {name: _Compared(*t_interval(values[name]), (nan, nan), nan) for name in apart}
    for name in order:
        best = values[order[0]]
        _, *difference = t_interval(values[name] - best)
        p_value = nan if name == order[0] else paired_p(values[name], best)
        compared[name] = _Compared(*t_interval(values[name]), (difference[0], difference[1]), p_value)
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
    """Two-sided p of the paired t test; 1 when the two are equal everywhere, NaN with fewer than two pairs or a difference without luck."""
    from scipy.stats import t

    differences = (first - second)[~np.isnan(first - second)]
    if len(differences) < 2:
        return nan
    spread = float(differences.std(ddof=1))
    if spread == 0.0:
        return 1.0 if differences[0] == 0 else nan
    statistic = float(differences.mean()) / (spread / sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def _by_blocks(study: Study, order: Sequence[str], apart: Sequence[str]) -> tuple[dict[str, _Compared], str]:
    stem, _, kind = study.objective.rpartition("_")
    is_quantile = kind.startswith("p") and kind[1:].isdigit()
    column = study.measures[study.objective].per_job or (stem if is_quantile else "")
    names = (*order, *apart)
    alone = {name: _alone(_seed_values(study, name)) for name in names}
    if column not in study.outcomes.columns:
        return alone, f"one observation of {study.objective}: no interval; use seeds of a generated workload for one"
    jobs = _per_job(study, names, column)
    if jobs is None:
        return alone, "the runs do not have the same jobs, so that they cannot be compared in blocks: no interval"
    count = len(jobs[names[0]])
    if count < FEWEST_JOBS:
        return alone, f"{count} jobs: too few for an interval"
    quantile = float(kind[1:]) if is_quantile else None
    lengths = {name: block_length(values) for name, values in jobs.items()}
    compared = {}
    for name in names:
        mean, ends = alone[name].mean, _middle(block_bootstrap(jobs[name], lengths[name], quantile))
        between, p_value = (nan, nan), nan
        if name in order[1:]:
            length = max(lengths[name], lengths[order[0]])
            mine, best = (block_bootstrap(jobs[each], length, quantile) for each in (name, order[0]))
            between = _middle(mine - best)
            p_value = _resampled_p(mean - alone[order[0]].mean, mine - best, round(count / length))
        compared[name] = _Compared(mean, *ends, between, p_value)
    over = "one trace, one seed" if len(study.seeds) == 1 else f"one trace, mean of {len(study.seeds)} seeds"
    few, many = min(lengths.values()), max(lengths.values())
    blocks = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    return compared, (
        f"{over}: block bootstrap over time, {RESAMPLES if quantile is None else QUANTILE_RESAMPLES:,} resamples in blocks of {blocks} jobs, "
        "for a difference the same blocks for both; p: against the best, Holm-corrected"
    )


def _middle(draws: FloatColumn) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def _resampled_p(difference: float, draws: FloatColumn, blocks: int) -> float:
    """Two-sided p of a difference with its resampled values; 1 when nothing differs, NaN when nothing varies."""
    from scipy.stats import t

    spread = float(np.nanstd(draws, ddof=1))
    if spread == 0.0 or blocks < 2:
        return 1.0 if difference == 0 else nan
    return float(2 * t.sf(abs(difference) / spread, blocks - 1))


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
