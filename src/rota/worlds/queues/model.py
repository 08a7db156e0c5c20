"""The nouns of the queues world: jobs that need service, and the servers that give it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Workload:
    """Jobs in order of arrival, one a row. Times in seconds; a job's size is its service time on a server of speed 1.

    Attributes:
        arrival: When each job comes, sorted.
        size: Service time that it needs.
        job_class: Index of its class, from 0; classes are named in `classes`.
        weight: Importance, positive.
        due: When it should be done, inf: no due date.
        patience: It leaves when its service has not begun this long after its arrival; inf: never.
        tenant: Index of its owner; owners are named in `tenants`.
        priority: Class of urgency, smaller is more urgent.
        columns: Further columns that policies may read, by name.
        parents: For each job the jobs that must be done before it may start, as (offsets, ids); None: no precedence.
        program: Index of the program that a job is an operation of; None: each job stands for itself.
    """

    arrival: FloatColumn
    size: FloatColumn
    job_class: IntColumn
    weight: FloatColumn
    due: FloatColumn
    patience: FloatColumn
    tenant: IntColumn
    priority: IntColumn
    classes: tuple[str, ...] = ("",)
    tenants: tuple[str, ...] = ("",)
    columns: dict[str, FloatColumn] = field(default_factory=dict)
    parents: tuple[IntColumn, IntColumn] | None = None
    program: IntColumn | None = None
    source: str = ""
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival)

    def __post_init__(self) -> None:
        rows = len(self.arrival)
        for name in ("arrival", "size", "job_class", "weight", "due", "patience", "tenant", "priority"):
            column = getattr(self, name)
            if column.shape != (rows,):
                raise InputError(f"workload: column {name} has shape {column.shape}, expected ({rows},)")
            column.flags.writeable = False
        if rows and (np.any(np.diff(self.arrival) < 0) or not np.isfinite(self.arrival).all()):
            raise InputError("workload: arrivals must be finite and sorted")
        if rows and not (np.isfinite(self.size).all() and self.size.min() >= 0):
            raise InputError("workload: service times must be finite and not negative")
        if rows and not (np.isfinite(self.weight).all() and self.weight.min() > 0):
            raise InputError("workload: weights must be finite and positive")
        if self.parents is not None:
            _check_precedence(self.parents, rows)


def _check_precedence(parents: tuple[IntColumn, IntColumn], rows: int) -> None:
    offsets, ids = parents
    if len(offsets) != rows + 1 or (len(ids) and not 0 <= ids.min() <= ids.max() < rows):
        raise InputError("workload: parents must name jobs of the workload")
    if len(topological(parents, rows)) < rows:
        stuck = sorted(set(range(rows)) - set(topological(parents, rows)))
        raise InputError(f"workload: precedence has a cycle through job {stuck[0]}")


def topological(parents: tuple[IntColumn, IntColumn], rows: int) -> list[int]:
    """Jobs in an order in which parents come first; those on or behind a cycle are left out."""
    waiting = np.diff(parents[0]).tolist()
    offsets, children = child_lists(parents, rows)
    order = [job for job in range(rows) if not waiting[job]]
    for job in order:  # grows while it is walked
        for child in children[offsets[job] : offsets[job + 1]].tolist():
            waiting[child] -= 1
            if not waiting[child]:
                order.append(child)
    return order


def child_lists(parents: tuple[IntColumn, IntColumn], rows: int) -> tuple[IntColumn, IntColumn]:
    """The children of each job as (offsets, ids), from the parents of each job."""
    offsets, ids = parents
    child = np.repeat(np.arange(rows), np.diff(offsets))
    order = np.argsort(ids, kind="stable")
    counts = np.bincount(ids, minlength=rows) if len(ids) else np.zeros(rows, np.int64)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), child[order].astype(np.int64)


def make_workload(arrival: FloatColumn, size: FloatColumn, **columns: Any) -> Workload:
    """A `Workload` with neutral values for what is not given: one class, weight 1, no due dates, endless patience."""
    rows = len(arrival)
    values: dict[str, Any] = {
        "job_class": np.zeros(rows, np.int64),
        "weight": np.ones(rows),
        "due": np.full(rows, np.inf),
        "patience": np.full(rows, np.inf),
        "tenant": np.zeros(rows, np.int64),
        "priority": np.zeros(rows, np.int64),
    }
    for name, column in values.items():
        if name in columns:
            values[name] = np.array(columns.pop(name), column.dtype)
    return Workload(np.array(arrival, np.float64), np.array(size, np.float64), **values, **columns)


@dataclass(frozen=True, eq=False)
class Servers:
    """The servers and how jobs wait for them.

    Attributes:
        speeds: Seconds of service a second, shape (servers, classes).
        central: One line before all servers; otherwise one line a server behind a dispatcher.
        buffer: Jobs that may wait in a line, besides those in service; -1: any number.
        setups: Seconds before the first job of another class, shape (classes + 1, classes); row 0 is a server that has served nobody yet.
    """

    speeds: FloatColumn
    central: bool = True
    buffer: int = -1
    setups: FloatColumn | None = None

    def __post_init__(self) -> None:
        if self.speeds.ndim != 2 or not self.speeds.size:
            raise InputError("servers: give at least one server")
        if not (np.isfinite(self.speeds).all() and self.speeds.min() > 0):
            raise InputError("servers: speeds must be finite and positive")
        if self.setups is not None and self.setups.shape != (self.setups.shape[1] + 1, self.setups.shape[1]):
            raise InputError(f"servers: setups have shape {self.setups.shape}, expected (classes + 1, classes)")

    def __len__(self) -> int:
        return len(self.speeds)

    @property
    def even(self) -> bool:
        """Whether all servers are alike."""
        return bool((self.speeds == self.speeds[0]).all())


def alike(count: int, speed: float = 1.0, **settings: Any) -> Servers:
    """`count` servers of one speed."""
    return Servers(np.full((count, 1), float(speed)), **settings)
