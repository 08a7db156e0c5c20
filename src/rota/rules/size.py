"""Size: the job that needs the least goes first, by what it needs in all or by what it still needs.

Shortest remaining processing time minimises the mean response time of one server: Schrage, A proof of the optimality of
the shortest remaining processing time discipline, Operations Research 1968. Whether `size` is exact or predicted is the
scenario's `information`, not the rule's.
"""

from dataclasses import dataclass

from rota.kernel.decisions import Order, Rank
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class ShortestFirst(Order):
    """Shortest job first; a running job is left alone."""

    source = "Schrage, A proof of the optimality of the shortest remaining processing time discipline, Operations Research 1968"

    asked = "arrival"
    reads = ("size",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.size


@dataclass
class ShortestRemaining(Order):
    """Shortest remaining processing time: a job that needs less than the running one displaces it."""

    source = "Schrage, A proof of the optimality of the shortest remaining processing time discipline, Operations Research 1968"

    preemptive = True
    reads = ("remaining", "size")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.remaining

    def rank(self, jobs: Jobs) -> Rank:
        return Rank.line(jobs.size, slope=-1.0)


@dataclass
class PreemptiveShortest(ShortestFirst):
    """Preemptive shortest job first: by the size in all, so that a job once overtaken is not saved by being nearly done.

    Schrage and Miller, The queue M/G/1 with the shortest remaining processing time discipline, 1966, compare the two.
    """

    source = "Schrage, A proof of the optimality of the shortest remaining processing time discipline, Operations Research 1968"

    preemptive = True
