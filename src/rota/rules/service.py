"""Least attained service: whoever has received the least goes next, and equals share.

Needs no sizes; optimal for mean response time among such rules where the hazard rate of the sizes falls. Nuyens and
Wierman, The Foreground-Background queue: a survey, Performance Evaluation 2008.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order, Rank
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class LeastAttained(Order):
    """Least attained service, also called foreground-background."""

    preemptive = True
    ties = "share"
    reads = ("attained",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.attained

    def rank(self, jobs: Jobs) -> Rank:
        return Rank.line(np.zeros(1), slope=1.0)
