"""Shortest expected first, by a tenant's own past: no predictor, only the lengths of the answers that have ended.

The quantile of the tenant's finished lengths above what is already out is the estimate; what is out is taken off. Conditional lengths from
history are the estimator of Gong et al., Past-Future Scheduler for LLM Serving, ASPLOS 2025, and upper quantiles the caution of JITServe
(Zhang et al., NSDI 2026); as an order it is the shortest expected remaining time. Requests of one tenant that have not begun are alike, so
they go in order of arrival.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, IntColumn, Jobs
from rota.rules.shown import Shown
from rota.worlds.serving.predictors import LengthHistory


class TenantLengths:
    """What finished answers say of those under way; told by the hooks of the policy that holds it."""

    def __init__(self, quantile: float, prior: float) -> None:
        self.history = LengthHistory(quantile, prior)
        self.shown = Shown("tenant")
        self._tokens: dict[int, float] = {}

    def progress(self, jobs: IntColumn, deltas: FloatColumn) -> None:
        """Tokens came out."""
        for job, delta in zip(jobs.tolist(), deltas.tolist(), strict=True):
            self._tokens[job] = self._tokens.get(job, 0.0) + delta

    def finish(self, job: int) -> None:
        """An answer is whole: only now is its length known."""
        tokens = self._tokens.pop(job, 0.0)
        if job in self.shown and tokens > 0:
            self.history.observe(int(self.shown.of("tenant", job)), tokens)

    def estimates(self, jobs: Jobs) -> FloatColumn:
        """Expected tokens of each answer in all, from `tenant` and `generated_tokens`."""
        known: dict[tuple[float, float], float] = {}
        rows = zip(jobs.tenant.tolist(), jobs.generated_tokens.tolist(), strict=True)
        found = []
        for row in rows:
            if row not in known:
                known[row] = self.history.estimate(int(row[0]), row[1])
            found.append(known[row])
        return np.array(found, np.float64)


@dataclass
class HistoryShortest(Order):
    """Least expected remaining answer first; a running request is left alone.

    Attributes:
        quantile: Of the finished lengths; 0.5 the median.
        prior: Tokens that an answer is taken to have before any has ended.
    """

    quantile: float = 0.5
    prior: float = 256.0
    reads = ("id", "tenant", "generated_tokens")
    _lengths: TenantLengths = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._lengths = TenantLengths(self.quantile, self.prior)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self._lengths.shown.note(jobs)
        return self._lengths.estimates(jobs) - jobs.generated_tokens

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        self._lengths.progress(jobs, deltas)

    def on_finish(self, job: int, host: int, now: float) -> None:
        self._lengths.finish(job)
