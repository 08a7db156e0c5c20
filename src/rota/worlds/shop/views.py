"""The classic shapes inside a problem: which one it is, and dense arrays for solvers made for it."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rota.worlds.shop.model import FINISH_START, MACHINE, NEVER, NON_RENEWABLE, Ints, _offsets

if TYPE_CHECKING:
    from rota.worlds.shop.model import Problem

KINDS = (
    "single_machine",  # one operation a job, all on one machine
    "parallel_machines",  # one operation a job, each on one machine of a choice
    "flow_shop",  # a chain of operations a job, the same machines in the same order for all
    "job_shop",  # a chain of operations a job, each on its machine
    "flexible_job_shop",  # a chain of operations a job, each on one machine of a choice
    "open_shop",  # one machine an operation, the job's operations in any order, never two at once
    "rcpsp",  # one mode an operation, renewable resources, precedences
    "multi_mode_rcpsp",  # the same with several modes or non-renewable resources
    "general",
)
FEATURES = (
    "release", "due", "deadline", "weights", "operation_dates", "setups", "breaks", "transport", "blocking", "no_wait",
    "lags", "frozen", "permutation", "machines_and_resources", "cross_job_precedence",
)  # fmt: skip
HARMLESS = frozenset({"due", "weights"})  # they change the value of a schedule, never which schedules are allowed


def features(problem: "Problem") -> frozenset[str]:
    """Everything that a problem has beyond its plain shape; a solver compares it with what it can honour."""
    jobs, operations, resources, links = problem.jobs, problem.operations, problem.resources, problem.precedences
    no_wait = (links.kind == FINISH_START) & (links.least == 0) & (links.most == 0)
    plain = (links.kind == FINISH_START) & (links.least == 0) & (links.most == NEVER)
    used = resources.kind == MACHINE
    found = {
        "release": (jobs.release > 0).any(),
        "due": (jobs.due < NEVER).any(),
        "deadline": (jobs.deadline < NEVER).any(),
        "weights": (jobs.weight != 1).any(),
        "operation_dates": (operations.release > 0).any() or (operations.deadline < NEVER).any(),
        "setups": problem.setups.time.any() or problem.setups.initial.any(),
        "breaks": len(resources.break_start) > 0,
        "transport": problem.transport.any(),
        "blocking": resources.blocking.any(),
        "no_wait": no_wait.any(),
        "lags": (~plain & ~no_wait).any(),
        "frozen": (operations.frozen_mode >= 0).any(),
        "permutation": problem.permutation,
        "machines_and_resources": used.any() and not used.all(),
        "cross_job_precedence": (operations.job[links.first] != operations.job[links.second]).any(),
    }
    return frozenset(name for name, there in found.items() if there)


def kind(problem: "Problem") -> str:
    """One of KINDS."""
    resources = problem.resources
    single = len(problem.modes) == len(problem.operations)
    all_machines = bool(len(resources)) and bool((resources.kind == MACHINE).all())
    if all_machines and (problem.machine_of_mode >= 0).all():
        open_jobs = problem.jobs.one_at_a_time
        sizes = np.bincount(problem.operations.job, minlength=len(problem.jobs))
        if len(problem.precedences) == 0 and (sizes == 1).all():
            return "single_machine" if single and len(resources) == 1 else "parallel_machines"
        if len(problem.precedences) == 0 and single and (open_jobs | (sizes == 1)).all():
            return "open_shop"
        if _chains(problem):
            return _shop_kind(problem) if single else "flexible_job_shop"
    if "machines_and_resources" in problem.features or problem.jobs.one_at_a_time.any():
        return "general"
    if single and not (resources.kind == NON_RENEWABLE).any():
        return "rcpsp" if not all_machines else "general"
    return "multi_mode_rcpsp" if not all_machines else "general"


def _chains(problem: "Problem") -> bool:
    """Each job is a chain of finish-start precedences through all its operations, and nothing else is linked."""
    links, operations = problem.precedences, problem.operations
    if (links.kind != FINISH_START).any() or (operations.job[links.first] != operations.job[links.second]).any():
        return False
    offsets, order = problem.job_operations
    inside = np.ones(len(order), bool)
    inside[offsets[:-1]] = False  # each job's first has nothing before it
    wanted = np.stack([order[np.flatnonzero(inside) - 1], order[inside]], axis=1)
    found = np.stack([links.first, links.second], axis=1)
    if len(found) != len(wanted):
        return False
    return bool(np.array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)]))


def _shop_kind(problem: "Problem") -> str:
    offsets, order = problem.job_operations
    machines = problem.machine_of_mode[problem.mode_offsets[order]]
    routes = {tuple(machines[a:b].tolist()) for a, b in pairwise(offsets.tolist())}
    route = routes.pop()
    return "flow_shop" if not routes and len(set(route)) == len(route) else "job_shop"


@dataclass(frozen=True, eq=False)
class JobShopView:
    """A job shop with as many operations in every job, in processing order: arrays of shape (jobs, operations of a job)."""

    machine: Ints
    duration: Ints
    operation: Ints  # the number of each in the problem
    machines: int


@dataclass(frozen=True, eq=False)
class FlexibleJobShopView:
    """Chains of operations with alternatives, in CSR form: operations in job order, alternatives in mode order.

    A job shop with jobs of any length is the case of one alternative each.
    """

    job_offsets: Ints  # (jobs + 1,) into the columns below
    operation: Ints  # (operations,) number in the problem
    alternative_offsets: Ints  # (operations + 1,)
    machine: Ints  # (alternatives,)
    duration: Ints  # (alternatives,)
    mode: Ints  # (alternatives,) number in the problem
    machines: int


@dataclass(frozen=True, eq=False)
class SingleMachineView:
    """One machine; arrays of shape (jobs,)."""

    duration: Ints
    release: Ints
    due: Ints  # NEVER: none
    weight: Ints
    operation: Ints


@dataclass(frozen=True, eq=False)
class ProjectView:
    """Activities with modes and demands, and finish-start precedences between them."""

    duration: Ints  # (modes,)
    demand: Ints  # (modes, resources)
    mode_offsets: Ints  # (operations + 1,)
    capacity: Ints  # (resources,)
    renewable: Ints  # (resources,) 1: at every moment, 0: for the whole plan
    successor_offsets: Ints  # (operations + 1,)
    successors: Ints


def as_job_shop(problem: "Problem", allow: Collection[str] = ()) -> JobShopView | None:
    """A job shop (or flow shop) as matrices; None where it is not one.

    Also None where the problem has features, other than due dates and weights, that the caller does not name in `allow`: whoever
    takes a view must not forget a constraint.
    """
    if problem.kind not in ("job_shop", "flow_shop") or problem.features - HARMLESS - set(allow):
        return None
    offsets, order = problem.job_operations
    size = int(offsets[1])
    if (np.diff(offsets) != size).any():
        return None
    operation = order.reshape(len(problem.jobs), size)
    mode = problem.mode_offsets[operation]
    return JobShopView(problem.machine_of_mode[mode], problem.modes.duration[mode], operation, len(problem.resources))


def as_flexible_job_shop(problem: "Problem", allow: Collection[str] = ()) -> FlexibleJobShopView | None:
    """Any shop of chains (job, flow, flexible, parallel machines, one machine) with alternatives; None as in `as_job_shop`."""
    shops = ("single_machine", "parallel_machines", "flow_shop", "job_shop", "flexible_job_shop")
    if problem.kind not in shops or problem.features - HARMLESS - set(allow):
        return None
    offsets, order = problem.job_operations
    first, last = problem.mode_offsets[order], problem.mode_offsets[order + 1]
    mode = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return FlexibleJobShopView(
        job_offsets=offsets,
        operation=order,
        alternative_offsets=np.concatenate([[0], np.cumsum(last - first)]),
        machine=problem.machine_of_mode[mode],
        duration=problem.modes.duration[mode],
        mode=mode,
        machines=len(problem.resources),
    )


def as_single_machine(problem: "Problem", allow: Collection[str] = ()) -> SingleMachineView | None:
    """One machine as columns; None as in `as_job_shop`."""
    if problem.kind != "single_machine" or problem.features - HARMLESS - set(allow):
        return None
    operation = problem.job_operations[1]
    jobs = problem.jobs
    return SingleMachineView(problem.modes.duration[operation], jobs.release, jobs.due, jobs.weight, operation)


def as_project(problem: "Problem", allow: Collection[str] = ()) -> ProjectView | None:
    """Any problem as a project: a machine is a renewable resource of one unit. None as in `as_job_shop`, or with open-shop jobs."""
    own = {"machines_and_resources", "cross_job_precedence"}
    if problem.jobs.one_at_a_time.any() or problem.features - HARMLESS - own - set(allow):
        return None
    modes, resources = problem.modes, problem.resources
    demand = np.zeros((len(modes), len(resources)), np.int64)
    demand[np.repeat(np.arange(len(modes)), np.diff(modes.offsets)), modes.resource] = modes.amount
    offsets, followers = problem.successors
    return ProjectView(
        duration=modes.duration,
        demand=demand,
        mode_offsets=_offsets(modes.operation, len(problem.operations)),
        capacity=resources.capacity,
        renewable=(resources.kind != NON_RENEWABLE).astype(np.int64),
        successor_offsets=offsets,
        successors=followers,
    )
