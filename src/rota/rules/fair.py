"""Fairness between tenants: whoever has been served the least, by weight, goes next.

Each tenant has a counter of the service that its jobs received. A tenant that comes back after having had nothing to do is lifted to the
least counter of those who wait, so that an idle time is no credit: the virtual time of start-time fair queueing (Goyal, Vin and Cheng,
SIGCOMM 1996), kept as counters as in Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, algorithm 2. A tenant counts as
back when its job is first in a question. The counters are of the whole fleet: service is service, wherever it was given.
"""

from dataclasses import dataclass, field
from math import isnan

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs
from rota.rules.shown import Shown


@dataclass
class TenantCounters(Order):
    """The tenant with the least counter, and of its jobs the first; what is charged for is a subclass's business.

    Attributes:
        weights_of: Weight by index of tenant; 1 where none is given.
    """

    weights_of: dict[int, float] = field(default_factory=dict)
    asked = "pick"
    _shown: Shown = field(default_factory=lambda: Shown("tenant"), init=False, repr=False)
    _service: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _waiting: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # jobs by tenant
    _queue: set[int] = field(default_factory=set, init=False, repr=False)  # the jobs that are counted in it
    _last: int = field(default=-1, init=False, repr=False)  # the tenant whose job left the line last

    def __post_init__(self) -> None:
        if any(not weight > 0 for weight in self.weights_of.values()):
            raise InputError("weights_of: weights must be positive, by index of tenant")

    def at_start(self, job: int) -> float:
        """Service that a job is charged when it begins for the first time."""
        return 0.0

    def per_unit(self) -> float:
        """Service that is charged for each unit of progress."""
        return 1.0

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self._shown.note(jobs)
        service, _ = self._with_fresh()
        tenants, index = np.unique(jobs.tenant, return_inverse=True)
        return np.array([service.get(tenant, 0.0) for tenant in tenants.astype(np.int64).tolist()], np.float64)[index]

    def _with_fresh(self) -> tuple[dict[int, float], dict[int, int]]:
        """Counters and waiting jobs with those counted in that were shown since the last hook."""
        if not self._shown.fresh:
            return self._service, self._waiting
        service, waiting = dict(self._service), dict(self._waiting)
        for job in sorted(self._shown.fresh):
            tenant = self._owner(job)
            if not waiting.get(tenant, 0):
                active = [service.get(other, 0.0) for other, count in waiting.items() if count]
                floor = min(active) if active else service.get(self._last, 0.0)
                service[tenant] = max(service.get(tenant, 0.0), floor)
            waiting[tenant] = waiting.get(tenant, 0) + 1
        return service, waiting

    def _owner(self, job: int) -> int:
        return int(self._shown.of("tenant", job))

    def _settle(self) -> None:
        self._service, self._waiting = self._with_fresh()
        self._queue.update(self._shown.fresh)
        self._shown.fresh.clear()

    def _charge(self, tenant: int, service: float) -> None:
        self._service[tenant] = self._service.get(tenant, 0.0) + service / self.weights_of.get(tenant, 1.0)

    def _leave_line(self, job: int) -> None:
        self._settle()
        if job in self._queue:
            self._queue.remove(job)
            self._last = self._owner(job)
            self._waiting[self._last] -= 1

    def on_start(self, job: int, host: int, now: float) -> None:
        first = self.at_start(job) if job in self._shown else 0.0
        self._leave_line(job)
        if first:
            self._charge(self._owner(job), first)

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        self._settle()
        given: dict[int, float] = {}
        for owner, delta in zip(self._shown.facts("tenant", jobs).tolist(), deltas.tolist(), strict=True):
            given[owner] = given.get(owner, 0.0) + delta
        for owner, service in given.items():
            if not isnan(owner):  # else a job that was never shown
                self._charge(int(owner), self.per_unit() * service)

    def on_preempt(self, job: int, host: int, now: float) -> None:
        self._settle()
        if job in self._shown and job not in self._queue:
            self._queue.add(job)
            self._waiting[self._owner(job)] = self._waiting.get(self._owner(job), 0) + 1

    def on_leave(self, job: int, reason: str, now: float) -> None:
        self._leave_line(job)


@dataclass
class LeastServedTenant(TenantCounters):
    """The tenant with the least service over weight first; service is counted as it is given, in the world's unit."""

    source = "Goyal, Vin and Cheng, SIGCOMM 1996; Sheng et al., Fairness in Serving Large Language Models, OSDI 2024"

    reads = ("id", "tenant")
