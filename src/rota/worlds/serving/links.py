"""The network between hosts: what moves shares the links fairly, and arrives a latency later.

A transfer goes at the bandwidth over the larger number of transfers that leave its source or enter its destination; when one begins or ends, the
others change pace. That is max-min fair where no host both shares its exit and waits for a full entry, and slightly pessimistic elsewhere.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Link:
    """Between any two hosts.

    Args:
        bandwidth: Bytes a second of a host, out and in.
        latency: Seconds that a transfer takes besides.
        overlap: Share of a prompt's KV that was sent layer by layer while the prompt was computed, 0 to below 1.
    """

    bandwidth: float = 25e9
    latency: float = 1e-4
    overlap: float = 0.0


@dataclass
class _Transfer:
    job: int
    source: int
    target: int
    left: float  # bytes


@dataclass
class Transfers:
    """Transfers under way. Time only moves forward."""

    link: Link
    hosts: int
    now: float = 0.0
    active: list[_Transfer] = field(default_factory=list)

    def begin(self, job: int, source: int, target: int, size: float, now: float) -> None:
        """`size` bytes begin to move."""
        self._pass(now)
        self.active.append(_Transfer(job, source, target, size))

    def cancel(self, job: int, now: float) -> None:
        """A transfer ends before its time, if there is one."""
        self._pass(now)
        self.active = [each for each in self.active if each.job != job]

    def next(self) -> float:
        """When the next transfer is through, if nothing begins before; inf: none is under way."""
        return min(
            (self.now + each.left / rate for each, rate in zip(self.active, self._rates(), strict=True)), default=np.inf
        )

    def through(self, now: float) -> list[int]:
        """Jobs whose transfer is through at `now`, which `next` has named, in the order in which they began."""
        rates = self._rates()
        done = [each for each, rate in zip(self.active, rates, strict=True) if self.now + each.left / rate <= now]
        self._pass(now)
        self.active = [each for each in self.active if each not in done]
        return [each.job for each in done]

    def _rates(self) -> list[float]:
        out, into = np.zeros(self.hosts, np.int64), np.zeros(self.hosts, np.int64)
        for each in self.active:
            out[each.source] += 1
            into[each.target] += 1
        return [self.link.bandwidth / max(out[each.source], into[each.target]) for each in self.active]

    def _pass(self, now: float) -> None:
        for each, rate in zip(self.active, self._rates(), strict=True):
            each.left = max(0.0, each.left - rate * (now - self.now))
        self.now = now
