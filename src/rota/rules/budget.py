"""Shares of a budget: everybody at once, in proportion to a weight.

Processor sharing divides a server equally among the jobs present; its mean response time depends on the sizes through their mean only.
Discriminatory processor sharing divides it by weights: Kleinrock, Time-shared systems: a theoretical treatment, JACM 1967; Fayolle,
Mitrani and Iasnogorodski, Sharing a processor among many job classes, JACM 1980.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Allot
from rota.kernel.errors import InputError
from rota.kernel.tables import Claims, FloatColumn


@dataclass
class ProportionalShare(Allot):
    """Each claim's amount is its weight over the sum of weights, at most 1; what that leaves over is shared by the others.

    Attributes:
        by: The column of weights, fixed for each job; empty: all alike.
        weights_of: Weights for the values of that column (a class, a tenant) instead of the column itself.
    """

    by: str = ""
    weights_of: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(not weight > 0 for weight in self.weights_of.values()):
            raise InputError("weights_of: weights must be positive")
        self.reads = (self.by,) if self.by else ()

    def weights(self, claims: Claims) -> FloatColumn:
        """The weight of each claim."""
        if not self.by:
            return np.ones(len(claims))
        column = np.asarray(getattr(claims, self.by), np.float64)
        if not self.weights_of:
            return column
        weights = np.ones(len(column))
        for value, weight in self.weights_of.items():
            weights[column == value] = weight
        return weights

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        weights, left = self.weights(claims), next(iter(budget.values()))
        amounts = np.zeros(len(weights))
        open_ = weights > 0
        while open_.any() and left > 0:
            fair = left * weights / weights[open_].sum()
            full = open_ & (fair >= 1.0)
            if not full.any():
                amounts[open_] = fair[open_]
                break
            amounts[full] = 1.0
            left -= full.sum()
            open_ &= ~full
        return amounts


@dataclass
class ProcessorSharing(ProportionalShare):
    """Everybody alike."""


@dataclass
class WeightedSharing(ProportionalShare):
    """By the jobs' own weights."""

    by: str = "weight"


@dataclass
class DiscriminatorySharing(ProportionalShare):
    """By the weight of the job's class; classes without one have weight 1."""

    by: str = "job_class"
