"""The classic problems from matrices: job shop, flow shop, open shop, flexible job shop, one machine, parallel machines, project."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import NEVER, Problem
from rota.worlds.shop.objective import Objective

Objectives = Objective | str
Column = Sequence[int] | npt.NDArray[np.int64] | None


def job_shop(
    machines: npt.ArrayLike,
    durations: npt.ArrayLike,
    *,
    release: Column = None,
    due: Column = None,
    weight: Column = None,
    blocking: bool = False,
    no_wait: bool = False,
    machine_count: int | None = None,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """A job shop.

    Args:
        machines: (jobs, operations) machine of each operation in processing order, from 0.
        durations: Its duration, same shape.
        release: Release date of each job.
        due: Due date of each job.
        weight: Weight of each job.
        blocking: There is no room between machines (swaps are possible).
        no_wait: Each operation starts when the one before it ends.
        machine_count: Number of machines; None: the largest that occurs.
        objective: What to minimise.
        name: Name of the instance.
        source: Where it came from, for messages.
    """
    where, times = _matrix(machines, "machines"), _matrix(durations, "durations")
    if where.shape != times.shape:
        raise InputError(f"job shop: machines are {where.shape} and durations {times.shape}; they must match")
    builder = _start(name, source, objective)
    count = int(where.max(initial=-1)) + 1 if machine_count is None else machine_count
    for _ in range(count):
        builder.add_machine(blocking=blocking)
    _add_jobs(builder, len(times), release, due, weight)
    for job in range(len(times)):
        chain = []
        for machine, duration in zip(where[job].tolist(), times[job].tolist(), strict=True):
            chain.append(builder.add_operation(job))
            builder.add_mode(chain[-1], duration, machine)
        builder.add_chain(chain, most=0 if no_wait else None)
    return builder.build()


def flow_shop(
    durations: npt.ArrayLike,
    *,
    permutation: bool = True,
    release: Column = None,
    due: Column = None,
    weight: Column = None,
    blocking: bool = False,
    no_wait: bool = False,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """A flow shop: durations of shape (jobs, machines); with `permutation` all machines take the jobs in the same order."""
    times = _matrix(durations, "durations")
    route = np.broadcast_to(np.arange(times.shape[1]), times.shape)
    made = job_shop(
        route, times, release=release, due=due, weight=weight, blocking=blocking, no_wait=no_wait, objective=objective,
        name=name, source=source,
    )  # fmt: skip
    return replace(made, permutation=permutation)


def open_shop(
    durations: npt.ArrayLike,
    *,
    machines: npt.ArrayLike | None = None,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """An open shop: durations (jobs, machines), operations of a job in any order, never two at once.

    `machines` (same shape) where operation k of a job is not on machine k.
    """
    times = _matrix(durations, "durations")
    where = (
        np.broadcast_to(np.arange(times.shape[1]), times.shape) if machines is None else _matrix(machines, "machines")
    )
    builder = _start(name, source, objective)
    for _ in range(int(where.max(initial=-1)) + 1):
        builder.add_machine()
    for job in range(len(times)):
        builder.add_job(one_at_a_time=True)
        for machine, duration in zip(where[job].tolist(), times[job].tolist(), strict=True):
            builder.add_mode(builder.add_operation(job), duration, machine)
    return builder.build()


def flexible_job_shop(
    jobs: Sequence[Sequence[Sequence[tuple[int, int]]]],
    *,
    machine_count: int | None = None,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """A flexible job shop: per job, per operation in order, its alternatives (machine, duration)."""
    builder = _start(name, source, objective)
    used = [machine for job in jobs for operation in job for machine, _ in operation]
    for _ in range(max(used, default=-1) + 1 if machine_count is None else machine_count):
        builder.add_machine()
    for number, job in enumerate(jobs):
        builder.add_job()
        chain = []
        for alternatives in job:
            chain.append(builder.add_operation(number))
            for machine, duration in alternatives:
                builder.add_mode(chain[-1], duration, machine)
        builder.add_chain(chain)
    return builder.build()


def single_machine(
    durations: Column,
    *,
    release: Column = None,
    due: Column = None,
    weight: Column = None,
    deadline: Column = None,
    setups: npt.ArrayLike | None = None,
    initial_setups: Column = None,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """One machine, one operation a job. `setups` (jobs, jobs): the time from the job of the row to the job of the column."""
    builder = _start(name, source, objective)
    machine = builder.add_machine()
    times = _column(durations, "durations")
    _add_jobs(builder, len(times), release, due, weight, deadline)
    for job, duration in enumerate(times):
        family = -1 if setups is None else job
        builder.add_mode(builder.add_operation(job), duration, machine, family=family)
    if setups is not None:
        first = None if initial_setups is None else _column(initial_setups, "initial_setups")
        builder.set_setups(machine, _matrix(setups, "setups").tolist(), first)
    return builder.build()


def parallel_machines(
    durations: npt.ArrayLike,
    *,
    machine_count: int | None = None,
    release: Column = None,
    due: Column = None,
    weight: Column = None,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """Parallel machines: durations (jobs, machines) for unrelated or uniform ones, -1 where a machine cannot do a job.

    For identical machines give durations (jobs,) and `machine_count`.
    """
    times = np.asarray(durations)
    if times.ndim == 1:
        if machine_count is None:
            raise InputError("parallel machines: durations of one column need machine_count")
        times = np.repeat(times[:, None], machine_count, axis=1)
    times = _matrix(times, "durations")
    builder = _start(name, source, objective)
    for _ in range(times.shape[1]):
        builder.add_machine()
    _add_jobs(builder, len(times), release, due, weight)
    for job, row in enumerate(times.tolist()):
        operation = builder.add_operation(job)
        for machine, duration in enumerate(row):
            if duration != -1:
                builder.add_mode(operation, duration, machine)
    return builder.build()


def rcpsp(
    durations: Column,
    demands: npt.ArrayLike,
    capacities: Column,
    successors: Sequence[Sequence[int]],
    *,
    objective: Objectives = "makespan",
    name: str = "",
    source: str = "",
) -> Problem:
    """A resource-constrained project: one job whose operations are the activities.

    Args:
        durations: Of each activity; 0 for milestones without demands.
        demands: (activities, resources).
        capacities: Of each resource.
        successors: Of each activity, from 0.
        objective: What to minimise.
        name: Name of the instance.
        source: Where it came from, for messages.
    """
    builder = _start(name, source, objective)
    times, needs = _column(durations, "durations"), _matrix(demands, "demands")
    if len(needs) != len(times) or len(successors) != len(times):
        raise InputError(
            f"rcpsp: {len(times)} durations, {len(needs)} rows of demands, {len(successors)} lists of successors"
        )
    for capacity in _column(capacities, "capacities"):
        builder.add_resource(capacity=capacity)
    builder.add_job("project")
    for duration, row in zip(times, needs.tolist(), strict=True):
        operation = builder.add_operation(0)
        builder.add_mode(operation, duration, demands=dict(enumerate(row)))
    for first, followers in enumerate(successors):
        for second in followers:
            builder.add_precedence(first, second)
    return builder.build()


def _start(name: str, source: str, objective: Objectives) -> ProblemBuilder:
    wanted = Objective.parse(objective) if isinstance(objective, str) else objective
    return ProblemBuilder(name=name, source=source, objective=wanted, zero_durations=True)


def _matrix(values: npt.ArrayLike, what: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 2 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{what} must be a matrix of integers, found shape {array.shape} of {array.dtype}")
    return array.astype(np.int64)


def _column(values: Column, what: str) -> list[int]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{what} must be a list of integers, found shape {array.shape} of {array.dtype}")
    return [int(x) for x in array]


def _add_jobs(
    builder: ProblemBuilder, count: int, release: Column, due: Column, weight: Column, deadline: Column = None
) -> None:
    columns = {"release": release, "due": due, "weight": weight, "deadline": deadline}
    given = {name: _column(values, name) for name, values in columns.items() if values is not None}
    for name, values in given.items():
        if len(values) != count:
            raise InputError(f"{name} has {len(values)} values for {count} jobs")
    for job in range(count):
        row = {name: values[job] for name, values in given.items()}
        builder.add_job(
            release=row.get("release", 0),
            due=None if row.get("due", NEVER) == NEVER else row["due"],
            deadline=None if row.get("deadline", NEVER) == NEVER else row["deadline"],
            weight=row.get("weight", 1),
        )
