"""Each priority has its own replicas, and there the one with the fewest outstanding: urgent requests go to those of high priority, the others to those of low.

As in POLCA's clusters (Patel et al., ASPLOS 2024), where a server runs one workload and is capped by its priority. Where no replica of a request's own class is
up, it goes to one of the other class.
"""

import numpy as np

from rota.kernel.decisions import Place
from rota.kernel.tables import FloatColumn, Hosts, Jobs


class OwnClass(Place):
    """By priority, then fewest outstanding."""

    reads = ("urgent", "outstanding", "up")
    reads_job = ("priority",)

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        mine = (hosts.urgent > 0) == (float(jobs.priority[0]) <= 0)
        if not (mine & (hosts.up > 0)).any():
            mine = ~mine
        return np.where(mine, hosts.outstanding.astype(np.float64), np.inf)
