"""Carrying out shops: without luck as planned, with luck by the rules, and planning again."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop.dispatch import dispatch
from rota.worlds.shop.generate import blocking, instance
from rota.worlds.shop.generate.synthetic import random_job_shop
from rota.worlds.shop.luck import Luck
from rota.worlds.shop.model import Problem
from rota.worlds.shop.policies import RULES
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.shapes import job_shop, rcpsp
from rota.worlds.shop.simulate import ByPlanning, planning, simulate
from rota.worlds.shop.solve import solve
from rota.worlds.shop.verify import verify


@st.composite
def shops(draw: st.DrawFn) -> Problem:
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    routes = [draw(st.permutations(range(m))) for _ in range(n)]
    times = [[draw(st.integers(1, 9)) for _ in range(m)] for _ in range(n)]
    due, release = ([draw(st.integers(0, most)) for _ in range(n)] for most in (40, 12))
    return job_shop(routes, times, due=due, release=release)


lucks = st.builds(
    Luck, seed=st.integers(0, 999), spread=st.sampled_from([0.0, 0.5]), uptime=st.sampled_from([None, 15.0, 60.0]), repair=st.just(6.0)
)  # fmt: skip


@pytest.mark.parametrize("name", ["fcfs", "mwkr", "spt", "slack", "atc"])
@given(problem=shops())
@settings(max_examples=30)
def test_without_luck_a_rule_does_what_dispatching_does(name: str, problem: Problem) -> None:
    found = simulate(problem, RULES[name]())
    assert found.schedule.start.tolist() == dispatch(problem, RULES[name]()).start.tolist()


@pytest.mark.parametrize("name", ["ft06", "ft06:blocking", "la03:blocking"])
def test_without_luck_a_plan_is_carried_out_as_it_is(name: str) -> None:
    """Also where jobs must swap machines."""
    problem = instance(name)
    plan = solve(problem, "cpsat", seconds=60, workers=1).schedule
    assert plan is not None
    found = simulate(problem, plan)
    assert found.value == plan.value(problem)
    assert (found.schedule.start <= plan.start).all()


@pytest.mark.parametrize("make", [lambda p: p, blocking])
@given(problem=shops(), luck=lucks)
@settings(max_examples=60)
def test_what_happens_keeps_the_rules(make: Callable[[Problem], Problem], problem: Problem, luck: Luck) -> None:
    """Every run is checked against the shop as it turned out: true durations, outages as pauses, machines held while jobs wait."""
    shop = make(problem)
    for control in (RULES["mwkr"](), RULES["edd"](), solve(shop, "cpsat", work=50, workers=1).schedule):
        assert control is not None
        found = simulate(shop, control, luck)
        assert verify(found.problem, found.schedule) == []
        assert found.problem.modes.duration.tolist() == luck.durations(shop).tolist()


def test_a_pause_by_hand() -> None:
    """A fixed repair of 4 in the middle of an operation of 9: it ends 4 later, and so does everything behind it."""

    class Once(Luck):
        def outage(self, machine: int, ordinal: int, after: int) -> tuple[int, int] | None:
            return (3, 7) if (machine, ordinal) == (0, 0) else None

    problem = job_shop([[0, 1], [0, 1]], [[9, 2], [1, 2]])
    found = simulate(problem, RULES["fcfs"](), Once())
    assert found.schedule.start.tolist() == [0, 13, 13, 15]
    assert found.schedule.end.tolist() == [13, 15, 14, 17]
    assert found.outages == ((0, (3, 7)),)


def test_a_swap_by_hand() -> None:
    """Two jobs on two blocking machines in opposite directions can only change places at once."""
    problem = job_shop([[0, 1], [1, 0]], [[3, 2], [5, 4]], blocking=True)
    found = simulate(problem, RULES["fcfs"]())
    assert found.swaps == 1
    assert found.schedule.start.tolist() == [0, 5, 0, 5]


@given(problem=shops(), luck=lucks)
@settings(max_examples=25)
def test_luck_is_the_same_for_everybody(problem: Problem, luck: Luck) -> None:
    first, second = simulate(problem, RULES["spt"](), luck), simulate(problem, RULES["lpt"](), luck)
    assert first.problem.modes.duration.tolist() == second.problem.modes.duration.tolist()
    both = min(first.schedule.end.max(), second.schedule.end.max())
    seen = [{span for span in run.outages if span[1][0] < both} for run in (first, second)]
    assert seen[0] == seen[1]
    assert simulate(problem, RULES["spt"](), luck).schedule.start.tolist() == first.schedule.start.tolist()


@pytest.mark.parametrize("variant", ["", ":blocking"])
def test_planning_again_keeps_what_has_begun(variant: str) -> None:
    problem = instance(f"ft06{variant}")
    plan = solve(problem, "cpsat", seconds=30, workers=1).schedule
    assert plan is not None
    luck = Luck(seed=4, uptime=25.0, repair=10.0)
    control = planning(plan, work=100)
    found = simulate(problem, control, luck)
    assert verify(found.problem, found.schedule) == []
    moments = {moment for _, span in found.outages for moment in span}
    assert control.moves
    assert {move.time for move in control.moves} <= moments
    assert [move.time for move in control.moves] == sorted(move.time for move in control.moves)
    again = planning(plan, work=100)
    assert simulate(problem, again, luck).value == found.value
    assert again.moves == control.moves


def test_planning_without_a_solver_is_the_old_plan() -> None:
    problem = instance("ft06")
    plan = solve(problem, "cpsat", seconds=30, workers=1).schedule
    assert plan is not None
    luck = Luck(seed=1, uptime=25.0)
    assert simulate(problem, ByPlanning(plan), luck).value == simulate(problem, plan, luck).value


def test_rush_orders_are_known_when_they_come() -> None:
    """A job released later is in the plan that is made when it comes; a dispatching rule sees it then too."""
    problem = job_shop(
        [[0, 1], [0, 1], [1, 0]],
        [[4, 3], [5, 2], [2, 2]],
        release=[0, 0, 5],
        due=[50, 50, 9],
        objective="total_tardiness",
    )
    plan = solve(problem, "cpsat", seconds=10, workers=1).schedule
    assert plan is not None
    control = planning(plan, work=100)
    found = simulate(problem, control, Luck())
    assert [move.time for move in control.moves] == [5]
    assert found.value == plan.value(problem)


def test_durations_have_the_mean_that_was_planned() -> None:
    problem = random_job_shop(100, 20, seed=3)
    ratio = [Luck(seed=s, spread=0.4).durations(problem).sum() / problem.modes.duration.sum() for s in range(10)]
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.01)
    assert Luck(spread=0.4).durations(problem).min() >= 1


def test_refusals() -> None:
    with pytest.raises(
        InputError, match="simulate: takes chains of operations, each on its machine; this problem has rcpsp"
    ):
        simulate(rcpsp([1, 2], [[1], [1]], [2], [[], []]), RULES["fcfs"]())
    for wrong, said in (({"spread": -1}, "spread"), ({"uptime": 0}, "uptime"), ({"repair": 0}, "repair")):
        with pytest.raises(InputError, match=f"luck: {said} must be"):
            Luck(**wrong)  # type: ignore[arg-type]
    short = Schedule(np.array([0]), np.array([1]), np.array([0]))
    with pytest.raises(InputError, match="simulate: the plan has 1 operations, the problem has 36"):
        simulate(instance("ft06"), short)
