"""Classes, a gate, a semantic cache, adapters, several models, crashes and preemption in one fleet: nothing is lost, nothing is served twice, sums add up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.study.scenario import parse, read
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.verify import verify

EXAMPLES = Path(__file__).parents[3] / "examples/serving"
STUDIES = (
    *("admission", "weighted-tenants", "adapters", "shared-nodes", "model-choice", "accelerator-kinds"),
    "semantic-cache",
)
ADMITS: tuple[Any, ...] = (
    None,
    {"queue_limit": {"limit": 6}},
    {"lowest_first": {"limit": 5}},
    {"token_bucket": {"rate": 400.0, "burst": 2000.0, "over": "defer"}},
    "early_rejection",
    {"dagor": {"threshold": 0.2, "window": 0.5}},
)


def document(rate: float, admit: Any, shared: bool, closed: bool) -> dict[str, Any]:
    group = {
        "model": "llama-3-8b",
        "gpu": "a100-80g",
        "count": 2,
        "max_running": 6,
        "kv_blocks": 400,
        "prefix_caching": True,
    }
    group |= {"max_outstanding": 8, "adapters": {"slots": 2, "latency": 0.05}}
    node: dict[str, Any] = {"node": "n"} if shared else {}
    fleet = [{**group, **node}, {**group, **node, "model": "qwen3-8b"}]
    policy: dict[str, Any] = {"name": "it", "order": "priority", "hold": "priority", "route": "lora_affinity"}
    policy |= {"admit": admit} if admit else {}
    policy |= {"recall": {"category_cache": {"threshold": {"code": 0.8}, "quota": {"code": 4}}}}
    more: dict[str, Any] = {"nodes": {"n": {"count": 2, "resident": 1, "patience": 0.5}}} if shared else {}
    if not shared:
        more = {
            "failures": {
                "outages": [{"replica": 0, "start": 2.0, "seconds": 3.0}, {"replica": 3, "start": 4.0, "seconds": 1.0}]
            }
        }
    return {
        "world": "serving",
        "workload": {
            "generate": {"kind": "burst", "requests": 60, "rate": rate, "variation": "none"},
            "arrivals": {"closed": {"concurrency": 12, "think": 0.1}} if closed else "replay",
        },
        "classes": {"now": {"ttft": 0.5, "priority": 1, "share": 1.0}, "later": {"e2e": 60.0, "priority": 2, "share": 2.0}},
        "adapters": {"count": 6, "share": 0.7},
        "models": {"shares": {"llama-3-8b": 1.0, "qwen3-8b|llama-3-8b": 1.0}},
        "categories": {"code": {"topics": 10, "same": 0.85}, "chat": {"topics": 50}},
        "quality": {"models": {"llama-3-8b": 0.6, "qwen3-8b": 0.7}},
        "fleet": fleet,
        **more,
        "policies": [policy],
    }  # fmt: skip


@settings(max_examples=25)
@given(
    rate=st.sampled_from([2.0, 10.0, 40.0]),
    admit=st.sampled_from(ADMITS),
    shared=st.booleans(),
    closed=st.booleans(),
    seed=st.integers(0, 50),
)
def test_nothing_is_lost(rate: float, admit: Any, shared: bool, closed: bool, seed: int) -> None:
    given_ = parse(document(rate, admit, shared, closed), Path())
    world: Any = given_.world
    work = world.workload(given_.case, seed)
    run = world.simulation(given_.case, work, given_.policies[0], seed)
    run.run()
    assert int(run.state[at.FINISHED]) == len(work)
    ended = (at.FINISHED_STATE, at.REJECTED, at.SHED, at.RECALLED)
    assert np.isin(run.jobs[at.STATE], ended).all()
    rows = outcomes(run, Slo())
    metrics = summarise(run, rows)
    assert not verify(work, run.replicas, rows, metrics, series(run), float(run.clock[at.BIN_SECONDS]), closed)
    assert (run.hosts[:, at.FREE] <= run.hosts[:, at.KV_BLOCKS]).all()
    assert not run.hosts[:, [at.RUNNING_COUNT, at.QUEUED_COUNT]].any()
    assert np.nansum(rows["dollars"]) == pytest.approx(metrics["cost"]) or not (rows["status"] == "finished").any()
    again = world.simulation(given_.case, work, given_.policies[0], seed)
    again.run()
    assert np.array_equal(again.seconds[at.FINISH], run.seconds[at.FINISH], equal_nan=True)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_every_policy(name: str) -> None:
    scenario = read(EXAMPLES / f"{name}.yaml", ["workload.generate.requests=60"])
    world: Any = scenario.world
    work = world.workload(scenario.case, 0)
    for policy in scenario.policies:
        assert world.resolve(scenario.case, policy, scenario.folder) is None
        result = world.run(scenario.case, work, policy, 0)
        assert np.isfinite(result.metrics[scenario.objective])


def test_early_rejection_knows_limits_in_a_closed_loop_too() -> None:
    """Arrivals are made by the run there, and so are the times by which first tokens are due."""
    made = document(2.0, "early_rejection", False, True)
    made["classes"] = {"now": {"ttft": 0.0001, "share": 1.0}}
    del made["failures"]
    given_ = parse(made, Path())
    world: Any = given_.world
    metrics = world.run(given_.case, world.workload(given_.case, 0), given_.policies[0], 0).metrics
    assert metrics["shed"] > 30
