"""The driver and the portfolio: limits, proofs, checks of what solvers say, and repeatable work."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from rota.kernel.errors import BrokenRunError, InputError
from rota.worlds.shop.generate import instance
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.shapes import job_shop, open_shop, rcpsp, single_machine
from rota.worlds.shop.solve import Progress, solve
from rota.worlds.shop.solver import Limit, Solver, Step, Steps
from rota.worlds.shop.solvers import SOLVERS, solver
from rota.worlds.shop.verify import verify_solution


@pytest.mark.parametrize("name", SOLVERS)
def test_every_name_is_a_solver(name: str) -> None:
    assert isinstance(solver(name), Solver)
    assert solver(name).refuses(open_shop([[1, 2], [3, 4]])) is None or name not in ("portfolio", "cpsat")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_portfolio_proves_ft06(workers: int) -> None:
    found = solve(instance("ft06"), seconds=20, workers=workers)
    assert (found.status, found.value, found.bound) == ("optimal", 55, 55)
    assert found.proved_by == "cpsat"
    assert verify_solution(instance("ft06"), found) == []


@pytest.mark.parametrize(
    ("name", "value"), [("ft06:no_wait", 73), ("ft06:blocking", 63), ("la03:blocking", 715), ("la01:no_wait", 971)]
)
def test_published_optima_of_variants(name: str, value: int) -> None:
    found = solve(instance(name), "cpsat", seconds=60, workers=1)
    assert (found.status, found.value) == ("optimal", value)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["ft10", "ta01", "project"])
def test_work_gives_the_same_bits(name: str, workers: int) -> None:
    project = rcpsp([3, 4, 2, 5, 3, 4], [[2], [1], [2], [1], [2], [1]], [3], [[1, 2], [3], [4], [5], [], []])
    problem = project if name == "project" else instance(name)
    first, second = (solve(problem, work=5_000, workers=workers, seed=2) for _ in range(2))
    assert first.schedule is not None
    assert second.schedule is not None
    assert np.array_equal(first.schedule.start, second.schedule.start)
    assert [(each.value, each.solver, each.work) for each in first.trace] == [
        (each.value, each.solver, each.work) for each in second.trace
    ]
    assert (first.bound, first.bounded_by, first.status) == (second.bound, second.bounded_by, second.status)


def test_a_bound_that_is_met_is_a_proof() -> None:
    """The machine bound of la01 is its optimum: no exact solver is needed."""
    found = solve(instance("la01"), "tabu", seconds=20)
    assert (found.status, found.value) == ("optimal", 666)
    assert "preemptive" in found.proved_by


def test_time_is_kept() -> None:
    problem = instance("ta21")
    solver("portfolio").prepare(problem)
    begin = time.monotonic()
    found = solve(problem, seconds=1.0)
    assert found.status == "feasible"
    assert time.monotonic() - begin < 6  # ample: other processes may run here


def test_a_start_is_kept_or_beaten() -> None:
    problem = instance("ft10")
    start = solve(problem, "rule:spt", work=1).schedule
    assert start is not None
    found = solve(problem, "tabu", work=2_000, start=start)
    assert found.trace[0].solver == "start"
    assert found.value is not None
    assert found.value <= start.value(problem)


def test_progress_is_told() -> None:
    seen: list[tuple[int | None, int | None]] = []

    def note(progress: Progress) -> None:
        seen.append((progress.value, progress.bound))

    solve(instance("ft06"), "cpsat", seconds=20, on_progress=note)
    assert seen[-1] == (55, 55)


def test_an_infeasible_problem_is_said_to_be_so() -> None:
    problem = single_machine([3, 4], due=[5, 5])
    found = solve(_with_deadlines(problem, [5, 5]), "cpsat", seconds=20)
    assert (found.status, found.schedule, found.bound, found.proved_by) == ("infeasible", None, None, "cpsat")


def _with_deadlines(problem: Problem, deadline: list[int]) -> Problem:
    from dataclasses import replace

    return replace(problem, jobs=replace(problem.jobs, deadline=np.array(deadline)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seconds": 0}, "time: must be above 0 seconds, found 0"),
        ({"seconds": float("nan")}, "time: must be above 0 seconds, found nan"),
        ({"work": 0}, "work: must be at least 1, found 0"),
        ({"workers": 0}, "workers: must be at least 1, found 0"),
        ({"solver": "tabbu"}, "solver: there is none called 'tabbu'; did you mean 'tabu'"),
        ({"solver": "project"}, "solver project: "),
    ],
)
def test_impossible_limits(arguments: dict[str, object], said: str) -> None:
    problem = instance("ft06:blocking") if arguments.get("solver") == "project" else instance("ft06")
    with pytest.raises(InputError, match=said):
        solve(problem, **arguments)  # type: ignore[arg-type]


def test_an_infeasible_start_is_refused() -> None:
    problem = job_shop([[0], [0]], [[2], [2]])
    with pytest.raises(InputError, match="start: the schedule is not feasible: machine"):
        solve(problem, "cpsat", work=10, start=Schedule(np.array([0, 1]), np.array([2, 3]), np.array([0, 1])))


class Saying(Solver):
    """A solver that says one thing."""

    def __init__(self, step: Callable[[Problem], Step]) -> None:
        self.step = step

    def refuses(self, problem: Problem) -> str | None:
        return None

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        yield self.step(problem)


def test_a_wrong_schedule_is_a_bug_of_its_solver() -> None:
    with pytest.raises(BrokenRunError, match="Saying gives a schedule that breaks a rule: machine machine0"):
        solve(
            instance("ft06"),
            Saying(lambda p: Step(Schedule.from_starts(p, np.zeros(len(p.operations), int)))),
            seconds=5,
        )


def test_a_wrong_bound_is_too() -> None:
    right = solve(instance("ft06"), "cpsat", seconds=20).schedule
    with pytest.raises(InputError, match="bound 99 is above the value 55"):
        solve(instance("ft06"), Saying(lambda _: Step(right, bound=99)), seconds=5)


def test_ctrl_c_keeps_the_best() -> None:
    class Stubborn(Saying):
        def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
            yield Step(solve(problem, "rule:spt", work=1).schedule)
            raise KeyboardInterrupt

    found = solve(instance("ft06"), Stubborn(lambda _: Step()), seconds=5)
    assert found.status == "feasible"
    assert found.notes == ("interrupted: the best so far",)
