"""What comes out: when each operation runs and in which mode, what that is worth, and who says so."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.shop.calendars import breaks_of_mode, end_of
from rota.worlds.shop.model import NEVER, Ints, Jobs, Problem
from rota.worlds.shop.objective import CRITERIA, Objective

STATUSES = ("optimal", "feasible", "infeasible", "unknown")


@dataclass(frozen=True, eq=False)
class Schedule:
    """Start, end (exclusive) and mode of every operation; read-only arrays of shape (operations,).

    Says nothing about feasibility: that is what `verify` is for.
    """

    start: Ints
    end: Ints
    mode: Ints  # index into the problem's modes

    def __post_init__(self) -> None:
        for name in ("start", "end", "mode"):
            array = np.array(getattr(self, name), dtype=np.int64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not self.start.shape == self.end.shape == self.mode.shape or self.start.ndim != 1:
            raise InputError(
                f"schedule: start, end and mode differ in length: {self.start.shape}, {self.end.shape}, {self.mode.shape}"
            )

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def from_starts(cls, problem: Problem, start: npt.ArrayLike, mode: npt.ArrayLike | None = None) -> "Schedule":
        """The schedule of given starts; ends follow from durations, breaks and frozen ends.

        Args:
            problem: The problem.
            start: Start of each operation.
            mode: Mode of each operation; None: each operation's first.

        Raises:
            InputError: Work would start in a break, or never end.
        """
        starts = np.array(start, dtype=np.int64)
        modes = problem.mode_offsets[:-1] if mode is None else np.array(mode, dtype=np.int64)
        if starts.shape != (len(problem.operations),) or modes.shape != starts.shape:
            raise InputError(f"schedule: needs a start and a mode for each of {len(problem.operations)} operations")
        ends = starts + problem.modes.duration[modes]
        if len(problem.resources.break_start):
            for index in range(len(starts)):
                pauses, _ = breaks_of_mode(problem, int(modes[index]))
                found = end_of(int(problem.modes.duration[modes[index]]), int(starts[index]), pauses)
                if found is None:
                    raise InputError(f"{problem.where('operation', index)} cannot start at {starts[index]}, in a break")
                ends[index] = found
        known = problem.operations.frozen_end
        return cls(starts, np.where(known >= 0, known, ends), modes)

    def completions(self, problem: Problem) -> Ints:
        """When each job is complete: the end of its last operation; shape (jobs,)."""
        found = np.zeros(len(problem.jobs), np.int64)
        np.maximum.at(found, problem.operations.job, self.end)
        return found

    def value(self, problem: Problem, objective: Objective | None = None) -> int:
        """The objective's value (the problem's own objective by default)."""
        return int(values(problem, self.completions(problem), objective))

    def criteria(self, problem: Problem) -> dict[str, int]:
        """Every criterion by name, see `objective.CRITERIA`. Lateness is left out where no job has a due date."""
        done, jobs = self.completions(problem), problem.jobs
        named = CRITERIA if (jobs.due < NEVER).any() else [name for name in CRITERIA if name != "maximum_lateness"]
        return {name: int(criterion(name, done, jobs)) for name in named}

    def sequences(self, problem: Problem) -> list[Ints]:
        """The operations on each resource by start, then end, then number."""
        modes = problem.modes
        found = []
        for resource in range(len(problem.resources)):
            rows = np.flatnonzero(modes.resource == resource)
            users = np.searchsorted(modes.offsets, rows, side="right") - 1
            chosen = np.flatnonzero(np.isin(self.mode, users))
            found.append(chosen[np.lexsort((chosen, self.end[chosen], self.start[chosen]))])
        return found


@dataclass(frozen=True)
class Incumbent:
    """A best schedule so far: when it was found (seconds, or counted work), its value, and by whom."""

    seconds: float
    value: int
    solver: str
    work: int = 0


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver returns.

    `bound` is a lower bound on any schedule's value, with its origin in `bounded_by`; status "optimal" says that value = bound.
    """

    status: str  # one of STATUSES
    schedule: Schedule | None = None
    value: int | None = None
    bound: int | None = None
    found_by: str = ""  # the solver that found the schedule
    bounded_by: str = ""  # where the bound comes from
    proved_by: str = ""  # the solver that proved optimality or infeasibility
    trace: Sequence[Incumbent] = ()
    seconds: float = 0.0
    work: int = 0
    seed: int | None = None
    notes: Sequence[str] = field(default=())  # what the user should know, one line each

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(f"solution: status '{self.status}' is none of {', '.join(STATUSES)}")
        if (self.schedule is None) != (self.value is None):
            raise InputError("solution: a schedule and its value come together")
        if self.status in ("optimal", "feasible") and self.schedule is None:
            raise InputError(f"solution: status {self.status} needs a schedule")
        if self.value is not None and self.bound is not None and self.bound > self.value:
            raise InputError(f"solution: bound {self.bound} is above the value {self.value}: one of them is wrong")

    @cached_property
    def gap(self) -> float | None:
        """(value - bound) / |value|; 0 where they are equal, None where either is unknown or the value is 0."""
        if self.value is None or self.bound is None:
            return None
        if self.value == self.bound:
            return 0.0
        return (self.value - self.bound) / abs(self.value) if self.value else None


def values(problem: Problem, done: Ints, objective: Objective | None = None) -> Ints:
    """The objective for completion times of the jobs, shape (..., jobs): shape (...). The problem's own objective by default."""
    terms = (objective or problem.objective).terms
    parts = [weight * criterion(name, done, problem.jobs) for name, weight in terms]
    total: Ints = np.sum(parts, axis=0, dtype=np.int64)
    return total


def criterion(name: str, done: Ints, jobs: Jobs) -> Ints:
    """One criterion of `objective.CRITERIA` for completion times of shape (..., jobs)."""
    found: Ints
    if name == "makespan":
        found = done.max(-1, initial=0)
    elif name.endswith("flow_time"):
        flow = done - jobs.release
        found = (flow if name.startswith("total") else jobs.weight * flow).sum(-1)
    else:
        lateness = np.where(jobs.due < NEVER, done - jobs.due, -NEVER)
        if name == "maximum_lateness":
            found = lateness.max(-1)
        else:
            late = np.maximum(lateness, 0) if name.endswith("tardiness") else lateness > 0
            found = (jobs.weight * late if name.startswith("weighted") else late).sum(-1)
    return found
