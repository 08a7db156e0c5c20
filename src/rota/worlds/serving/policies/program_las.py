"""Least attained service between programs, with a share for waiting: score = 0.8 (1 - service) + 0.2 wait of the head.

llm-d router, flow control plug-in program-aware-fairness, strategy `las` (read in 2026): attained service of a program is prompt + 2 answer
tokens, counted when a request ends; it halves every 60 s while the program has nothing queued or running. The program is the tenant here.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs
from rota.rules.shown import Shown


@dataclass
class ProgramLeastAttained(Order):
    """The program with the best score, and of its requests the first.

    Attributes:
        w_service: Weight of having been served little.
        w_wait: Weight of the wait of the program's first request.
        w_output: Price of a token of the answer, in tokens of a prompt.
        half_life: Seconds in which the service of an idle program halves.
    """

    w_service: float = 0.8
    w_wait: float = 0.2
    w_output: float = 2.0
    half_life: float = 60.0
    asked = "pick"
    reads = ("id", "tenant", "prompt_tokens", "release", "running")
    _shown: Shown = field(default_factory=lambda: Shown("tenant", "prompt_tokens", "release"), init=False, repr=False)
    _service: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _inside: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # requests queued and running
    _idle_since: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _tokens: dict[int, float] = field(default_factory=dict, init=False, repr=False)  # of the answers under way

    def __post_init__(self) -> None:
        if not (self.w_service >= 0 and self.w_wait >= 0 and self.w_output >= 0 and self.half_life > 0):
            raise InputError("weights must be at least 0 and half_life above 0 seconds")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self._shown.note(jobs)
        service, _ = self._with_fresh()
        programs, index = np.unique(jobs.tenant, return_inverse=True)
        attained = np.array([service.get(each, 0.0) for each in programs.astype(np.int64).tolist()], np.float64)
        head = np.full(len(programs), now)
        np.minimum.at(head, index, np.where(jobs.running > 0, now, jobs.release))
        score = self.w_service * (1.0 - _spread(attained)) + self.w_wait * _spread(now - head)
        return np.asarray(-score[index])

    def _with_fresh(self) -> tuple[dict[int, float], dict[int, int]]:
        """Service and requests inside, with those that were shown since the last hook: a program that was idle has decayed."""
        if not self._shown.fresh:
            return self._service, self._inside
        service, inside = dict(self._service), dict(self._inside)
        for job in sorted(self._shown.fresh):
            program = int(self._shown.of("tenant", job))
            if not inside.get(program, 0):
                idle = max(0.0, self._shown.of("release", job) - self._idle_since.get(program, 0.0))
                service[program] = service.get(program, 0.0) * 0.5 ** (idle / self.half_life)
            inside[program] = inside.get(program, 0) + 1
        return service, inside

    def _settle(self) -> None:
        self._service, self._inside = self._with_fresh()
        self._shown.fresh.clear()

    def on_start(self, job: int, host: int, now: float) -> None:
        self._settle()

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        self._settle()
        for job, delta in zip(jobs.tolist(), deltas.tolist(), strict=True):
            self._tokens[job] = self._tokens.get(job, 0.0) + delta

    def on_finish(self, job: int, host: int, now: float) -> None:
        self._settle()
        tokens = self._tokens.pop(job, 0.0)
        if job in self._shown:
            program = int(self._shown.of("tenant", job))
            cost = self._shown.of("prompt_tokens", job) + self.w_output * tokens
            self._service[program] = self._service.get(program, 0.0) + cost
            self._inside[program] = max(0, self._inside.get(program, 0) - 1)
            self._idle_since[program] = now


def _spread(values: FloatColumn) -> FloatColumn:
    """From 0 at the least to 1 at the greatest; 0 where all are alike."""
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low) if high > low else np.zeros(len(values)))
