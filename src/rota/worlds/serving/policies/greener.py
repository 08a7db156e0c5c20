"""The slowest clock that keeps the limits: less energy for the same service.

Stojkovic et al., Towards Greener LLMs: Bringing Energy-Efficiency to the Forefront of LLM Inference, 2024 (arXiv 2403.20306): the least energy for a class of
lengths and a load is at another batch, parallelism and clock than the least latency, and a server should be moved there while its limits allow. Of its three
knobs this is the clock, chosen while it runs. What a lower clock stretches follows from the timing model: an iteration takes sqrt(s / f^2 + 1 - s) times as
long, s being the part of it that arithmetic takes. So long prompts, which make s large, get fast clocks and long answers slow ones, without a table of
classes. As a host that is on draws its idle power anyhow, the slowest clock is the one with the least energy.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts
from rota.worlds.serving.energy import LOWEST_CLOCK, Clocks


@dataclass
class SlowestInTime(Clocks):
    """Least energy under a limit of time between tokens.

    Attributes:
        tpot: Seconds that an iteration may take on average; set it below the limit that is promised.
        load: Share of time that arithmetic may take at the chosen clock, so that prompts do not queue.
        steps: Clocks to choose from, equally spaced from `slowest` to 1.
        slowest: The lowest clock.
        every: Seconds between two questions.
    """

    tpot: float = 0.04
    load: float = 0.6
    steps: int = 13
    slowest: float = 0.4
    every: float = 5.0

    reads = ("busy", "compute_share", "step_seconds")

    def __post_init__(self) -> None:
        if not (self.tpot > 0 and 0 < self.load <= 1 and self.steps >= 2 and self.every > 0):
            raise InputError(
                f"greener: needs tpot > 0, load in (0, 1], steps >= 2 and every > 0; "
                f"found {self.tpot:g}, {self.load:g}, {self.steps}, {self.every:g}"
            )
        if not LOWEST_CLOCK <= self.slowest < 1:
            raise InputError(f"greener: slowest must be from {LOWEST_CLOCK:g} to below 1, found {self.slowest:g}")

    def clocks(self, hosts: Hosts, now: float) -> FloatColumn:
        grid = np.linspace(self.slowest, 1.0, self.steps)[:, None]
        share = hosts.compute_share
        step = hosts.step_seconds * np.sqrt(share / grid**2 + 1.0 - share)
        fits = (step <= self.tpot) & (hosts.busy * share / grid <= self.load)
        fits[-1] = True
        return np.asarray(grid[np.argmax(fits, axis=0), 0], np.float64)
