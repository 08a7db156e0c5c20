"""Sampling: the job goes to a random host, or to the best of a few random ones.

Two choices instead of one shrink the longest queue exponentially: Mitzenmacher, The power of two choices in randomized
load balancing, IEEE TPDS 2001. Draws are keyed by job and host, not consumed, so the order of the questions changes
nobody's luck and a job that is placed twice sees the same hosts.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.streams import uniform
from rota.kernel.tables import Hosts, IntColumn, Jobs


@dataclass
class RandomPlace(Place):
    """Any host, all equally likely."""

    source = "Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 2001"

    reads = ("id",)
    reads_job = ("id",)
    _seed: int = field(default=0, init=False, repr=False)

    def bind(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(2**63))

    def sample(self, jobs: Jobs, hosts: Hosts) -> IntColumn:
        return draw_hosts(self._seed, jobs, hosts, 1)


@dataclass
class PowerOfTwo(Place):
    """The fewest jobs queued and running among `d` hosts drawn without replacement.

    Attributes:
        d: Hosts that are looked at; all of them where there are no more.
    """

    source = "Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 2001"

    d: int = 2
    reads = ("id", "outstanding")
    reads_job = ("id",)
    cost_column = "outstanding"
    _seed: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.d < 1:
            raise InputError(f"d must be at least 1 host, found {self.d}")

    def bind(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(2**63))

    def sample(self, jobs: Jobs, hosts: Hosts) -> IntColumn | None:
        return None if self.d >= len(hosts) else draw_hosts(self._seed, jobs, hosts, self.d)


def draw_hosts(seed: int, jobs: Jobs, hosts: Hosts, d: int) -> IntColumn:
    """The `d` hosts with the smallest keyed draws of each job, whatever the order of the rows."""
    draws = uniform(seed, "place", jobs.id[:, None], hosts.id)
    return np.asarray(hosts.id[np.argsort(draws, axis=1, kind="stable")[:, :d]])
