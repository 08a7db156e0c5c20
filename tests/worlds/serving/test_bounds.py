"""A bound that is above what some schedule reaches is no bound: every order and every assignment is tried on small cases."""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.decisions import Order, Place
from rota.kernel.tables import FloatColumn, Hosts, IntColumn, Jobs
from rota.worlds.serving.batching import BatchRules, Engine
from rota.worlds.serving.bounds import bounds
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.kernels.relaxation import srpt_flow_times
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import BATCHERS
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build


class Given(Order):
    """The order is given."""

    asked = "arrival"

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.array(self.ranks, np.float64)


class Assigned(Place):
    """The hosts are given."""

    def __init__(self, hosts: tuple[int, ...]) -> None:
        self.hosts = hosts

    def sample(self, jobs: Jobs, hosts: Hosts) -> IntColumn:
        return np.array(self.hosts, np.int64)[:, None]


TIMINGS: tuple[Any, ...] = (
    {"linear": {"constant": 0.4, "prefill_tokens": 0.05, "decodes": 0.02, "decode_context": 0.001}},
    {"linear": {"constant": 0.01, "prefill_tokens": 0.2, "decodes": 0.1}},
    "roofline",
)


def case(seed: int) -> tuple[Workload, list[Replica]]:
    rng = np.random.default_rng(seed)
    count, hosts = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    timing = build(TIMINGS[seed % len(TIMINGS)], model("llama-3-8b"), gpu("a100-80g"), 1, Path())
    work = make_workload(np.sort(rng.uniform(0, 2, count)), rng.integers(1, 12, count), rng.integers(1, 6, count))
    engine = Replica("tiny", int(rng.integers(6, 20)), 4, int(rng.integers(1, 4)), 64, BatchRules(), timing)
    return work, [engine] * hosts


def best(work: Workload, fleet: list[Replica]) -> dict[str, float]:
    """The best of every batcher, order and assignment."""
    found: dict[str, float] = {}
    batchers = [BATCHERS[name](**({"chunk_tokens": 4} if name == "sarathi" else {})) for name in BATCHERS]
    for batcher in batchers:
        rules = batcher.rules(Engine(fleet[0].kv_blocks, 4, fleet[0].max_running, 8, 64))
        replicas = [Replica(**{**replica.__dict__, "rules": rules}) for replica in fleet]
        for ranks in permutations(range(len(work))):
            for hosts in product(range(len(fleet)), repeat=len(work)):
                roles = Roles(Given(ranks), Assigned(hosts), Given(ranks))
                run = Simulation(work, replicas, roles, work.output_tokens.astype(np.float64))
                run.run()
                if not (run.jobs[at.STATE] == at.FINISHED_STATE).all():
                    continue
                seconds = run.seconds
                values = {
                    "ttft_mean": (seconds[at.FIRST_TOKEN] - seconds[at.ARRIVAL]).mean(),
                    "e2e_mean": (seconds[at.FINISH] - seconds[at.ARRIVAL]).mean(),
                    "makespan": seconds[at.FINISH].max(),
                }
                for name, value in values.items():
                    found[name] = min(found.get(name, np.inf), float(value))
    return found


@pytest.mark.parametrize("part", range(10))
def test_no_schedule_is_better_than_the_bound(part: int) -> None:
    """1,000 cases in ten parts."""
    for seed in range(100 * part, 100 * part + 100):
        work, fleet = case(seed)
        reached, bound = best(work, fleet), bounds(work, fleet)
        for name, value in reached.items():
            assert bound[name] <= value * (1 + 1e-12), f"seed {seed}: {name}"


def test_one_request_alone_is_exact() -> None:
    """Constant decodes and one chunk: the bound is what happens."""
    timing = build(
        {"linear": {"constant": 0.4, "prefill_tokens": 0.05}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path()
    )
    work = make_workload(np.array([1.0]), np.array([9]), np.array([4]))
    engine = Replica("tiny", 20, 4, 2, 64, BatchRules(budget=16, chunked=True), timing)
    run = Simulation(work, [engine], Roles(Given((0,)), Assigned((0,)), Given((0,))))
    run.run()
    assert bounds(work, [engine])["e2e_mean"] == pytest.approx(run.seconds[at.FINISH, 0] - 1.0)


def test_srpt_by_hand() -> None:
    """Jobs of 4, 1 and 1 seconds at 0, 1 and 1.5: the first waits for both, 6, 1, 1.5 seconds."""
    flow = srpt_flow_times(np.array([0.0, 1.0, 1.5]), np.array([4.0, 1.0, 1.0]), 1.0)
    assert flow.tolist() == [6.0, 1.0, 1.5]
