"""What no policy can beat.

One server, all sizes known, preemption allowed: shortest remaining processing time has the fewest jobs at every moment (Schrage 1968), so its
mean response time is a bound, and on one server of speed 1 a tight one. Several servers are pooled into one that is as fast as all of them together, which
can imitate them; and no job can be done faster than alone on the fastest server. The bound for k servers is loose at low load (a lone job cannot use
the others).
"""

import numpy as np

from rota.rules.balance import LeastOutstanding
from rota.rules.size import ShortestRemaining
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import Servers, Workload, make_workload
from rota.worlds.queues.settings import WarmUp
from rota.worlds.queues.simulate import Roles, Simulation


def bounds(work: Workload, servers: Servers, warm_up: WarmUp) -> dict[str, float]:
    """Lower bounds of metrics by name. Empty where jobs may leave unserved or wait for parents.

    Jobs of the warm-up are left out as if they had never come: a policy could serve them last.
    """
    lossy = np.isfinite(work.patience).any() or servers.buffer >= 0
    if lossy or work.parents is not None:
        return {}
    skipped = warm_up.jobs if warm_up.jobs is not None else int((warm_up.share or 0.0) * len(work))
    arrival, size = work.arrival[skipped:], work.size[skipped:]
    if not len(size):
        return {}
    kinds = max(servers.speeds.shape[1], int(work.job_class.max()) + 1)
    speeds = np.broadcast_to(servers.speeds, (len(servers), kinds))
    alone = size / speeds.max(axis=0)[work.job_class[skipped:]]
    pooled = Servers(np.full((1, 1), speeds.sum(axis=0).max()))
    run = Simulation(make_workload(arrival, size), pooled, Roles(ShortestRemaining(), LeastOutstanding()), visible=size)
    run.run()
    together = run.seconds[at.FINISH] - run.seconds[at.ARRIVAL]
    known = size > 0
    return {
        "response_mean": max(float(alone.mean()), float(together.mean())),
        "slowdown_mean": float((alone[known] / size[known]).mean()) if known.any() else 1.0,
    }
