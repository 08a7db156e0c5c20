"""Policies are told what has happened: their hooks are called with the events that the kernel has written down."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import hooks
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

_HOOK_NAMES = ("on_arrival", "on_start", "on_preempt", "on_finish", "on_leave")


class Telling:
    """Who is told what, in one run.

    Attributes:
        hooked: The policies that have a hook, by its name.
        progress: Those that want to know of every token.
    """

    def __init__(self, run: "Simulation") -> None:
        self.run = run
        policies = list(run.roles.policies())
        self.hooked = {name: [policy for policy in policies if name in hooks(policy)] for name in _HOOK_NAMES}
        self.progress = [policy for policy in policies if "on_progress" in hooks(policy)]
        self._told = np.zeros(len(run.workload))  # tokens of each answer that was told of
        run.state[at.HOOKS] = any(self.hooked.values()) or bool(self.progress)

    def deliver(self) -> None:
        """Tell of what has happened since this was done last."""
        run = self.run
        for kind, job, host, now in run.events[: run.state[at.EVENT_COUNT]].tolist():
            name = _HOOK_NAMES[int(kind)]
            if name == "on_finish" and self.progress:
                whole = np.array([float(run.workload.output_tokens[int(job)])])
                self._tell(np.array([int(job)]), whole, now)
            for policy in self.hooked[name]:
                if name == "on_arrival":
                    policy.on_arrival(int(job), now)
                elif name == "on_leave":
                    policy.on_leave(int(job), self._why_left(int(job)), now)
                else:
                    getattr(policy, name)(int(job), int(host), now)
        run.state[at.EVENT_COUNT] = 0

    def _why_left(self, job: int) -> str:
        return {at.SHED: "shed", at.RECALLED: "recalled"}.get(int(self.run.jobs[at.STATE, job]), "rejected")

    def tell_progress(self) -> None:
        """Tell of the tokens that running requests got since the last question."""
        from rota.worlds.serving.kernels.gather import GENERATED_TOKENS, gather

        run = self.run
        rows = run.arrays[at.A_RUNNING]
        lists = [rows[r, :count] for r, count in enumerate(run.hosts[:, at.RUNNING_COUNT].tolist()) if count]
        if not lists:
            return
        running = np.sort(np.concatenate(lists))  # the order of their numbers, whatever the replicas
        asked, out = run.rows[: len(running)].copy(), np.zeros((1, len(running)))
        run.rows[: len(running)] = running
        gather(run.state, np.array([GENERATED_TOKENS]), run.views.fixed, len(running), out)
        run.rows[: len(running)] = asked
        self._tell(running, out[0], float(run.clock[0]))

    def _tell(self, rows: IntColumn, tokens: FloatColumn, now: float) -> None:
        deltas = tokens - self._told[rows]
        more = deltas > 0
        if more.any():
            self._told[rows[more]] = tokens[more]
            for policy in self.progress:
                policy.on_progress(rows[more], deltas[more], now)
