"""Batch-size advisor: no more requests at once than are worth their memory, found from the plateau of the throughput.

Recasens et al., Mind the Memory Gap: Unveiling GPU Bottlenecks in Large-Batch LLM Inference, 2025 (arXiv 2503.08311). Decoding waits for memory at
every batch size, so the throughput T(B) flattens long before the KV cache is full. The advised batch is

    argmax over B of T(B), where the time between tokens L(B) is within its limit and T(B) / (B T(1)) is above epsilon,

and what memory the rest of the cache would have taken is free for other replicas or models. (The formula is recalled.) T and L are here those of the
timing model, B decodes with `context` tokens each and no prompts beside them: the paper measures them.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import Batcher, BatchRules, Engine
from rota.worlds.serving.policies.vllm_v1 import VllmV1
from rota.worlds.serving.timing import Timing
from rota.worlds.serving.timing import features as f


@dataclass
class BatchSizeAdvisor(Batcher):
    """`vllm_v1` with the advised number of slots, at most the engine's.

    Attributes:
        context: Tokens in the cache of a typical decode.
        tpot: Limit of the time between tokens, seconds; 0: none.
        epsilon: Least share of perfect scaling that the batch must keep; 0 to 1.
    """

    context: int = 1024
    tpot: float = 0.0
    epsilon: float = 0.1
    advises: ClassVar[bool] = True

    def rules(self, engine: Engine) -> BatchRules:
        if self.context < 0 or self.tpot < 0.0 or not 0.0 <= self.epsilon < 1.0:
            raise InputError(
                "bca: context and tpot must be at least 0 and epsilon at least 0 and below 1, found "
                f"{self.context}, {self.tpot:g} and {self.epsilon:g}"
            )
        slots = engine.max_running if engine.timing is None else self.advise(engine.timing, engine.max_running)
        budget = VllmV1().rules(engine).budget
        return BatchRules(budget=budget, chunked=True, full_check=True, max_running=slots)

    def advise(self, timing: Timing, most: int) -> int:
        """The batch size for a timing, from 1 to `most`. Raises InputError where not even one request keeps the limit."""
        seconds = np.array([timing.seconds(self._decodes(size)) for size in range(1, most + 1)])
        sizes = np.arange(1, most + 1)
        speed = sizes / seconds
        able = speed / (sizes * speed[0]) > self.epsilon
        if self.tpot > 0.0:
            able &= seconds <= self.tpot
        if not able.any():
            raise InputError(
                f"bca: tpot: one request alone takes {seconds[0]:.3g} s a token, over the limit of {self.tpot:g} s; give more"
            )
        return int(sizes[able][np.argmax(speed[able])])

    def _decodes(self, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        features = np.zeros(f.WIDTH)
        features[[f.DECODES, f.SAMPLES, f.DECODE_CONTEXT]] = size, size, size * self.context
        features[[f.DECODE_MAX, f.DECODE_MIN]] = self.context
        return features
