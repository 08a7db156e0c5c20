"""Session-sticky routing: a consistent hash ring; all requests of a session go to the same replica while it is there.

Karger et al., Consistent hashing and random trees, STOC 1997; the session mode of vLLM's production-stack router, which sends what has no session to the
replica with the fewest queries a second; here to the one with the fewest outstanding requests. When a replica is away, its sessions go to the next on the ring
and the others stay.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs


def _point(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


@dataclass
class SessionHash(Place):
    """By session, or by tenant.

    Attributes:
        by: ``session`` or ``tenant``.
        points: Points of a replica on the ring.
    """

    by: str = "session"
    points: int = 100

    reads = ("id", "outstanding")
    _rings: dict[tuple[int, ...], tuple[list[int], list[int]]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.by not in ("session", "tenant"):
            raise InputError(f"session_hash: by must be session or tenant, found '{self.by}'")
        if self.points < 1:
            raise InputError(f"session_hash: points must be at least 1, found {self.points}")
        self.reads_job = (self.by,)  # type: ignore[misc]

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        owner = int(getattr(jobs, self.by)[0])
        if owner < 0:
            return hosts.outstanding.astype(np.float64)
        return self._turns(owner, hosts.id.astype(np.int64).tolist())

    def _turns(self, owner: int, ids: list[int]) -> FloatColumn:
        """In which turn the ring meets each host, from the owner's place on."""
        key = tuple(sorted(ids))
        if key not in self._rings:  # always the same for the same hosts: a memory, not a state
            self._rings[key] = _ring(list(key), self.points)
        places, hosts = self._rings[key]
        start = bisect_left(places, _point(f"owner {owner}"))
        order = dict.fromkeys(hosts[start:] + hosts[:start])
        turn = {host: float(number) for number, host in enumerate(order)}
        return np.array([turn[host] for host in ids], np.float64)


def _ring(ids: list[int], points: int) -> tuple[list[int], list[int]]:
    """Places on the ring in their order, and whose they are."""
    ring = sorted((_point(f"host {host} {point}"), host) for host in ids for point in range(points))
    return [place for place, _ in ring], [host for _, host in ring]
