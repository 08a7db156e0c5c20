"""Static batching: a batch is filled, prefilled, decoded to its last token, and only then is the next one filled.

The way of FasterTransformer and of serving systems before Orca (Yu et al., OSDI 2022, section 2). A request that ends early leaves its
slot empty until the batch is done; only live requests are computed.
"""

from dataclasses import dataclass

from rota.worlds.serving.batching import RESERVE_PROMPT, Batcher, BatchRules, Engine


@dataclass
class Static(Batcher):
    """Batch to completion."""

    def rules(self, engine: Engine) -> BatchRules:
        return BatchRules(mixed=False, when_empty=True, reserve=RESERVE_PROMPT)
