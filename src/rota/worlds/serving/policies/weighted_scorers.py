"""llm-d's scorers: the replica with the largest weighted sum of scores between 0 and 1 for match, queue and memory.

llm-d router and Gateway API inference extension: prefix = matched share of the prompt; queue = (longest - own) / (longest - shortest) over the requests
that wait, 1 for all where they are equal; memory = 1 - KV in use. Default weights 3, 2, 2: queue 2 and prefix 3 are in Red Hat OpenShift AI 3.4, distributed
inference with llm-d, chapter 6; memory 2 is recalled. `sharpness` is the weight w of the newer prefix score (1 - w) share + w min(1, matched tokens /
scale)^2. llm-d breaks ties at random, here the fewest decisions do.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs


@dataclass
class WeightedScorers(Place):
    """Prefix, queue and memory.

    Attributes:
        prefix: Weight of the match.
        queue: Weight of the short queue.
        memory: Weight of the free KV cache.
        sharpness: Weight, within the prefix score, of the square of the matched tokens over `scale`.
        scale: Matched tokens that are worth all of that.
    """

    source = "llm-d router and Gateway API Inference Extension; weights of Red Hat OpenShift AI 3.4"

    prefix: float = 3.0
    queue: float = 2.0
    memory: float = 2.0
    sharpness: float = 0.0
    scale: float = 8192.0

    reads = ("cached_tokens", "queued", "kv_use")
    reads_job = ("prompt_tokens",)

    def __post_init__(self) -> None:
        weights = (self.prefix, self.queue, self.memory)
        if not (min(weights) >= 0 and max(weights) > 0 and 0 <= self.sharpness <= 1 and self.scale > 0):
            raise InputError(
                "weighted_scorers: needs weights of at least 0, one of them above; sharpness in [0, 1]; scale above 0"
            )

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        cached, queued = hosts.cached_tokens.astype(np.float64), hosts.queued.astype(np.float64)
        match = np.minimum(cached / max(float(jobs.prompt_tokens[0]), 1.0), 1.0)
        match = (1 - self.sharpness) * match + self.sharpness * np.minimum(1.0, cached / self.scale) ** 2
        spread = np.ptp(queued) if len(queued) else 0.0
        short = (queued.max() - queued) / spread if spread > 0 else np.ones(len(queued))
        return -(self.prefix * match + self.queue * short + self.memory * (1.0 - hosts.kv_use))
