"""POLCA: more servers under one power budget; where they draw too much, clocks go down, first and most where priority is low.

Patel et al., Characterizing Power Management Opportunities for LLMs in the Cloud, ASPLOS 2024. Above a first threshold of the budget the clocks of low-
priority servers are lowered; above a second one they are lowered further, and if that is not enough those of high-priority servers too; at the budget itself
the power brake takes all servers down to their slowest clock at once. Clocks are raised again where power is `hysteresis` below a threshold. The thresholds
of 80 and 89 % and the clocks (1,275, 1,110, 1,305 and 288 of an A100's 1,410 MHz) are the paper's as recalled, not looked up. The brake takes effect at once
here; commands to lower or raise a clock take `delay` seconds, as they do over a server's management network.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts
from rota.worlds.serving.energy import Clocks

NORMAL, LOW, LOWER, BOTH = range(4)


@dataclass
class Polca(Clocks):
    """Two thresholds, hysteresis and a brake.

    Attributes:
        first, second: Shares of the budget from which clocks go down.
        hysteresis: So far, as a share of the budget, power must be below a threshold for clocks to go up again.
        low, lower: Clocks of low-priority servers above the first and the second threshold, shares of the highest.
        high: Clock of high-priority servers where `lower` was not enough.
        brake: Clock of all at the budget.
        delay: Seconds from a decision to its effect; the brake has none.
        every: Seconds between two readings.
    """

    first: float = 0.80
    second: float = 0.89
    hysteresis: float = 0.05
    low: float = 0.904
    lower: float = 0.787
    high: float = 0.926
    brake: float = 0.204
    delay: float = 40.0
    every: float = 2.0
    _orders: list[tuple[float, int]] = field(default_factory=list, init=False, repr=False)
    _decided: int = field(default=NORMAL, init=False, repr=False)
    _level: int = field(default=NORMAL, init=False, repr=False)
    _braked: bool = field(default=False, init=False, repr=False)

    reads = ("watts", "urgent", "budget_watts")

    def __post_init__(self) -> None:
        if not (0 < self.hysteresis < self.first < self.second < 1 and self.every > 0 and self.delay >= 0):
            raise InputError(
                f"polca: needs 0 < hysteresis < first < second < 1, every > 0 and delay >= 0; "
                f"found {self.hysteresis:g}, {self.first:g}, {self.second:g}, {self.every:g}, {self.delay:g}"
            )
        if not 0.1 <= self.brake <= self.lower <= self.low <= 1 or not self.brake <= self.high <= 1:
            raise InputError(
                f"polca: clocks need 0.1 <= brake <= lower <= low <= 1 and brake <= high <= 1; "
                f"found {self.brake:g}, {self.lower:g}, {self.low:g} and {self.high:g}"
            )

    def clocks(self, hosts: Hosts, now: float) -> FloatColumn:
        use = float(hosts.watts.sum() / hosts.budget_watts[0]) if len(hosts) else 0.0
        self._brake(use)
        self._decide(use, now)
        while self._orders and self._orders[0][0] <= now:
            self._level = self._orders.pop(0)[1]
        if self._braked:
            return np.full(len(hosts), self.brake)
        slow = (1.0, self.low, self.lower, self.lower)[self._level]
        return np.where(hosts.urgent > 0, self.high if self._level == BOTH else 1.0, slow)

    def _brake(self, use: float) -> None:
        self._braked = use >= 1.0 or (self._braked and use >= self.second)

    def _decide(self, use: float, now: float) -> None:
        """One step at a time; a step that was decided takes effect before the next one is."""
        if self._orders:
            return
        level = self._decided
        if use >= self.second:
            level = min(max(level + 1, LOWER), BOTH)
        elif use >= self.first:
            level = max(level, LOW)
        elif use < self.first - self.hysteresis:
            level = NORMAL
        if level > LOW and use < self.second - self.hysteresis:
            level = min(level, LOW)
        if level != self._decided:
            self._decided = level
            self._orders.append((now + self.delay, level))
