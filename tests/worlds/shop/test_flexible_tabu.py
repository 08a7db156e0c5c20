"""Flexible job shop search: kernels against plain Python, schedules against the checker, known optima, repeatability."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop import shapes
from rota.worlds.shop.kernels import flexible
from rota.worlds.shop.model import Problem
from rota.worlds.shop.solver import Limit, Step
from rota.worlds.shop.solvers.flexible_tabu import TENURE, FlexibleTabu, shop_of
from rota.worlds.shop.verify import verify


@st.composite
def shops(draw: st.DrawFn) -> Problem:
    """Small flexible job shops, also with machines that return, single alternatives and one machine only."""
    machines = draw(st.integers(1, 4))
    alternatives = st.dictionaries(st.integers(0, machines - 1), st.integers(1, 9), min_size=1, max_size=3)
    jobs = draw(st.lists(st.lists(alternatives, min_size=1, max_size=4), min_size=1, max_size=5))
    return shapes.flexible_job_shop([[list(one.items()) for one in job] for job in jobs], machine_count=machines)


def run(problem: Problem, work: int, seed: int = 0, workers: int = 1) -> list[Step]:
    return list(FlexibleTabu(population=4, patience=50).solve(problem, Limit(work=work, seed=seed, workers=workers)))


def longest(problem: Problem, line: list[int], choice: list[int]) -> int:
    """The makespan of a line, in plain Python."""
    shop = shop_of(problem)
    job_of = problem.operations.job[shop.operation]
    job_free, machine_free = dict.fromkeys(range(len(problem.jobs)), 0), dict.fromkeys(range(shop.machines), 0)
    for o in line:
        job, machine = int(job_of[o]), int(shop.machine[choice[o]])
        end = max(job_free[job], machine_free[machine]) + int(shop.duration[choice[o]])
        job_free[job] = machine_free[machine] = end
    return max(job_free.values())


@given(shops(), st.integers(0, 1000))
def test_lengths_are_those_of_plain_python(problem: Problem, seed: int) -> None:
    shop = shop_of(problem)
    line, choice = flexible.construct(
        shop.jobs_first, shop.job_after, shop.alternatives, shop.machine, shop.duration, shop.head, shop.machines, 0.5, seed
    )  # fmt: skip
    before = longest(problem, line.tolist(), choice.tolist())
    found, alternative, length, _ = flexible.search(
        shop.job_before, shop.job_after, shop.jobs_last, shop.alternatives, shop.machine, shop.duration, shop.head, shop.tail,
        shop.machines, line, choice, 40, 1000, TENURE, 0, seed, np.zeros(1, np.bool_),
    )  # fmt: skip
    assert sorted(found.tolist()) == list(range(len(line)))
    assert length == longest(problem, found.tolist(), alternative.tolist()) <= before


@given(shops())
def test_every_schedule_is_feasible_and_better_than_the_one_before(problem: Problem) -> None:
    values = []
    for step in run(problem, 300):
        if step.schedule is not None:
            values.append(step.schedule.value(problem))
            assert verify(problem, step.schedule, values[-1]) == []
    assert values
    assert values == sorted(set(values), reverse=True)


def test_sharing_two_machines_is_optimal() -> None:
    """Four jobs of one operation on two machines: 3 + 4 and 5 + 2."""
    problem = shapes.flexible_job_shop([[[(0, time), (1, time)]] for time in (3, 4, 5, 2)])
    last = run(problem, 200)[-1]
    assert last.finished
    assert last.schedule is not None
    assert last.schedule.value(problem) == 7


@settings(max_examples=10)
@given(shops(), st.integers(0, 100), st.integers(1, 2))
def test_the_same_work_gives_the_same_schedules(problem: Problem, seed: int, workers: int) -> None:
    runs = []
    for _ in range(2):
        steps = [step for step in run(problem, 500, seed, workers) if step.schedule is not None]
        runs.append(
            [(step.work, step.schedule.start.tolist(), step.schedule.mode.tolist()) for step in steps if step.schedule]
        )
    assert runs[0] == runs[1]


def test_releases_and_due_dates_are_kept() -> None:
    problem = shapes.job_shop(
        [[0, 1], [1, 0]], [[3, 4], [5, 2]], release=[6, 0], due=[10, 9], objective="maximum_lateness"
    )
    schedule = next(step.schedule for step in reversed(run(problem, 100)) if step.schedule is not None)
    assert verify(problem, schedule, 3) == []


def test_a_better_schedule_sent_in_is_taken_up() -> None:
    problem = shapes.flexible_job_shop([[[(0, 9), (1, 2)], [(0, 2), (1, 9)]] for _ in range(6)])
    best = next(step.schedule for step in reversed(run(problem, 2000)) if step.schedule is not None)
    steps = FlexibleTabu().solve(problem, Limit(work=50), start=best)
    later = [step.schedule.value(problem) for step in steps if step.schedule is not None]
    assert all(value < best.value(problem) for value in later)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (shapes.flexible_job_shop([[[(0, 1), (1, 2)]]], objective="total_flow_time"), "minimises makespan"),
        (shapes.open_shop([[1, 2], [2, 1]]), "open_shop"),
        (shapes.job_shop([[0, 1]], [[1, 2]], blocking=True), "blocking"),
    ],
)
def test_what_it_does_not_know_is_refused(problem: Problem, reason: str) -> None:
    assert reason in str(FlexibleTabu().refuses(problem))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="population >= 2"):
        FlexibleTabu(population=1)
