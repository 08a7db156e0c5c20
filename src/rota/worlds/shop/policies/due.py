"""Rules that look at due dates and at the clock: asked again at each decision. Jobs without a due date come last.

Modified due date: Baker and Bertrand, A dynamic priority rule for scheduling against due-dates, 1982. Apparent tardiness cost: Vepsalainen and
Morton, Priority rules for job shops with weighted tardiness costs, Management Science 33 (1987), here without their estimate of waiting times to
come.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs

LAST = 1e300  # an infinite key would mean "not now"


@dataclass
class ModifiedDue(Order):
    """MDD: the due date, or the earliest possible completion of the job where that is later."""

    reads = ("due", "remaining_work")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.minimum(np.maximum(jobs.due, now + jobs.remaining_work), LAST)


@dataclass
class Slack(Order):
    """Least slack: time to the due date less the work from here on."""

    reads = ("due", "remaining_work")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.minimum(jobs.due - now - jobs.remaining_work, LAST)


@dataclass
class SlackPerWork(Order):
    """Least slack for each unit of work from here on."""

    reads = ("due", "remaining_work")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.minimum((jobs.due - now - jobs.remaining_work) / np.maximum(jobs.remaining_work, 1e-9), LAST)


@dataclass
class CriticalRatio(Order):
    """CR: time to the due date over the work from here on, smallest first."""

    reads = ("due", "remaining_work")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.minimum((jobs.due - now) / np.maximum(jobs.remaining_work, 1e-9), LAST)


@dataclass
class AtRisk(Order):
    """ATC, apparent tardiness cost: weight over processing time, discounted by the slack in units of `look_ahead` mean processing times.

    Compared by logarithm, so that a job far from its due date does not vanish in zero.
    """

    look_ahead: float = 2.0
    reads = ("size", "weight", "due", "remaining_work")

    def __post_init__(self) -> None:
        if not self.look_ahead > 0:
            raise InputError(f"look_ahead must be above 0, found {self.look_ahead:g}")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        size = jobs.size
        late = np.maximum(jobs.due - (now + jobs.remaining_work), 0.0) * (
            len(size) / (self.look_ahead * (size.sum() + 1e-9))
        )
        return np.asarray(np.minimum(late + np.log((size + 1e-9) / (jobs.weight + 1e-9)), LAST))
