"""Of a few random hosts the one with the least load score over two resources: service time outstanding and places taken.

Dodoor: randomised decentralised scheduling with load caching, 2025.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.rules.sampling import draw_hosts


@dataclass
class Dodoor(Place):
    """Of `d` random servers the one with the least load score over two resources: service time outstanding and places taken.

    The score weighs each server's share of the candidates' load. The paper's point is that the view may be old: give the scenario
    ``information: {hosts: {every: 50}}`` for a view that is renewed in batches of 50 placements.

    Attributes:
        alpha: Weight of service time against places.
        d: Candidates.
    """

    alpha: float = 0.5
    d: int = 2
    draws = True
    reads = ("id", "outstanding", "work")
    reads_job = ("id",)
    _seed: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.d < 1 or not 0 <= self.alpha <= 1:
            raise InputError(f"d must be at least 1 and alpha in [0, 1], found {self.d} and {self.alpha:g}")

    def bind(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(2**63))

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        drawn = draw_hosts(self._seed, jobs, hosts, self.d)
        chosen = (drawn[:, :, None] == hosts.id).any(axis=1)
        score = np.zeros(chosen.shape)
        for weight, load in ((self.alpha, hosts.work), (1.0 - self.alpha, hosts.outstanding.astype(np.float64))):
            total = np.where(chosen, load, 0.0).sum(axis=1, keepdims=True)
            score += weight * load / np.where(total > 0, total, 1.0)
        costs = np.where(chosen, score, np.inf)
        return np.asarray(costs[0] if len(jobs) == 1 else costs)
