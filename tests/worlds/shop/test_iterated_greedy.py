"""Permutation flow shop search: kernels against plain Python, the shortcut against the long way, brute force, Johnson's rule, repeatability."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop import shapes
from rota.worlds.shop.kernels import flow
from rota.worlds.shop.model import Problem
from rota.worlds.shop.solver import Limit, Step
from rota.worlds.shop.solvers.iterated_greedy import IteratedGreedy
from rota.worlds.shop.verify import verify

OBJECTIVES = ("makespan", "total_flow_time", "weighted_flow_time", "total_tardiness", "weighted_tardiness")


@st.composite
def shops(draw: st.DrawFn, most: int = 5) -> Problem:
    """Small flow shops of every kind and objective."""
    jobs, machines = draw(st.integers(1, most)), draw(st.integers(2, 4))
    column = st.lists(st.integers(0, 20), min_size=jobs, max_size=jobs)
    times = draw(
        st.lists(st.lists(st.integers(1, 9), min_size=machines, max_size=machines), min_size=jobs, max_size=jobs)
    )
    kind = draw(st.sampled_from(["plain", "blocking", "no_wait"]))
    weight = draw(st.lists(st.integers(1, 5), min_size=jobs, max_size=jobs))
    release = draw(st.sampled_from([None, draw(column)]))
    objective = draw(st.sampled_from(OBJECTIVES))
    return shapes.flow_shop(
        times, release=release, due=draw(column), weight=weight, objective=objective,
        blocking=kind == "blocking", no_wait=kind == "no_wait",
    )  # fmt: skip


def run(problem: Problem, work: int, seed: int = 0, workers: int = 1) -> list[Step]:
    assert IteratedGreedy().refuses(problem) is None
    return list(IteratedGreedy().solve(problem, Limit(work=work, seed=seed, workers=workers)))


def last_value(steps: list[Step], problem: Problem) -> int:
    return [step.schedule.value(problem) for step in steps if step.schedule is not None][-1]


def starts(problem: Problem, sequence: Sequence[int]) -> dict[tuple[int, int], int]:
    """Earliest starts of a sequence, by relaxation until nothing moves, in plain Python."""
    view = problem.as_job_shop(allow=("release", "permutation", "blocking", "no_wait"))
    assert view is not None
    time = view.duration.tolist()
    blocking, no_wait = bool(problem.resources.blocking.any()), "no_wait" in problem.features
    machines = len(time[0])
    start = {(j, m): int(problem.jobs.release[j]) for j in sequence for m in range(machines)}
    moved = True
    while moved:
        moved = False
        for place, j in enumerate(sequence):
            for m in range(machines):
                least = [start[j, m]]
                if m:
                    least.append(start[j, m - 1] + time[j][m - 1])
                if no_wait and m + 1 < machines:
                    least.append(start[j, m + 1] - time[j][m])
                if place:
                    i = sequence[place - 1]
                    least.append(start[i, m] + time[i][m])
                    if blocking and m + 1 < machines:
                        least.append(start[i, m + 1])  # it leaves when it starts on the next machine
                if max(least) > start[j, m]:
                    start[j, m] = max(least)
                    moved = True
    return start


def worth(problem: Problem, sequence: Sequence[int]) -> int:
    view = problem.as_job_shop(allow=("release", "permutation", "blocking", "no_wait"))
    assert view is not None
    begin, last = starts(problem, sequence), view.duration.shape[1] - 1
    done = [begin[j, last] + int(view.duration[j, last]) for j in range(len(sequence))]
    jobs, name = problem.jobs, str(problem.objective.single)
    if name == "makespan":
        return max(done)
    weight = jobs.weight.tolist() if name.startswith("weighted") else [1] * len(done)
    minus = jobs.release if name.endswith("flow_time") else jobs.due
    return sum(w * max(0, d - int(x)) for w, d, x in zip(weight, done, minus, strict=True))


@settings(max_examples=40)
@given(shops())
def test_search_finds_the_best_permutation_of_a_few_jobs(problem: Problem) -> None:
    steps = run(problem, 60)
    for step in steps:
        if step.schedule is not None:
            assert verify(problem, step.schedule, step.schedule.value(problem)) == []
    best = min(worth(problem, order) for order in permutations(range(len(problem.jobs))))
    assert last_value(steps, problem) == best


@given(st.integers(1, 8), st.integers(2, 5), st.integers(0, 1000))
def test_the_shortcut_finds_what_the_long_way_finds(jobs: int, machines: int, seed: int) -> None:
    """Makespans claimed by the search, with and without Taillard's acceleration, are those of their sequences."""
    time = np.random.default_rng(seed).integers(1, 20, (jobs, machines))
    nothing, one = np.zeros(jobs, np.int64), np.ones(jobs, np.int64)
    for fast in (True, False):
        current, best = np.arange(jobs), np.arange(jobs)
        state = np.array([seed + 1], np.uint64)
        now, value, done = flow.iterated_greedy(
            flow.PLAIN, flow.MAKESPAN, time, nothing, nothing, one, fast, np.arange(jobs), current, -1, best, 1 << 62, 2, 1.0, 20, 0, state,
        )  # fmt: skip
        assert done == 20
        assert sorted(best.tolist()) == list(range(jobs))
        assert value == flow.value(best, flow.PLAIN, flow.MAKESPAN, time, nothing, nothing, one)
        assert now == flow.value(current, flow.PLAIN, flow.MAKESPAN, time, nothing, nothing, one)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=20))
def test_two_machines_johnson(times: list[tuple[int, int]]) -> None:
    """Johnson 1954: first those that are shorter on the first machine, by that; then the others, by the second, longest first."""
    head = sorted((a, b) for a, b in times if a < b)
    tail = sorted(((a, b) for a, b in times if a >= b), key=lambda pair: -pair[1])
    first = second = 0
    for a, b in head + tail:
        first += a
        second = max(first, second) + b
    problem = shapes.flow_shop(times)
    assert last_value(run(problem, 300), problem) == second


@settings(max_examples=10)
@given(shops(8), st.integers(0, 100), st.integers(1, 2))
def test_the_same_work_gives_the_same_schedules(problem: Problem, seed: int, workers: int) -> None:
    runs = []
    for _ in range(2):
        steps = [step for step in run(problem, 20, seed, workers) if step.schedule is not None]
        runs.append([(step.work, step.schedule.start.tolist()) for step in steps if step.schedule])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (shapes.flow_shop([[1, 2], [2, 1]], due=[1, 2], objective="number_late"), "number_late"),
        (shapes.job_shop([[0, 1], [1, 0]], [[1, 2], [2, 1]]), "job shop"),
    ],
)
def test_what_it_does_not_know_is_refused(problem: Problem, reason: str) -> None:
    assert reason in str(IteratedGreedy().refuses(problem))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="removed >= 1"):
        IteratedGreedy(removed=0)
