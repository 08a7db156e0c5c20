"""SkipPredict: a cheap bit for everybody, an expensive prediction only for those that the bit calls long.

Short jobs go first in order of arrival and never pay for a prediction; the others are predicted and served by shortest predicted remaining time.
Shahout and Mitzenmacher, SkipPredict: when to invest in predictions for scheduling, NeurIPS 2024. The paper's two cost models: predictions
are made elsewhere for a price (external), or take the server's own time. Order of classes chosen here on the server: bits and short jobs, then predictions
in order of arrival, then the predicted.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order, Rank
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class SkipPredict(Order):
    """A bit for all, a prediction for the long.

    Attributes:
        cheap: Cost of a bit: a price in seconds of response time, or seconds of the server's time.
        expensive: Cost of a prediction, likewise.
        on_server: Whether the costs are the server's time.
    """

    cheap: float = 0.0
    expensive: float = 0.0
    on_server: bool = False
    preemptive = True
    reads: tuple[str, ...] = field(default=("release", "short", "predicted_size", "attained"), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.cheap < 0 or self.expensive < 0:
            raise InputError(f"costs must not be negative, found {self.cheap:g} and {self.expensive:g}")

    def price(self, jobs: Jobs) -> FloatColumn:
        """What is paid for each job's predictions outside, in seconds of response time."""
        bought = self.cheap + np.where(jobs.short > 0, 0.0, self.expensive)
        return np.zeros(len(jobs)) if self.on_server else bought

    def overhead(self, jobs: Jobs) -> FloatColumn:
        """Seconds of the server's time that a job's predictions take before it is served."""
        bought = self.cheap + np.where(jobs.short > 0, 0.0, self.expensive)
        return bought if self.on_server else np.zeros(len(jobs))

    def rank(self, jobs: Jobs) -> Rank:
        short, release = jobs.short > 0, jobs.release
        cheap, bought = (self.cheap, self.cheap + self.expensive) if self.on_server else (0.0, 0.0)
        rows = len(jobs)
        until = np.tile(np.array([cheap, bought, np.inf]), (rows, 1))
        level = np.where(short[:, None], 0.0, np.array([0.0, 1.0, 2.0]))
        # the last piece falls with service; for a short job, which must stay in order of arrival, it is never reached
        until[short] = np.inf
        start = np.column_stack([release, release, jobs.predicted_size + bought])
        return Rank(until, level, start, np.array([0.0, 0.0, -1.0]))


@dataclass
class PredictAll(SkipPredict):
    """A prediction for everybody and no bit: what SkipPredict is compared with. Costs as there."""

    reads: tuple[str, ...] = field(default=("release", "predicted_size", "attained"), init=False, repr=False)

    def price(self, jobs: Jobs) -> FloatColumn:
        return np.full(len(jobs), 0.0 if self.on_server else self.expensive)

    def overhead(self, jobs: Jobs) -> FloatColumn:
        return np.full(len(jobs), self.expensive if self.on_server else 0.0)

    def rank(self, jobs: Jobs) -> Rank:
        bought = self.expensive if self.on_server else 0.0
        until = np.tile(np.array([bought, np.inf]), (len(jobs), 1))
        level = np.tile(np.array([0.0, 1.0]), (len(jobs), 1))
        return Rank(until, level, np.column_stack([jobs.release, jobs.predicted_size + bought]), np.array([0.0, -1.0]))


@dataclass
class OneBit(Order):
    """The bit alone: those called short before the others, in order of arrival within both."""

    cheap: float = 0.0
    on_server: bool = False
    preemptive: bool = True  # type: ignore[misc]
    asked = "arrival"
    reads = ("short", "release")

    def price(self, jobs: Jobs) -> FloatColumn:
        """The price of the bit, in seconds of response time."""
        return np.full(len(jobs), 0.0 if self.on_server else self.cheap)

    def overhead(self, jobs: Jobs) -> FloatColumn:
        """Seconds of the server's time for the bit; spent in the job's own class."""
        return np.full(len(jobs), self.cheap if self.on_server else 0.0)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.column_stack([1.0 - jobs.short, jobs.release])
