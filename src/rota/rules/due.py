"""Urgency: the most important class first, or the nearest due date first.

Earliest due date minimises the maximum lateness of one server: Jackson, Scheduling a production line to minimize maximum tardiness, 1955.
Least slack also counts what is left to do: Mok, Fundamental design problems of distributed systems for the hard-real-time environment, MIT
1983. Priority classes: Cobham, Priority assignment in waiting line problems, Operations Research 1954.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs

LAST = float(np.finfo(np.float64).max)


@dataclass
class PriorityFirst(Order):
    """The smallest `priority` first; within a class by release. A running job is left alone."""

    source = "Cobham, Priority assignment in waiting line problems, Operations Research 1954"

    asked = "arrival"
    reads = ("priority",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.priority.astype(np.float64)


@dataclass
class EarliestDue(Order):
    """Earliest due date first; jobs without one come last, by release. A running job is left alone."""

    source = "Jackson, Scheduling a production line to minimize maximum tardiness, 1955"

    asked = "arrival"
    reads = ("due",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.minimum(jobs.due, LAST)  # an infinite key would mean "not now"


@dataclass
class LeastSlack(Order):
    """The least time to spare first: due date less what remains; jobs without a due date come last, by release. A running job is left alone."""

    source = "Mok, Fundamental design problems of distributed systems for the hard-real-time environment, MIT 1983"

    reads = ("due", "remaining")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.where(np.isfinite(jobs.due), jobs.due - jobs.remaining, LAST)
