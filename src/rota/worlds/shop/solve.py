"""Drive a solver: keep the time, check every schedule, keep the best and its history, put bounds together."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rota.kernel.errors import BrokenRunError, InputError
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Incumbent, Schedule, Solution
from rota.worlds.shop.solver import Limit, Solver
from rota.worlds.shop.solvers import solver as by_name
from rota.worlds.shop.verify import verify, verify_solution


@dataclass
class Progress:
    """How far a solve has come."""

    seconds: float = 0.0
    work: int = 0
    value: int | None = None
    bound: int | None = None
    found_by: str = ""
    bounded_by: str = ""
    trace: list[Incumbent] = field(default_factory=list)

    @property
    def gap(self) -> float | None:
        """(value - bound) / |value|, where both are known and the value is not 0."""
        if self.value is None or self.bound is None or not self.value:
            return None
        return (self.value - self.bound) / abs(self.value)


def solve(
    problem: Problem,
    solver: str | Solver = "portfolio",
    *,
    seconds: float | None = None,
    work: int | None = None,
    workers: int = 2,
    seed: int = 0,
    start: Schedule | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """Find the best schedule within a limit.

    Args:
        problem: What to schedule.
        solver: A name, see `solvers.SOLVERS`, or a solver of your own.
        seconds: Time limit, compilation apart; 60 where neither it nor `work` is given.
        work: Limit of what the solver counts; the same seed, work and workers give the same schedule to the bit.
        workers: Threads that may run at once.
        seed: Of all random draws.
        start: A schedule to begin from; it must be feasible.
        on_progress: Called after each step, at least every quarter of a second.

    Returns:
        The best schedule found and the best bound, each with its origin; every schedule has passed `verify`. Ctrl-C ends the search with what there is.

    Raises:
        InputError: The solver refuses the problem, a limit is impossible, `start` is infeasible.
        BrokenRunError: A schedule of the solver breaks a rule: a bug worth reporting.
    """
    if isinstance(solver, str):
        name, solver = solver, by_name(solver)
    else:
        name = type(solver).__name__
    _check(problem, name, solver, seconds, work, workers, start)
    limit = Limit(60.0 if seconds is None and work is None else seconds or float("inf"), work, seed, workers)
    solver.prepare(problem)
    begin = time.monotonic()
    best = start
    first = lower_bound(problem)
    seen = Progress(bound=first.value, bounded_by=first.origin)
    if start is not None:
        seen.value, seen.found_by = start.value(problem), "start"
        seen.trace.append(Incumbent(0.0, seen.value, "start"))
    finished, proved_by, notes = False, "", list[str]()
    steps = solver.solve(problem, limit, start)
    try:
        for step in steps:
            seen.seconds, seen.work = time.monotonic() - begin, max(seen.work, step.work)
            who = step.by or name
            if step.schedule is not None:
                found = verify(problem, step.schedule)
                if found:
                    raise BrokenRunError(f"{who} gives a schedule that breaks a rule: {found[0]}")
                value = step.schedule.value(problem)
                if seen.value is None or value < seen.value:
                    best, seen.value, seen.found_by = step.schedule, value, who
                    seen.trace.append(Incumbent(seen.seconds, value, who, step.work))
            if step.bound is not None and (seen.bound is None or step.bound > seen.bound):
                seen.bound, seen.bounded_by = step.bound, who
            if step.note:
                notes.append(step.note)
            if step.finished:
                finished, proved_by = True, who
            if on_progress is not None:
                on_progress(seen)
            if finished or seen.value == seen.bound or seen.seconds >= limit.seconds:
                break
    except KeyboardInterrupt:
        notes.append("interrupted: the best so far")
    finally:
        steps.close()
    if best is not None and finished and seen.bound != seen.value:
        seen.bound, seen.bounded_by = seen.value, proved_by
    status = "unknown" if best is None else "feasible"
    if best is None and finished:
        status, seen.bound, seen.bounded_by = "infeasible", None, ""
    elif best is not None and seen.value == seen.bound:
        status, proved_by = "optimal", seen.bounded_by
    solution = Solution(
        status=status, schedule=best, value=seen.value, bound=seen.bound, found_by=seen.found_by, bounded_by=seen.bounded_by,
        proved_by=proved_by if status in ("optimal", "infeasible") else "", trace=tuple(seen.trace),
        seconds=time.monotonic() - begin, work=seen.work, seed=seed, notes=tuple(notes),
    )  # fmt: skip
    broken = verify_solution(problem, solution)
    if broken:
        raise BrokenRunError(f"the solution breaks a rule: {broken[0]}")
    return solution


def _check(
    problem: Problem,
    name: str,
    solver: Solver,
    seconds: float | None,
    work: int | None,
    workers: int,
    start: Schedule | None,
) -> None:
    if seconds is not None and not seconds > 0:
        raise InputError(f"time: must be above 0 seconds, found {seconds:g}")
    if work is not None and work < 1:
        raise InputError(f"work: must be at least 1, found {work}")
    if workers < 1:
        raise InputError(f"workers: must be at least 1, found {workers}")
    refused = solver.refuses(problem)
    if refused is not None:
        raise InputError(f"solver {name}: {refused}")
    if start is not None:
        found = verify(problem, start)
        if found:
            raise InputError(f"start: the schedule is not feasible: {found[0]}")
