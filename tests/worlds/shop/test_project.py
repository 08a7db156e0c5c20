"""Project search: packed schedule generation against plain Python, schedules against the checker, published optima, repeatability."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop import shapes
from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.kernels import project as kernel
from rota.worlds.shop.model import Problem
from rota.worlds.shop.solver import Limit, Step
from rota.worlds.shop.solvers.project import ProjectSearch, project_of
from rota.worlds.shop.verify import verify


@st.composite
def projects(draw: st.DrawFn) -> Problem:
    """Small projects: milestones, up to nine resources (several words), large and small capacities."""
    count, resources = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    capacities = draw(st.lists(st.sampled_from([1, 3, 10, 100_000]), min_size=resources, max_size=resources))
    durations = draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))
    demands = [[draw(st.integers(0, top)) if time else 0 for top in capacities] for time in durations]
    after = [
        sorted(draw(st.sets(st.integers(i + 1, count - 1), max_size=2))) if i + 1 < count else [] for i in range(count)
    ]
    return shapes.rcpsp(durations, demands, capacities, after)


def run(problem: Problem, work: int, seed: int = 0, workers: int = 1) -> list[Step]:
    return list(ProjectSearch(population=10).solve(problem, Limit(work=work, seed=seed, workers=workers)))


def serial(problem: Problem, order: list[int]) -> list[int]:
    """Serial schedule generation with sums over time units, in plain Python."""
    view = problem.as_project()
    assert view is not None
    offsets, before = problem.predecessors
    used: dict[tuple[int, int], int] = {}
    start = [0] * len(order)
    for i in order:
        span, need = int(view.duration[i]), view.demand[i].tolist()
        t = max((start[j] + int(view.duration[j]) for j in before[offsets[i] : offsets[i + 1]].tolist()), default=0)
        while any(
            used.get((s, r), 0) + need[r] > view.capacity[r] for s in range(t, t + span) for r in range(len(need))
        ):
            t += 1
        start[i] = t
        for s in range(t, t + span):
            for r, amount in enumerate(need):
                used[s, r] = used.get((s, r), 0) + amount
    return start


@given(projects())
def test_generation_is_that_of_plain_python(problem: Problem) -> None:
    p = project_of(problem)
    line = p.topological
    free = np.tile(p.level, (p.horizon + 1, 1))
    start = np.zeros(len(line), np.int64)
    length = kernel.generate(
        line, p.before_offsets, p.before, p.release, p.duration, p.need, p.level, p.guard, free, start
    )
    view = problem.as_project()
    assert view is not None
    expected = serial(problem, line.tolist())
    assert (start * p.unit).tolist() == expected
    assert length * p.unit == max(s + int(d) for s, d in zip(expected, view.duration, strict=True))
    assert (free == p.level).all()  # handed back full


@given(projects())
def test_every_schedule_is_feasible_and_better_than_the_one_before(problem: Problem) -> None:
    values = []
    for step in run(problem, 60):
        if step.schedule is not None:
            values.append(step.schedule.value(problem))
            assert verify(problem, step.schedule, values[-1]) == []
    assert values
    assert values == sorted(set(values), reverse=True)


@settings(max_examples=10)
@given(projects(), st.integers(0, 100), st.integers(1, 2))
def test_the_same_work_gives_the_same_schedules(problem: Problem, seed: int, workers: int) -> None:
    runs = []
    for _ in range(2):
        steps = [step for step in run(problem, 100, seed, workers) if step.schedule is not None]
        runs.append([(step.work, step.schedule.start.tolist()) for step in steps if step.schedule])
    assert runs[0] == runs[1]


def test_published_optima(shared_data: Path) -> None:
    """Twelve of the 480 instances with 30 activities."""
    with gzip.open(shared_data / "shop" / "rcpsp_j30.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for number, line in enumerate(lines) if number % 40 == 1]
    for row in rows:
        problem = shapes.rcpsp(row["durations"], row["demands"], row["capacities"], row["successors"])
        best = -1
        for step in ProjectSearch().solve(problem, Limit(work=200_000)):
            if step.schedule is not None:
                best = step.schedule.value(problem)
            if best == row["upper_bound"]:
                break
        assert best == row["upper_bound"], row["instance"]


def test_releases_of_jobs_and_operations_are_kept() -> None:
    builder = ProblemBuilder()
    machine, crew = builder.add_machine(), builder.add_resource(capacity=2)
    for release in (4, 0):
        job = builder.add_job(release=release)
        operation = builder.add_operation(job)
        builder.add_mode(operation, 4, machine, demands={crew: 2})
    problem = builder.build()
    last = run(problem, 50)[-1]
    assert last.finished
    assert last.schedule is not None
    assert verify(problem, last.schedule, 8) == []


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (shapes.rcpsp([1, 2], [[1], [1]], [1], [[1], []], objective="total_flow_time"), "makespan"),
        (shapes.open_shop([[1, 2], [2, 1]]), "open shops"),
        (shapes.flexible_job_shop([[[(0, 1), (1, 2)]]]), "one mode"),
        (shapes.rcpsp([3_000_001, 1], [[1], [1]], [1], [[], []]), "units"),
    ],
)
def test_what_it_does_not_know_is_refused(problem: Problem, reason: str) -> None:
    assert reason in str(ProjectSearch().refuses(problem))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="population >= 4"):
        ProjectSearch(population=1)
