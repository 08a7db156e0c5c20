"""SGLang's cache-aware router: to the longest match while the replicas are in balance, to the least loaded one while they are not.

SGLang router, defaults of its launcher in 2026 (match 0.3, 64, 1.5; at first 0.5, 32, 1.0001): out of balance when the outstanding requests differ by
more than `balance_abs` and by more than a factor `balance_rel`; in balance, the longest match if it is more than `match` of the prompt, otherwise the replica
with the least in its cache (its smallest tree; here: least KV in use). Zheng et al., SGLang: Efficient Execution of Structured Language Model
Programs, NeurIPS 2024. Its matches are those of a tree of what it has sent, trimmed every 120 s to 2**26 characters a worker: use it with
``index: {kind: sent}``; without, they are those of the engines' own caches.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs


@dataclass
class CacheAware(Place):
    """Match or balance.

    Attributes:
        match: Least share of the prompt that a match must cover.
        balance_abs: Outstanding requests by which replicas may differ.
        balance_rel: Factor by which they may differ.
    """

    match: float = 0.3
    balance_abs: int = 64
    balance_rel: float = 1.5

    reads = ("outstanding", "cached_tokens", "active_tokens")
    reads_job = ("prompt_tokens",)

    def __post_init__(self) -> None:
        if not 0 <= self.match <= 1 or self.balance_abs < 0 or self.balance_rel < 1:
            raise InputError(
                f"cache_aware: needs match in [0, 1], balance_abs >= 0, balance_rel >= 1; found {self.match:g}, {self.balance_abs}, {self.balance_rel:g}"
            )

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        load, cached = hosts.outstanding.tolist(), hosts.cached_tokens.astype(np.float64)
        most, least = (
            max(load, default=0.0),
            min(load, default=np.inf),
        )  # of a handful of hosts Python finds them sooner than NumPy
        if most - least > self.balance_abs and most > self.balance_rel * least:
            return hosts.outstanding.astype(np.float64)
        if max(cached.tolist(), default=0.0) > self.match * float(jobs.prompt_tokens[0]):
            return -cached
        return hosts.active_tokens.astype(np.float64)
