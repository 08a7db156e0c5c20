"""The checker passes what is right, and names each rule that is broken on purpose."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.generate import instance
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Incumbent, Schedule, Solution
from rota.worlds.shop.shapes import flow_shop, job_shop, open_shop, rcpsp
from rota.worlds.shop.solve import solve
from rota.worlds.shop.verify import recompute, verify, verify_solution


def at(start: list[int], length: list[int] | None = None, mode: list[int] | None = None) -> Schedule:
    lengths = length or [2] * len(start)
    return Schedule(np.array(start), np.array(start) + np.array(lengths), np.array(mode or range(len(start))))


def chain(builder: ProblemBuilder, machines: list[int], **links: Any) -> list[int]:
    job = builder.add_job(**{k: v for k, v in links.items() if k in ("release", "deadline", "one_at_a_time")})
    made = [builder.add_operation(job) for _ in machines]
    for operation, machine in zip(made, machines, strict=True):
        builder.add_mode(operation, 2, machine)
    if not links.get("one_at_a_time"):
        builder.add_chain(made, **{k: v for k, v in links.items() if k == "most"})
    return made


def one(**links: Any) -> Problem:
    builder = ProblemBuilder()
    machines = [builder.add_machine(), builder.add_machine()]
    chain(builder, machines, **links)
    return builder.build()


def with_break(interruptible: bool) -> Problem:
    builder = ProblemBuilder()
    machine = builder.add_machine(interruptible=interruptible)
    builder.add_breaks(machine, [(3, 5)])
    chain(builder, [machine])
    return builder.build()


def with_setup() -> Problem:
    builder = ProblemBuilder()
    machine = builder.add_machine()
    builder.set_setups(machine, [[0, 3], [1, 0]], [2, 0])
    for family in (0, 1):
        builder.add_mode(builder.add_operation(builder.add_job()), 2, machine, family=family)
    return builder.build()


def with_transport() -> Problem:
    builder = ProblemBuilder()
    machines = [builder.add_machine(), builder.add_machine()]
    builder.add_transport(*machines, 3)
    chain(builder, machines)
    return builder.build()


def frozen() -> Problem:
    builder = ProblemBuilder()
    machine = builder.add_machine()
    operations = chain(builder, [machine]) + chain(builder, [machine])
    builder.freeze(operations[0], 0, 1)
    return builder.build()


def budget() -> Problem:
    builder = ProblemBuilder()
    stock = builder.add_resource(capacity=3, renewable=False)
    for _ in range(2):
        builder.add_mode(builder.add_operation(builder.add_job()), 2, demands={stock: 1})
        builder.add_mode(len(builder._operations) - 1, 1, demands={stock: 2})
    return builder.build()


CASES: dict[str, tuple[Callable[[], Problem], Schedule, Schedule, str]] = {
    # name: problem, a schedule that is right, one that is not, what is said of it
    "mode": (one, at([0, 2]), at([0, 2], mode=[0, 0]), "mode 0 is not one of its modes"),
    "work": (one, at([0, 2]), at([0, 3], [3, 2]), "runs 0..3, its duration is 2"),
    "precedence": (one, at([0, 2]), at([0, 1]), "the lag is -1, at least 0 is needed"),
    "no wait": (lambda: one(most=0), at([0, 2]), at([0, 3]), "the lag is 1, at most 0 is allowed"),
    "release": (lambda: one(release=1), at([1, 3]), at([0, 2]), "before its job's release 1"),
    "deadline": (lambda: one(deadline=5), at([1, 3]), at([2, 4]), "after its job's deadline 5"),
    "machine": (lambda: job_shop([[0], [0]], [[2], [2]]), at([0, 2]), at([0, 1]), "starts at 1, but job0.0 ends at 2"),
    "blocking": (
        lambda: job_shop([[0, 1], [0, 1]], [[2, 2], [2, 2]], blocking=True),
        at([0, 2, 2, 4]), at([0, 4, 2, 6]), "but job0.0 holds it until 4",
    ),
    "closed": (lambda: with_break(False), at([5]), at([2]), "through the break 3..5"),
    "paused": (lambda: with_break(True), at([2], [4]), at([2]), "ends in the break 3..5"),
    "starts in a pause": (lambda: with_break(True), at([1]), at([4], [3]), "starts in the break 3..5"),
    "setup": (with_setup, at([2, 7]), at([2, 6]), "and a setup of 3"),
    "first setup": (with_setup, at([3, 0]), at([0, 5]), "its first setup takes 2"),
    "transport": (with_transport, at([0, 5]), at([0, 4]), r"at least 3 is needed \(transport 3\)"),
    "frozen": (frozen, at([1, 3]), at([0, 2]), "is frozen with start 1"),
    "renewable": (
        lambda: rcpsp([2, 2], [[2], [2]], [3], [[], []]), at([0, 2]), at([0, 1]), "4 units are in use at 1, there are 3",
    ),
    "non-renewable": (budget, at([0, 0], [2, 2], [0, 2]), at([0, 0], [1, 1], [1, 3]), "4 units are consumed, there are 3"),
    "one at a time": (lambda: open_shop([[2, 2]]), at([2, 0]), at([0, 1]), "job job0"),
    "permutation": (
        lambda: flow_shop([[2, 2], [2, 2]]), at([0, 2, 2, 4]), at([0, 6, 2, 4]), "one order: job. before job. before job.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_rule(name: str) -> None:
    make, right, wrong, said = CASES[name]
    problem = make()
    assert verify(problem, right) == []
    found = verify(problem, wrong)
    assert any(re.search(said, line) for line in found), found


def test_the_value_is_computed_again() -> None:
    problem = instance("ft06")
    schedule = solve(problem, "rule:mwkr", work=1).schedule
    assert schedule is not None
    value = schedule.value(problem)
    assert recompute(problem, schedule) == value
    assert verify(problem, schedule, value) == []
    assert verify(problem, schedule, value - 1) == [f"value: {value - 1} is claimed, the schedule is worth {value}"]
    assert verify(problem, at([0])) == ["schedule: has 1 operations, the problem has 36"]


def test_claims_of_a_solution() -> None:
    problem = instance("ft06")
    schedule = solve(problem, "cpsat", seconds=20).schedule
    assert schedule is not None
    assert verify_solution(problem, Solution("feasible", schedule, 55, 50)) == []
    assert verify_solution(problem, Solution("optimal", schedule, 55, 50)) == [
        "status: optimal is claimed with value 55 and bound 50"
    ]
    late = [Incumbent(0.1, 60, "x"), Incumbent(0.2, 60, "x"), Incumbent(0.3, 55, "x")]
    assert verify_solution(problem, Solution("feasible", schedule, 55, 50, trace=late)) == [
        "trace: incumbent 60 at 0.200 s is no better than 60"
    ]


def sound(problem: Problem, start: np.ndarray[Any, Any], makespan: int) -> bool:
    """Of a job shop, pair by pair: operations of a job in their order, those of a machine apart, and the last one ends when it is said."""
    end, job, machine = start + problem.modes.duration, problem.operations.job, problem.modes.resource
    pairs = [(a, b) for b in range(len(start)) for a in range(b)]
    in_order = all(end[a] <= start[b] for a, b in pairs if job[a] == job[b])
    apart = all(end[a] <= start[b] or end[b] <= start[a] for a, b in pairs if machine[a] == machine[b])
    return bool(in_order and apart and end.max() == makespan)


@pytest.mark.parametrize("seed", range(5))
def test_a_swap_of_two_operations_is_found(seed: int) -> None:
    """In an optimal schedule of a tight shop, exchanging two starts as a rule breaks a rule or the claimed value."""
    problem = instance("ft06")
    schedule = solve(problem, "cpsat", seconds=20, seed=seed).schedule
    assert schedule is not None
    assert sound(problem, schedule.start, 55)
    draw, found = np.random.default_rng(seed), 0
    for _ in range(50):
        a, b = draw.choice(36, 2, replace=False)
        start = schedule.start.copy()
        start[[a, b]] = start[[b, a]]
        broken = bool(verify(problem, Schedule.from_starts(problem, start), 55))
        assert broken != sound(problem, start, 55)
        found += broken
    assert found > 25
