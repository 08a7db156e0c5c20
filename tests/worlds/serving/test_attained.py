"""Service that a request has received: computing lost KV again is none."""

from dataclasses import dataclass, field, replace

import numpy as np

from rota.kernel.tables import FloatColumn, Jobs
from rota.rules import ORDERS, PLACES
from rota.rules.service import LeastAttained
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import make_workload
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.everything import scene
from tests.worlds.serving.test_twin_fleet import replica


@dataclass
class Watched(LeastAttained):
    """Least attained service, and all that it was shown of each request."""

    seen: dict[int, list[float]] = field(default_factory=dict)
    reads = ("id", "attained")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        for job, attained in zip(jobs.id.tolist(), jobs.attained.tolist(), strict=True):
            self.seen.setdefault(int(job), []).append(attained)
        return np.asarray(jobs.attained)


def test_it_never_falls() -> None:
    """Whatever happens to the KV: displaced requests, hosts that go down, prompts and answers on two hosts."""
    preemptions = restarts = 0
    for seed in range(40):
        case, order = scene(seed, "fail", "split"), Watched()
        case.fleet = [replace(each, prefill_rate=2.0**-10, decode_rate=2.0**-7) for each in case.fleet]
        run = case.simulation(replace(case.roles(), order=order))
        run.run()
        assert all((np.diff(values) >= 0).all() for values in order.seen.values())
        preemptions += int(run.jobs[at.PREEMPTIONS].sum())
        restarts += int(run.jobs[at.RESTARTS].sum())
    assert preemptions > 20
    assert restarts > 20


def test_two_prompts_that_displace_one_another_come_to_an_end() -> None:
    """One slot, prompts of 12 tokens, at most 8 in an iteration: when the first has 8, and 4 to go, the second takes its place, until it has 8 too.

    Then the first goes on, because it came first, and computes its 8 again for nothing: it has 8 still, and ends. If what is lost counted
    no more, each would displace the other with 8 tokens, for ever.
    """
    order = Watched()
    roles = Roles(order, PLACES["round_robin"](), ORDERS["fcfs"](), None)
    work = make_workload(np.array([0.0, 2.0**-20]), np.array([12, 12]), np.array([1, 1]))
    run = Simulation(work, [replica("sarathi", max_running=1)], roles)
    run.run()
    assert run.jobs[at.PREEMPTIONS].tolist() == [1, 1]
    assert run.hosts[0, at.ITERATIONS] == 6  # 8 | 8 | 8 again, 4 | 8 again, 4
    tokens = {job: [value * 2**10 for value in values] for job, values in order.seen.items()}
    assert tokens == {
        0: [0.0, 8.0, 8.0, 8.0],
        1: [0.0, 8.0, 8.0, 8.0],
    }  # the first one comes alone, the second ends alone
