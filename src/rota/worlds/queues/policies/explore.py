"""Jobs of types whose mean sizes are unknown: try the types, then serve those that prove short first.

Explore then commit, and optimism; each without preemption (whole jobs) and with it (types run in turn, a job at a time). Merlis, Richard, Sentenac, Odic,
Molina and Perchet, On preemption and learning in stochastic scheduling, ICML 2023. Sizes are taken to be exponential within a type, as in the paper's
analysis, so that 2 S / mean is chi-squared with 2 n degrees of freedom when n jobs have had S seconds in all. The paper's failure probability falls with
the number of jobs; here it is the parameter `delta`.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class _Types(Order):
    """Types by a score, smallest first; within a type the job that has attained most, so that one job of a type is served at a time.

    Attributes:
        delta: Probability that a comparison of two types is allowed to be wrong.
    """

    delta: float = 0.001
    reads = ("job_class", "attained", "class_done", "class_attained")

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise InputError(f"delta must be a probability above 0 and below 1, found {self.delta:g}")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        kinds, first, index = np.unique(jobs.job_class, return_index=True, return_inverse=True)
        if not len(kinds):
            return np.zeros((0, 2))
        scores = self.scores(jobs.class_done[first], jobs.class_attained[first])
        return np.column_stack([scores[index], -jobs.attained])

    def scores(self, done: FloatColumn, service: FloatColumn) -> FloatColumn:
        """A score for each type that has jobs left, from the jobs done and the service given; smallest first."""
        raise NotImplementedError


def lower_mean(done: FloatColumn, service: FloatColumn, delta: float) -> FloatColumn:
    """A lower confidence bound of the mean of an exponential after `done` events in `service` seconds; 0 before any service."""
    from scipy.special import chdtri

    return np.asarray(2.0 * service / chdtri(2.0 * done + 2.0, delta))


def upper_mean(done: FloatColumn, service: FloatColumn, delta: float) -> FloatColumn:
    """The upper one; inf before the first event."""
    from scipy.special import chdtri

    known = np.maximum(done, 1.0)
    return np.asarray(np.where(done > 0, 2.0 * service / chdtri(2.0 * known, 1.0 - delta), np.inf))


@dataclass
class ExploreUniform(_Types):
    """ETC-U: whole jobs of the types still in question, the type with the fewest done next; a type is put last once another is shorter for sure."""

    def scores(self, done: FloatColumn, service: FloatColumn) -> FloatColumn:
        out = lower_mean(done, service, self.delta) > upper_mean(done, service, self.delta).min()
        if len(done) - out.sum() <= 1:  # committed: the rest in order of their estimates
            return np.where(out, 1.0 + service / np.maximum(done, 1.0), 0.0)
        largest = 1.0 + done.max()
        return np.where(out, largest + service / np.maximum(done, 1.0), done)


@dataclass
class ExploreInTurn(_Types):
    """ETC-RR: the types still in question share the server; a type is put last when another has won so many of their races that luck is ruled out.

    Served alike, the type that has finished more jobs has won more races: type i beats z when
    done_i / (done_i + done_z) - sqrt(log(2 / delta) / (2 (done_i + done_z))) > 1/2.
    """

    preemptive = True
    quantum: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.quantum > 0:
            raise InputError(f"quantum must be above 0 seconds, found {self.quantum:g}")

    def scores(self, done: FloatColumn, service: FloatColumn) -> FloatColumn:
        races = np.maximum(done[:, None] + done[None, :], 1.0)
        beats = done[:, None] / races - np.sqrt(np.log(2.0 / self.delta) / (2.0 * races)) > 0.5
        out = beats.any(axis=0)
        turns = np.floor(service / self.quantum + 1e-6)  # whole quanta had: the least goes next
        return np.where(out, 1.0 + turns.max() + service / np.maximum(done, 1.0), turns)

    def review(self, jobs: Jobs, now: float) -> float:
        return now + self.quantum if len(jobs) else float("inf")


@dataclass
class OptimisticUniform(_Types):
    """UCB-U: whole jobs of the type whose mean could be the smallest."""

    def scores(self, done: FloatColumn, service: FloatColumn) -> FloatColumn:
        return lower_mean(done, service, self.delta)


@dataclass
class OptimisticInTurn(_Types):
    """UCB-RR: for `quantum` seconds a job of the type whose mean could be the smallest, then the question is asked again."""

    preemptive = True
    quantum: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.quantum > 0:
            raise InputError(f"quantum must be above 0 seconds, found {self.quantum:g}")

    def scores(self, done: FloatColumn, service: FloatColumn) -> FloatColumn:
        return lower_mean(done, service, self.delta)

    def review(self, jobs: Jobs, now: float) -> float:
        return now + self.quantum if len(jobs) else float("inf")
