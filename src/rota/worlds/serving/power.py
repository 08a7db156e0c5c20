"""Which replicas are on, since when, and so how many GPU seconds a run has used. An autoscaler switches them on and off."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rota.kernel.errors import PolicyError
from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet


class Power:
    """The switches of a fleet.

    A replica is off, starting, on, or draining: it takes no requests any more, and is off when it has none. The last one that can serve
    some request stays on, whatever its role, its model or its memory: none waits for a replica that nobody switches on.
    """

    def __init__(self, fleet: "Fleet") -> None:
        self.fleet, self.run = fleet, fleet.run
        self.policy = self.run.roles.scale
        hosts = len(self.run.replicas)
        self.begin = self.run.begins if len(self.run.workload) else 0.0
        self.since: dict[int, float] = dict.fromkeys(range(hosts), self.begin)  # of those that are paid for
        self.used: list[tuple[int, float, float]] = []  # (replica, from, to) of those that went off
        self.starting: set[int] = set()
        self.draining: dict[int, float] = {}  # since when
        if self.policy is not None:
            scaling = fleet.plan.scaling
            self._able = doors.able(self.run)
            first = scaling.least if scaling.first is None else scaling.first
            for host in self._first_off(first):
                del self.since[host]
                self.run.hosts[host, at.SHUT] = 1
            fleet.later(self.begin + self.policy.every, self._ask, outage=True)

    def _first_off(self, count: int) -> list[int]:
        """All but the first `count`; those without which nothing goes come before the others."""
        needed: list[int] = []
        for able in self._able:
            if not able[needed].any():
                needed.append(int(np.argmax(able)))
        order = list(dict.fromkeys([*needed, *range(len(self.run.replicas))]))
        return sorted(order[max(count, len(needed)) :])

    def _may_go(self) -> set[int]:
        """Replicas that are not draining and without which others still take and decode every request."""
        on = sorted(set(self.since) - set(self.draining))
        alone = self._able[:, on].sum(axis=1) == 1  # requests, of which one kind each, that only one of these can serve
        return {host for host in on if not self._able[alone, host].any()}

    def seconds(self, end: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Seconds that each replica was paid for, from the first arrival to `end`."""
        found = np.zeros(len(self.run.replicas))
        for host, since, until in [*self.used, *((host, since, end) for host, since in self.since.items())]:
            found[host] += max(0.0, min(until, end) - since)
        return found

    def repaired(self, host: int, now: float) -> None:
        """A replica is up again after an outage: it takes requests if it is on."""
        self.run.hosts[host, at.DOWN] = 0
        if host in self.since and host not in self.starting and host not in self.draining:
            self.fleet.open(host, now)

    def _ask(self, now: float) -> None:
        policy, scaling = self.policy, self.fleet.plan.scaling
        if policy is None:
            return
        self.fleet.later(now + policy.every, self._ask, outage=True)
        self._put_off(now)
        answer = float(policy.wanted(self.run.views.table(policy.reads), now))
        if np.isnan(answer):
            raise PolicyError(f"{type(policy).__name__}: wanted at {now:g} s is NaN; answer with a number of replicas")
        wanted = int(min(max(np.ceil(answer), scaling.least), scaling.most, len(self.run.replicas)))
        while len(self.since) - len(self.draining) < wanted:
            self._switch_on(now)
        while len(self.since) - len(self.draining) > wanted and self._may_go():
            self._drain(now)
        self._put_off(now)

    def _switch_on(self, now: float) -> None:
        if self.draining:  # one that is warm
            host = max(self.draining, key=lambda each: (self.draining[each], -each))
            del self.draining[host]
            if not self.run.hosts[host, at.DOWN]:
                self.fleet.open(host, now)
            return
        host = min(set(range(len(self.run.replicas))) - set(self.since))
        self.since[host] = now
        self.starting.add(host)
        self.fleet.later(now + self.fleet.plan.scaling.start_seconds, partial(self._started, host), outage=True)

    def _started(self, host: int, now: float) -> None:
        if host in self.starting:
            self.starting.discard(host)
            if not self.run.hosts[host, at.DOWN]:
                self.fleet.open(host, now)

    def _drain(self, now: float) -> None:
        """The one with the least to do goes; one that has not started yet before all others."""
        hosts = self.run.hosts
        busy = hosts[:, [at.QUEUED_COUNT, at.INBOX_COUNT, at.RUNNING_COUNT]].sum(axis=1)
        host = min(self._may_go(), key=lambda each: (each not in self.starting, busy[each], -each))
        self.starting.discard(host)
        self.run.hosts[host, at.SHUT] = 1
        self.draining[host] = now
        if self.fleet.live is not None:
            self.fleet.live.shut(host, now)

    def _put_off(self, now: float) -> None:
        """Those that drained and have nothing left; they were paid for until their last iteration."""
        hosts, clocks = self.run.hosts, self.run.clocks
        for host in list(self.draining):
            if (
                not hosts[host, [at.QUEUED_COUNT, at.INBOX_COUNT, at.RUNNING_COUNT, at.BUSY]].any()
                and not (self.run.jobs[at.SOURCE] == host + 1).any()
            ):
                end = min(now, max(self.draining.pop(host), float(clocks[host, at.TOUCHED])))
                self.used.append((host, self.since.pop(host), end))
