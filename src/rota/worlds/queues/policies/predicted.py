"""Shortest predicted: by what was predicted of the size, in all or less what was attained.

A job that outlives its prediction keeps the highest rank until it is done. Mitzenmacher, Scheduling with predictions and the price of
misprediction, ITCS 2020.
"""

from dataclasses import dataclass

from rota.kernel.decisions import Order, Rank
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class ShortestPredicted(Order):
    """Shortest predicted job first (SPJF); a running job is left alone."""

    asked = "arrival"
    reads = ("predicted_size",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.predicted_size


@dataclass
class PreemptiveShortestPredicted(ShortestPredicted):
    """Preemptive shortest predicted job first (PSPJF)."""

    preemptive = True


@dataclass
class ShortestPredictedRemaining(Order):
    """Shortest predicted remaining processing time (SPRPT)."""

    preemptive = True
    reads = ("predicted_size", "predicted_remaining")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.predicted_remaining

    def rank(self, jobs: Jobs) -> Rank:
        return Rank.line(jobs.predicted_size, slope=-1.0)
