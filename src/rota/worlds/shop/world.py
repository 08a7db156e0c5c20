"""The shop world as a study sees it: a set of instances, solved by every policy within the same limit, judged by the gap to the best known value."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import numpy as np

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.kernel.world import Measure, RunResult
from rota.worlds.shop.best_known import best_known
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.generate import canonical, instance
from rota.worlds.shop.model import Problem
from rota.worlds.shop.objective import Objective
from rota.worlds.shop.policies import RULES
from rota.worlds.shop.read import read
from rota.worlds.shop.schedule import Solution
from rota.worlds.shop.solve import solve
from rota.worlds.shop.solver import Solver
from rota.worlds.shop.solvers import SOLVERS, solver, solver_class

Count = Annotated[int, msgspec.Meta(ge=1)]
_RANGE = re.compile(r"(\D+)(\d+)\.\.(?:\D*)(\d+)((?::\w+)*)")
DRAWN = 400  # operations in the Gantt window of the report

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("gap_mean", "mean gap to the best known value", "%", per_job="gap"),
            Measure("gap_p50", "median gap", "%"),
            Measure("gap_p90", "90th percentile of the gap", "%"),
            Measure("gap_p99", "99th percentile of the gap", "%"),
            Measure("proved", "instances solved to proof", "", smaller_is_better=False, per_job="proved"),
            Measure("best", "instances at the best known value", "", smaller_is_better=False, per_job="best"),
            Measure("seconds_mean", "mean time until the last schedule was found", "s", per_job="seconds"),
        )
    }
)


class LimitSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a solver may spend on an instance; one of both."""

    seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    work: Count | None = None
    workers: Count = 1


@dataclass(frozen=True)
class Case:
    """A checked scenario."""

    problems: tuple[Problem, ...]
    reference: tuple[float, ...]  # what a gap is measured from
    known: tuple[bool, ...]  # whether that is a best known value; else a lower bound
    limit: LimitSection
    folder: Path
    notices: tuple[str, ...] = field(default=())


class Shop:
    """Instances, solvers, gaps. Implements `rota.kernel.world.World`."""

    name = "shop"
    sections = ("instances", "minimise", "limit")
    roles = ("plan",)
    objective = "gap_mean"
    measures: Mapping[str, Measure] = MEASURES

    def __init__(self) -> None:
        """Import the solvers."""
        plans = {name: solver_class(name) for name in SOLVERS}
        self.rooms: Mapping[str, Mapping[str, Any]] = MappingProxyType({"plan": plans, "order": RULES})

    def load(self, sections: Mapping[str, Any], folder: Path) -> Case:
        """Read the instances. Raises InputError."""
        named = sections.get("instances")
        if not named or not isinstance(named, list | str):
            raise InputError("instances: must be a list of names and files, such as [ta01..ta10, my.fjs]")
        limit = decode(LimitSection, sections.get("limit", {}), "limit")
        if (limit.seconds is None) == (limit.work is None):
            raise InputError("limit: needs exactly one of seconds and work")
        objective = sections.get("minimise")
        if objective is not None and not isinstance(objective, str):
            raise InputError(f"minimise: must be an objective such as makespan, found {objective!r}")
        names = [named] if isinstance(named, str) else named
        problems = tuple(_problem(name, objective, folder) for item in names for name in expand(item))
        found = [_reference(problem) for problem in problems]
        unknown = [problem.name or "?" for problem, (_, known) in zip(problems, found, strict=True) if not known]
        notices = (
            (
                f"no best known value for {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}: their gaps are to a lower bound",
            )
            if unknown
            else ()
        )
        return Case(problems, tuple(v for v, _ in found), tuple(k for _, k in found), limit, folder, notices)

    def resolve(self, case: Case, policy: Mapping[str, Any], folder: Path) -> str | None:
        """None, or why the solver takes none of the instances."""
        made = self._solver(policy)
        refused = [made.refuses(problem) for problem in case.problems]
        if all(refused):
            return refused[0]
        wrong = next((k for k, reason in enumerate(refused) if reason), None)
        return None if wrong is None else f"{case.problems[wrong].name}: {refused[wrong]}"

    def _solver(self, policy: Mapping[str, Any]) -> Solver:
        name = policy.get("name", "policy")
        spec = policy.get("plan", name)
        if not isinstance(spec, str):
            raise InputError(f"policy {name}, plan: must be a solver such as tabu or rule:mwkr, found {spec!r}")
        return solver(spec)

    def workload(self, case: Case, seed: int) -> tuple[Problem, ...]:
        """The instances: the same for every seed and policy."""
        return case.problems

    def random_workload(self, case: Case) -> bool:
        """Seeds differ in the luck of the solvers, and are paired in nothing else."""
        return True

    def prepare(self, case: Case, policies: Sequence[Mapping[str, Any]]) -> None:
        """Compile what the solvers need."""
        for policy in policies:
            self._solver(policy).prepare(case.problems[0])

    def run(self, case: Case, workload: tuple[Problem, ...], policy: Mapping[str, Any], seed: int) -> RunResult:
        """One solver on all instances."""
        limit, made = case.limit, self._solver(policy)
        found = [
            solve(problem, made, seconds=limit.seconds, work=limit.work, workers=limit.workers, seed=seed)
            for problem in workload
        ]
        rows = _outcomes(case, found)
        gaps = rows["gap"]
        metrics = {
            "gap_mean": float(np.mean(gaps)),
            **{f"gap_p{q}": float(np.percentile(gaps, q)) for q in (50, 90, 99)},
            "proved": float(rows["proved"].mean()),
            "best": float(rows["best"].mean()),
            "seconds_mean": float(rows["seconds"].mean()),
            "work": float(sum(each.work for each in found)),
        }
        return RunResult(metrics, rows, spans=_spans(workload[0], found[0]), notices=case.notices, knew=_knew(made))

    def bounds(self, case: Case, workload: tuple[Problem, ...]) -> dict[str, float]:
        """The gap that proved lower bounds leave possible at best."""
        bound = [_lower(problem) for problem in workload]
        return {"gap_mean": float(np.mean([_gap(b, r) for b, r in zip(bound, case.reference, strict=True)]))}

    def describe(self, case: Case) -> list[tuple[str, str]]:
        """The setting in words, for the report."""
        names = [problem.name or problem.source for problem in case.problems]
        limit = f"{case.limit.seconds:g} s" if case.limit.seconds is not None else f"{case.limit.work:,} units of work"
        return [
            ("instances", f"{len(names)}: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"),
            ("objective", ", ".join(sorted({str(problem.objective) for problem in case.problems}))),
            ("limit", f"{limit} an instance, {case.limit.workers} worker{'s' if case.limit.workers > 1 else ''}"),
        ]


def expand(item: Any) -> list[str]:
    """The names that an item of `instances` stands for: ``ta01..ta10`` is ten. Raises InputError."""
    if not isinstance(item, str):
        raise InputError(f"instances: each must be a name or a file, found {item!r}")
    found = _RANGE.fullmatch(item.strip())
    if found is None:
        return [item]
    family, first, last, variants = found[1], int(found[2]), int(found[3]), found[4]
    if last < first:
        raise InputError(f"instances: {item} is empty, because {last} is less than {first}")
    return [f"{family}{number:0{len(found[2])}}{variants}" for number in range(first, last + 1)]


def _problem(name: str, objective: str | None, folder: Path) -> Problem:
    path = folder / name
    if canonical(name) is None or path.exists():
        return read(path, objective=objective)
    problem = instance(name)
    return problem if objective is None else problem.with_objective(Objective.parse(objective))


def _lower(problem: Problem) -> int:
    known = best_known(problem.name, str(problem.objective))
    bound = lower_bound(problem).value
    return max(bound, known.lower) if known is not None and known.lower is not None else bound


def _reference(problem: Problem) -> tuple[float, bool]:
    known = best_known(problem.name, str(problem.objective))
    if known is not None and known.upper is not None:
        return float(known.upper), True
    return float(lower_bound(problem).value), False


def _gap(value: float, reference: float) -> float:
    """Per cent above the reference; above 1 where that is 0."""
    return 100.0 * (value - reference) / max(abs(reference), 1.0)


def _outcomes(case: Case, found: Sequence[Solution]) -> dict[str, Any]:
    """A row an instance."""
    values = np.array([np.nan if each.value is None else float(each.value) for each in found])
    gaps = np.array([_gap(v, r) for v, r in zip(values, case.reference, strict=True)])
    if np.isnan(gaps).any():
        worst = int(np.flatnonzero(np.isnan(gaps))[0])
        raise InputError(f"{case.problems[worst].name}: no schedule was found within the limit; raise it")
    best = [known and v <= r for v, r, known in zip(values, case.reference, case.known, strict=True)]
    return {
        "job": np.arange(len(found)),
        "arrival": np.zeros(len(found)),
        "finish": np.array([each.seconds for each in found]),
        "status": np.array([each.status for each in found]),
        "instance": np.array([problem.name or problem.source for problem in case.problems]),
        "value": values,
        "bound": np.array([np.nan if each.bound is None else float(each.bound) for each in found]),
        "gap": gaps,
        "proved": np.array([float(each.status == "optimal") for each in found]),
        "best": np.array(best, float),
        "seconds": np.array([each.trace[-1].seconds if each.trace else 0.0 for each in found]),
        "found_by": np.array([each.found_by for each in found]),
    }


def _spans(problem: Problem, found: Solution) -> dict[str, Any]:
    """The schedule of the first instance, by machine."""
    schedule = found.schedule
    if schedule is None or len(schedule) > DRAWN or not (problem.machine_of_mode[schedule.mode] >= 0).all():
        return {}
    names = problem.resources.names
    return {
        "host": np.array([names[machine] for machine in problem.machine_of_mode[schedule.mode]]),
        "lane": np.full(len(schedule), ""),
        "label": np.array([problem.jobs.names[job] for job in problem.operations.job]),
        "start": schedule.start.astype(np.float64),
        "end": schedule.end.astype(np.float64),
    }


def _knew(made: Solver) -> str:
    order = getattr(made, "order", None)
    return "the whole instance" if order is None else ", ".join(order().reads) or "nothing"
