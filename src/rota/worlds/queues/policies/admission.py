"""Admission with a budget: accept what pays enough for the room that is left (online knapsack).

Values and sizes are seen at arrival, densities (value over size) are known to lie in [low, high]; an item is accepted when its density is at
least a threshold of the used share z of the budget. The base threshold is optimal: Zhou, Chakrabarty and Lukose, Budget constrained bidding in
keyword auctions and online knapsack problems, 2008. Fair in time, so that early and late arrivals of equal density fare alike for a share alpha of the
budget, and with a predicted critical density: Lechowicz, Sengupta, Sun, Kamali and Hajiesmaili, Time fairness in online knapsack problems,
ICLR 2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import e, exp, log

import numpy as np

from rota.kernel.decisions import Allot
from rota.kernel.errors import InputError
from rota.kernel.tables import Claims, FloatColumn


def base_threshold(z: float, low: float, high: float) -> float:
    """(high e / low)^z low / e, at least `low`."""
    return float(max(low, (high * e / low) ** z * low / e))


@dataclass
class Threshold(Allot):
    """Zhou, Chakrabarty and Lukose: the threshold grows exponentially with the used share."""

    low: float = 1.0
    high: float = 10.0
    value: str = "weight"

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InputError(f"densities must satisfy 0 < low <= high, found {self.low:g} and {self.high:g}")
        self.reads = (self.value, "size")

    def threshold(self, z: float) -> float:
        """The density that is asked for when the share z of the budget is used."""
        return base_threshold(z, self.low, self.high)

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        left, whole = budget.get("work", 0.0), budget.get("work_in_all", 1.0)
        size = np.asarray(claims.size, np.float64)
        density = np.asarray(getattr(claims, self.value), np.float64) / np.maximum(size, 1e-300)
        used = 1.0 - left / whole if whole > 0 and np.isfinite(whole) else 0.0
        return np.where((density >= self.threshold(min(max(used, 0.0), 1.0))) & (size <= left), size, 0.0)


@dataclass
class TimeFair(Threshold):
    """ECT(alpha): the threshold stays `low` until the share alpha is used, then rises to `high` as fast as it must."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must be above 0 and below 1, found {self.alpha:g}")

    def threshold(self, z: float) -> float:
        from scipy.special import lambertw

        if z < self.alpha:
            return self.low
        beta = float(lambertw(self.high * (1 - self.alpha) / (self.low * self.alpha)).real) / (1 - self.alpha)
        return max(self.low, self.high * exp(beta * (z - 1)))


@dataclass
class TimeFairSimple(Threshold):
    """The paper's simple baseline: `low` until alpha is used, then the base threshold squeezed into what is left."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must be above 0 and below 1, found {self.alpha:g}")

    def threshold(self, z: float) -> float:
        if z < self.alpha or self.high <= self.low:
            return self.low
        start = self.alpha + (self.alpha - 1.0) / log(self.high / self.low)
        return base_threshold((z - start) / (1.0 - start), self.low, self.high)


@dataclass
class LearningAugmented(Threshold):
    """LA-ECT: a flat part at the predicted critical density, as wide as the trust in it; the base threshold, squeezed, before and after.

    Attributes:
        predicted: The density above which the best packing in hindsight accepts.
        trust: Width gamma of the flat part as a share of the budget.
    """

    predicted: float = 3.0
    trust: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.trust < 1:
            raise InputError(f"trust must be in [0, 1), found {self.trust:g}")

    def threshold(self, z: float) -> float:
        before = base_threshold(z / (1.0 - self.trust), self.low, self.high)
        if before < self.predicted:
            return before
        after = base_threshold(max(0.0, z - self.trust) / (1.0 - self.trust), self.low, self.high)
        return max(self.predicted, after)
