"""Feedback: sizes are unknown, and what a job has attained says how long it may still take.

Round robin gives quanta in turn. Multi-level feedback gives a longer quantum in a lower level each time (Corbato, 1962). The Gittins index is optimal
for the mean response time when only the distribution of sizes is known (Gittins 1979; Aalto, Ayesta and Righter 2009); the shortest expected
remaining time is its simple cousin, within a constant of it for many laws (Scully, Harchol-Balter and Scheller-Wolf 2020).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rota.kernel.decisions import Order, Rank
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs
from rota.worlds.queues.distributions import Distribution, parse_distribution


@dataclass
class RoundRobin(Order):
    """Each job in turn for `quantum` seconds of service, then behind all others; a new job goes behind all others."""

    quantum: float = 0.1
    preemptive = True
    reads = ("id", "running")
    _turn: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    _used: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _next: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.quantum > 0:
            raise InputError(f"quantum must be above 0 seconds, found {self.quantum:g}")

    def on_arrival(self, job: int, now: float) -> None:
        self._behind(job)

    def _behind(self, job: int) -> None:
        self._turn[job], self._used[job], self._next = self._next, 0.0, self._next + 1

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        for job, delta in zip(jobs.tolist(), deltas.tolist(), strict=True):
            if job in self._used:
                self._used[job] += delta
                if self._used[job] >= self.quantum * (1 - 1e-9):
                    self._behind(job)

    def on_finish(self, job: int, host: int, now: float) -> None:
        self._turn.pop(job, None)
        self._used.pop(job, None)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.array([self._turn.get(job, self._next) for job in jobs.id.tolist()], np.float64)

    def review(self, jobs: Jobs, now: float) -> float:
        # keys are turns: the first in turn runs, and may run for the rest of its quantum on a server of speed 1
        left = [self.quantum - self._used.get(job, 0.0) for job in jobs.id.tolist()]
        return now + min(left, default=float("inf"))


@dataclass
class MultiLevelFeedback(Order):
    """A job starts in the top level and sinks by one when it has used up the level's quantum; within a level in order of arrival.

    Attributes:
        quantum: Seconds of service in the top level.
        growth: Each level's quantum is so many times that of the one above.
        levels: How many levels; the last has no end.
    """

    quantum: float = 0.5
    growth: float = 2.0
    levels: int = 6
    preemptive = True
    reads = ("release", "attained")

    def __post_init__(self) -> None:
        if not (self.quantum > 0 and self.growth > 0 and self.levels >= 1):
            raise InputError(
                f"quantum and growth must be above 0 and levels at least 1, found {self.quantum:g}, {self.growth:g}, {self.levels}"
            )

    def rank(self, jobs: Jobs) -> Rank:
        rows, ends = len(jobs), np.cumsum(self.quantum * self.growth ** np.arange(self.levels))
        ends[-1] = np.inf
        return Rank(
            until=np.tile(ends, (rows, 1)),
            level=np.tile(np.arange(self.levels, dtype=np.float64), (rows, 1)),
            start=np.tile(jobs.release[:, None], (1, self.levels)),
            slope=np.zeros(self.levels),
        )


@dataclass
class _ByAge(Order):
    """A rank that is a function of attained service, the same for all jobs, held on steps of it.

    Attributes:
        law: The distribution of sizes, as a scenario writes it.
        steps: Ages at which the rank is evaluated, evenly spread over the quantiles of the law.
    """

    law: Any = "exponential"
    steps: int = 200
    preemptive = True
    reads = ("attained",)

    def rank(self, jobs: Jobs) -> Rank:
        law = parse_distribution(self.law, None, f"{type(self).__name__}: law")
        tail = np.geomspace(1.0, 1e-6, self.steps + 1)
        ages = np.unique(np.concatenate([[0.0], law.quantile(1.0 - tail[1:])]))
        index = self.index(law, ages)
        until = np.append(ages[1:], np.inf)
        return Rank(until[None, :], np.zeros((1, len(ages))), index[None, :], np.zeros(len(ages)))

    def index(self, law: Distribution, ages: FloatColumn) -> FloatColumn:
        """The rank at each age, seconds; smaller goes first."""
        raise NotImplementedError


def _rests(law: Distribution, ages: FloatColumn) -> tuple[FloatColumn, FloatColumn]:
    """P(S > age) at each age, and the integral of P(S > t) from each age to the next; the last entry runs to the end."""
    survive = 1.0 - law.cdf(ages)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(ages) / 2.0
    points = ages[:-1, None] + half[:, None] * (1.0 + nodes)
    pieces = (half[:, None] * weights * (1.0 - law.cdf(points))).sum(axis=1)
    return survive, np.append(pieces, max(0.0, law.mean - pieces.sum()))


@dataclass
class Gittins(_ByAge):
    """Rank at age a: the least, over stopping ages b, of expected service until b over the probability to be done by then."""

    def index(self, law: Distribution, ages: FloatColumn) -> FloatColumn:
        survive, pieces = _rests(law, ages)
        reached = np.concatenate([[0.0], np.cumsum(pieces)])  # integral of P(S > t) from 0
        ends = np.append(survive[1:], 0.0)
        found = np.empty(len(ages))
        for i in range(len(ages)):
            spent, won = reached[i + 1 :] - reached[i], survive[i] - ends[i:]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(won > 0, spent / won, np.inf)
            found[i] = float(np.nanmin(ratio, initial=np.finfo(np.float64).max))
        return found


@dataclass
class ShortestExpectedRemaining(_ByAge):
    """Rank at age a: the expected remaining service E[S - a | S > a]."""

    def index(self, law: Distribution, ages: FloatColumn) -> FloatColumn:
        survive, pieces = _rests(law, ages)
        ahead = np.cumsum(pieces[::-1])[::-1]
        return np.asarray(ahead / np.maximum(survive, 1e-300))
