"""Token buckets: each tenant may use so many tokens a second, and save up to a burst of them.

Turner, New directions in communications, IEEE Communications Magazine 1986 (the leaky bucket as a meter); deferring by it is the virtual scheduling of
ITU-T I.371. Rate limits in tokens a minute are what providers of LLMs sell.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.serving.admission import COMES_IN, SHED, Admit

ROUNDING = 1e-9


@dataclass
class TokenBucket(Admit):
    """A request that its tenant's bucket cannot pay for is shed, or waits until it can.

    Attributes:
        rate: Tokens a second of a tenant of weight 1; by weight for others.
        burst: Tokens that a bucket holds at most, by weight too. A request that asks for more pays all of it.
        answer: Tokens that an answer is taken to have: its length is not known at the gate.
        over: What happens to a request that cannot be paid for, ``shed`` or ``defer``.
    """

    rate: float = 5_000.0
    burst: float = 50_000.0
    answer: float = 256.0
    over: Literal["shed", "defer"] = "shed"
    _levels: dict[int, tuple[float, float]] = field(default_factory=dict, init=False, repr=False)  # tenant: level, when
    _bill: dict[int, tuple[int, float, float]] = field(default_factory=dict, init=False, repr=False)  # of who was shown
    _paid: set[int] = field(default_factory=set, init=False, repr=False)  # requests that wait, and have paid

    reads_job = ("id", "tenant", "prompt_tokens", "weight")

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.burst > 0 and self.answer >= 0):
            raise InputError(
                f"rate and burst must be above 0 and answer at least 0 tokens, found {self.rate:g}, {self.burst:g}, {self.answer:g}"
            )

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        answers = []
        rows = zip(
            jobs.id.tolist(), jobs.tenant.tolist(), jobs.prompt_tokens.tolist(), jobs.weight.tolist(), strict=True
        )
        for job, tenant, prompt, weight in rows:
            price = min(prompt + self.answer, self.burst * weight)
            self._bill[int(job)] = (int(tenant), price, weight)
            missing = price - self._level(int(tenant), weight, now)
            if int(job) in self._paid or missing <= ROUNDING * price:
                answers.append(COMES_IN)
            else:
                answers.append(SHED if self.over == "shed" else now + missing / (self.rate * weight))
        return np.array(answers, np.float64)

    def _level(self, tenant: int, weight: float, now: float) -> float:
        level, since = self._levels.get(tenant, (self.burst * weight, now))
        return min(self.burst * weight, level + self.rate * weight * (now - since))

    def _pay(self, job: int, now: float) -> None:
        tenant, price, weight = self._bill[job]
        self._levels[tenant] = (self._level(tenant, weight, now) - price, now)

    def on_admit(self, job: int, now: float) -> None:
        if job in self._paid:
            self._paid.discard(job)
        else:
            self._pay(job, now)
        del self._bill[job]

    def on_defer(self, job: int, until: float, now: float) -> None:
        self._pay(job, now)
        self._paid.add(job)

    def on_leave(self, job: int, reason: str, now: float) -> None:
        self._bill.pop(job, None)
