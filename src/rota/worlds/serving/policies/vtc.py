"""Virtual token counter: least counter first; it grows by a prompt when that begins and by each token of an answer.

Sheng, Cao, Li, Zhu, Li, Zhuo, Gonzalez and Stoica, Fairness in Serving Large Language Models, OSDI 2024 (arXiv 2401.00588), algorithm 2;
weighted VTC with weights. Its theorem: between two tenants that both always have requests waiting, service differs by at most 2 max(w_p
L_input, w_q M), L_input the longest prompt and M the tokens that fit in a batch. A tenant that comes back is lifted to the least counter of
those who wait. The paper does not displace requests; here one that was displaced by a full cache is not charged for its prompt again.
"""

from dataclasses import dataclass, field

from rota.kernel.errors import InputError
from rota.rules.fair import TenantCounters
from rota.rules.shown import Shown


@dataclass
class VirtualTokenCounter(TenantCounters):
    """Least weighted tokens first.

    Attributes:
        weights_of: Weight by index of tenant: the counter of a tenant of weight 2 grows half as fast. Goes before the scenario's `tenants`.
        w_p: Price of a token of the prompt.
        w_q: Price of a token of the answer.
    """

    w_p: float = 1.0
    w_q: float = 2.0
    reads = ("id", "tenant", "prompt_tokens", "weight")
    _shown: Shown = field(default_factory=lambda: Shown("tenant", "prompt_tokens", "weight"), init=False, repr=False)
    _weights: dict[int, float] = field(default_factory=dict, init=False, repr=False)  # of tenants that were served
    _charged: set[int] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.w_p >= 0 and self.w_q > 0):
            raise InputError(f"w_p must be at least 0 and w_q above 0, found {self.w_p:g} and {self.w_q:g}")

    def at_start(self, job: int) -> float:
        if job in self._charged:
            return 0.0
        self._charged.add(job)
        return self.w_p * self._shown.of("prompt_tokens", job)

    def per_unit(self) -> float:
        return self.w_q

    def on_start(self, job: int, host: int, now: float) -> None:
        if job in self._shown:
            self._weights[self._owner(job)] = max(self._shown.of("weight", job), 1e-9)
        super().on_start(job, host, now)

    def _charge(self, tenant: int, service: float) -> None:
        weight = 1.0 if tenant in self.weights_of else self._weights.get(tenant, 1.0)
        super()._charge(tenant, service / weight)
