"""Vidur's "least outstanding requests": it counts the requests that wait and not those that run, and of equals takes the first replica.

Agrawal et al., Vidur: A Large-Scale Simulation Framework for LLM Inference, MLSys 2024; read in its source. With prefill first next to nobody ever waits, so
that nearly everything goes to replica 0. Here to repeat its runs; `least_outstanding` is the rule that the name means.
"""

from rota.kernel.decisions import Place


class VidurLeastOutstanding(Place):
    """Fewest waiting, then the smallest number."""

    reads = ("queued", "id")

    def __init__(self) -> None:
        self.cost_terms = {"queued": 1.0, "id": 2.0**-20}  # fewer than a million replicas: the number only breaks ties
