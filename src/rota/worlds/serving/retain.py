"""Ended requests whose KV is kept for a while, because another one of the same program is expected.

What is kept cannot be evicted until its time is over. It is given up earlier where a running request needs the memory, and where nothing runs and a
waiting one needs it: so nothing waits for ever for what is kept. The one that would end first is given up first.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Policy, hooks
from rota.kernel.errors import PolicyError
from rota.kernel.tables import FloatColumn, Jobs
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet

NO_TOOL = -1


class Retain(Policy):
    """For how long is the KV of an ended request kept?

    Asked with a table of one row when a request ends. `on_tool_return` says when what ran after it is over and the next call arrives.

    Attributes:
        yields: What is kept is also given up for requests that wait while others run.
    """

    yields: ClassVar[bool] = False

    def seconds(self, jobs: Jobs, now: float) -> FloatColumn:
        """Seconds, a value a row; 0: not at all."""
        raise NotImplementedError(f"{type(self).__name__} does not say how long")


class Retained:
    """What is kept in one run."""

    def __init__(self, fleet: "Fleet") -> None:
        self.fleet, self.run = fleet, fleet.run
        self.policy = self.run.roles.retain
        self.pins = 0
        self._kept: dict[int, int] = {}  # program or session -> the request whose KV is kept
        if self.policy is None:
            return
        from rota.worlds.serving.kernels.pins import unpin_one_entry  # compiled only where something is kept

        self.run.state[at.UNPIN_ENTRY] = unpin_one_entry.address
        self.run.state[at.PINS_YIELD] = self.policy.yields
        self._returns = "on_tool_return" in hooks(self.policy)
        self._owner, self._tool = self._owners(), self._tools()

    def _owners(self) -> npt.NDArray[np.int64]:
        work = self.run.workload
        return work.session if work.programs is None else work.programs.program

    def _tools(self) -> npt.NDArray[np.int64]:
        """The tool that runs after each request: that of the first call that waits for it."""
        work = self.run.workload
        found = np.full(len(work), NO_TOOL)
        if work.programs is not None:
            child = np.repeat(np.arange(len(work)), np.diff(work.programs.offsets))
            tool = np.zeros(len(work), np.int64) if work.programs.tool is None else work.programs.tool
            found[work.programs.parents[::-1]] = tool[child[::-1]]  # the first one is written last
        return found

    def ended(self, job: int, now: float) -> None:
        """A request has ended: what was kept for it is let go of, and its own KV is kept as long as the policy says."""
        run, policy = self.run, self.policy
        if policy is None or not run.replicas[int(run.jobs[at.HOST, job])].prefix_caching:
            return
        owner = int(self._owner[job])
        before = self._kept.pop(owner, None) if owner >= 0 else None
        answer = np.asarray(policy.seconds(self._table(job), now), np.float64)
        if answer.shape != (1,) or not answer[0] >= 0:
            raise PolicyError(
                f"{type(policy).__name__}: seconds at {now:g} s are {answer}, expected one number that is 0 or more"
            )
        if answer[0] > 0 and run.caches.pin(job, now + float(answer[0]), now):
            self.pins += 1
            self._kept[owner] = job
            if np.isfinite(answer[0]):
                self.fleet.later(now + float(answer[0]), partial(run.caches.unpin, job), outage=True)
        if before is not None:
            run.caches.unpin(before, now)

    def returned(self, job: int, now: float) -> None:
        """What ran after a request is over."""
        if self.policy is not None and self._returns:
            self.run.telling.deliver()
            self.policy.on_tool_return(job, now)

    def _table(self, job: int) -> Jobs:
        """What is known of a request when it has ended."""
        run, policy = self.run, self.policy
        assert policy is not None
        tokens = int(run.jobs[at.PROMPT, job] + run.jobs[at.OUTPUT, job] - 1)
        own: dict[str, Any] = {
            "id": job,
            "tool": self._tool[job],
            "context_tokens": tokens,
            "reload_seconds": self._reload(int(run.jobs[at.HOST, job]), tokens),
            "release": run.seconds[at.ARRIVAL, job],
        }
        return run.views.ended_table({name: own[name] for name in policy.reads if name in own}, policy.reads, job)

    def _reload(self, host: int, tokens: int) -> float:
        """Seconds to have tokens back: from the first tier below the cache, otherwise computed."""
        replica = self.run.replicas[host]
        if replica.tiers:
            tier = replica.tiers[0]
            return tier.latency + replica.kv_bytes * tier.compress * tokens / tier.bandwidth
        return replica.prefill_rate * tokens
