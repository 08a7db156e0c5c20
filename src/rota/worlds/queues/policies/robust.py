"""Estimates that are wrong by a bounded factor: three ways not to be fooled by a job whose estimate was too small.

Under plain shortest predicted remaining time a long job that was thought short keeps the server once its prediction is used up, and its mean response
time can be arbitrarily far from the optimum. Scully, Grosof and Mitzenmacher, Uniform bounds for scheduling with job size estimates, ITCS 2022;
Akbari Jafarabadi, Down and others, SEH: size estimate hedging, 2020.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order, Rank
from rota.kernel.errors import InputError
from rota.kernel.tables import Jobs


@dataclass
class ShortestRemainingBounce(Order):
    """SRPT with bounce: max(z - a, min(a - z, z)) for estimate z and age a. The rank falls to 0, then rises again to z and stays there.

    A rising rank is held on `steps` steps: continuous rise would make equals share.
    """

    steps: int = 16
    preemptive = True
    reads = ("predicted_size", "attained")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, found {self.steps}")

    def rank(self, jobs: Jobs) -> Rank:
        z = np.maximum(jobs.predicted_size, 1e-12)[:, None]
        rise = np.arange(self.steps + 1) / self.steps  # heights of the steps; the last is reached at age 2 z
        until = z * np.concatenate([[1.0], 1.0 + rise[1:], [np.inf]])
        start = z * np.concatenate([[1.0], rise])
        slope = np.concatenate([[-1.0], np.zeros(self.steps + 1)])
        return Rank(until, np.zeros_like(until), start, slope)


@dataclass
class SizeEstimateHedging(Order):
    """The rank falls as under SRPT until the job is half done by its estimate, and is frozen there when it proves longer."""

    preemptive = True
    reads = ("predicted_size", "attained")

    def rank(self, jobs: Jobs) -> Rank:
        z = np.maximum(jobs.predicted_size, 1e-12)[:, None]
        until = np.hstack([0.5 * z, np.full_like(z, np.inf)])
        return Rank(until, np.zeros_like(until), np.hstack([z, 0.5 * z]), np.array([-1.0, 0.0]))
