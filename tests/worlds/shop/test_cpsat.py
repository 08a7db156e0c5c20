"""CP-SAT's model against every schedule there is, for each kind of problem, feature and objective; and lower bounds against both."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.worlds.shop.brute import optimum

from rota.kernel.errors import MissingExtraError
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import Problem
from rota.worlds.shop.objective import CRITERIA
from rota.worlds.shop.shapes import (
    flexible_job_shop,
    flow_shop,
    job_shop,
    open_shop,
    parallel_machines,
    rcpsp,
    single_machine,
)
from rota.worlds.shop.solve import solve
from rota.worlds.shop.solvers.cpsat import why_infeasible

Draw = np.random.Generator


def durations(draw: Draw, *shape: int, least: int = 1) -> Any:
    return draw.integers(least, 4, size=shape)


def chain(builder: ProblemBuilder, machines: list[int], lengths: list[int], **links: Any) -> list[int]:
    job = builder.add_job()
    made = [builder.add_operation(job) for _ in machines]
    for operation, machine, length in zip(made, machines, lengths, strict=True):
        builder.add_mode(operation, int(length), machine)
    builder.add_chain(made, **links)
    return made


def with_setups(draw: Draw) -> Problem:
    builder = ProblemBuilder()
    machine = builder.add_machine()
    builder.set_setups(machine, draw.integers(0, 3, size=(2, 2)).tolist(), draw.integers(0, 3, size=2).tolist())
    for _ in range(3):
        operation = builder.add_operation(builder.add_job())
        builder.add_mode(operation, int(draw.integers(1, 3)), machine, family=int(draw.integers(0, 2)))
    return builder.build()


def with_breaks(interruptible: bool) -> Callable[[Draw], Problem]:
    def make(draw: Draw) -> Problem:
        builder = ProblemBuilder(zero_durations=True)
        machine = builder.add_machine(interruptible=interruptible)
        first = int(draw.integers(1, 4))
        builder.add_breaks(machine, [(first, first + int(draw.integers(1, 3)))])
        for _ in range(2):
            builder.add_mode(builder.add_operation(builder.add_job()), int(draw.integers(0, 4)), machine)
        return builder.build()

    return make


def with_transport(draw: Draw) -> Problem:
    builder = ProblemBuilder()
    a, b = builder.add_machine(), builder.add_machine()
    builder.add_transport(a, b, int(draw.integers(0, 3)))
    builder.add_transport(b, a, int(draw.integers(0, 3)))
    chain(builder, [a, b], draw.integers(1, 3, size=2).tolist())
    chain(builder, [b, a], draw.integers(1, 3, size=2).tolist())
    return builder.build()


def with_lags(draw: Draw) -> Problem:
    builder = ProblemBuilder()
    machines = [builder.add_machine() for _ in range(2)]
    first = [chain(builder, [machines[k]], [int(draw.integers(1, 4))])[0] for k in (0, 1)]
    third = chain(builder, [machines[0]], [int(draw.integers(1, 4))])[0]
    kinds = ("finish_start", "start_start", "finish_finish", "start_finish")
    for second in (first[1], third):
        least = int(draw.integers(0, 3))
        builder.add_precedence(
            first[0], second, kind=str(draw.choice(kinds)), least=least, most=least + int(draw.integers(0, 4))
        )
    return builder.build()


def with_frozen(draw: Draw) -> Problem:
    builder = ProblemBuilder()
    machine = builder.add_machine()
    operations = [chain(builder, [machine], [int(draw.integers(1, 4))])[0] for _ in range(3)]
    builder.freeze(
        operations[0], 0, int(draw.integers(0, 2)), int(draw.integers(4, 6)) if draw.random() < 0.5 else None
    )
    return builder.build()


def with_modes(draw: Draw) -> Problem:
    builder = ProblemBuilder()
    renewable = builder.add_resource(capacity=3)
    budget = builder.add_resource(capacity=int(draw.integers(4, 7)), renewable=False)
    job = builder.add_job()
    made = [builder.add_operation(job) for _ in range(3)]
    for operation in made:
        builder.add_mode(operation, int(draw.integers(1, 3)), demands={renewable: int(draw.integers(1, 4)), budget: 3})
        builder.add_mode(operation, int(draw.integers(2, 5)), demands={renewable: int(draw.integers(0, 3)), budget: 1})
    builder.add_precedence(made[0], made[2])
    return builder.build()


def route(draw: Draw, jobs: int, machines: int) -> Any:
    return np.array([draw.permutation(machines) for _ in range(jobs)])


KINDS: dict[str, Callable[[Draw], Problem]] = {
    "single": lambda d: single_machine(durations(d, 3), release=d.integers(0, 5, size=3)),
    "parallel": lambda d: parallel_machines(durations(d, 4), machine_count=2),
    "unrelated": lambda d: parallel_machines(durations(d, 3, 2)),
    "permutation flow shop": lambda d: flow_shop(durations(d, 2, 2)),
    "flow shop": lambda d: flow_shop(durations(d, 2, 2), permutation=False),
    "blocking flow shop": lambda d: flow_shop(durations(d, 2, 2), blocking=True),
    "no-wait flow shop": lambda d: flow_shop(durations(d, 2, 2), no_wait=True),
    "job shop": lambda d: job_shop(route(d, 2, 2), durations(d, 2, 2, least=0)),
    "blocking job shop": lambda d: job_shop(route(d, 2, 2), durations(d, 2, 2), blocking=True),
    "no-wait job shop": lambda d: job_shop(route(d, 2, 2), durations(d, 2, 2), no_wait=True),
    "flexible": lambda d: flexible_job_shop(
        [[[(0, int(d.integers(1, 4))), (1, int(d.integers(1, 4)))] for _ in range(2)], [[(0, 2)]]]
    ),
    "open shop": lambda d: open_shop(durations(d, 2, 2)),
    "project": lambda d: rcpsp(durations(d, 4), d.integers(0, 3, size=(4, 1)), [2], [[2], [3], [], []]),
    "modes": with_modes,
    "setups": with_setups,
    "closed": with_breaks(interruptible=False),
    "paused": with_breaks(interruptible=True),
    "transport": with_transport,
    "lags": with_lags,
    "frozen": with_frozen,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, seed: int) -> None:
    problem = KINDS[kind](np.random.default_rng(seed))
    best = optimum(problem, 11 if len(problem.operations) < 4 else 9)
    found = solve(problem, "cpsat", seconds=20, workers=1)
    if best is None:
        assert found.status == "infeasible" or (found.value or 0) > 9
    else:
        assert (found.status, found.value) == ("optimal", best)
        assert lower_bound(problem).value <= best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("objective", [*CRITERIA, "2*makespan + total_tardiness"])
def test_every_objective(objective: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    problem = job_shop(
        [[0, 1], [1, 0], [0, 1]][: 2 + seed % 2], [[2, 1], [1, 3], [2, 2]][: 2 + seed % 2],
        due=draw.integers(1, 8, size=2 + seed % 2), weight=draw.integers(1, 5, size=2 + seed % 2),
        release=draw.integers(0, 3, size=2 + seed % 2), objective=objective,
    )  # fmt: skip
    if seed % 2:  # six operations are too many to try: one machine instead
        problem = single_machine([2, 1, 3], due=[3, 2, 4], weight=[1, 3, 2], release=[0, 1, 0], objective=objective)
    best = optimum(problem, 8)
    found = solve(problem, "cpsat", seconds=20, workers=1)
    assert (found.status, found.value) == ("optimal", best)
    assert best is not None
    assert lower_bound(problem).value <= best


@pytest.mark.parametrize("seed", range(4))
def test_deadlines(seed: int) -> None:
    draw = np.random.default_rng(seed)
    problem = single_machine(durations(draw, 3))
    problem = replace(problem, jobs=replace(problem.jobs, deadline=draw.integers(4, 9, size=3)))
    found, best = solve(problem, "cpsat", seconds=20, workers=1), optimum(problem, 9)
    assert (found.status, found.value) == (("infeasible", None) if best is None else ("optimal", best))


def test_why_there_is_no_schedule() -> None:
    builder = ProblemBuilder()
    budget = builder.add_resource(capacity=3, renewable=False)
    for _ in range(2):
        builder.add_mode(builder.add_operation(builder.add_job()), 2, demands={budget: 2})
    assert why_infeasible(builder.build()) == ["the non-renewable resources"]
    assert why_infeasible(single_machine([3, 4])) == []
    problem = single_machine([3, 4])
    late = replace(problem, jobs=replace(problem.jobs, deadline=np.array([5, 5])))
    assert why_infeasible(late) == ["the deadlines"]


def test_work_and_workers_repeat() -> None:
    problem = job_shop(route(np.random.default_rng(1), 8, 5), np.random.default_rng(2).integers(1, 30, size=(8, 5)))
    first, second = (solve(problem, "cpsat", work=300, workers=2, seed=4) for _ in range(2))
    assert [each.value for each in first.trace] == [each.value for each in second.trace]
    assert first.bound == second.bound


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)  # an import of it fails now
    with pytest.raises(MissingExtraError, match=r"pip install 'rota\[solve\]'"):
        solve(single_machine([1, 2]), "cpsat", seconds=1)
    found = solve(job_shop([[0, 1], [1, 0]], [[2, 2], [2, 2]]), "portfolio", work=100, workers=1)
    assert found.schedule is not None
    assert any("cpsat is left out" in note for note in found.notes) or found.status == "optimal"
