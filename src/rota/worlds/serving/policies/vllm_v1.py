"""vLLM's V1 scheduler: one token budget an iteration, running requests first, then waiting ones.

vLLM 0.8 and later, `vllm/v1/core/sched/scheduler.py` (read at 0.19). Decodes and prompts under way take what they need, new requests
what is left, cut to fit (chunked prefill). Blocks are given chunk by chunk; when none is left the last of the order starts again
(recompute), and nobody is admitted in that iteration.
"""

from dataclasses import dataclass

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import Batcher, BatchRules, Engine


@dataclass
class VllmV1(Batcher):
    """Token budget shared by decodes and chunked prefills.

    Attributes:
        chunked_prefill: Prompts may be cut.
        reserve_full_prompt: Admit a request only when its whole prompt fits now (`scheduler_reserve_full_isl`, on in 0.19).
        async_scheduling: An iteration is put together while the one before it runs, so it does not yet see what ends or arrives
            meanwhile (on by default in 0.19; off here, where an iteration sees everything up to its start).
    """

    chunked_prefill: bool = True
    reserve_full_prompt: bool = True
    async_scheduling: bool = False

    def rules(self, engine: Engine) -> BatchRules:
        if engine.max_batched_tokens < engine.max_running:
            raise InputError(
                f"vllm_v1: max_batched_tokens ({engine.max_batched_tokens}) must be at least max_running ({engine.max_running}): "
                "every running request needs a token an iteration"
            )
        return BatchRules(
            budget=engine.max_batched_tokens,
            chunked=self.chunked_prefill,
            full_check=self.reserve_full_prompt,
            ahead=self.async_scheduling,
        )
