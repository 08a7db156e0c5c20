"""Shortest queue in tokens: prompt tokens that are not computed yet, and one for each request.

Patel et al., Splitwise, ISCA 2024, its simulator's scheduler token_jsq: a machine's queue grows by prompt + 1 when a request is sent to it, shrinks by the
prompt when that is computed and by 1 when the answer is done; of equals the first machine is taken.
"""

from rota.kernel.decisions import Place


class TokenQueue(Place):
    """Fewest queued tokens, then the smallest number."""

    reads = ("prefill_tokens", "outstanding", "id")

    def __init__(self) -> None:
        self.cost_terms = {"prefill_tokens": 1.0, "outstanding": 1.0, "id": 2.0**-20}
