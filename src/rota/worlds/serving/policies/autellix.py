"""Autellix: calls of programs by the service that their program has received, least first, in levels; nobody waits too long for what it got.

Luo et al., Autellix: An Efficient Serving Engine for LLM Agents as General Programs (arXiv 2502.13965). PLAS sums the service of all ended calls
of a program, which is right for one thread; ATLAS takes the longest path of calls that a call waited for. The levels' bounds and the promotion
are not given in numbers there: here bounds grow by `base` from `quantum`, and a call whose wait exceeds `beta` times what its program was served
is promoted to the first level.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class ProgramLeastAttainedService(Order):
    """PLAS.

    Attributes:
        quantum: Seconds of service of a program that stay in the first level.
        base: Factor from a level's bound to the next.
        beta: Seconds of waiting for a second of service after which a call goes first.
        preempts: A running call may be displaced. The paper's engine swaps its KV out; where it must be computed again that costs more than it gains.
    """

    quantum: float = 0.5
    base: float = 2.0
    beta: float = 20.0
    preempts: bool = False

    reads = ("program_attained", "attained", "release")
    served = "program_attained"

    def __post_init__(self) -> None:
        if not (self.quantum > 0 and self.base > 1 and self.beta > 0):
            raise InputError(
                f"plas: needs quantum > 0, base > 1, beta > 0; found {self.quantum:g}, {self.base:g}, {self.beta:g}"
            )

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        service = getattr(jobs, self.served) + jobs.attained
        level = np.ceil(np.log(np.maximum(service, self.quantum) / self.quantum) / np.log(self.base))
        starved = now - jobs.release > self.beta * np.maximum(service, self.quantum)
        return np.where(starved, 0.0, level)


@dataclass
class LongestPathAttainedService(ProgramLeastAttainedService):
    """ATLAS: the service along the longest path to the call, so that wide programs are not taken for long ones."""

    reads = ("path_attained", "attained", "release")
    served = "path_attained"
