"""Beam search: what it builds, what it is when narrow, and what it finds when it keeps everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from tests.worlds.shop.test_dispatch import shops

from rota.kernel.errors import InputError
from rota.worlds.shop.dispatch import board, dispatch
from rota.worlds.shop.generate import instance
from rota.worlds.shop.model import NEVER, Problem
from rota.worlds.shop.objective import Objective
from rota.worlds.shop.policies import RULES
from rota.worlds.shop.shapes import job_shop
from rota.worlds.shop.solve import solve
from rota.worlds.shop.solver import Limit
from rota.worlds.shop.solvers.beam import Beam, _Nodes
from rota.worlds.shop.verify import verify


@settings(max_examples=60, deadline=None)
@given(shops())
def test_a_narrow_beam_is_its_rule(problem: Problem) -> None:
    solver = Beam("mwkr/active", spread=1, width=1)
    first = next(iter(solver.solve(problem, Limit(work=1))))
    assert first.schedule is not None
    assert first.schedule.start.tolist() == dispatch(problem, RULES["mwkr"](), active=True).start.tolist()


@settings(max_examples=60, deadline=None)
@given(shops())
def test_what_a_beam_judges_is_what_it_builds(problem: Problem) -> None:
    for text in ("makespan", "weighted_tardiness", "2*total_flow_time + maximum_lateness"):
        if text != "makespan" and (problem.jobs.due == NEVER).any():
            continue
        judged = problem.with_objective(Objective.parse(text))
        found = []
        for step in Beam("spt", spread=2, width=2).solve(judged, Limit(work=40)):
            if step.schedule is not None:
                verify(judged, step.schedule)
                found.append(step.schedule.value(judged))
        assert found == sorted(set(found), reverse=True)


def test_a_beam_that_keeps_everything_finds_the_best() -> None:
    """Some active schedule is the best one, for any objective that never falls when a job ends later; CP-SAT says which value that is."""
    pytest.importorskip("ortools", reason="the extra solve is not installed")
    for seed in range(12):
        draw = np.random.default_rng(seed)
        routes = [draw.permutation(3).tolist() for _ in range(3)]
        problem = job_shop(
            routes,
            draw.integers(1, 9, (3, 3)).tolist(),
            release=draw.integers(0, 9, 3).tolist(),
            due=draw.integers(5, 25, 3).tolist(),
        )
        judged = problem.with_objective(("makespan", "total_tardiness", "total_flow_time")[seed % 3])
        nodes = _Nodes(board(judged), *Beam("spt")._keys(board(judged), draw), 1.0, spread=64)
        value = min(nodes.level(100_000)[0] for _ in range(9))
        assert value == solve(judged, solver="cpsat", seconds=20).value


def test_wider_is_better_and_beats_blurred_copies() -> None:
    problem = instance("ta01")
    values = [
        [s.schedule.value(problem) for s in Beam("mwkr").solve(problem, Limit(work=n)) if s.schedule][-1]
        for n in (1, 1000, 60_000)
    ]
    assert values[0] > values[1] >= values[2]
    assert values[2] < 1.06 * 1231


@pytest.mark.parametrize(("rule", "says"), [("nought", "none called"), ("mwkr/wide", "active or non_delay")])
def test_wrong_rules(rule: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Beam(rule)


def test_a_rule_that_must_be_asked_is_refused() -> None:
    with pytest.raises(InputError, match="known at arrival"):
        next(iter(Beam("atc").solve(instance("ta01"), Limit(work=1))))
