"""Least work with reuse: to the replica that would be done with this request's prompt first, by the prompt tokens in front of it and its own uncached ones.

Ours. Dynamo's cost adds KV in use to tokens to compute, as if holding a token cost as much as computing one. What a decoder costs others is a small part of
that: `beta` is the price of a token of KV in use, in prompt tokens. And a cache is worth keeping: what is computed where there is no match will push out
something that might be asked for again; `alpha` is the price of an uncached token beyond its own computation.
"""

from dataclasses import dataclass

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError


@dataclass
class ReuseAndWork(Place):
    """Tokens to compute, with prices for cache and memory.

    Attributes:
        alpha: Price of a missing token, 1: its computation alone.
        beta: Price of a token of KV in use.
    """

    alpha: float = 2.0
    beta: float = 0.1

    reads = ("missing_tokens", "prefill_tokens", "active_tokens")

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and self.beta >= 0):
            raise InputError(
                f"reuse_and_work: alpha and beta must be at least 0, found {self.alpha:g} and {self.beta:g}"
            )
        self.cost_terms = {"missing_tokens": self.alpha, "prefill_tokens": 1.0, "active_tokens": self.beta}
