"""Importance over size: the greatest weight for each second of service first.

Weighted shortest processing time minimises the weighted flow time of jobs that are all there (Smith 1956); with classes of known means it is the c-mu rule
(Cox and Smith 1961), optimal among non-preemptive orders of M/G/1.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class WeightedShortest(Order):
    """Weight over size (WSPT); a running job is left alone."""

    asked = "arrival"
    reads = ("weight", "size")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.asarray(jobs.size / jobs.weight)


@dataclass
class CMu(Order):
    """Weight over the mean service time of the job's class.

    Attributes:
        means: Mean service time by index of the class, seconds.
    """

    means: dict[int, float] = field(default_factory=dict)
    asked = "arrival"
    reads = ("weight", "job_class")

    def __post_init__(self) -> None:
        if any(not mean > 0 for mean in self.means.values()):
            raise InputError("means must be positive seconds, one for each index of a class")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        mean = np.array([self.means.get(kind, 1.0) for kind in jobs.job_class.tolist()])
        return mean / jobs.weight
