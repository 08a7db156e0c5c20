"""Precedence revealed online: a job is seen when its parents are done, and all that is known of what lies behind it is a predicted weight.

The jobs in front share the server in proportion to the weight that is predicted to lie behind each; to be robust, part of the server's time
goes to all of them alike. Lassota, Lindermayr, Megow and Schloeter, Minimalistic predictions to schedule jobs with online precedence constraints, ICML
2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Allot
from rota.kernel.errors import InputError
from rota.kernel.tables import Claims, FloatColumn


@dataclass
class WeightBehind(Allot):
    """Weighted round robin over the jobs in front.

    Attributes:
        robustness: Share of the time that is divided equally, whatever is predicted: 0 trusts the prediction, 1 ignores it.
        by: The column of predicted weights: `weight_behind`, the weight of a job and of all that depends on it.
    """

    robustness: float = 0.0
    by: str = "weight_behind"

    def __post_init__(self) -> None:
        if not 0 <= self.robustness <= 1:
            raise InputError(f"robustness must be in [0, 1], found {self.robustness:g}")
        self.reads = (self.by,)

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        weights = np.maximum(np.asarray(getattr(claims, self.by), np.float64), 0.0)
        servers, rows = next(iter(budget.values())), len(weights)
        if not rows:
            return np.zeros(0)
        trusted = weights / weights.sum() if weights.sum() > 0 else np.full(rows, 1.0 / rows)
        shares = (1.0 - self.robustness) * trusted + self.robustness / rows
        return np.minimum(1.0, shares * servers)
