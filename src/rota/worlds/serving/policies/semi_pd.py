"""semi-PD: prompts and decodes run as two streams on the same GPUs, with shares x and 1 - x of the compute, one set of weights and one KV cache.

Hong et al., semi-PD: Towards Efficient LLM Serving via Phase-Wise Disaggregated Computation and Unified Storage, 2025 (arXiv 2504.19867). Decodes
never wait for a prompt, and no KV moves. A controller looks at the last window: where the mean time to first token or the mean time between tokens is
over its limit, it takes both to be in inverse proportion to their stream's share, and sets x to where they are equally far from their limits.

Approximated: an iteration at a share s takes T(1) (1 - e + e / s): e = 1 for prompts, which compute; for decodes, which wait for memory, 0.3 is an
assumption. An iteration that begins while the other stream is busy takes `contention` longer, an assumption too, for the memory both read. A share is
a cap, also while the other stream is idle, and changes from an iteration to the next at no cost (the system keeps a second process ready for that).
That x solves for equal distances is our reading of the controller; its queueing model is not built. Only decodes are displaced for want of memory, or
prompts when they came last; never by an order.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import RESERVE_PROMPT, Batcher, BatchRules, Engine, Streams


@dataclass
class SemiPD(Batcher):
    """Two streams in a replica.

    Attributes:
        share: x, of the compute for prompts (at the beginning, where a controller moves it).
        control_seconds: Window of the controller; 0: x stays.
        ttft: Limit of the time to first token, seconds.
        tpot: Limit of the time between tokens, seconds.
        prompt_scale: e of prompts.
        decode_scale: e of decodes.
        contention: How much longer an iteration takes that begins beside one of the other stream.
        least: Smallest share of either stream that the controller sets.
    """

    share: float = 0.5
    control_seconds: float = 5.0
    ttft: float = 1.0
    tpot: float = 0.05
    prompt_scale: float = 1.0
    decode_scale: float = 0.3
    contention: float = 0.1
    least: float = 0.1
    displaces: ClassVar[bool] = False

    def rules(self, engine: Engine) -> BatchRules:
        if not (0.0 < self.least <= self.share <= 1.0 - self.least):
            raise InputError(
                f"semi_pd: needs 0 < least <= share <= 1 - least, found least {self.least:g} and share {self.share:g}"
            )
        if not (0.0 <= self.prompt_scale <= 1.0 and 0.0 <= self.decode_scale <= 1.0 and 0.0 <= self.contention < inf):
            raise InputError(
                "semi_pd: prompt_scale and decode_scale are shares of 0 to 1, contention is at least 0 and finite, found "
                f"{self.prompt_scale:g}, {self.decode_scale:g} and {self.contention:g}"
            )
        if not (0.0 <= self.control_seconds < inf and self.ttft > 0.0 and self.tpot > 0.0):
            raise InputError(
                "semi_pd: control_seconds is at least 0 and finite, ttft and tpot are above 0 seconds, found "
                f"{self.control_seconds:g}, {self.ttft:g} and {self.tpot:g}"
            )
        streams = Streams(
            self.share,
            self.prompt_scale,
            self.decode_scale,
            self.contention,
            self.control_seconds,
            self.ttft,
            self.tpot,
            self.least,
        )
        return BatchRules(
            budget=engine.max_batched_tokens, chunked=True, mixed=False, reserve=RESERVE_PROMPT, streams=streams
        )
