"""Just in time: of the requests that can still make their deadlines, those with the most tokens for their bandwidth.

After Zhang et al., JITServe: SLO-aware LLM Serving with Imprecise Request Information, NSDI 2026 (arXiv 2504.20068); its details are
recalled, and simpler here. The length is taken with caution, the prediction times a factor in place of an upper quantile, and refined while
tokens come out. A request needs (tokens left) / (time left) tokens a second; its worth is its tokens. By worth over need, in groups a
factor `group` wide and by deadline within a group, requests are taken while the sum of needs is within `bandwidth`. First come those that
are taken: who runs (when the cache is full and somebody must go), then by deadline. Then those without a deadline, those not taken, and
last those that need more than `fastest`. Only deadlines of whole answers are known here: no limits of a token, no compound requests; and
the engine cannot slow a request down to what it needs.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules.due import LAST

TAKEN, NO_DEADLINE, NOT_TAKEN, TOO_LATE = range(4)


@dataclass
class JustInTime(Order):
    """Grouped margin goodput over deadlines. A running request is left alone: to displace it would cost its prompt again.

    Attributes:
        caution: The length is taken to be so many times the predicted one.
        bandwidth: Tokens a second that a replica can promise to those who wait.
        fastest: Tokens a second that one request can get at best.
        group: Worth over need within this factor is alike.
    """

    caution: float = 1.2
    bandwidth: float = 10_000.0
    fastest: float = 30.0
    group: float = 2.0
    reads = ("id", "prompt_tokens", "output_tokens", "generated_tokens", "due", "running")

    def __post_init__(self) -> None:
        if not (self.bandwidth > 0 and self.fastest > 0 and self.group > 1):
            raise InputError(
                f"bandwidth and fastest must be above 0 tokens/s and group above 1, found {self.bandwidth:g}, {self.fastest:g}, {self.group:g}"
            )
        if not self.caution >= 1:
            raise InputError(f"caution must be at least 1, found {self.caution:g}")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        told = self.caution * jobs.output_tokens
        length = np.where(told > jobs.generated_tokens, told, 2.0 * jobs.generated_tokens)  # who outgrows it may double
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
