"""QLLM: an urgent request does not wait for the iteration under way, which is parked at the next layer and goes on from there afterwards.

Siavashi et al., Priority-Aware Preemptive Scheduling for Mixed-Priority Workloads in MoE Inference, 2025 (arXiv 2503.09304). Latency-sensitive requests go
before best-effort ones at every layer: each expert has a queue, and the activations of what is deferred stay in GPU memory, so that nothing is computed
twice. The baseline is Hugging Face's loop of iterations, first come first served.

Here urgent requests and the others have iterations of their own in one replica. While anything urgent can run, only that does; what was under way goes
on when nothing urgent is left, so that the others may starve, which the paper names as a limit too. With `together`, only urgent prompts have iterations
of their own; their decodes go with the others, and are parked with them.

Approximated (the paper's text was at hand in part only): all layers take the same time; an iteration is parked between two layers, not within one at an
expert; `switch` is an assumption. What the system does where slots or KV are short is not told: here the others give way to an urgent request that
waits, the last admitted first, and compute again later.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from rota.kernel.errors import InputError
from rota.worlds.serving.batching import RESERVE_PROMPT, Batcher, BatchRules, Engine, Parking


@dataclass
class Qllm(Batcher):
    """Iterations that are parked between layers.

    Attributes:
        urgent: Requests of this priority or a smaller number are latency-sensitive.
        together: Urgent decodes go with the others.
        switch: Seconds to park an iteration, and to go on with it.
        chunk_tokens: Tokens of an iteration; 0: the engine's `max_batched_tokens`, prompts whole up to that.
    """

    urgent: int = 0
    together: bool = False
    switch: float = 1e-4
    chunk_tokens: int = 0
    displaces: ClassVar[bool] = False

    def rules(self, engine: Engine) -> BatchRules:
        if not 0.0 <= self.switch < inf or self.chunk_tokens < 0:
            raise InputError(
                f"qllm: switch and chunk_tokens must be at least 0, and finite, found {self.switch:g} and {self.chunk_tokens}"
            )
        budget = self.chunk_tokens or engine.max_batched_tokens
        if budget < engine.max_running:
            raise InputError(
                f"qllm: {budget} tokens an iteration are fewer than max_running ({engine.max_running}): every running request needs one"
            )
        parking = Parking(self.urgent, self.together, self.switch)
        return BatchRules(budget=budget, chunked=True, reserve=RESERVE_PROMPT, layers=engine.layers, parking=parking)
