"""The batcher of splitwise-sim: waiting prompts go first, whole, and decoders fill what is left of the token budget.

Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024; as in its simulator (instance type Splitwise): prompts in the
order of arrival while their tokens are within the budget, the first one whatever its length; then decoders, those first that stood aside in the iteration
before. Not here: there a task that was passed over four times goes before prompts, unless an untouched one waits, which is nearly always; and a request's
whole answer is set aside when it begins to decode.
"""

from dataclasses import dataclass

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import Batcher, BatchRules, Engine


@dataclass
class SplitwiseBatch(Batcher):
    """Prompts first, decodes beside them.

    Attributes:
        batch_tokens: Tokens of an iteration (max_batch_tokens); 0: the engine's limit.
        long_prompts_wait: A prompt over the budget that will be decoded elsewhere does not interrupt decoders that are alone: it is seen when one of them ends,
            or something else comes or goes. The simulator does so (it runs such iterations in one piece); here to repeat its runs.
    """

    batch_tokens: int = 0
    long_prompts_wait: bool = False

    def rules(self, engine: Engine) -> BatchRules:
        if self.batch_tokens < 0:
            raise InputError(f"splitwise: batch_tokens must be at least 0, found {self.batch_tokens}")
        budget = self.batch_tokens or engine.max_batched_tokens
        return BatchRules(budget=budget, prompts_first=True, long_prompts_wait=self.long_prompts_wait)
