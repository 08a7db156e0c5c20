"""Tables: what a policy is shown when it is asked.

A table is a set of named NumPy columns of equal length, each with a unit and a quality. It holds only what the policy
declared in `reads`, as dense read-only copies, so that nothing hidden hangs behind a view.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import NotRevealed

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]
AnyColumn = npt.NDArray[Any]

Quality = Literal["exact", "estimated", "stale", "hidden"]


@dataclass(frozen=True)
class Column:
    """What a column means and how much it can be trusted.

    `by` names the estimator of an estimated column, `as_of` the age in seconds of a stale one.
    """

    name: str
    unit: str = ""
    meaning: str = ""
    quality: Quality = "exact"
    by: str = ""
    as_of: float = 0.0

    def __str__(self) -> str:
        if self.quality == "estimated":
            return f"{self.name} (estimated by {self.by})"
        if self.quality == "stale":
            return f"{self.name} (stale, up to {self.as_of:g} s)"
        return self.name if self.quality == "exact" else f"{self.name} ({self.quality})"


class Table:
    """Named read-only columns of equal length. A column is an attribute: ``jobs.attained``.

    A value that is known only for some rows is NaN in the others.

    Raises:
        NotRevealed: on reading a column that is not in the table.
    """

    __slots__ = ("_columns", "_rows", "_values")

    def __init__(
        self, values: Mapping[str, AnyColumn], columns: Iterable[Column] = (), *, rows: int | None = None
    ) -> None:
        self._values: dict[str, AnyColumn] = {}
        self._columns = {column.name: column for column in columns}
        self._rows = len(next(iter(values.values()))) if rows is None and values else (rows or 0)
        for name, column in values.items():
            dense = np.array(column, copy=True)
            if len(dense) != self._rows:
                raise ValueError(f"column {name} has {len(dense)} rows, the table has {self._rows}")
            dense.flags.writeable = False
            self._values[name] = dense

    def __len__(self) -> int:
        return self._rows

    def __getattr__(self, name: str) -> AnyColumn:
        if name.startswith("_"):  # copy and pickle ask a table whose slots are still empty
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise NotRevealed(self._why_not(name)) from None

    def _why_not(self, name: str) -> str:
        column = self._columns.get(name)
        if column is not None and column.quality == "hidden":
            return f"column {name} is hidden in this scenario: see its `information` section"
        if column is not None:
            return f"column {name} was not declared: add it to `reads`"
        known = ", ".join(sorted(self._columns or self._values))
        return f"there is no column {name} here (columns: {known})"

    def column(self, name: str) -> Column:
        """Unit, meaning and quality of a column."""
        return self._columns.get(name, Column(name))

    @property
    def names(self) -> tuple[str, ...]:
        """The readable columns."""
        return tuple(self._values)

    @classmethod
    def over(cls, values: dict[str, AnyColumn], columns: dict[str, Column], rows: int) -> Self:
        """A table over the caller's own read-only arrays and names, without copying: for worlds that reuse their buffers."""
        table = cls.__new__(cls)
        table._values = values
        table._columns = columns
        table._rows = rows
        return table


class Jobs(Table):
    """The jobs that compete, one a row. Every world has `id` and `release`; the rest is declared."""


class Hosts(Table):
    """The hosts that could take a job, one a row, with a stable `id`."""


class Claims(Table):
    """Claims on a divisible budget, in order, one a row."""


# The columns that mean the same in every world. A rule that needs only these runs everywhere.
JOB_COLUMNS = {
    column.name: column
    for column in (
        Column("id", "", "stable number of the job"),
        Column("release", "s", "when the job arrived"),
        Column("size", "s", "service time that the job needs in all"),
        Column("attained", "s", "service time that the job has received"),
        Column("remaining", "s", "size minus attained"),
        Column("priority", "", "class of urgency, smaller is more urgent"),
        Column("due", "s", "when the job should be done, inf: no due date"),
        Column("weight", "", "importance, larger is more important"),
        Column("tenant", "", "index of the owner"),
    )
}
HOST_COLUMNS = {
    column.name: column
    for column in (
        Column("id", "", "stable number of the host"),
        Column("queued", "jobs", "jobs waiting at the host"),
        Column("running", "jobs", "jobs in service at the host"),
        Column("outstanding", "jobs", "queued and running"),
        Column("work", "s", "service time outstanding at the host, as far as sizes are known"),
        Column("speed", "", "work a second, relative"),
        Column("decisions", "", "how often this host was chosen so far"),
    )
}
