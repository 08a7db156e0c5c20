"""Priorities that change while requests run, as FastSwitch takes them: who loses is swapped out, who wins is swapped in.

Shen et al., FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware LLM Serving (arXiv 2411.18424). The priorities there come from
a trace of a fair scheduler; here, as in its random pattern, every `every` seconds each request is given one of `levels` anew, drawn by request and
time. What FastSwitch itself changes is the copying: see `swap` of a fleet (`group_blocks`, `per_copy`, `asynchronous`, `reuse`).
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.streams import uniform
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class ChangingPriorities(Order):
    """Random priorities, drawn again and again.

    Attributes:
        every: Seconds between two changes.
        levels: Priorities there are.
    """

    every: float = 5.0
    levels: int = 4
    preemptive = True
    reads = ("id",)
    _seed: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.every > 0 and self.levels >= 1):
            raise InputError(
                f"changing_priorities: needs every > 0 and levels >= 1, found {self.every:g} and {self.levels}"
            )

    def bind(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(2**63))

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        draws = uniform(self._seed, "priority", jobs.id.astype(np.int64), int(now // self.every))
        return np.floor(self.levels * draws)
