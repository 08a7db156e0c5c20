"""Sarathi-Serve: every iteration carries all decodes, and prompts in chunks beside them, so that decodes never stall.

Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve, OSDI 2024 (arXiv 2403.02310), algorithm 3:
decodes, then prompts under way, then new ones, each prompt min(what is left of it, chunk - tokens so far).
"""

from dataclasses import dataclass

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import RESERVE_PROMPT, Batcher, BatchRules, Engine, watermark_blocks


@dataclass
class Sarathi(Batcher):
    """Stall-free batching.

    Attributes:
        chunk_tokens: Tokens of an iteration, decodes included (the paper's token budget, chosen from the TBT limit).
        watermark: Share of the KV blocks that stays free at admission.
    """

    chunk_tokens: int = 512
    watermark: float = 0.01

    def rules(self, engine: Engine) -> BatchRules:
        if self.chunk_tokens < 1:
            raise InputError(f"sarathi: chunk_tokens must be at least 1, found {self.chunk_tokens}")
        return BatchRules(
            budget=self.chunk_tokens,
            chunked=True,
            watermark_blocks=watermark_blocks("sarathi", self.watermark, engine),
            reserve=RESERVE_PROMPT,
            spare_block=True,
        )
