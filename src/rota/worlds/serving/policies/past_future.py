"""Past-Future: a request is admitted when the memory that the batch will need at its peak is there, answers being as long as past ones were.

Gong et al., Past-Future Scheduler for LLM Serving under SLA Guarantees, ASPLOS 2025 (arXiv 2507.10150); LightLLM. With left_i tokens to come and
now_i tokens in the cache, in the order of what is left, the most first, the peak is max over i of left_i * i + now_1 + ... + now_i: the moments at
which a request ends are the only ones at which memory can be highest. A length is drawn from the answers that ended lately and are longer than what
is already out (`sample`, anew for each token that is out, keyed by request and token). LightLLM as released puts max(1.1 times what is out, a moving
average) in its place (`released`; its switch to the limit when the engine is busy is left out). `limit` is the conservative scheduler of the paper:
every answer is as long as may be asked for. Aggressive is `vllm_v1`: whoever fits now.

Approximated: tokens are counted, as in an engine with blocks of one token, so that with larger blocks half a block a request is missing from the
peak; `reserved` is there for it. Tokens that requests share in a prefix cache count for each of them. That the paper draws several times when the
batch is small is recalled, and left out.
"""

from dataclasses import dataclass
from typing import Literal

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import Batcher, BatchRules, Engine, FutureMemory


@dataclass
class PastFuture(Batcher):
    """Admission by the peak of future memory; the batch is otherwise that of `vllm_v1`.

    Attributes:
        estimate: How a length is foreseen: `sample`, `quantile` (of the same past answers), `released` or `limit`.
        max_new_tokens: Longest answer that may be asked for, and what is taken while nothing has ended yet; 0: the context limit.
        window: Finished answers that a replica remembers.
        quantile: Of `quantile`: above 0, at most 1.
        reserved: Share of the KV cache that stays out of the peak.
    """

    estimate: Literal["sample", "quantile", "released", "limit"] = "sample"
    max_new_tokens: int = 2048
    window: int = 1000
    quantile: float = 0.9
    reserved: float = 0.03

    def rules(self, engine: Engine) -> BatchRules:
        if self.max_new_tokens < 0 or self.window < 1:
            raise InputError(
                f"past_future: max_new_tokens must be at least 0 and window at least 1, found {self.max_new_tokens} and {self.window}"
            )
        if not (0.0 < self.quantile <= 1.0 and 0.0 <= self.reserved < 1.0):
            raise InputError(
                f"past_future: quantile must be above 0 and at most 1, reserved at least 0 and below 1, found {self.quantile:g} and {self.reserved:g}"
            )
        limit = min(self.max_new_tokens or engine.context_limit, engine.context_limit)
        return BatchRules(
            budget=engine.max_batched_tokens,
            chunked=True,
            full_check=True,
            future=FutureMemory(self.estimate, limit, self.window, self.quantile, self.reserved),
        )
