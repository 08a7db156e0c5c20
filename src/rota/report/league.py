"""The league as text: who is best, how sure that is, and a table of the rest, for the terminal and for the page alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from rota.report.style import decimals, number, quantity, scale_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rota.study.statistics import LeagueRow
    from rota.study.store import Study

LEVEL = 0.05  # below this p a difference counts
EXPLAINED = {
    "mean": "Mean of the objective over all jobs and seeds.",
    "interval": "The 95 % confidence interval of that mean: how far luck alone could move it.",
    "p50": "Half of the jobs did at least this well, mean over the seeds.",
    "p90": "Nine jobs out of ten did at least this well.",
    "p99": "All but one job in a hundred did at least this well.",
    "behind": "Difference of the means to the best policy, on the same workload (paired), relative to the best.",
    "p": "How likely a difference at least this large is between two equal policies. From 0.05 on, the two cannot be told apart.",
    "gap": "How much worse than the bound the mean is. No policy can be better than the bound; it may not be reachable.",
    "knew": "What the policy was allowed to see about the jobs before they were done.",
}


@dataclass(frozen=True)
class Line:
    """One policy of the league, written out. Empty strings where something is not known or does not apply."""

    rank: str
    policy: str
    mean: str
    interval: str
    quantiles: tuple[str, ...]
    behind: str
    p: str
    gap: str
    knew: str
    tied: bool  # cannot be told apart from the best


def chance(p: float) -> str:
    """A p value as people write it."""
    return "" if not isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def signed(share: float) -> str:
    """A relative difference in per cent, with its sign."""
    return (
        f"{100 * share:+.{1 if abs(share) < 0.1 else 0}f} %".replace("-", "\N{MINUS SIGN}") if isfinite(share) else ""
    )


def title_of(study: "Study") -> str:
    """The objective in words."""
    measure = study.measures.get(study.objective)
    return measure.title if measure else study.objective.replace("_", " ")


def unit_of(study: "Study") -> str:
    """The unit of the objective."""
    measure = study.measures.get(study.objective)
    return measure.unit if measure else ""


def family(study: "Study") -> list[str]:
    """The summary columns with the p50, p90 and p99 of what the objective averages, those that exist."""
    stem = study.objective.rsplit("_", 1)[0]
    return [name for q in (50, 90, 99) if (name := f"{stem}_p{q}") in study.summary.columns]


def is_tied(row: "LeagueRow", best: "LeagueRow") -> bool:
    """Whether a policy cannot be told apart from the best one; an unknown p counts as not told apart."""
    return row is not best and not row.p_value < LEVEL


def lines(study: "Study", league: Sequence["LeagueRow"]) -> tuple[list[Line], str]:
    """The league written out, best first, and the unit of its quantities (one for all of them, so that they compare)."""
    quantiles = _quantiles(study)
    means = [row.mean for row in league]
    factor, unit = scale_of(means, unit_of(study))
    digits = decimals([mean * factor for mean in means])
    written = []
    for row in league:
        low, high = number(row.low * factor, digits), number(row.high * factor, digits)
        first = row is league[0]
        written.append(
            Line(
                rank="" if row.rank is None else str(row.rank),
                policy=row.policy,
                mean=number(row.mean * factor, digits),
                interval=f"{low} \N{EN DASH} {high}" if isfinite(row.low) and isfinite(row.high) else "",
                quantiles=tuple(number(value * factor, digits) for value in quantiles.get(row.policy, ())),
                behind="" if first else signed(row.behind),
                p="" if first or row.rank is None else chance(row.p_value),
                gap=signed(row.gap),
                knew=row.knew,
                tied=row.rank is not None and is_tied(row, league[0]),
            )
        )
    return written, unit


def _quantiles(study: "Study") -> dict[str, tuple[float, ...]]:
    """For each policy the mean over seeds of the p50, p90 and p99 of the objective's family."""
    names = family(study)
    if not names:
        return {}
    means = study.summary.group_by("policy").mean()
    return {
        row["policy"]: tuple(float("nan") if row[name] is None else float(row[name]) for name in names)
        for row in means.to_dicts()
    }


def headline(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """The answer in a few words."""
    if not league:
        return "No policy finished a run"
    ranked = in_order(league)
    if len(ranked) < 2:
        shown = (ranked or league)[0]
        return f"{shown.policy}: {title_of(study)} {quantity(shown.mean, unit_of(study))}"
    best = ranked[0]
    tied = [row.policy for row in ranked[1:] if is_tied(row, best)]
    if is_tied(ranked[1], best):
        few = f"{best.policy} and {ranked[1].policy if len(tied) == 1 else f'{len(tied)} others'}"
        return f"{few} cannot be told apart"
    return f"{best.policy} is best"


def in_order(league: Sequence["LeagueRow"]) -> list["LeagueRow"]:
    """The policies that have a rank."""
    return [row for row in league if row.rank is not None]


def lead(first: "LeagueRow", second: "LeagueRow") -> str:
    """By how much the first is better, relative to the second."""
    return (
        f"{abs(100 * (first.mean - second.mean) / second.mean):.1f}\N{NO-BREAK SPACE}%" if second.mean else "infinitely"
    )


def answer(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """The answer in full: the number, the runner-up and how sure the difference is, the bound."""
    if not league:
        return "Every run failed or was skipped; the reasons are below."
    ranked = in_order(league)
    best, title = (ranked or league)[0], title_of(study)
    parts = [f"{title[:1].upper()}{title[1:]} {quantity(best.mean, unit_of(study))}"]
    if len(ranked) > 1:
        second, p = ranked[1], _with_p(ranked[1])
        if is_tied(second, best):
            parts.append(
                f"{lead(best, second)} from the runner-up {second.policy}, which is within what luck explains ({p})"
            )
        else:
            parts.append(f"{lead(best, second)} better than the runner-up {second.policy} ({p})")
    if isfinite(best.gap):
        parts.append(f"{abs(100 * best.gap):.0f}\N{NO-BREAK SPACE}% from the bound that no policy can pass")
    return f"{', '.join(parts[:-1])} and {parts[-1]}." if len(parts) > 2 else f"{', '.join(parts)}."


def _with_p(row: "LeagueRow") -> str:
    p = chance(row.p_value).replace(" ", "\N{NO-BREAK SPACE}")
    return (
        f"p\N{NO-BREAK SPACE}{p}"
        if p.startswith("<")
        else f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{p}"
        if p
        else "no test can be made"
    )


def versus(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """The sentence about the two best policies."""
    ranked = in_order(league)
    if len(ranked) < 2:
        return ""
    best, second = ranked[0], ranked[1]
    p = _with_p(second)
    if is_tied(second, best):
        return f"{best.policy} and {second.policy} cannot be told apart ({p})."
    return f"{best.policy} is {lead(best, second)} better than the runner-up {second.policy} ({p})."


def method(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """How the intervals and p values were found."""
    return league[0].method if league else ""


def explain(quantiles: Sequence[str]) -> list[tuple[str, str]]:
    """The columns of the league, each with its meaning; ``quantiles`` are those shown."""
    names = {"mean": "mean", "interval": "95 % interval", **{q: q for q in quantiles}, "behind": "behind the best", "p": "p", "gap": "gap to bound",
             "knew": "knew"}  # fmt: skip
    return [(title, EXPLAINED[key]) for key, title in names.items() if key in EXPLAINED]


def troubles(study: "Study", league: Sequence["LeagueRow"]) -> list[str]:
    """Who has no rank, what failed, what was skipped and what was noticed, a line each."""
    said = [f"{row.policy} has no rank: {row.unranked}" for row in league if row.unranked]
    said += [f"{name} failed: {why}" for name, why in study.failures]
    said += [f"{name} was skipped: {why}" for name, why in study.skipped]
    return said + list(study.notices)


def render(study: "Study", league: Sequence["LeagueRow"]) -> "RenderableType":
    """The league for a terminal of at least 100 columns: a table, the answer in a sentence, the method, what went wrong."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if league:
        rows, unit = lines(study, league)
        table = Table(
            title=Text(f"{title_of(study)}{f' ({unit})' if unit else ''}"),
            title_justify="left",
            box=None,
            padding=(0, 1),
            pad_edge=False,
        )
        table.add_column("", justify="right")
        table.add_column("policy", overflow="fold", max_width=24)
        for name in (
            "mean",
            "95 % interval",
            *(each.rsplit("_", 1)[1] for each in family(study)),
            "behind",
            "p",
            "gap",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("knew", overflow="fold", style="dim", max_width=16)
        for row in rows:
            cells = [row.rank, row.policy, row.mean, row.interval, *row.quantiles, row.behind, row.p, row.gap, row.knew]
            table.add_row(*map(Text, cells), style="bold" if row.rank == "1" else "")
        parts.append(table)
        parts.append(Text(versus(study, league) or answer(study, league), style="bold"))
        parts.append(Text(method(study, league), style="dim"))
    else:
        parts.append(Text(f"{headline(study, league)}.", style="bold"))
    parts += [Text(each, style="yellow") for each in troubles(study, league)]
    return Group(*parts)
