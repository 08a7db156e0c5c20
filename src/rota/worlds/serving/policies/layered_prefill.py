"""Layered prefill: a prompt goes through one group of layers an iteration, whole, beside decodes that go through all of them.

Lee et al., From Tokens to Layers: Redefining Stall-Free Scheduling for LLM Serving with Layered Prefill, 2025 (arXiv 2510.08055). Chunked prefill
reads the experts' weights again for every chunk; here each layer sees the prompt once. The layers are cut into G groups, and G is chosen so that an
iteration has as much work of the prompt as a chunk would: ceil(tokens / chunk), at most one group a layer. Prompts that wait together go together;
others wait until these are through.

Approximated: all layers take the same time, so the groups are equal shares of an iteration of any timing model (leading dense layers of a mixture of
experts are averaged in). The rule for G and that prompts go together are recalled from the paper. A prompt longer than `most_tokens` is cut as in
chunked prefill.
"""

from dataclasses import dataclass

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import UNLIMITED, Batcher, BatchRules, Engine


@dataclass
class LayeredPrefill(Batcher):
    """Prefill by groups of layers.

    Attributes:
        chunk_tokens: Tokens of a prompt whose work through all layers an iteration should have at most.
        most_tokens: Prompt tokens that go through the layers together; 0: the engine's `max_batched_tokens`.
    """

    chunk_tokens: int = 512
    most_tokens: int = 0

    def rules(self, engine: Engine) -> BatchRules:
        most = self.most_tokens or engine.max_batched_tokens
        if self.chunk_tokens < 1 or self.most_tokens < 0:
            raise InputError(
                f"layered_prefill: chunk_tokens must be at least 1 and most_tokens at least 0, found {self.chunk_tokens} and {self.most_tokens}"
            )
        if most < engine.max_running:
            raise InputError(
                f"layered_prefill: most_tokens ({most}) must be at least max_running ({engine.max_running}): every running request needs a token an iteration"
            )
        layers = min(engine.layers, UNLIMITED)
        return BatchRules(budget=most, chunked=True, full_check=True, layer_tokens=self.chunk_tokens, layers=layers)
