"""A session stays where it is: every host has a lasting rank for each session, and the best one that is not over its share of the load wins.

Ranks by rendezvous hashing (Thaler and Ravishankar, Using name-based mappings to increase hit rates, IEEE/ACM Transactions on Networking 6(1), 1998): when a
host goes, only its own sessions move. Shares as in Mirrokni, Thorup and Zadimoghaddam, Consistent hashing with bounded loads, SODA 2018: no host takes
more than `bound` times the mean load; what is over goes to the next in rank. Requests without a session go to the host with the least outstanding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs


@dataclass
class SessionHash(Place):
    """Affinity within bounds.

    Attributes:
        bound: Most outstanding requests of a host over the mean, the new request counted in; inf: a session stays whatever the load.
        by: What stays together: ``session`` or ``tenant``.
    """

    bound: float = 1.25
    by: str = "session"

    reads = ("id", "outstanding")

    def __post_init__(self) -> None:
        if not self.bound > 1:
            raise InputError(f"session_hash: bound must be a number above 1, found {self.bound:g}")
        if self.by not in ("session", "tenant"):
            raise InputError(f"session_hash: by must be session or tenant, found '{self.by}'")
        self.reads_job = (self.by,)  # type: ignore[misc]

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        load = hosts.outstanding.astype(np.float64)
        session = int(getattr(jobs, self.by)[0])
        if session < 0:
            return load
        share = np.ceil(self.bound * (load.sum() + 1.0) / max(len(load), 1))
        return ranks(session, hosts.id) + np.where(load + 1.0 > share, 1.0, 0.0)


def ranks(session: int, hosts: npt.NDArray[np.int64]) -> FloatColumn:
    """A number in [0, 1) for each host: fixed by session and host, and as good as random (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    mixed = hosts.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(session)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
