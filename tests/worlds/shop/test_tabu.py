"""Tabu search: its kernels against plain recomputation, known optima, and the promise of the same bits for the same work."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop.generate import instance
from rota.worlds.shop.kernels import jobshop
from rota.worlds.shop.model import Problem
from rota.worlds.shop.shapes import job_shop, rcpsp
from rota.worlds.shop.solver import Limit
from rota.worlds.shop.solvers.tabu import Tabu, shop_of
from rota.worlds.shop.verify import verify


@st.composite
def shops(draw: st.DrawFn, /, jobs: int = 5, machines: int = 4, shortest: int = 0, **columns: bool) -> Problem:
    n, m = draw(st.integers(2, jobs)), draw(st.integers(1, machines))
    routes = [draw(st.permutations(range(m))) for _ in range(n)]
    times = [[draw(st.integers(shortest, 9)) for _ in range(m)] for _ in range(n)]
    extra = {name: [draw(st.integers(0, 20)) for _ in range(n)] for name in columns}
    return job_shop(routes, times, objective="maximum_lateness" if "due" in columns else "makespan", **extra)  # type: ignore[arg-type]


def run(
    problem: Problem, work: int = 2000, seed: int = 0, workers: int = 1, **parameters: int
) -> tuple[int, list[int]]:
    """Last value and all values; every schedule is verified."""
    values = []
    for step in Tabu(**parameters).solve(problem, Limit(work=work, seed=seed, workers=workers)):  # type: ignore[arg-type]
        if step.schedule is not None:
            values.append(step.schedule.value(problem))
            assert verify(problem, step.schedule, values[-1]) == []
    assert values == sorted(set(values), reverse=True)
    return values[-1], values


def naive(problem: Problem, line: list[int]) -> int:
    """The objective's value when jobs and machines follow the line, from the definition."""
    shop = shop_of(problem)
    machine_free: dict[int, int] = {}
    job_free = dict(enumerate(problem.jobs.release.tolist()))
    for o in line:
        job, machine = int(problem.operations.job[shop.operation[o]]), int(shop.machine[o])
        end = max(job_free[job], machine_free.get(machine, 0)) + int(shop.duration[o])
        job_free[job] = machine_free[machine] = end
    if problem.objective.single == "makespan":
        return max(job_free.values())
    return max(end - int(problem.jobs.due[job]) for job, end in job_free.items())


def optimum(problem: Problem) -> int:
    """The best over all orders of all machines."""
    shop = shop_of(problem)
    count = len(shop.operation)
    groups = [np.flatnonzero(shop.machine == m).tolist() for m in range(shop.machines)]
    best = 1 << 60
    for orders in product(*(permutations(group) for group in groups)):
        line: list[int] = []
        waiting = [list(order) for order in orders]
        done: set[int] = set()
        while len(line) < count:
            ready = [
                queue
                for queue in waiting
                if queue and (shop.job_before[queue[0]] == count or shop.job_before[queue[0]] in done)
            ]
            if not ready:
                break
            line.append(ready[0].pop(0))
            done.add(line[-1])
        if len(line) == count:
            best = min(best, naive(problem, line))
    return best


@given(shops(jobs=3, machines=3))
@settings(max_examples=40)
def test_tiny_shops_are_solved(problem: Problem) -> None:
    assert run(problem, population=5, patience=200)[0] == optimum(problem)


@given(shops(jobs=3, machines=2, shortest=1, release=True, due=True))
@settings(max_examples=40)
def test_tiny_shops_with_dates_are_solved(problem: Problem) -> None:
    assert run(problem, population=5, patience=200)[0] == optimum(problem)


@given(shops(jobs=6, machines=5), st.integers(0, 1 << 40), st.integers(1, 60))
def test_the_length_is_that_of_the_line(problem: Problem, seed: int, patience: int) -> None:
    """Heads and tails are kept up to date move by move; from the line alone the same length must come, and never a longer one than before."""
    shop = shop_of(problem)
    line = jobshop.construct(
        shop.job_before, shop.job_after, shop.machine, shop.duration, shop.head, shop.tail, shop.machines, 1.0, seed
    )
    best, length, _ = jobshop.search(*shop.graph, line, patience, shop.tenure, seed, np.zeros(1, bool))
    assert sorted(best) == list(range(len(shop.operation)))
    assert length == naive(problem, best) <= naive(problem, line)


@given(shops(jobs=6, machines=5), st.floats(0, 1))
def test_a_blend_is_a_schedule(problem: Problem, share: float) -> None:
    """All jobs can follow it, its ends are the two lines, and where both agree it agrees."""
    shop = shop_of(problem)
    a, b = (
        jobshop.construct(shop.job_before, shop.job_after, shop.machine, shop.duration, shop.head, shop.tail, shop.machines, 1.0, seed)
        for seed in (1, 2)
    )  # fmt: skip
    middle = jobshop.blend(a, b, share)
    place = np.argsort(middle)
    count = len(middle)
    for o in range(count):
        if shop.job_before[o] < count:
            assert place[shop.job_before[o]] < place[o]
    for x, y in product(range(count), repeat=2):
        if np.argsort(a)[x] < np.argsort(a)[y] and np.argsort(b)[x] < np.argsort(b)[y]:
            assert place[x] < place[y]
    assert np.array_equal(jobshop.blend(a, b, 0.0), a)
    assert np.array_equal(jobshop.blend(a, b, 1.0), b)


def test_distance_counts_pairs() -> None:
    machine = np.array([0, 1, 0, 1, 0, 1])
    assert jobshop.distance(np.array([0, 1, 2, 3, 4, 5]), np.array([4, 5, 2, 1, 0, 3]), machine, 2) == 3 + 2


@pytest.mark.parametrize(
    ("name", "work", "value"), [("ft06", 5_000, 55), ("la01", 20_000, 666), ("ft10", 1_500_000, 930)]
)
def test_known_optima(name: str, work: int, value: int) -> None:
    assert run(instance(name), work)[0] == value


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_work_gives_the_same_bits(workers: int) -> None:
    problem = instance("ft10")
    first = run(problem, 60_000, seed=3, workers=workers)
    assert first == run(problem, 60_000, seed=3, workers=workers)
    assert first != run(problem, 60_000, seed=4, workers=workers)


def test_what_comes_from_elsewhere_is_used() -> None:
    """Sent in while it runs, or given at the start: no worse schedule is told afterwards."""
    problem = instance("ft06")
    *_, best = (step for step in Tabu().solve(problem, Limit(work=5_000)) if step.schedule is not None)
    assert best.schedule is not None
    search = Tabu(population=4, patience=1).solve(problem, Limit(work=3), best.schedule)
    assert all(step.schedule is None or step.schedule.value(problem) == 55 for step in search)


@given(shops(jobs=4, machines=3, shortest=0))
@settings(max_examples=20)
def test_it_ends_where_nothing_can_move(problem: Problem) -> None:
    """Also with operations that take no time, and with one machine."""
    run(problem, 300, population=2, patience=30)


def test_refusals() -> None:
    routes, times = [[0, 1], [1, 0]], [[3, 2], [2, 4]]
    tabu = Tabu()
    assert tabu.refuses(job_shop(routes, times)) is None
    assert tabu.refuses(job_shop(routes, times, objective="total_flow_time")) == (
        "minimises makespan or maximum lateness, the objective is total_flow_time"
    )
    assert tabu.refuses(job_shop(routes, times, blocking=True)) == "does not know blocking"
    assert tabu.refuses(rcpsp([3], [[1]], [2], [[]])) == "takes job shops, this is a rcpsp"
    with pytest.raises(InputError, match="population: must be at least 2, found 1"):
        Tabu(population=1)
