"""A replica with nothing to load is not woken for a load: prompts that wait for a tier are displaced, and what is left waits for something else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import BrokenRunError
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.worlds.serving.adapters import AdapterRoom
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.labels import Label, Labels
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_caches import cached, shared
from tests.worlds.serving.test_twin_fleet import replica, workload
from tests.worlds.serving.twin import FCFS, Told

TIMING = {"linear": {"constant": 0.004}}
SHAPE = {"model": "llama-3-8b", "gpu": "a100-80g"}


def run(tmp_path: Path, policy: dict[str, Any], **document: Any) -> dict[str, float]:
    given = parse({"world": "serving", "policies": [policy], **document}, tmp_path)
    work = given.world.workload(given.case, given.seeds[0])
    return given.world.run(given.case, work, policy, given.seeds[0]).metrics


@pytest.mark.parametrize("order", ["ltr", "srpt"])
def test_who_waits_for_kv_from_another_replica_wakes_nobody(tmp_path: Path, order: str) -> None:
    """The last prompt that loads is displaced while the KV of others is on its way from the replica that computes prompts."""
    tiers = {"tiers": [{"blocks": 500, "bandwidth": 5e9}]}
    found = run(
        tmp_path,
        {"name": order, "order": order},
        fleet=[
            {**SHAPE, "role": "prefill", "timing": TIMING},
            {**SHAPE, "kv_blocks": 250, "prefix_caching": tiers, "timing": TIMING},
        ],
        workload={
            "arrivals": {"closed": {"concurrency": 7, "think": 0.5}},
            "generate": {"kind": "code", "requests": 60},
        },
        information={"output_tokens": {"noisy": {}}},
        seeds=[20],
    )
    assert found["unfinished"] == 0.0
    assert found["preemptions"] > 0.0
    assert found["tier_hit_rate"] > 0.0


def test_who_waits_for_an_adapter_wakes_nobody(tmp_path: Path) -> None:
    """The last prompt that loads is displaced, and the replica waits for an adapter, others in its line."""
    found = run(
        tmp_path,
        {"name": "las", "order": "las"},
        fleet=[
            {
                **SHAPE,
                "max_running": 4,
                "adapters": {"slots": 2, "latency": 0.05},
                "prefix_caching": {"tiers": [{"blocks": 500}]},
                "timing": {"linear": {"decodes": 0.0001, "prefill_tokens": 0.00002}},
            }
        ],
        workload={"generate": {"kind": "code", "rate": 20.0, "requests": 300}},
        adapters={"count": 5},
        seeds=[39],
    )
    assert found["unfinished"] == 0.0
    assert found["tier_hit_rate"] > 0.0


def test_a_replica_that_is_woken_for_nothing_for_ever_is_an_error() -> None:
    """The second line of defence: a load is due that nobody waits for, as it was left behind before; the order lets nobody begin."""
    work = workload([(1, 4, 2, 0), (1, 4, 2, 0)])
    never = Told(lambda *_: (np.inf,), "arrival")
    roles = Roles(never, PLACES["least_outstanding"](), ORDERS["fcfs"]())
    run = Simulation(work, [replica(max_outstanding=2)], roles, work.output_tokens.astype(np.float64))
    run.run()
    assert int(run.state[at.FINISHED]) == 0
    assert np.isinf(run.clocks[0, at.LOADS_AT])
    run.clocks[0, at.LOADS_AT] = 0.5
    with pytest.raises(
        BrokenRunError, match=r"^time stands at 0\.5 s: replicas were woken 100,001 times and began nothing"
    ):
        run.run()


@pytest.mark.parametrize(("adapters", "wait"), [([0, 0, 0], 2 * 4 * 16 / 1024 + 0.01), ([0, 0, 1], 0.5)])
def test_who_waits_for_a_tier_and_an_adapter_waits_for_the_later(adapters: list[int], wait: float) -> None:
    """By hand: the third prompt finds one block in the cache and two below, and its adapter is there, or takes 0.5 s to load."""
    work = shared([(0, 16, 1, 0), (20, 16, 1, 0), (40, 16, 1, 0)], [0, 0, 0])
    assert work.prefix is not None
    ids = work.prefix.ids.copy()
    ids[4:8], ids[8:] = ids[4:8] + 100, ids[:4]
    labels = Labels(adapter=Label(np.array(adapters), ("a", "b")))
    work = replace(work, prefix=replace(work.prefix, ids=ids), labels=labels)
    roles = Roles(FCFS(), PLACES["least_outstanding"](), ORDERS["fcfs"]())
    one = cached("vllm_v1", "host", "lru", kv_blocks=5, adapters=AdapterRoom(1, 0.5))
    run = Simulation(work, [one], roles, work.output_tokens.astype(np.float64))
    run.run()
    assert run.jobs[at.LOADED].tolist() == [0, 0, 8]
    waited = run.seconds[at.FIRST_TOKEN, 2] - run.seconds[at.ARRIVAL, 2] - (0.011 + 4 * 0.0013)
    assert waited == pytest.approx(wait, abs=1e-9)
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
