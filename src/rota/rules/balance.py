"""Balance: the job goes to the host that has the least to do, or the least to answer for.

Joining the shortest queue is optimal for exponential service and equal hosts: Winston, Optimality of the shortest line
discipline, 1977. With variable sizes, counting work beats counting jobs: Harchol-Balter, Crovella and Murta, On
choosing a task assignment policy for a distributed server system, 1999.
"""

from dataclasses import dataclass

from rota.kernel.decisions import Place


@dataclass
class RoundRobin(Place):
    """Each host in turn: the one chosen least often so far, then by id. A host that joins late catches up."""

    source = (
        "Harchol-Balter, Crovella and Murta, On choosing a task assignment policy for a distributed server system, 1999"
    )

    reads = ("decisions",)
    cost_column = "decisions"


@dataclass
class LeastOutstanding(Place):
    """The fewest jobs queued and running."""

    source = "Winston, Optimality of the shortest line discipline, 1977"

    reads = ("outstanding",)
    cost_column = "outstanding"


@dataclass
class LeastQueued(Place):
    """The fewest jobs queued; those in service are not counted, so an idle host and a busy one look alike."""

    source = "Winston, Optimality of the shortest line discipline, 1977"

    reads = ("queued",)
    cost_column = "queued"


@dataclass
class LeastWork(Place):
    """The least work outstanding.

    Attributes:
        by: The host column that measures work: `work` (seconds, everywhere) or another one of the world, such as
            `outstanding_tokens` in serving.
    """

    source = (
        "Harchol-Balter, Crovella and Murta, On choosing a task assignment policy for a distributed server system, 1999"
    )

    by: str = "work"

    def __post_init__(self) -> None:
        self.reads = (self.by,)
        self.cost_column = self.by
