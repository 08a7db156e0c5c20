"""Deficit longest prefix match: the longest match goes first, but only of tenants that have not had more than their turn.

Cao et al., Locality-aware Fair Scheduling in LLM Serving (arXiv 2501.14312). Each tenant has a deficit counter. A request may be served while its
tenant's counter is above 0, among those the one with the longest match first; it is charged what it computes of its prompt when it begins, and each
token of its answer. When no waiting tenant's counter is above 0, each of them gets a quantum. Chosen here: a tenant that has nothing waiting gets
nothing, so that an idle time is no credit. Between two tenants that always have requests waiting service then differs by at most 2 (U + Q), U = w_p
L_input + w_q M (L_input the longest prompt, M the tokens that fit in a batch): a counter never exceeds Q, and falls at most U below 0, and both
get the same quanta. The paper proves the like.

D2LPM is the route for several replicas: a counter for each tenant and replica; to the longest match while that counter is above 0, otherwise to the least
loaded replica whose counter is; when none is, each gets a quantum. It is charged when a request begins, so that many that come at one moment go the same way.
"""

from dataclasses import dataclass, field
from math import floor, isnan

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, IntColumn, Jobs
from rota.rules.fair import TenantCounters
from rota.rules.shown import Shown


def rounds_until(deficit: float, quantum: float) -> int:
    """Quanta until a counter is above 0. Who needs the fewest is who may be served when each has got so many."""
    return 0 if deficit > 0 else floor(-deficit / quantum) + 1


@dataclass
class DeficitMatch(TenantCounters):
    """DLPM.

    Attributes:
        quantum: Weighted tokens that a tenant of weight 1 gets at a time.
        w_p: Price of a prompt token that must be computed.
        w_q: Price of a token of an answer.
    """

    quantum: float = 10_000.0
    w_p: float = 1.0
    w_q: float = 2.0
    reads = ("id", "tenant", "prompt_tokens", "cached_tokens")
    _shown: Shown = field(default_factory=lambda: Shown("tenant", "prompt_tokens"), init=False, repr=False)
    _match: dict[int, float] = field(default_factory=dict, init=False, repr=False)  # as it was last shown
    _charged: set[int] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.quantum > 0 and self.w_p >= 0 and self.w_q > 0):
            raise InputError(
                f"dlpm: needs quantum > 0, w_p >= 0, w_q > 0; found {self.quantum:g}, {self.w_p:g}, {self.w_q:g}"
            )

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self._shown.note(jobs)
        self._match.update(zip(jobs.id.astype(int).tolist(), jobs.cached_tokens.tolist(), strict=True))
        tenants, index = np.unique(jobs.tenant, return_inverse=True)
        deficit = [self._service.get(each, 0.0) for each in tenants.astype(int).tolist()]
        rounds = np.array([rounds_until(each, self.quantum) for each in deficit], np.float64)
        return np.column_stack([rounds[index], -jobs.cached_tokens])

    def _with_fresh(self) -> tuple[dict[int, float], dict[int, int]]:
        """Counters are what is left of the quanta here; a new tenant begins with nothing."""
        waiting = dict(self._waiting)
        for job in self._shown.fresh:
            waiting[self._owner(job)] = waiting.get(self._owner(job), 0) + 1
        return self._service, waiting

    def on_start(self, job: int, host: int, now: float) -> None:
        self._settle()
        if job in self._shown:
            owner = self._owner(job)
            rounds = rounds_until(self._service.get(owner, 0.0), self.quantum)
            for tenant, count in self._waiting.items() if rounds else ():
                if count:
                    self._service[tenant] = self._service.get(tenant, 0.0) + rounds * self.quantum
        super().on_start(job, host, now)

    def at_start(self, job: int) -> float:
        if job in self._charged:
            return 0.0
        self._charged.add(job)
        return self.w_p * (self._shown.of("prompt_tokens", job) - self._match.get(job, 0.0))

    def per_unit(self) -> float:
        return self.w_q

    def _charge(self, tenant: int, service: float) -> None:
        super()._charge(tenant, -service)


@dataclass
class DoubleDeficitMatch(Place):
    """D2LPM.

    Attributes:
        quantum: Weighted tokens that a tenant gets at a replica at a time.
        w_p: Price of a prompt token that must be computed.
        w_q: Price of a token of an answer.
    """

    quantum: float = 10_000.0
    w_p: float = 1.0
    w_q: float = 2.0

    reads = ("id", "cached_tokens", "outstanding")
    reads_job = ("id", "tenant", "prompt_tokens")
    _deficit: dict[tuple[int, int], float] = field(default_factory=dict, init=False, repr=False)
    _asked: dict[int, tuple[int, FloatColumn]] = field(default_factory=dict, init=False, repr=False)
    _home: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)  # job -> tenant, host

    def __post_init__(self) -> None:
        if not (self.quantum > 0 and self.w_p >= 0 and self.w_q > 0):
            raise InputError(
                f"d2lpm: needs quantum > 0, w_p >= 0, w_q > 0; found {self.quantum:g}, {self.w_p:g}, {self.w_q:g}"
            )

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        tenant, ids = int(jobs.tenant[0]), hosts.id.astype(int).tolist()
        cached, load = hosts.cached_tokens.astype(np.float64), hosts.outstanding.astype(np.float64)
        missing = np.full(max(ids, default=0) + 1, float(jobs.prompt_tokens[0]))
        missing[ids] -= np.minimum(cached, missing[ids])
        self._asked[int(jobs.id[0])] = (tenant, missing)  # for the hook that charges it
        rounds = [rounds_until(self._deficit.get((tenant, host), 0.0), self.quantum) for host in ids]
        allowed = np.array(rounds) == min(rounds, default=0)
        # In this order: the longest match, where its counter allows; the least load among those whose counters do; the others.
        most = load.max(initial=0.0) + 1.0
        costs = np.where(allowed, load, most + load)
        if cached.max(initial=0.0) > 0:
            longest = cached == cached.max()
            costs = np.where(longest & allowed, load / most - 1.0, costs)
        return costs

    def on_start(self, job: int, host: int, now: float) -> None:
        asked = self._asked.pop(job, None)
        if asked is None:
            return
        tenant, missing = asked
        self._home[job] = (tenant, host)
        there = (tenant, host)
        rounds = rounds_until(self._deficit.get(there, 0.0), self.quantum)
        for other in range(len(missing)) if rounds else ():
            self._deficit[tenant, other] = self._deficit.get((tenant, other), 0.0) + rounds * self.quantum
        self._deficit[there] = self._deficit.get(there, 0.0) - self.w_p * float(missing[host])

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        for job, tokens in zip(jobs.tolist(), deltas.tolist(), strict=True):
            home = self._home.get(job)
            if home is not None and not isnan(tokens):
                self._deficit[home] = self._deficit.get(home, 0.0) - self.w_q * tokens

    def on_finish(self, job: int, host: int, now: float) -> None:
        self._home.pop(job, None)

    def on_leave(self, job: int, reason: str, now: float) -> None:
        self._asked.pop(job, None)
