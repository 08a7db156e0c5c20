"""The one problem model of machine and project scheduling: flat arrays, validated once, never changed.

What it can say, and exactly what it means (all times are integers in one unit of the user's):

- **Jobs** complete when their last operation ends. No operation of a job starts before `release`; none ends after `deadline`.
  `one_at_a_time` jobs are never processed by two operations at once (an open shop's jobs).
- **Operations** belong to one job and may have their own `release` and `deadline`. Their order in a job is not implied by their number:
  it is said by precedences. Exactly one of an operation's **modes** is chosen; it gives the duration and the demands.
- **Resources**: a MACHINE does one thing at a time (of two operations one ends before the other starts, also where one takes no time);
  a RENEWABLE has `capacity` units at every moment; a NON_RENEWABLE has `capacity`
  units for the whole plan, consumed by the chosen modes. Work occupies [start, end), so that one may end when the next begins.
- **Breaks** [start, end) of a resource. An operation on it may not overlap a break, unless the resource is `interruptible`: then the
  work pauses in the break and goes on after it, holding all its resources meanwhile; it neither starts nor ends inside a break.
  A break that ends at NEVER closes the resource for good.
- **Blocking** machines have no room behind them: an operation holds its machine until every operation that directly follows it in its job has
  started (less the transport between them). All operations may move on at the same moment, so jobs can swap machines. The last one of a job does not block.
- **Precedences**: for FINISH_START, `least <= start(second) - end(first) <= most`, and likewise for START_START, FINISH_FINISH and
  START_FINISH (start of first to finish of second). `most` = NEVER: no upper limit; `most` = 0 on FINISH_START is no-wait.
- **Setups**: between consecutive work on a machine, `setup(family of the first, family of the next)` must pass after the first has left it, and
  `initial(family)` before the first of all, counted from time 0. A family is a number local to the machine.
- **Transport**: where a FINISH_START precedence joins two operations of one job, or a job is `one_at_a_time` and they follow each other,
  `transport[machine of the first, machine of the second]` passes between them, in addition to `least` and `most`.
- **Frozen** operations have begun already: mode and start are given, and the end where it is known to differ from the plan. Releases and
  deadlines do not bind them.
- **Permutation**: every machine takes the jobs in the same order.
- The **objective** is a weighted sum of criteria (`objective.py`).

Build one with `ProblemBuilder` (`build.py`), a classic shape (`shapes.py`), a reader or a generator.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.worlds.shop.objective import Objective

if TYPE_CHECKING:
    from rota.worlds.shop.views import FlexibleJobShopView, JobShopView, ProjectView, SingleMachineView

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEVER = 1 << 62  # no due date, no deadline, no upper limit on a lag, no end of a break
LONGEST = 1 << 40  # the latest moment that a problem may need; keeps sums and products far from overflow

MACHINE, RENEWABLE, NON_RENEWABLE = 0, 1, 2
RESOURCE_KINDS = ("machine", "renewable", "non_renewable")
FINISH_START, START_START, FINISH_FINISH, START_FINISH = 0, 1, 2, 3
PRECEDENCE_KINDS = ("finish_start", "start_start", "finish_finish", "start_finish")


class _Table:
    """Makes every array of a table C-contiguous, of its declared type, and read-only."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if not isinstance(value, tuple):
                kind = np.bool_ if each.type in (Bools, "Bools") else np.int64
                array: npt.NDArray[Any] = np.array(value, dtype=kind, order="C")
                array.flags.writeable = False
                object.__setattr__(self, each.name, array)


@dataclass(frozen=True, eq=False)
class Jobs(_Table):
    """One row a job."""

    names: tuple[str, ...]
    release: Ints
    due: Ints  # NEVER: none
    deadline: Ints  # NEVER: none
    weight: Ints
    one_at_a_time: Bools

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Resources(_Table):
    """One row a machine or other resource; breaks of resource r are rows break_offsets[r]:break_offsets[r + 1], sorted and apart."""

    names: tuple[str, ...]
    kind: Ints  # MACHINE, RENEWABLE or NON_RENEWABLE
    capacity: Ints  # 1 for machines
    blocking: Bools
    interruptible: Bools
    break_offsets: Ints
    break_start: Ints
    break_end: Ints

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Operations(_Table):
    """One row an operation."""

    names: tuple[str, ...]
    job: Ints
    release: Ints
    deadline: Ints  # NEVER: none
    frozen_mode: Ints  # -1: not frozen; else an index into the modes
    frozen_start: Ints  # -1: not frozen
    frozen_end: Ints  # -1: not frozen, or as the mode and the breaks say

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Modes(_Table):
    """One row a mode, ordered by operation; demands of mode k are rows offsets[k]:offsets[k + 1]."""

    operation: Ints
    duration: Ints
    offsets: Ints
    resource: Ints
    amount: Ints  # 1 for machines
    family: Ints  # of the setup on that machine; -1: none

    def __len__(self) -> int:
        return len(self.duration)


@dataclass(frozen=True, eq=False)
class Precedences(_Table):
    """One row a precedence, in the order in which they were given."""

    first: Ints
    second: Ints
    kind: Ints  # FINISH_START, START_START, FINISH_FINISH or START_FINISH
    least: Ints
    most: Ints  # NEVER: none

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class Setups(_Table):
    """Setup times, a square matrix a machine: from family a to b on r is time[offsets[r] + a * families[r] + b]."""

    families: Ints  # (resources,), 0: the machine has no setups
    offsets: Ints  # (resources + 1,)
    time: Ints
    initial_offsets: Ints  # (resources + 1,)
    initial: Ints  # before the first work on the machine, by family

    def between(self, resource: int, first: int, second: int) -> int:
        """The setup on a machine from family `first` to `second`; 0 where either has none."""
        if first < 0 or second < 0:
            return 0
        return int(self.time[self.offsets[resource] + first * self.families[resource] + second])

    def matrix(self, resource: int) -> Ints:
        """The (families, families) matrix of one machine."""
        size = int(self.families[resource])
        return self.time[self.offsets[resource] : self.offsets[resource + 1]].reshape(size, size)


@dataclass(frozen=True, eq=False)
class Problem:
    """A scheduling problem. Raises InputError, one line, when a rule of the model is broken."""

    jobs: Jobs
    resources: Resources
    operations: Operations
    modes: Modes
    precedences: Precedences
    setups: Setups
    transport: Ints  # (resources, resources)
    permutation: bool = False
    objective: Objective = field(default_factory=Objective)
    name: str = ""
    source: str = ""  # file or generator, for messages and reports
    notices: tuple[str, ...] = ()  # what a reader noticed, one line each
    lines: Mapping[tuple[str, int], int] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __post_init__(self) -> None:
        from rota.worlds.shop.validate import validate  # the checks are as long as the model

        transport = np.array(self.transport, dtype=np.int64, order="C")
        transport.flags.writeable = False
        object.__setattr__(self, "transport", transport)
        validate(self)

    def __repr__(self) -> str:
        return (
            f"Problem({self.name or 'unnamed'}: {self.kind}, {len(self.jobs)} jobs, {len(self.operations)} operations, "
            f"{len(self.resources)} resources, {self.objective})"
        )

    def where(self, what: str, index: int) -> str:
        """The start of a message about a row: file and line where they are known, and the row's name."""
        names = {"job": self.jobs.names, "resource": self.resources.names, "operation": self.operations.names}
        place = self.source or self.name or "problem"
        line = self.lines.get((what, index))
        if line is not None:
            place += f", line {line}"
        if what == "resource" and self.resources.kind[index] == MACHINE:
            return f"{place}: machine {names[what][index]}"
        if what in names:
            return f"{place}: {what} {names[what][index]}"
        return place

    def with_objective(self, objective: Objective | str) -> "Problem":
        """The same problem, judged by something else."""
        return replace(self, objective=Objective.parse(objective) if isinstance(objective, str) else objective)

    @cached_property
    def mode_offsets(self) -> Ints:
        """Modes of operation o are mode_offsets[o]:mode_offsets[o + 1]; shape (operations + 1,)."""
        return _offsets(self.modes.operation, len(self.operations))

    @cached_property
    def machine_of_mode(self) -> Ints:
        """The machine of each mode that demands exactly one, else -1; shape (modes,)."""
        found = np.full(len(self.modes), -1, np.int64)
        row = np.repeat(np.arange(len(self.modes)), np.diff(self.modes.offsets))
        on_machine = self.resources.kind[self.modes.resource] == MACHINE
        count = np.bincount(row[on_machine], minlength=len(self.modes))
        found[row[on_machine]] = self.modes.resource[on_machine]
        found[count != 1] = -1
        return found

    @cached_property
    def executable(self) -> Bools:
        """Whether each mode can run at all: none of its demands exceeds a capacity; shape (modes,).

        Multi-mode project files have modes that cannot; every operation has at least one that can.
        """
        found = np.ones(len(self.modes), bool)
        row = np.repeat(np.arange(len(self.modes)), np.diff(self.modes.offsets))
        found[row[self.modes.amount > self.resources.capacity[self.modes.resource]]] = False
        return found

    @cached_property
    def shortest(self) -> Ints:
        """The least duration among each operation's modes (the frozen one's, if frozen); shape (operations,)."""
        return self._duration_of_operation(np.minimum)

    @cached_property
    def longest(self) -> Ints:
        """The greatest duration among each operation's modes (the frozen one's, if frozen); shape (operations,)."""
        return self._duration_of_operation(np.maximum)

    def _duration_of_operation(self, choose: np.ufunc) -> Ints:
        if not len(self.operations):
            return np.zeros(0, np.int64)
        found: Ints = choose.reduceat(self.modes.duration, self.mode_offsets[:-1])
        frozen = self.operations.frozen_mode
        return np.where(frozen >= 0, self.modes.duration[frozen], found)

    @cached_property
    def job_operations(self) -> tuple[Ints, Ints]:
        """(offsets, operations): the operations of each job, each job's in the order of its finish-start precedences where they give one."""
        rank = _ranks(self)
        order = np.lexsort((np.arange(len(self.operations)), rank, self.operations.job)).astype(np.int64)
        return _offsets(self.operations.job[order], len(self.jobs)), order

    @cached_property
    def successors(self) -> tuple[Ints, Ints]:
        """(offsets, operations): what directly follows each operation by a FINISH_START precedence, without repetition."""
        pairs = self._finish_start_pairs
        return _offsets(pairs[:, 0], len(self.operations)), np.ascontiguousarray(pairs[:, 1])

    @cached_property
    def predecessors(self) -> tuple[Ints, Ints]:
        """(offsets, operations): what directly precedes each operation by a FINISH_START precedence, without repetition."""
        pairs = self._finish_start_pairs
        pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
        return _offsets(pairs[:, 1], len(self.operations)), np.ascontiguousarray(pairs[:, 0])

    @cached_property
    def _finish_start_pairs(self) -> Ints:
        chosen = self.precedences.kind == FINISH_START
        pairs = np.stack([self.precedences.first[chosen], self.precedences.second[chosen]], axis=1)
        return np.unique(pairs, axis=0) if len(pairs) else pairs

    @cached_property
    def horizon(self) -> int:
        """A moment before which some best schedule ends, if there is any schedule: everything in a row after the last date."""
        from rota.worlds.shop.validate import horizon

        return horizon(self)

    @cached_property
    def kind(self) -> str:
        """The classic shape, see `views.KINDS`; "general" when there is none. What it adds to that shape: `features`."""
        from rota.worlds.shop.views import kind

        return kind(self)

    @cached_property
    def features(self) -> frozenset[str]:
        """What goes beyond the plain shape, see `views.FEATURES`: "release", "setups", "blocking", ..."""
        from rota.worlds.shop.views import features

        return features(self)

    def as_job_shop(self, allow: Collection[str] = ()) -> "JobShopView | None":
        """Matrices of a job shop or flow shop, or None; see `views.as_job_shop`."""
        from rota.worlds.shop.views import as_job_shop

        return as_job_shop(self, allow)

    def as_flexible_job_shop(self, allow: Collection[str] = ()) -> "FlexibleJobShopView | None":
        """Chains with alternatives in CSR form, or None; see `views.as_flexible_job_shop`."""
        from rota.worlds.shop.views import as_flexible_job_shop

        return as_flexible_job_shop(self, allow)

    def as_single_machine(self, allow: Collection[str] = ()) -> "SingleMachineView | None":
        """Columns of a single-machine problem, or None; see `views.as_single_machine`."""
        from rota.worlds.shop.views import as_single_machine

        return as_single_machine(self, allow)

    def as_project(self, allow: Collection[str] = ()) -> "ProjectView | None":
        """Modes, demands and successors of a project, or None; see `views.as_project`."""
        from rota.worlds.shop.views import as_project

        return as_project(self, allow)


def _offsets(sorted_rows: Ints, count: int) -> Ints:
    return np.searchsorted(sorted_rows, np.arange(count + 1)).astype(np.int64)


def _ranks(problem: Problem) -> Ints:
    """The longest chain of finish-start precedences before each operation: a topological order."""
    rank = np.zeros(len(problem.operations), np.int64)
    offsets, followers = problem.successors
    waiting = np.diff(problem.predecessors[0])
    ready = list(np.flatnonzero(waiting == 0))
    while ready:
        operation = ready.pop()
        for follower in followers[offsets[operation] : offsets[operation + 1]]:
            rank[follower] = max(rank[follower], rank[operation] + 1)
            waiting[follower] -= 1
            if waiting[follower] == 0:
                ready.append(follower)
    return rank
