"""Programs first come first served: a call is as old as its program, so that a program that was begun is brought to an end.

The order of Continuum, without its pins: Li et al., Continuum: Efficient and Robust Multi-Turn LLM Agent Scheduling with KV Cache Time-to-Live
(arXiv 2511.02230).
"""

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs


class ProgramFirstCome(Order):
    """By the arrival of the program."""

    asked = "arrival"
    reads = ("program_release",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.program_release
