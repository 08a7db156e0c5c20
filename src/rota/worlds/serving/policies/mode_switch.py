"""Cheap accelerators while they have room, all of them when they do not.

After Biran and Kissos, Adaptive Orchestration for Large-Scale Inference on Heterogeneous Accelerator Systems, 2025 (arXiv 2503.20074): a control loop that
shifts between a cost-optimised and a capacity-optimised mode on signals of cost and capacity. From the abstract; the rest is ours: in cost mode only the
replicas of least price for their speed, of those that are up, take requests; they are out of room when the one with the least to do has more than `limit`
of its slots taken. In capacity mode a request goes to the replica of any kind with the least outstanding for its speed. The mode follows the load at once,
without hysteresis.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs


@dataclass
class ModeSwitch(Place):
    """Cost first, capacity when needed.

    Attributes:
        limit: Outstanding requests over slots at which the cheap kind is out of room.
    """

    limit: float = 0.8

    reads = ("outstanding", "max_running", "price", "speed", "up")

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise InputError(f"limit must be above 0, found {self.limit:g}")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        pace = np.where(hosts.speed > 0, hosts.speed, 1.0)
        by_work = np.where(hosts.up > 0, hosts.price / pace, np.inf)
        cheap = (hosts.up > 0) & (by_work <= by_work.min(initial=np.inf) * (1 + 1e-9))
        load = hosts.outstanding / np.maximum(hosts.max_running, 1)
        if cheap.any() and load[cheap].min() <= self.limit:
            return np.where(cheap, load, np.inf)
        return np.asarray(hosts.outstanding / pace)
