"""The network between hosts: what moves shares the links fairly, and arrives a latency later.

A transfer goes at the bandwidth over the larger number of transfers that leave its source or enter its destination; when one begins or ends, the
others change pace. That is max-min fair where no host both shares its exit and waits for a full entry, and slightly pessimistic elsewhere.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Link:
    """Between any two hosts.

    Args:
        bandwidth: Bytes a second of a host, out and in.
        latency: Seconds that a transfer takes besides.
        overlap: Share of a prompt's KV that was sent layer by layer while the prompt was computed, 0 to below 1.
        shared: Transfers of a host divide its bandwidth; otherwise each has all of it.
        push: KV leaves when its prompt is done and there is room for it; otherwise decoders fetch it when they put an iteration together.
    """

    bandwidth: float = 25e9
    latency: float = 1e-4
    overlap: float = 0.0
    shared: bool = True
    push: bool = False


@dataclass(slots=True)
class _Transfer:
    job: int
    source: int
    target: int
    left: float  # bytes
    rate: float = 0.0  # bytes a second, until another transfer begins or ends


class Transfers:
    """Transfers under way. Time only moves forward."""

    def __init__(self, link: Link, hosts: int) -> None:
        self.link = link
        self.active: list[_Transfer] = []
        self._now, self._next = 0.0, inf
        self._out, self._into = [0] * hosts, [0] * hosts

    def begin(self, job: int, source: int, target: int, size: float, now: float) -> None:
        """`size` bytes begin to move."""
        self._pass(now)
        self.active.append(_Transfer(job, source, target, size))
        self._out[source] += 1
        self._into[target] += 1
        self._pace()

    def cancel(self, job: int, now: float) -> None:
        """A transfer ends before its time, if there is one."""
        ended = [each for each in self.active if each.job == job]
        if ended:
            self._pass(now)
            self._end(ended)

    def next(self) -> float:
        """When the next transfer is through, if nothing begins before; inf: none is under way."""
        return self._next

    def through(self, now: float) -> list[int]:
        """Jobs whose transfer is through at `now`, which `next` has named, in the order in which they began."""
        done = [each for each in self.active if self._now + each.left / each.rate <= now]
        self._pass(now)
        self._end(done)
        return [each.job for each in done]

    def _end(self, ended: list[_Transfer]) -> None:
        for each in ended:
            self.active.remove(each)
            self._out[each.source] -= 1
            self._into[each.target] -= 1
        self._pace()

    def _pace(self) -> None:
        self._next = inf
        for each in self.active:
            crowd = max(self._out[each.source], self._into[each.target]) if self.link.shared else 1
            each.rate = self.link.bandwidth / crowd
            self._next = min(self._next, self._now + each.left / each.rate)

    def _pass(self, now: float) -> None:
        for each in self.active:
            each.left = max(0.0, each.left - each.rate * (now - self._now))
        self._now = now
