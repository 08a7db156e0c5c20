"""Places that look at the job's size, or at what they believe of the servers.

Size-interval assignment: Harchol-Balter, Crovella and Murta, On choosing a task assignment policy for a distributed server system, 1999. Join the idle queue:
Lu, Xie, Kliot, Geller, Larus and Greenberg, 2011.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.streams import uniform
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.queues.distributions import Distribution, parse_distribution


@dataclass
class SizeInterval(Place):
    """Each server takes the sizes of an interval: short jobs never wait behind long ones.

    Attributes:
        cutoffs: Sizes at which the next server begins; empty: computed from `law` so that all servers get equal work (SITA-E).
        law: The distribution of sizes, as a scenario writes it.
        by: The job column that is looked at: `size`, or `predicted_size`.
    """

    cutoffs: tuple[float, ...] = ()
    law: Any = "exponential"
    by: Literal["size", "predicted_size"] = "size"
    reads = ("id",)
    _edges: FloatColumn | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.reads_job = (self.by,)  # type: ignore[misc]
        if any(b <= a for a, b in zip(self.cutoffs, self.cutoffs[1:], strict=False)):
            raise InputError(f"cutoffs must increase, found {list(self.cutoffs)}")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        if self._edges is None or len(self._edges) != len(hosts) - 1:
            given = np.array(self.cutoffs, np.float64)
            self._edges = (
                given if len(given) else equal_work(parse_distribution(self.law, None, "sita: law"), len(hosts))
            )
            if len(self._edges) != len(hosts) - 1:
                raise InputError(f"sita: {len(hosts)} servers need {len(hosts) - 1} cutoffs, found {len(given)}")
        mine = np.searchsorted(self._edges, getattr(jobs, self.by), side="left")
        costs = np.where(np.arange(len(hosts)) == mine[:, None], 0.0, np.inf)
        return costs[0] if len(jobs) == 1 else costs


def equal_work(law: Distribution, servers: int) -> FloatColumn:
    """Sizes that cut a law into parts of equal work."""
    edges = []
    for part in range(1, servers):
        low, high = 0.0, 1.0
        for _ in range(60):  # by bisection over quantiles: the partial mean grows with them
            middle = 0.5 * (low + high)
            x = float(law.quantile(np.array([middle]))[0])
            low, high = (middle, high) if law.partial(1, x) < law.mean * part / servers else (low, middle)
        edges.append(float(law.quantile(np.array([0.5 * (low + high)]))[0]))
    return np.array(edges)


@dataclass
class JoinIdle(Place):
    """An idle server where there is one, otherwise any: a server says when it is idle, so that no job waits for an answer."""

    reads = ("id", "outstanding")
    reads_job = ("id",)
    _seed: int = field(default=0, init=False, repr=False)

    def bind(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(2**63))

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        lots = uniform(self._seed, "idle", jobs.id[:, None], hosts.id)
        costs = np.where(hosts.outstanding == 0, 0.0, 1.0) + lots
        return np.asarray(costs[0] if len(jobs) == 1 else costs)
