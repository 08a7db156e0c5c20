"""HexGen-Text2SQL's dispatcher: to the engine that suits the request and is not too busy, a weighted sum of the two.

Peng et al., HexGen-Text2SQL: Optimizing LLM Inference Request Scheduling for Agentic Text-to-SQL Workflow, 2025 (arXiv 2505.05286): the engine with the largest

    alpha x (time on the baseline / time on the engine) - (1 - alpha) x (work queued at the engine / work of the baseline)

Times are estimated from the lengths that policies may know. The baseline is the first replica; the work of the baseline is here the mean over all replicas,
so that a load that grows everywhere does not change who is preferred (which engine's the paper takes was not looked up). The paper finds alpha by replaying
the last minutes of the trace in a simulator and taking the best: `tuned` does that with any function from alpha to a figure of merit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs

GRID = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


@dataclass
class HexgenDispatch(Place):
    """Suitability against load.

    Attributes:
        alpha: Weight of suitability, 0: load alone, 1: speed alone.
    """

    alpha: float = 0.2

    reads = ("speed", "work")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"hexgen: alpha must be from 0 to 1, found {self.alpha:g}")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        mean = float(hosts.work.mean()) if len(hosts) else 0.0
        load = hosts.work / mean if mean > 0 else np.zeros(len(hosts))
        return np.asarray((1.0 - self.alpha) * load - self.alpha * hosts.speed, np.float64)


def tuned(replay: Callable[[float], float], grid: Sequence[float] = GRID) -> float:
    """The alpha whose replay costs the least; of equals the first. Raises InputError for an empty grid."""
    if not grid:
        raise InputError("hexgen: there is no alpha to try")
    return min(grid, key=replay)
