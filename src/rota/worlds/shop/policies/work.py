"""Rules that look at work: of the operation, and of its job from here on. Their keys never change while an operation waits.

Panwalkar and Iskander, A survey of scheduling rules, Operations Research 25 (1977). Flow due date over work remaining: Sels, Gheysen and Vanhoucke, A
comparison of priority rules for the job shop scheduling problem under different flow time- and tardiness-related objective functions, 2012.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class LongestFirst(Order):
    """Longest processing time first."""

    asked = "arrival"
    reads = ("size",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return -jobs.size


@dataclass
class WeightedShortest(Order):
    """Shortest processing time over the weight of the job (Smith 1956)."""

    asked = "arrival"
    reads = ("size", "weight")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.size / np.maximum(jobs.weight, 1e-9)


@dataclass
class MostWorkRemaining(Order):
    """The job with the most work from this operation on."""

    asked = "arrival"
    reads = ("remaining_work",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return -jobs.remaining_work


@dataclass
class LeastWorkRemaining(Order):
    """The job with the least work from this operation on."""

    asked = "arrival"
    reads = ("remaining_work",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.remaining_work


@dataclass
class MostOperationsRemaining(Order):
    """The job with the most operations from this one on."""

    asked = "arrival"
    reads = ("remaining_operations",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return -jobs.remaining_operations


@dataclass
class FlowDuePerWork(Order):
    """Flow due date (job release and its work up to and with this operation) over the work from this operation on."""

    asked = "arrival"
    reads = ("job_release", "work_done", "size", "remaining_work")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return (jobs.job_release + jobs.work_done + jobs.size) / np.maximum(jobs.remaining_work, 1e-9)
