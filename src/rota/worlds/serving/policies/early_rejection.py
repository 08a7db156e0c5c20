"""Early rejection: shed at once what would miss its limit of the first token anyway, so that its work is not wasted.

Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025 (arXiv 2407.00079): a request is turned away when the first token is predicted
to come after its limit. Their prediction is that of a prefill cluster; here replicas also decode, so two waits are added for each replica, and the best
replica counts: the prompt tokens that it has still to compute and this prompt at the replica's own rate, and, where its slots or its KV blocks are taken,
the requests in front (those at the router in equal parts) over the rate at which its requests ended in the last `window` seconds. The second half of the
published policy, which also predicts the time between tokens, is not here. Requests without such a limit always come in.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.serving.admission import COMES_IN, SHED, Admit


@dataclass
class EarlyRejection(Admit):
    """Shed what is predicted to miss its limit.

    Attributes:
        caution: The predicted wait counts so many times.
        window: Seconds over which the rate of ends is taken.
    """

    caution: float = 1.0
    window: float = 10.0
    _ends: dict[int, deque[float]] = field(default_factory=dict, init=False, repr=False)  # times by host

    reads = (
        "id",
        "prefill_tokens",
        "prefill_rate",
        "queued",
        "running",
        "max_running",
        "free_blocks",
        "block_tokens",
        "waiting_tokens",
        "held",
        "up",
    )
    reads_job = ("prompt_tokens", "first_due")

    def __post_init__(self) -> None:
        if not (self.caution > 0 and self.window > 0):
            raise InputError(f"caution and window must be above 0, found {self.caution:g} and {self.window:g} s")

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        answers = []
        for prompt, due in zip(jobs.prompt_tokens.tolist(), jobs.first_due.tolist(), strict=True):
            late = now + self.caution * self.wait(prompt, hosts, now) > due
            answers.append(SHED if late else COMES_IN)
        return np.array(answers, np.float64)

    def wait(self, prompt: float, hosts: Hosts, now: float) -> float:
        """Predicted seconds to the first token at the best replica that is up; ``inf``: none is."""
        up = hosts.up > 0
        if not up.any():
            return float("inf")
        computing = (hosts.prefill_tokens + prompt) * hosts.prefill_rate
        room = hosts.free_blocks * hosts.block_tokens - hosts.waiting_tokens
        queued = hosts.queued + hosts.held / up.sum() + 1.0
        free = np.maximum(hosts.max_running - hosts.running, 0)
        ahead = np.where(room < prompt, queued, np.maximum(queued - free, 0.0))
        rate = np.array([self._rate(host, now) for host in hosts.id.tolist()])
        slots = np.divide(ahead, rate, out=np.zeros(len(rate)), where=rate > 0)
        return float((computing + slots)[up].min())

    def _rate(self, host: int, now: float) -> float:
        """Requests that ended at a host a second, over the window; 0: none did."""
        ends = self._ends.get(int(host))
        return 0.0 if ends is None else sum(1 for end in ends if end > now - self.window) / self.window

    def on_finish(self, job: int, host: int, now: float) -> None:
        ends = self._ends.setdefault(int(host), deque())
        ends.append(now)
        while ends[0] <= now - self.window:
            ends.popleft()
