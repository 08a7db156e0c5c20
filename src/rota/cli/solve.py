"""`rota solve`."""

import json
import sys
from pathlib import Path

from rota.kernel.errors import InputError
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Solution
from rota.worlds.shop.solve import Progress, solve

GANTT = (".html", ".svg", ".png")


def problem_of(what: str, objective: str | None, form: str | None = None) -> Problem:
    """An instance from a file, or by its published name. Raises InputError."""
    from rota.worlds.shop.generate import canonical, instance
    from rota.worlds.shop.read import read

    path = Path(what.rpartition("#")[0] or what)
    if path.exists() or Path(what).exists() or (canonical(what) is None and ("." in what or "/" in what)):
        return read(what, format=form, objective=objective)
    if form is not None:
        raise InputError(f"--format {form}: is for files, and '{what}' is a published name; leave it out")
    problem = instance(what)
    return problem if objective is None else problem.with_objective(objective)


def solve_problem(
    what: str,
    solver: str,
    seconds: float | None,
    work: int | None,
    workers: int,
    seed: int,
    starts: int | None,
    objective: str | None,
    form: str | None,
    out: Path | None,
    gantt: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Solve an instance, print what was found, and write what was asked for. Raises InputError."""
    from rich.console import Console

    from rota.worlds.shop.solutions import as_document, write_solution

    problem = problem_of(what, objective, form)
    for path in (out, gantt):
        if path is not None and not path.resolve().parent.is_dir():
            raise InputError(f"{path}: the folder {path.resolve().parent} does not exist")
    if gantt is not None and gantt.suffix.lower() not in GANTT:
        raise InputError(f"{gantt}: a Gantt chart is {', '.join(GANTT)}, found '{gantt.suffix or gantt.name}'")
    console = Console(stderr=True)
    for line in problem.notices:
        console.print(f"note: {line}", highlight=False)
    said: list[str] = []
    if starts is not None:
        from rota.worlds.shop.restarts import starts as several
        from rota.worlds.shop.restarts import summary

        found, times, goal = several(problem, solver, starts, seconds=seconds, work=work, seed=seed)
        said = summary(times, goal, "s" if work is None else "units of work")
    else:
        found = _with_progress(
            problem, solver, seconds, work, workers, seed, quiet or as_json or not console.is_terminal
        )
    if out is not None and found.schedule is not None:
        write_solution(problem, found, out, verified=True)
    if gantt is not None and found.schedule is not None:
        from rota.report.schedule import write_gantt

        write_gantt(problem, found, gantt)
    if as_json:
        document = as_document(problem, found, verified=found.schedule is not None)
        document["proof"] = found.proved_by or None
        if said:
            document["starts"] = said
        print(json.dumps(document))
    else:
        _print(problem, found, out, gantt)
        for line in said:
            print(line)
    if found.schedule is None:
        _explain(problem, found)
        sys.exit(1)


def _with_progress(
    problem: Problem, solver: str, seconds: float | None, work: int | None, workers: int, seed: int, quiet: bool
) -> Solution:
    limits = {"seconds": seconds, "work": work, "workers": workers, "seed": seed}
    if quiet:
        return solve(problem, solver, **limits)  # type: ignore[arg-type]
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=8) as live:
        return solve(problem, solver, **limits, on_progress=lambda seen: live.update(_line(seen)))  # type: ignore[arg-type]


def _line(seen: Progress) -> str:
    """Seconds, incumbent, bound and gap in one line."""
    value = "none yet" if seen.value is None else f"{seen.value} ({seen.found_by})"
    gap = "" if seen.gap is None else f"   gap {seen.gap:.2%}"
    return f"{seen.seconds:6.1f} s   best {value}   bound {seen.bound} ({seen.bounded_by}){gap}"


def _print(problem: Problem, found: Solution, out: Path | None, gantt: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from rota.worlds.shop.best_known import audit, best_known, improves

    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(title=repr(problem)[8:-1], show_header=False)
    table.add_row("status", found.status + (f", proved by {found.proved_by}" if found.proved_by else ""))
    if found.value is not None:
        table.add_row(
            str(problem.objective), f"{found.value}, found by {found.found_by} after {found.trace[-1].seconds:.2f} s"
        )
    if found.bound is not None:
        table.add_row("bound", f"{found.bound}, by {found.bounded_by}")
    if found.gap is not None:
        table.add_row("gap", f"{found.gap:.2%}")
    known = best_known(problem.name, str(problem.objective))
    if known is not None:
        over = f": {found.value / known.upper - 1:+.2%}" if found.value is not None and known.upper else ""
        table.add_row("best known", f"{known.upper} (bound {known.lower}){over}")
    table.add_row("took", f"{found.seconds:.1f} s, {found.work:,} units of work, seed {found.seed}")
    console.print(table)
    for line in audit(
        problem.name, found.value, found.bound, optimal=found.status == "optimal", objective=str(problem.objective)
    ):
        console.print(f"audit: {line}", highlight=False)
    if found.value is not None and improves(problem.name, found.value, str(problem.objective)):
        console.print("news: this is better than the best known value; it has passed the checker", highlight=False)
    for line in found.notes:
        console.print(f"note: {line}", highlight=False)
    for what, path in (("schedule", out), ("Gantt chart", gantt)):
        if path is not None and found.schedule is not None:
            console.print(f"{what}: {path}", highlight=False, soft_wrap=True)


def _explain(problem: Problem, found: Solution) -> None:
    """Why there is no schedule, where it can be said."""
    if found.status != "infeasible":
        print("no schedule was found within the limit; that there is none was not proved", file=sys.stderr)
        return
    from rota.worlds.shop.solvers.cpsat import why_infeasible

    groups = why_infeasible(problem)
    reason = f": {', '.join(groups)} cannot hold together with the rest" if groups else ""
    print(f"infeasible{reason}", file=sys.stderr)
