"""Arrival and chance: jobs go in the order in which they came, against it, or by lot.

None of these looks at the job, so in an M/G/1 queue all three have the same mean response time and differ in its
variance: Kingman, The effect of queue discipline on waiting time variance, 1962.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.streams import uniform
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class FirstCome(Order):
    """First come, first served."""

    source = "Kingman, The effect of queue discipline on waiting time variance, 1962"

    asked = "arrival"
    reads = ("release",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.release


@dataclass
class LastCome(Order):
    """Last come, first served; a running job is left alone."""

    source = "Kingman, The effect of queue discipline on waiting time variance, 1962"

    asked = "arrival"
    reads = ("release",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return -jobs.release


@dataclass
class RandomOrder(Order):
    """A lot for each job, drawn once and keyed by its id: the order of the questions changes nobody's luck."""

    source = "Kingman, The effect of queue discipline on waiting time variance, 1962"

    asked = "arrival"
    reads = ("id",)
    _seed: int = field(default=0, init=False, repr=False)

    def bind(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(2**63))

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return uniform(self._seed, "order", jobs.id)
