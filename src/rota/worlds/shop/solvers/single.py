"""One machine, total tardiness, by rule: ``single:mddc``. EDD, MDD and PSK are classics; MDDC and EDDC were found by a language model's search.

MDDC, EDDC and the augmented forms: Oguz and others, DiscoverHeuristics, as evaluated by their authors' code. The printed EDDC differs: it says that
the start is the order of due dates, and taken literally it never changes it; what was evaluated starts from the order of durations.
"""

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.shop.kernels import single as kernel
from rota.worlds.shop.model import NEVER, Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import Limit, Solver, Step, Steps

HEURISTICS = ("edd", "mdd", "psk", "mddc", "eddc", "augmented_mdd", "augmented_mddc")


def sequence(heuristic: str, duration: Ints, due: Ints) -> Ints:
    """The order of jobs that a heuristic gives. Raises InputError for an unknown one."""
    if heuristic not in HEURISTICS:
        raise InputError(f"single: there is no heuristic '{heuristic}'{nearest(heuristic, HEURISTICS)}")
    duration, due = np.ascontiguousarray(duration, np.int64), np.ascontiguousarray(due, np.int64)
    shortest = np.lexsort((due, duration)).astype(np.int64)
    if heuristic == "edd":
        return np.lexsort((duration, due)).astype(np.int64)
    if heuristic == "psk":
        found: Ints = kernel.psk(duration, due, shortest)
    elif heuristic == "eddc":
        found = kernel.eddc(duration, due, shortest)
    else:
        rule = kernel.MDDC if heuristic.endswith("mddc") else kernel.MDD
        found = kernel.by_urgency(duration, due, rule, heuristic.startswith("augmented"))
    return found


def takes(problem: Problem, objectives: tuple[str, ...]) -> str | None:
    """Why a problem is not one machine, all jobs there at the start, one of these objectives; None when it is."""
    if problem.as_single_machine() is None:
        extra = sorted(problem.features - {"due", "weights"})
        return f"takes one machine, this is a {problem.kind.replace('_', ' ')}{' with ' + ', '.join(extra) if extra else ''}"
    if problem.objective.single not in objectives:
        return f"minimises {' or '.join(objectives)}, the objective is {problem.objective}"
    return None


def columns(problem: Problem) -> tuple[Ints, Ints, Ints]:
    """Duration, due date and weight; jobs without a due date are due when all is done."""
    view = problem.as_single_machine()
    if view is None:
        raise InputError("single machine: the problem is not one")
    weight = view.weight if problem.objective.single == "weighted_tardiness" else np.ones_like(view.weight)
    due = np.where(view.due < NEVER, view.due, view.duration.sum())
    return view.duration.copy(), due, weight.copy()


def schedule(problem: Problem, order: Ints) -> Schedule:
    """Jobs one after the other."""
    view = problem.as_single_machine()
    if view is None:
        raise InputError("single machine: the problem is not one")
    start = np.zeros(len(order), np.int64)
    start[view.operation[order]] = np.concatenate([[0], np.cumsum(view.duration[order])[:-1]])
    return Schedule.from_starts(problem, start)


class SingleRule(Solver):
    """One heuristic for total tardiness."""

    counts = "schedules"
    takes = "a heuristic"

    def __init__(self, heuristic: str = "mddc") -> None:
        if heuristic not in HEURISTICS:
            raise InputError(f"single: there is no heuristic '{heuristic}'{nearest(heuristic, HEURISTICS)}")
        self.heuristic = heuristic

    def refuses(self, problem: Problem) -> str | None:
        return takes(problem, ("total_tardiness",))

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        duration, due, _ = columns(problem)
        yield Step(schedule(problem, sequence(self.heuristic, duration, due)), work=1)
