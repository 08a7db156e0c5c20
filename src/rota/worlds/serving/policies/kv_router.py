"""NVIDIA Dynamo's KV router: to the replica where prompt tokens to compute and KV in use are least, with cached blocks taken off.

Dynamo documentation, Routing Concepts (v1.2): cost = overlap weight x prefill blocks + decode blocks. Prefill blocks are the prompt tokens that
the replica has still to compute, this request's uncached ones with them; decode blocks are those in use. The size of a block cancels out. Temperature 0.
"""

from dataclasses import dataclass

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError


@dataclass
class KvRouter(Place):
    """Prefill and decode load, net of what is cached.

    Attributes:
        overlap_weight: How much a prompt token to compute counts against one of KV in use; Dynamo's default is 1.
    """

    overlap_weight: float = 1.0

    reads = ("missing_tokens", "prefill_tokens", "active_tokens")

    def __post_init__(self) -> None:
        if not self.overlap_weight >= 0:
            raise InputError(f"kv_router: overlap_weight must be at least 0, found {self.overlap_weight:g}")
        self.cost_terms = {
            "missing_tokens": self.overlap_weight,
            "prefill_tokens": self.overlap_weight,
            "active_tokens": 1.0,
        }
