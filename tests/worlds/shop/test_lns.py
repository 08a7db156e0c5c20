"""Large neighbourhood search and simulated annealing: what they keep, that they get better, and that they repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop.generate import instance
from rota.worlds.shop.generate.synthetic import random_flexible, random_job_shop
from rota.worlds.shop.model import Problem
from rota.worlds.shop.objective import CRITERIA
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.shapes import job_shop, open_shop, rcpsp
from rota.worlds.shop.solve import solve
from rota.worlds.shop.solver import Limit
from rota.worlds.shop.solvers.annealing import Annealing, Worth, geometric, insert, metropolis
from rota.worlds.shop.solvers.cpsat import repair
from rota.worlds.shop.solvers.lns import PARTS, Bandit, LargeNeighbourhood, part, restricted
from rota.worlds.shop.solvers.tabu import shop_of
from rota.worlds.shop.verify import verify


def start_of(problem: Problem) -> Schedule:
    found = solve(problem, "cpsat", work=20, workers=1).schedule
    assert found is not None
    return found


def project() -> Problem:
    draw = np.random.default_rng(1)
    needs = draw.integers(1, 4, size=(14, 2))
    return rcpsp(draw.integers(1, 9, size=14), needs, [5, 5], [[k + 2] if k < 12 else [] for k in range(14)])


PROBLEMS = {
    "job shop": lambda: random_job_shop(6, 5, seed=1),
    "blocking": lambda: instance("ft06:blocking"),
    "flexible": lambda: random_flexible(5, 4, 3, seed=2),
    "open": lambda: open_shop(np.random.default_rng(3).integers(1, 20, size=(5, 4))),
    "project": project,
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_repair_is_no_worse_and_keeps_what_is_not_free(name: str, kind: str) -> None:
    problem = PROBLEMS[name]()
    before = start_of(problem)
    free = part(kind, problem, before, 0.3, np.random.default_rng(4))
    assert 2 <= len(free) <= len(problem.operations)
    after, _ = repair(restricted(problem, before, free), 200, 0)
    assert after is not None
    assert verify(problem, after) == []
    assert after.value(problem) <= before.value(problem)
    for old, new in zip(before.sequences(problem), after.sequences(problem), strict=True):
        kept = [o for o in old.tolist() if o not in free]
        if name != "project":  # where several run at once only those behind an end stay behind it
            assert [o for o in new.tolist() if o not in free] == kept


@pytest.mark.parametrize("name", ["job shop", "blocking", "project"])
def test_search_gets_better_and_repeats(name: str) -> None:
    problem = PROBLEMS[name]()
    first, second = (solve(problem, "lns", work=12, seed=3, workers=1) for _ in range(2))
    assert first.schedule is not None
    assert second.schedule is not None
    assert [each.value for each in first.trace] == [each.value for each in second.trace]
    assert np.array_equal(first.schedule.start, second.schedule.start)
    assert first.value is not None
    assert first.value <= start_of(problem).value(problem)


def test_the_bandit_finds_the_arm_that_pays() -> None:
    bandit, draw = Bandit(3), np.random.default_rng(0)
    for _ in range(600):
        arm = bandit.choose()
        bandit.learn(arm, float(draw.random() < (0.1, 0.6, 0.3)[arm]))
    assert bandit.tried[1] > bandit.tried[0] + bandit.tried[2]


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=40)
def test_a_move_keeps_jobs_in_order(jobs: int, machines: int, seed: int) -> None:
    shop = shop_of(random_job_shop(jobs, machines, seed=seed) if machines > 1 else instance("ft06"))
    line = np.arange(len(shop.machine))
    draw = np.random.default_rng(seed)
    for _ in range(20):
        line = insert(shop)(line, draw)
        assert sorted(line) == list(range(len(line)))
        place = np.argsort(line)
        assert all(place[b] < place[o] for o, b in enumerate(shop.job_before[:-1]) if b < len(line))


@pytest.mark.parametrize("objective", CRITERIA)
def test_the_worth_of_a_line_is_that_of_its_schedule(objective: str) -> None:
    draw = np.random.default_rng(5)
    problem = job_shop(
        [draw.permutation(4) for _ in range(5)], draw.integers(1, 9, size=(5, 4)), due=draw.integers(10, 40, size=5),
        weight=draw.integers(1, 5, size=5), release=draw.integers(0, 9, size=5), objective=objective,
    )  # fmt: skip
    for step in Annealing().solve(problem, Limit(work=300, seed=1)):
        if step.schedule is not None:
            assert verify(problem, step.schedule) == []
            shop = shop_of(problem)
            line = np.lexsort((step.schedule.end[shop.operation], step.schedule.start[shop.operation])).astype(np.int64)
            assert Worth(problem, shop)(line) == step.schedule.value(problem)


def test_annealing_finds_small_optima_and_repeats() -> None:
    assert solve(instance("ft06"), "annealing", work=20_000, workers=1).value == 55
    problem = instance("ft10")
    assert (
        solve(problem, "annealing", work=3_000, seed=2).value == solve(problem, "annealing", work=3_000, seed=2).value
    )


def test_parts_of_annealing() -> None:
    assert metropolis(0.0, 0.0, 0.99)
    assert not metropolis(1.0, 0.0, 0.0)
    assert metropolis(1.0, 1.0, 0.36)
    assert not metropolis(1.0, 1.0, 0.37)
    cool = geometric(8.0, 2.0)
    assert [cool(0, share) for share in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([8.0, 4.0, 2.0, 2.0])


def test_refusals() -> None:
    assert Annealing().refuses(open_shop([[1, 2]])) == "takes shops of chains on machines, this is a open shop"
    assert Annealing().refuses(instance("ft06:blocking")) == "does not know blocking"
    with pytest.raises(InputError, match="0 < last <= first"):
        Annealing(first=0.1, last=0.2)
    with pytest.raises(InputError, match="lns: share"):
        LargeNeighbourhood(share=0)
