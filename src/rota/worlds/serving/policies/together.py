"""No pools: every replica does both halves of what it gets, whatever role the fleet gives it. The baseline of disaggregation on the same machines."""

from rota.kernel.tables import Hosts, Jobs
from rota.worlds.serving.pools import Assignment, Pools


class Together(Pools):
    """One replica for prompt and answer: the one with the fewest outstanding requests, then the one with the fewest decisions."""

    source = "None: the baseline of disaggregation"

    reads = ("up", "outstanding", "decisions", "id")

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        rows = [row for row in zip(hosts.outstanding, hosts.decisions, hosts.id, hosts.up, strict=True) if row[3] > 0]
        if not rows:
            return None
        best = int(min(rows)[2])
        return Assignment(best, best)
