"""Orca: requests join and leave the batch at every iteration; KV memory for the longest answer is set aside.

Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative Models, OSDI 2022: iteration-level scheduling, first
come first served, whole prompts beside decodes, and max_tokens slots reserved for a request when it begins.
"""

from dataclasses import dataclass

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import RESERVE_FIXED, Batcher, BatchRules, Engine


@dataclass
class Orca(Batcher):
    """Iteration-level scheduling.

    Attributes:
        reserve_tokens: KV tokens set aside for each request (prompt and answer); 0: the model's context limit.
    """

    reserve_tokens: int = 0

    def rules(self, engine: Engine) -> BatchRules:
        if self.reserve_tokens < 0:
            raise InputError(f"orca: reserve_tokens must be at least 0, found {self.reserve_tokens}")
        reserve = self.reserve_tokens or engine.context_limit
        room = engine.kv_blocks * engine.block_tokens
        return BatchRules(reserve=RESERVE_FIXED, reserve_tokens=min(reserve, room))
