"""Continuum: the KV of a call that calls a tool is kept for a time that the tool's own history makes worth while.

Li et al., Continuum: Efficient and Robust Multi-Turn LLM Agent Scheduling with KV Cache Time-to-Live (arXiv 2511.02230), with `program_fcfs` as
its order. After a call to tool f the KV is kept for the tau, among the durations seen, that makes P_f(duration <= tau) (eta D + reload) - tau largest: D
is the mean wait of a call in the line, reload the time to have its KV back. Of a tool with at most `samples` durations those of all tools are
taken; before there is any, `cold_start` seconds. The paper sets eta to minus the correlation of a call's number with the calls that follow; here it is a
parameter. What the engine does when memory is short is ours: see `retain`.
"""

from bisect import insort
from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs
from rota.worlds.serving.retain import NO_TOOL, Retain


@dataclass
class Continuum(Retain):
    """Time to live from the history of tools.

    Attributes:
        eta: What a wait in the line weighs: 1 where every call brings a program nearer to its end.
        cold_start: Seconds, before any tool has returned.
        samples: Durations of a tool above which its own history is used alone.
    """

    eta: float = 1.0
    cold_start: float = 2.0
    samples: int = 100
    reads = ("id", "tool", "reload_seconds")
    _history: dict[int, list[float]] = field(default_factory=dict, init=False, repr=False)
    _all: list[float] = field(default_factory=list, init=False, repr=False)  # both sorted
    _called: dict[int, tuple[int, float]] = field(default_factory=dict, init=False, repr=False)  # job -> tool, when
    _arrived: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _waits: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False, repr=False)  # how many, their sum

    def __post_init__(self) -> None:
        if not (self.eta >= 0 and self.cold_start >= 0 and self.samples >= 0):
            raise InputError(
                f"continuum: eta, cold_start and samples must be at least 0; found {self.eta:g}, {self.cold_start:g} and {self.samples}"
            )

    def seconds(self, jobs: Jobs, now: float) -> FloatColumn:
        rows = zip(jobs.id.tolist(), jobs.tool.tolist(), jobs.reload_seconds.tolist(), strict=True)
        return np.array([self._worth_while(int(job), int(tool), reload, now) for job, tool, reload in rows], np.float64)

    def _worth_while(self, job: int, tool: int, reload: float, now: float) -> float:
        if tool == NO_TOOL:
            return 0.0
        self._called[job] = (tool, now)
        known = self._history.get(tool, [])
        if len(known) <= self.samples:
            known = self._all
        if not known:
            return self.cold_start
        count, total = self._waits
        gain = self.eta * (total / count if count else 0.0) + reload
        tau = np.array(known)
        worth = np.arange(1, len(tau) + 1) / len(tau) * gain - tau
        best = int(np.argmax(worth))
        return float(tau[best]) if worth[best] > 0 else 0.0

    def on_tool_return(self, job: int, now: float) -> None:
        called = self._called.pop(job, None)
        if called is not None:
            insort(self._history.setdefault(called[0], []), now - called[1])
            insort(self._all, now - called[1])

    def on_arrival(self, job: int, now: float) -> None:
        self._arrived[job] = now

    def on_start(self, job: int, host: int, now: float) -> None:
        arrived = self._arrived.pop(job, None)  # a call that was displaced has waited already
        if arrived is not None:
            self._waits[0] += 1
            self._waits[1] += now - arrived


@dataclass
class FixedTime(Retain):
    """Every ended call that calls a tool is kept equally long: Continuum's preview. Without programs, every request is.

    Attributes:
        ttl: Seconds.
        always: Also where no tool is called.
    """

    ttl: float = 2.0
    always: bool = False
    reads = ("tool",)

    def __post_init__(self) -> None:
        if not self.ttl >= 0:
            raise InputError(f"fixed_ttl: ttl must be at least 0 seconds, found {self.ttl:g}")

    def seconds(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.where((jobs.tool != NO_TOOL) | self.always, self.ttl, 0.0)
