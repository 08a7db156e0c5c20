"""vLLM's first scheduler: prefills go before decodes, in batches of their own.

Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023 (arXiv 2309.06180),
as in vLLM 0.2 and as Vidur has it. Waiting requests are admitted while their prompts leave a watermark of free blocks and the
padded batch (requests times the longest prompt) is within the budget; otherwise every running request decodes one token. When
no block is free the last request of the order starts again from the front of the queue (recompute).
"""

from dataclasses import dataclass

from rota.worlds.serving.batching import RESERVE_PROMPT, Batcher, BatchRules, Engine, watermark_blocks


@dataclass
class VllmV0(Batcher):
    """Prefill first.

    Attributes:
        watermark: Share of the KV blocks that stays free at admission.
    """

    watermark: float = 0.01

    def rules(self, engine: Engine) -> BatchRules:
        return BatchRules(
            budget=engine.max_batched_tokens,
            mixed=False,
            padded=True,
            watermark_blocks=watermark_blocks("vllm_v0", self.watermark, engine),
            reserve=RESERVE_PROMPT,
            spare_block=True,
        )
