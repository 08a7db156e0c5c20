"""Just in time: of the requests that can still make their deadlines, those with the most tokens for their bandwidth.

After Zhang et al., JITServe: SLO-aware LLM Serving with Imprecise Request Information, NSDI 2026 (arXiv 2504.20068); its details are
recalled, and simpler here. The length is a high quantile of the tenant's finished answers, refined by what is out. A request needs (tokens
left) / (time left) tokens a second; its worth is its tokens. By worth over need, in groups a factor `group` wide and by deadline within a
group, requests are taken while the sum of needs is within `bandwidth`. First those that are taken: running ones, then by deadline. Then
those that have no deadline, those not taken, and last those that need more than `fastest`. Only whole-answer deadlines are known here,
neither limits a token nor compound requests.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs
from rota.rules.due import LAST
from rota.worlds.serving.policies.history import TenantLengths

TAKEN, NO_DEADLINE, NOT_TAKEN, TOO_LATE = range(4)


@dataclass
class JustInTime(Order):
    """Grouped margin goodput over deadlines.

    Attributes:
        quantile: Of finished lengths, for the estimate.
        prior: Tokens of an answer before any has ended.
        bandwidth: Tokens a second that a replica gives in all.
        fastest: Tokens a second that one request can get at best.
        group: Worth over need within this factor is alike.
    """

    quantile: float = 0.9
    prior: float = 256.0
    bandwidth: float = 2000.0
    fastest: float = 50.0
    group: float = 2.0
    preemptive = True
    reads = ("id", "tenant", "prompt_tokens", "generated_tokens", "due", "running")
    _lengths: TenantLengths = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.bandwidth > 0 and self.fastest > 0 and self.group > 1):
            raise InputError(
                f"bandwidth and fastest must be above 0 tokens/s and group above 1, found {self.bandwidth:g}, {self.fastest:g}, {self.group:g}"
            )
        self._lengths = TenantLengths(self.quantile, self.prior)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self._lengths.shown.note(jobs)
        length = self._lengths.estimates(jobs)
        left, time = np.maximum(length - jobs.generated_tokens, 1.0), jobs.due - now
        need = np.divide(left, time, out=np.full(len(jobs), np.inf), where=time > 0)
        group = np.full(len(jobs), -LAST)
        possible = (need <= self.fastest) & (need > 0)
        group[possible] = -np.floor(
            np.log((jobs.prompt_tokens + length)[possible] / need[possible]) / np.log(self.group)
        )
        order = np.lexsort((jobs.id, jobs.due, group, ~possible))
        spent = np.empty(len(jobs))
        spent[order] = np.cumsum(np.where(possible, need, 0.0)[order])
        state = np.where(possible, np.where(spent <= self.bandwidth, TAKEN, NOT_TAKEN), TOO_LATE)
        state = np.where(np.isinf(jobs.due), NO_DEADLINE, state)
        taken = state == TAKEN
        return np.column_stack(
            [state, taken & ~(jobs.running > 0), np.where(taken, jobs.due, np.where(state == NOT_TAKEN, group, 0.0))]
        )

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        self._lengths.progress(jobs, deltas)

    def on_finish(self, job: int, host: int, now: float) -> None:
        self._lengths.finish(job)
