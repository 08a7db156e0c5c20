"""Queue limits: no more than so many requests in the system; over that, whoever comes is shed, or whoever matters least.

The finite waiting room of queueing theory (M/M/c/K; Erlang 1917). Which one is shed when it is full: the arriving one (`queue_limit`), or the one of the
least urgent priority, the latest of these, among it and those that wait at the router (`lowest_first`), as load shedding by criticality does (Cejka
and Beyer et al., Site Reliability Engineering, chapter 21, O'Reilly 2016).
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.serving.admission import COMES_IN, SHED, Admit


@dataclass
class QueueLimit(Admit):
    """Shed whoever comes while `limit` requests a replica that is up are in the system.

    Attributes:
        limit: Requests a replica, at the router, waiting and running.
    """

    limit: int = 256

    reads = ("outstanding", "held", "up")

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"limit must be at least 1, found {self.limit}")

    def is_full(self, hosts: Hosts) -> bool:
        """Whether the system has all the requests that it may have."""
        inside = float(hosts.outstanding.sum()) + float(hosts.held.max(initial=0))
        return inside >= self.limit * float(hosts.up.sum())

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return np.full(len(jobs), SHED if self.is_full(hosts) else COMES_IN)


@dataclass
class LowestFirst(QueueLimit):
    """At the limit, shed the least urgent of the arriving request and those that wait at the router.

    What has gone to a replica is not taken back, so that this says more than a limit only where groups have `max_outstanding`.
    """

    source = "Beyer et al., Site Reliability Engineering, chapter 21, O'Reilly 2016"

    reads_job = ("id", "priority", "release")
    whole_line = True

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        answer = np.full(len(jobs), COMES_IN)
        if len(jobs) and self.is_full(hosts):
            worst = np.lexsort((jobs.id, jobs.release, jobs.priority))[-1]
            answer[worst] = SHED
        return answer
