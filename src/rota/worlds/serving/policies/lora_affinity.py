"""To a replica that has the request's LoRA adapter at work, as long as its queue and its memory allow.

The LoRA-affinity scorer of the Gateway API Inference Extension and of llm-d: 1 where a running request uses the adapter, 0.8 where there is room for one
more (adapters of running and waiting requests are fewer than the slots), 0.6 where a waiting request has it, 0 elsewhere. Scorers are added up by weight,
and the largest sum wins; here with those of the queue, (longest - own) / (longest - shortest), and of the KV cache, 1 - use. Weights are the user's to set.
`adapter_first` is simpler: the fewest outstanding requests, where a missing adapter counts as so many of them.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs


@dataclass
class LoraAffinity(Place):
    """Weighted scores of adapter, queue and cache.

    Attributes:
        lora: Weight of the adapter's score.
        queue: Weight of the queue's score.
        kv: Weight of the KV cache's score.
    """

    source = "Gateway API Inference Extension and llm-d, LoRA-affinity scorer"

    lora: float = 1.0
    queue: float = 1.0
    kv: float = 1.0

    reads = (
        *("adapter_active", "adapter_waiting", "adapters_active", "adapters_waiting", "adapter_slots"),
        *("queued", "kv_use"),
    )

    def __post_init__(self) -> None:
        if not (self.lora >= 0 and self.queue >= 0 and self.kv >= 0):
            raise InputError(f"weights must be at least 0, found {self.lora:g}, {self.queue:g} and {self.kv:g}")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        room = hosts.adapters_active + hosts.adapters_waiting < hosts.adapter_slots
        affinity = np.select([hosts.adapter_active > 0, room, hosts.adapter_waiting > 0], [1.0, 0.8, 0.6], default=0.0)
        queued = hosts.queued.astype(np.float64)
        longest, shortest = queued.max(initial=0.0), queued.min(initial=np.inf)
        space = longest - shortest
        free = (longest - queued) / space if space > 0 else np.ones(len(hosts))
        return np.asarray(-(self.lora * affinity + self.queue * free + self.kv * (1.0 - hosts.kv_use)))


@dataclass
class AdapterFirst(Place):
    """The fewest outstanding requests; a missing adapter counts as `worth` of them.

    Attributes:
        worth: Requests.
    """

    source = "Ours, simpler than Gateway API Inference Extension and llm-d, LoRA-affinity scorer"

    worth: float = 16.0

    reads = ("outstanding", "adapter_here")

    def __post_init__(self) -> None:
        if not self.worth >= 0:
            raise InputError(f"worth must be at least 0 requests, found {self.worth:g}")
        self.cost_terms = {"outstanding": 1.0, "adapter_here": -self.worth}
