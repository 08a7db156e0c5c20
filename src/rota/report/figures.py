"""The figures of a study: distributions, the league, quantities over time, the share of work within its objective.

Each function returns an ordinary plotly figure (light colours), or None where the study has nothing to draw. Traces of a policy
carry ``meta = {"policy": name}``; the page uses it to hide a policy everywhere at once.
"""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from rota.report.style import ACCENT, PAPER, Look, decimals, figure, log_axis, number, plain, quantity, scale_of, short

if TYPE_CHECKING:
    from rota.study.statistics import LeagueRow
    from rota.study.store import Study

Floats = npt.NDArray[np.float64]
# Where no measure of the world names its column: the times that have a distribution worth drawing.
TIMES = {
    "ttft": "time to first token", "tpot": "time per output token", "e2e": "end-to-end latency",
    "response_time": "response time", "slowdown": "slowdown", "flow": "flow time", "tardiness": "tardiness",
}  # fmt: skip
SERIES = {
    "queued": "queued requests", "running": "running requests", "kv_use": "share of KV blocks in use",
    "outstanding": "outstanding requests", "compute_use": "share of time computing",
}  # fmt: skip
# Even steps up to the 90th percentile, then finer and finer: the tail is what people read.
LEVELS = np.unique(np.concatenate([np.linspace(0.0, 0.9, 250), 1.0 - np.geomspace(0.1, 1e-4, 140), [1.0]]))


def distributions(study: "Study") -> dict[str, str]:
    """The outcomes columns that have a distribution to draw, each with its title: those of the measures, else known times."""
    found: dict[str, str] = {}
    for measure in study.measures.values():
        column = measure.per_job
        # A column without a unit is a share or a yes and no: bars say more of it than a distribution.
        if column and measure.unit and column in study.outcomes.columns and column not in found:
            found[column] = TIMES.get(column, measure.title)
    found = found or {column: title for column, title in TIMES.items() if column in study.outcomes.columns}
    return {column: found[column] for column in sorted(found, key=lambda each: ([*list(TIMES), each]).index(each))}


def unit_of(study: "Study", column: str) -> str:
    """The unit of an outcomes column, from the measure that averages it; seconds for the times known here."""
    units = [measure.unit for measure in study.measures.values() if measure.per_job == column]
    return units[0] if units else "s" if column in TIMES and column != "slowdown" else ""


def cumulative(outcomes: pl.DataFrame, column: str) -> tuple[Floats, Floats]:
    """Values and the share of jobs at or below them, at most 400 points.

    A job that never finished counts as infinitely late, so that the curve ends below one; a job that finished without a value
    (one output token has no time per output token) does not count.
    """
    values = outcomes[column].cast(pl.Float64).to_numpy()
    known = np.sort(values[np.isfinite(values)])
    if not len(known):
        return known, known
    finish = outcomes["finish"].cast(pl.Float64).to_numpy()
    never = int(np.count_nonzero(~np.isfinite(values) & ~np.isfinite(finish)))
    at = np.unique(np.ceil(LEVELS * len(known)).astype(int).clip(1) - 1)
    return known[at], (at + 1) / (len(known) + never)


def cdf(study: "Study", column: str, order: Sequence[str], look: dict[str, Look]) -> go.Figure | None:
    """Empirical distribution functions of an outcomes column, a curve a policy over all seeds; the first of ``order`` stands out."""
    by_policy = study.outcomes.select("policy", "finish", column).partition_by("policy", as_dict=True)
    curves = {name: cumulative(rows, column) for (name,), rows in by_policy.items()}
    curves = {name: curves[name] for name in order if name in curves and len(curves[name][0])}
    if not curves:
        return None
    low = min(float(np.interp(0.01, share, values)) for values, share in curves.values())
    high = max(float(np.interp(0.997, share, values)) for values, share in curves.values())
    title, unit = distributions(study).get(column, column), unit_of(study, column)
    if low > 0 and high / low > 20:  # the axis stops where almost all jobs are; zooming out shows the rest
        factor, shown = 1.0, unit
        drawn = figure(f"{title}, logarithmic", **log_axis(low * 0.9, high, unit))
    else:
        factor, shown = scale_of([high], unit)
        start = min(low, 0.0) if low < high / 4 else low - (high - low) * 0.03
        drawn = figure(f"{title}{f' ({shown})' if shown else ''}", range=[start * factor, high * factor])
    for name in reversed(curves):  # the best last, on top
        values, share = curves[name]
        drawn.add_scatter(
            x=(values * factor).astype(np.float32), y=share.astype(np.float32), mode="lines", name=plain(name),
            line={"color": look[name].colour, "dash": look[name].dash, "width": 3.2 if name == order[0] else 1.7, "shape": "hv"},
            meta={"policy": name}, hovertemplate=f"<b>{plain(short(name, 40))}</b><br>%{{y:.1%}} within %{{x:.4~g}} {plain(shown)}<extra></extra>",
        )  # fmt: skip
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.01], title_text="share of all jobs")
    return drawn


def profile(study: "Study", order: Sequence[str], look: dict[str, Look]) -> go.Figure | None:
    """Performance profiles (Dolan and More 2002): by policy, the share of instances whose value is at most so much above the best of all policies.

    For outcomes with a `value` of each job, smaller being better; several seeds count as instances of their own.
    """
    if "value" not in study.outcomes.columns or len(order) < 2:
        return None
    rows = study.outcomes.select("policy", "seed", "job", "value").with_columns(best=pl.col("value").min().over("job"))
    over = rows.with_columns(over=(pl.col("value") - pl.col("best")) / pl.col("best").abs().clip(1.0))
    drawn = figure("above the best value found", tickformat=".1%")
    far = float(over["over"].quantile(0.9) or 0.0)
    for name in reversed(order):
        mine = np.sort(over.filter(pl.col("policy") == name)["over"].to_numpy())
        if len(mine):
            drawn.add_scatter(
                x=np.concatenate([[0.0], mine]), y=np.concatenate([[0.0], np.arange(1, len(mine) + 1) / len(mine)]), mode="lines", name=plain(name),
                line={"color": look[name].colour, "dash": look[name].dash, "width": 3.2 if name == order[0] else 1.7, "shape": "hv"},
                meta={"policy": name}, hovertemplate=f"<b>{plain(short(name, 40))}</b><br>%{{y:.0%}} within %{{x:.2%}}<extra></extra>",
            )  # fmt: skip
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02], title_text="share of instances")
    drawn.update_xaxes(range=[0, max(far * 1.05, 0.001)])
    return drawn


def league_dots(study: "Study", league: Sequence["LeagueRow"], look: dict[str, Look]) -> go.Figure | None:
    """The league: mean of the objective with its confidence interval, small marks for the seeds, a line at the bound."""
    measure = study.measures.get(study.objective)
    title, unit = (measure.title, measure.unit) if measure else (study.objective, "")
    rows = {row.policy: (row.mean, row.low, row.high) for row in league if isfinite(row.mean)}
    return _dots(rows, per_seed(study, study.objective), look, title, unit, study.bounds.get(study.objective))


def goodput(study: "Study", name: str, order: Sequence[str], look: dict[str, Look]) -> go.Figure | None:
    """What was done within the service level objective: a bar a policy, mean over seeds, in the order of the league."""
    seeds = per_seed(study, name)
    means = {policy: float(np.mean(seeds[policy])) for policy in order if seeds.get(policy)}
    if not means:
        return None
    measure = study.measures.get(name)
    title, unit = (measure.title, measure.unit) if measure else (name.replace("_", " "), "")
    most = max(means.values())
    drawn = figure(f"{title}{f' ({unit})' if unit else ''}", range=[0, most * 1.14 if most > 0 else 1])
    for place, (policy, mean) in enumerate(means.items()):
        drawn.add_bar(
            orientation="h", x=[mean], y=[place], width=0.62, marker={"color": look[policy].colour}, meta={"policy": policy},
            name=plain(policy), text=[plain(quantity(mean, unit))], textposition="outside", cliponaxis=False,
            hovertemplate=f"<b>{plain(policy)}</b><br>{plain(quantity(mean, unit))}<extra></extra>",
        )  # fmt: skip
    _names(drawn, list(means))
    return drawn


def per_seed(study: "Study", metric: str) -> dict[str, list[float]]:
    """The finite values of a metric for each policy, a value a seed."""
    if metric not in study.summary.columns:
        return {}
    rows = (
        study.summary.select("policy", "seed", pl.col(metric).cast(pl.Float64))
        .filter(pl.col(metric).is_finite())
        .sort("policy", "seed")
    )
    return {str(name): of[metric].to_list() for (name,), of in rows.partition_by("policy", as_dict=True).items()}


def _dots(
    rows: dict[str, tuple[float, float, float]], seeds: dict[str, list[float]], look: dict[str, Look], title: str, unit: str, bound: float | None
) -> go.Figure | None:  # fmt: skip
    if not rows:
        return None
    drawn, factor = _across([each for row in rows.values() for each in row if isfinite(each)], bound, title, unit)
    for place, (policy, (mean, low, high)) in enumerate(rows.items()):
        style, of = look[policy], {"meta": {"policy": policy}, "mode": "markers", "name": plain(policy)}
        values = seeds.get(policy, [])
        if len(values) > 1:
            marker = {"color": style.colour, "size": 9, "opacity": 0.45, "symbol": "line-ns-open"}
            drawn.add_scatter(
                x=np.array(values) * factor, y=[place] * len(values), hoverinfo="skip", marker=marker, **of
            )
        known = isfinite(low) and isfinite(high)
        whole = f"<b>{plain(policy)}</b><br>{plain(quantity(mean, unit))}"
        drawn.add_scatter(
            x=[mean * factor], y=[place],
            error_x={"type": "data", "symmetric": False, "array": [(high - mean) * factor], "arrayminus": [(mean - low) * factor],
                     "thickness": 2.4, "width": 0, "color": style.colour} if known else None,
            marker={"color": style.colour, "size": 14 if place == 0 else 11, "symbol": style.symbol, "line": {"color": PAPER, "width": 1.5}},
            hovertemplate=whole + (f"<br>{plain(quantity(low, unit))} to {plain(quantity(high, unit))}" if known else "") + "<extra></extra>",
            **of,
        )  # fmt: skip
    _bound(drawn, bound, factor)
    _names(drawn, list(rows))
    return drawn


def _names(drawn: go.Figure, policies: list[str]) -> None:
    """Policies down the y axis, the best on top; ``layout.meta.short`` has names for a narrow screen."""
    drawn.update_yaxes(
        tickvals=list(range(len(policies))), ticktext=[plain(short(name, 34)) for name in policies],
        range=[len(policies) - 0.4, -0.6], showgrid=False, ticklabelstandoff=8,
    )  # fmt: skip
    drawn.update_layout(meta={"short": [plain(short(name, 17)) for name in policies]})


def _across(values: list[float], bound: float | None, title: str, unit: str) -> tuple[go.Figure, float]:
    """A figure whose x axis has room for the values, and for the bound unless that would squeeze them; the factor of its unit.

    The axis is logarithmic where the worst policy is more than twice the best, so that the good ones stay apart.
    """
    low, high = min(values), max(values)
    spread = max(high - low, 0.02 * abs(high), 1e-12)
    if bound is not None and isfinite(bound) and low - 6 * spread <= bound <= high + 6 * spread:
        low, high = min(low, bound), max(high, bound)
    if low > 0 and high / low > 2:
        return figure(f"{title}, logarithmic", **log_axis(low * 0.94, high * 1.06, unit)), 1.0
    factor, shown = scale_of(values, unit)
    room = 0.06 * max(high - low, 0.02 * abs(high), 1e-12)
    return figure(
        f"{title}{f' ({shown})' if shown else ''}", range=[(low - room) * factor, (high + room) * factor]
    ), factor


def _bound(drawn: go.Figure, bound: float | None, factor: float) -> None:
    """A line at the bound, or a note where it lies outside the axis."""
    if bound is None or not isfinite(bound):
        return
    log, (low, high) = drawn.layout.xaxis.type == "log", drawn.layout.xaxis.range
    at = bound * factor
    seen = at > 0 if log else True
    place = np.log10(at) if log and seen else at  # annotations count in logarithms, shapes do not
    label: dict[str, Any] = {
        "yref": "paper",
        "y": 1,
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"color": ACCENT, "size": 12},
    }
    drawn.update_layout(margin_t=26)
    if seen and low <= place <= high:
        drawn.add_shape(
            type="line",
            x0=at,
            x1=at,
            yref="paper",
            y0=0,
            y1=1,
            line={"color": ACCENT, "width": 1.6, "dash": "dash"},
            layer="below",
        )
        drawn.add_annotation(text="bound", x=place, **label)
    else:
        drawn.add_annotation(text=f"the bound, {number(at, decimals([at]))}, lies outside", xref="paper", x=0, **label)


def quantities(study: "Study") -> dict[str, str]:
    """The series columns that can be drawn over time, each with its title."""
    if study.series.is_empty():
        return {}
    apart = ("policy", "seed", "time", "host")
    numeric = [name for name, kind in study.series.schema.items() if kind.is_numeric() and name not in apart]
    known = [name for name in SERIES if name in numeric]
    return {name: SERIES.get(name, name.replace("_", " ")) for name in known + [n for n in numeric if n not in known]}


def is_share(values: pl.Series) -> bool:
    """Whether a series is a part of one (averaged over hosts) and not a count (added up)."""
    known = values.cast(pl.Float64).drop_nulls().drop_nans()
    return len(known) > 0 and bool((known <= 1.0001).all()) and bool(((known % 1) != 0).any())


def over_time(study: "Study", name: str, seed: int, order: Sequence[str], look: dict[str, Look]) -> go.Figure | None:
    """A quantity over time for one seed: counts are added up over hosts, shares averaged; at most 300 points a policy."""
    rows = study.series.filter(pl.col("seed") == seed).select("policy", "time", pl.col(name).cast(pl.Float64))
    rows = rows.filter(pl.col("time").is_finite() & pl.col(name).is_finite())
    if rows.is_empty():
        return None
    share = is_share(rows[name])
    together = pl.col(name).mean() if share else pl.col(name).sum()
    rows = rows.group_by("policy", "time").agg(together)
    start, end = float(rows["time"].min() or 0.0), float(rows["time"].max() or 0.0)  # type: ignore[arg-type]
    width = (end - start) / 300 or 1.0
    bins = ((pl.col("time") - start) / width).floor().clip(0, 299).alias("bin")
    rows = rows.group_by("policy", bins).agg(pl.col("time").mean(), pl.col(name).mean()).sort("policy", "bin")
    factor, unit = (3600.0, "h") if end - start > 2 * 3600 else (60.0, "min") if end - start > 600 else (1.0, "s")
    drawn = figure(f"time ({unit})", rangemode="tozero")
    by_policy = rows.partition_by("policy", as_dict=True)
    for policy in reversed([each for each in order if (each,) in by_policy]):
        of = by_policy[(policy,)]
        drawn.add_scatter(
            x=(of["time"].to_numpy() / factor).astype(np.float32), y=of[name].to_numpy().astype(np.float32), mode="lines",
            name=plain(policy), meta={"policy": policy},
            line={"color": look[policy].colour, "dash": look[policy].dash, "width": 2.6 if policy == order[0] else 1.3},
            hovertemplate=f"<b>{plain(short(policy, 40))}</b><br>%{{y:{'.1%' if share else '.4~g'}}} at %{{x:.4~g}} {unit}<extra></extra>",
        )  # fmt: skip
    drawn.update_yaxes(rangemode="tozero", tickformat=".0%" if share else None)
    return drawn
