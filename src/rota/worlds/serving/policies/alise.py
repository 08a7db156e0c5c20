"""Estimated remaining time in levels, with ageing: powers of two of what is still needed, one up for every while of waiting.

Zhao and Wang, ALISE: Accelerating Large Language Model Serving with Speculative Scheduling, 2024 (arXiv 2410.23537). Only the abstract was
at hand; chosen here: levels are doublings of `shortest`, a request keeps the levels that it won by waiting and may rise above the top one,
and within a level the least remaining goes first. The paper retrieves similar prompts to estimate; here `remaining` is what the scenario's
predictor says. It moves caches to the host, quantised: give the fleet ``swap: {blocks: N, compress: 0.5}``; without, who is displaced computes again.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class SpeculativeRemaining(Order):
    """Predicted remaining time by levels, who waits rises.

    Attributes:
        shortest: Seconds of work below which a request is in the top level.
        age: Seconds of waiting that lift a request by a level; inf: never.
    """

    shortest: float = 0.01
    age: float = 10.0
    preemptive = True
    reads = ("id", "remaining")
    _idle: FloatColumn = field(default_factory=lambda: np.zeros(0), init=False, repr=False)  # since; NaN: running
    _won: FloatColumn = field(default_factory=lambda: np.zeros(0), init=False, repr=False)  # levels

    def __post_init__(self) -> None:
        if not (self.shortest > 0 and self.age > 0):
            raise InputError(f"shortest and age must be above 0 seconds, found {self.shortest:g} and {self.age:g}")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        level = np.floor(np.log2(np.maximum(jobs.remaining / self.shortest, 0.5))) + 1.0
        waited = np.nan_to_num(now - self._idle[jobs.id], nan=0.0)
        risen = self._won[jobs.id] + np.floor(waited / self.age)
        return np.column_stack([level - risen, jobs.remaining])

    def on_arrival(self, job: int, now: float) -> None:
        if job >= len(self._idle):
            more = max(1024, len(self._idle), job + 1 - len(self._idle))
            self._idle = np.concatenate([self._idle, np.zeros(more)])
            self._won = np.concatenate([self._won, np.zeros(more)])
        self._idle[job] = now

    def on_start(self, job: int, host: int, now: float) -> None:
        self._won[job] += np.floor(max(0.0, now - self._idle[job]) / self.age)
        self._idle[job] = np.nan

    def on_preempt(self, job: int, host: int, now: float) -> None:
        self._idle[job] = now
