"""CARROT: of the models that a request may go to, the one with the best trade of predicted quality against predicted cost.

Somerstep et al., CARROT: A Cost Aware Rate Optimal Router, 2025 (arXiv 2502.03261): the model of largest mu x quality - (1 - mu) x cost, both predicted for
the query; the paper predicts with nearest neighbours or a fine-tuned encoder, here the scenario's section `quality` says how good predictions are. Cost
is in parts of the dearest model's for the query, so that mu means the same for short and long ones; the paper uses dollars. Among replicas of the chosen
model: the fewest outstanding requests. Where that model has no room, the next best one.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs

APART = 1e6  # outstanding requests that no replica has


@dataclass
class Carrot(Place):
    """Best predicted trade first.

    Attributes:
        mu: Weight of quality, from 0 (the cheapest) to 1 (the best, whatever it costs).
    """

    mu: float = 0.7

    reads = ("quality", "dollars", "outstanding")

    def __post_init__(self) -> None:
        if not 0 <= self.mu <= 1:
            raise InputError(f"mu must be from 0 to 1, found {self.mu:g}")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        dearest = float(hosts.dollars.max(initial=0.0))
        price = hosts.dollars / dearest if dearest > 0 else np.zeros(len(hosts))
        worth = self.mu * hosts.quality - (1.0 - self.mu) * price
        _, rank = np.unique(-worth, return_inverse=True)
        return np.asarray(APART * rank + hosts.outstanding)


@dataclass
class BestModel(Place):
    """The best predicted quality, whatever it costs: `carrot` with mu 1, which needs no prices."""

    reads = ("quality", "outstanding")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        _, rank = np.unique(-hosts.quality, return_inverse=True)
        return np.asarray(APART * rank + hosts.outstanding)
