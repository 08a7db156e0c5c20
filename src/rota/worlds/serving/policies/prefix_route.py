"""Longest match first: to the replica that has most of the prompt in its cache, whatever its load; the fewest decisions break ties.

The prefix-aware mode of vLLM's production-stack router, which looks at matches only. It shows what a load term is worth.
"""

from rota.kernel.decisions import Place


class LongestMatch(Place):
    """Most cached tokens."""

    source = "vLLM production-stack router, its prefix-aware mode"

    reads = ("missing_tokens",)
    cost_column = "missing_tokens"
