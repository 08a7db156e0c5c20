"""Learning to rank: every iteration is filled by predicted rank, short first; who was passed over too often goes first.

Fu, Zhu, Su, Qiao, Stoica and Zhang, Efficient LLM Scheduling by Learning to Rank, NeurIPS 2024 (arXiv 2408.15792), and its code, vllm-ltr.
The rank is whatever predicts `output_tokens`: give the scenario `{rank: {tau: 0.6}}`. Starvation guard: a request that was idle for S
iterations of its replica goes into the top class until it has run for P iterations. Chosen here: of promoted requests who has waited
longest goes first (by rank they could starve each other); an iteration counts when it gives a token; who is displaced computes again, where
the paper's engine swaps to the host.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs


@dataclass
class LearningToRank(Order):
    """Predicted shortest answer first, with a guard.

    Attributes:
        S: Idle iterations after which a request is promoted (200 in the paper's benchmark).
        P: Iterations for which it then stays in the top class (10 there).
    """

    S: int = 200
    P: int = 10
    preemptive = True
    reads = ("id", "output_tokens")
    _steps: IntColumn = field(default_factory=lambda: np.zeros(1, np.int64), init=False, repr=False)  # by host
    _host: IntColumn = field(default_factory=lambda: np.zeros(0, np.int64), init=False, repr=False)  # -1: not running
    _counted: IntColumn = field(default_factory=lambda: np.zeros(0, np.int64), init=False, repr=False)
    _left: FloatColumn = field(default_factory=lambda: np.zeros(0), init=False, repr=False)  # of the promotion
    _since: IntColumn = field(default_factory=lambda: np.zeros((0, 1), np.int64), init=False, repr=False)  # job, host
    _latest: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.S < 1 or self.P < 1:
            raise InputError(f"S and P must be at least 1 iteration, found {self.S} and {self.P}")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        host = self._host[jobs.id]
        here = int(host.max(initial=-1))  # the rows of a question are of one replica: that of those who run there,
        here = here if here >= 0 else self._latest  # or, when the last of them has just left, the one it left
        top = (host >= 0) & (self._left[jobs.id] > 0)
        top |= (host < 0) & (self._steps[here] - self._since[jobs.id, here] >= self.S)
        # Of those promoted: who runs, then who waits longest.
        within = np.where(host >= 0, -1, self._since[jobs.id, here])
        return np.column_stack([~top, np.where(top, within, jobs.output_tokens)])

    def on_arrival(self, job: int, now: float) -> None:
        if job >= len(self._host):
            more = max(1024, len(self._host), job + 1 - len(self._host))
            self._host = np.concatenate([self._host, np.full(more, -1)])
            self._counted = np.concatenate([self._counted, np.zeros(more, np.int64)])
            self._left = np.concatenate([self._left, np.zeros(more)])
            self._since = np.vstack([self._since, np.zeros((more, self._since.shape[1]), np.int64)])
        self._since[job] = self._steps

    def _room_for(self, host: int) -> None:
        if host >= len(self._steps):
            more = host + 1 - len(self._steps)
            self._steps = np.concatenate([self._steps, np.zeros(more, np.int64)])
            self._since = np.hstack([self._since, np.zeros((len(self._since), more), np.int64)])

    def on_start(self, job: int, host: int, now: float) -> None:
        self._room_for(host)
        if self._steps[host] - self._since[job, host] >= self.S:
            self._left[job] = self.P
        self._host[job], self._counted[job] = host, self._steps[host]

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        self._left[jobs] = np.maximum(0.0, self._left[jobs] - deltas)
        hosts = self._host[jobs]
        for host in sorted(set(hosts.tolist()) - {-1}):
            here = jobs[hosts == host]
            reached = int((self._counted[here] + deltas[hosts == host]).max())  # who got most tokens saw all iterations
            self._steps[host] = max(int(self._steps[host]), reached)
            self._counted[here] = self._steps[host]

    def on_preempt(self, job: int, host: int, now: float) -> None:
        self._room_for(host)  # it may have come by migration, and nobody has begun there
        self._host[job], self._latest = -1, host
        self._since[job] = self._steps

    def on_finish(self, job: int, host: int, now: float) -> None:
        self._room_for(host)
        self._host[job], self._latest = -1, host
