"""Llumnix: requests go to the freest replica, and running ones move from the least free to the freest.

Sun et al., Llumnix: Dynamic Scheduling for Large Language Model Serving, OSDI 2024 (arXiv 2406.03243). Freeness of a replica: blocks that are left, what
waits taken off, for each request of its batch, so how many steps it could still go on. Every moment the replicas below a threshold of freeness are paired
with those above another one, the least free with the freest. Virtual usage for priorities is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.serving.fleet import Migrate


def freeness(hosts: Hosts) -> FloatColumn:
    """KV blocks that are left for each request of the batch; negative where more waits than there is room for."""
    wanted = np.ceil(hosts.waiting_tokens / np.maximum(hosts.block_tokens, 1))
    return np.asarray((hosts.free_blocks - wanted) / np.maximum(hosts.running, 1), np.float64)


READS = ("free_blocks", "waiting_tokens", "block_tokens", "running")


class Freest(Place):
    """Dispatch to the freest replica."""

    reads = READS

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return -freeness(hosts)


@dataclass
class PairsByFreeness(Migrate):
    """Migrate from the least free to the freest.

    Attributes:
        below: A replica whose freeness is less gives.
        above: A replica whose freeness is more takes.
        every: Seconds between two rounds.
        stop: Seconds that a migrated request stands still besides the time of its last copy.
        last_blocks: KV blocks that may be left for the last copy; Llumnix's `MIGRATION_LAST_STAGE_MAX_BLOCKS`.
        stages: Copies at most; Llumnix's `MIGRATION_MAX_STAGES`.
    """

    below: float = 30.0
    above: float = 60.0
    every: float = 0.2
    stop: float = 0.02
    last_blocks: int = 16
    stages: int = 3

    reads = (*READS, "up", "id")

    def __post_init__(self) -> None:
        if not (self.below <= self.above and self.every > 0 and self.stop >= 0):
            raise InputError(
                f"llumnix: needs below <= above, every > 0 and stop >= 0; found {self.below:g}, {self.above:g}, {self.every:g}, {self.stop:g}"
            )
        if self.last_blocks < 1 or self.stages < 1:
            raise InputError(
                f"llumnix: last_blocks and stages must be 1 or more, found {self.last_blocks} and {self.stages}"
            )

    def pairs(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int]]:
        free = freeness(hosts)
        order = np.argsort(free, kind="stable")
        up = hosts.up > 0
        givers = [int(r) for r in order if up[r] and free[r] < self.below]
        takers = [int(r) for r in order[::-1] if up[r] and free[r] > self.above]
        return list(zip(givers, takers, strict=False))
