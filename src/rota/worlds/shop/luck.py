"""What disturbs a plan: durations that come out otherwise, machines that break down. Drawn by key, so that no decision changes anybody's luck."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import exponential, normal
from rota.worlds.shop.calendars import Break
from rota.worlds.shop.model import Ints, Problem


@dataclass(frozen=True)
class Luck:
    """Disturbances of a seed.

    Attributes:
        seed: What everything is drawn from.
        spread: Coefficient of variation of durations; 0: as planned. Lognormal with mean 1, rounded, at least 1 where work was planned.
        uptime: Mean time between the end of a repair and the next breakdown of a machine, exponential; None: no breakdowns.
        repair: Mean time of a repair.
        repairs: ``exponential``, or ``fixed``: each takes the mean.
    """

    seed: int = 0
    spread: float = 0.0
    uptime: float | None = None
    repair: float = 10.0
    repairs: Literal["exponential", "fixed"] = "exponential"

    def __post_init__(self) -> None:
        if not self.spread >= 0:
            raise InputError(f"luck: spread must be at least 0, found {self.spread:g}")
        if self.uptime is not None and not self.uptime > 0:
            raise InputError(f"luck: uptime must be above 0, found {self.uptime:g}")
        if not self.repair > 0:
            raise InputError(f"luck: repair must be above 0, found {self.repair:g}")

    def durations(self, problem: Problem) -> Ints:
        """What each mode takes in truth; shape (modes,)."""
        planned = problem.modes.duration
        if self.spread == 0:
            return planned.copy()
        sigma = np.sqrt(np.log1p(self.spread**2))
        factor = np.exp(sigma * normal(self.seed, "durations", problem.modes.operation) - sigma**2 / 2)
        return np.where(planned > 0, np.maximum(1, np.rint(planned * factor)), 0).astype(np.int64)

    def outage(self, machine: int, ordinal: int, after: int) -> Break | None:
        """When a machine breaks down the next time, and until when; `after` is the end of its last repair."""
        if self.uptime is None:
            return None
        up = float(exponential(self.seed, "breakdowns", machine, ordinal)[()]) * self.uptime
        down = 1.0 if self.repairs == "fixed" else float(exponential(self.seed, "repairs", machine, ordinal)[()])
        first = after + max(1, int(np.rint(up)))
        return first, first + max(1, int(np.rint(down * self.repair)))
