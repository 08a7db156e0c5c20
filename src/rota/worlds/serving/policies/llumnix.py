"""Llumnix: requests go to the freest replica, and running ones move from the least free to the freest.

Sun et al., Llumnix: Dynamic Scheduling for Large Language Model Serving, OSDI 2024 (arXiv 2406.03243), section 4.4 and algorithm 1. Freeness of a replica is
its KV blocks less the virtual usage of its requests, for each request of its batch: how many steps it could still go on. Virtual usage: of a running request
the blocks that it holds, and of an urgent one its share of a headroom besides; of the first of the line the blocks that it asks for (the others of the line
count nothing); of a replica that is to be switched off it is infinite. So one rule balances loads, makes room for who waits, keeps others away from urgent
requests, and drains. Every moment the replicas below a threshold of freeness are paired with those above another one, the least free with the freest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.serving.fleet import Migrate

READS: tuple[str, ...] = ("free_blocks", "head_blocks", "running", "up")
HEADROOM_READS: tuple[str, ...] = ("urgent_running", "block_tokens")  # besides, where there is a headroom


def freeness(hosts: Hosts, headroom: float = 0.0) -> FloatColumn:
    """Blocks that are left for each request of the batch.

    Negative where more is wanted than there is room for, minus infinity where the replica takes no requests any more. The shares of all urgent requests
    together are the headroom, however many they are.

    Args:
        headroom: Tokens that a replica with urgent requests keeps free.
    """
    left = np.asarray(hosts.free_blocks - hosts.head_blocks, np.float64)
    if headroom:
        left -= np.where(hosts.urgent_running > 0, headroom / np.maximum(hosts.block_tokens, 1), 0.0)
    return np.where(hosts.up > 0, left / np.maximum(hosts.running, 1), -np.inf)


def reads_with(headroom: float, who: str, reads: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that freeness is made of with this headroom. Raises InputError where it is none."""
    if not 0 <= headroom < np.inf:
        raise InputError(f"{who}: headroom must be 0 or more tokens, found {headroom:g}")
    return (*reads, *HEADROOM_READS) if headroom else reads


@dataclass
class Freest(Place):
    """Dispatch to the freest replica.

    Attributes:
        headroom: KV tokens that a replica with urgent requests keeps free of others: its capacity less the load at which it decodes as fast as when it is
            nearly empty. Llumnix's experiment has 1,600 tokens of load (recalled) where 13,616 fit. 0: urgent requests are like the others.
    """

    headroom: float = 0.0

    reads = READS

    def __post_init__(self) -> None:
        self.reads = reads_with(self.headroom, "freest", READS)

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return -freeness(hosts, self.headroom)


@dataclass
class PairsByFreeness(Migrate):
    """Migrate from the least free to the freest.

    Attributes:
        below: A replica whose freeness is less gives, also one that is to be switched off.
        above: A replica whose freeness is more takes.
        every: Seconds between two rounds.
        stop: Seconds that a migrated request stands still besides the time of its last copy.
        last_blocks: KV blocks that may be left for the last copy; Llumnix's `MIGRATION_LAST_STAGE_MAX_BLOCKS`.
        stages: Copies at most; Llumnix's `MIGRATION_MAX_STAGES`.
        headroom: KV tokens that a replica with urgent requests keeps free, as for `freest`.
    """

    below: float = 30.0
    above: float = 60.0
    every: float = 0.2
    stop: float = 0.02
    last_blocks: int = 16
    stages: int = 3
    headroom: float = 0.0

    reads = READS

    def __post_init__(self) -> None:
        if not (self.below <= self.above and self.every > 0 and 0 <= self.stop < 1e9):
            raise InputError(
                f"llumnix: needs below <= above, every > 0 and stop from 0 to 1e9; found {self.below:g}, {self.above:g}, {self.every:g}, {self.stop:g}"
            )
        if self.last_blocks < 1 or self.stages < 1:
            raise InputError(
                f"llumnix: last_blocks and stages must be 1 or more, found {self.last_blocks} and {self.stages}"
            )
        self.reads = reads_with(self.headroom, "llumnix", READS)

    def pairs(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int]]:
        free = freeness(hosts, self.headroom)
        order = np.argsort(free, kind="stable")
        givers = [int(r) for r in order if hosts.running[r] > 0 and free[r] < self.below]
        takers = [int(r) for r in order[::-1] if free[r] > self.above]
        return list(zip(givers, takers, strict=False))
