"""Prefix caches in scenarios: what may be written, what is measured, and that the studies run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.study.scenario import parse, read
from rota.worlds.serving.caching import BLOCKS_MOST, block_cost

GROUP = {"model": "llama-3.1-8b", "gpu": "h100", "prefix_caching": True}
SESSIONS = {"turns": 3, "gap_seconds": 5, "system_tokens": 256, "groups": 4}


def document(group: dict[str, Any] | None = None, policy: dict[str, Any] | None = None, **sections: Any) -> Any:
    workload = {"generate": {"kind": "chat", "requests": 300, "rate": 20, "sessions": SESSIONS}}
    return {"world": "serving", "workload": workload, "fleet": [GROUP | (group or {})],
            "policies": [{"name": "a"} | (policy or {})]} | sections  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"group": {"prefix_caching": {"eviction": "lfru"}}}, r"fleet\[0\].prefix_caching.eviction"),
        ({"group": {"prefix_caching": {"evict": "lru"}}}, "unknown key 'evict'; did you mean 'eviction'"),
        ({"group": {"prefix_caching": {"tiers": [{"blocks": 0}]}}}, r"tiers\[0\].blocks: expected 'int' >= 1, found 0"),
        ({"group": {"prefix_caching": {"tiers": [{"bandwidth": 1e9}]}}}, "missing the key 'blocks'"),
        ({"group": {"prefix_caching": {"tiers": [{"blocks": 9, "bandwidth": 0.0}]}}}, "bandwidth: .* > 0.0, found 0.0"),
        ({"group": {"prefix_caching": {"tiers": [{"blocks": 9, "latency": -1.0}]}}}, "latency: .* >= 0.0, found -1.0"),
        ({"group": {"prefix_caching": {"tiers": [{"blocks": 9, "compress": 1.5}]}}}, "compress: .* <= 1.0, found 1.5"),
        ({"index": {"kind": "guess"}}, "index.kind"),
        ({"index": {"kind": "events", "delay": -1.0}}, "index.delay: .* >= 0.0, found -1.0"),
        ({"index": {"kind": "sent", "delay": 1.0}}, "index.delay: belongs to kind events, found kind sent"),
        ({"index": {"kind": "events", "blocks": 9}}, "index.blocks: belongs to kind sent, found kind events"),
        ({"index": {"kind": "sent"}, "group": {"prefix_caching": False}}, "index: no replica has a prefix cache"),
        ({"group": {"swap": {"blocks": 9, "per_copy": -1.0}}}, "swap.per_copy: .* >= 0.0, found -1.0"),
        ({"group": {"swap": {"blocks": 9, "group_blocks": 0}}}, "swap.group_blocks: .* >= 1, found 0"),
        ({"group": {"swap": {"blocks": 9, "compress": 0.0}}}, "swap.compress: .* > 0.0, found 0.0"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as told:
        parse(document(**changes), Path())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("batch", ["vllm_v0", "sarathi", "orca", "static", {"vllm_v1": {"chunked_prefill": False}}])
def test_tiers_need_a_batcher_that_cuts_and_mixes(batch: Any) -> None:
    scenario = parse(document({"prefix_caching": {"tiers": [{"blocks": 9}]}}, {"batch": batch}), Path())
    with pytest.raises(InputError, match=r"policy a, batch: tiers of the prefix cache need a batcher .*: vllm_v1"):
        scenario.world.resolve(scenario.case, scenario.policies[0], Path())


def result(scenario: Any) -> Any:
    return scenario.world.run(scenario.case, scenario.world.workload(scenario.case, 0), scenario.policies[0], 0)


def test_more_blocks_than_can_be_counted() -> None:
    scenario = parse(document({"kv_blocks": BLOCKS_MOST + 1}), Path())
    with pytest.raises(InputError, match="2,097,151 KV blocks at most"):
        result(scenario)


def test_hits_by_tier_and_tenant_add_up() -> None:
    """Two tenants on a cache that is too small, with memory and a disk below."""
    mix = {"kind": "mix", "requests": 400, "rate": 20, "mix": [
        {"kind": "chat", "tenant": "one", "sessions": SESSIONS}, {"kind": "code", "tenant": "two", "sessions": SESSIONS}]}  # fmt: skip
    tiers = [{"blocks": 400}, {"blocks": 4000, "bandwidth": 5e9, "latency": 0.001}]
    group = {"prefix_caching": {"tiers": tiers}, "kv_blocks": 1500, "context": 20_000}
    run = result(parse(document(group, workload={"generate": mix}), Path()))
    m, rows = run.metrics, run.outcomes
    assert m["tier_1_hit_rate"] > 0.0
    assert m["tier_2_hit_rate"] > 0.0
    assert m["tier_hit_rate"] == pytest.approx(m["tier_1_hit_rate"] + m["tier_2_hit_rate"])
    assert m["tier_hit_rate"] < m["prefix_hit_rate"]
    assert (rows["loaded_tokens"] <= rows["cached_tokens"]).all()
    assert (rows["cached_tokens"] < rows["prompt_tokens"]).all()
    begun = ~np.isnan(rows["scheduled"])
    for tenant in ("one", "two"):
        mine = begun & (rows["tenant"] == tenant)
        expected = rows["cached_tokens"][mine].sum() / rows["prompt_tokens"][mine].sum()
        assert m[f"prefix_hit_rate of {tenant}"] == pytest.approx(expected)


def test_memory_below_finds_more_and_a_slow_disk_costs_time() -> None:
    def found(*tiers: dict[str, float]) -> Any:
        caching = {"tiers": list(tiers)} if tiers else True
        return result(
            parse(document({"prefix_caching": caching, "kv_blocks": 1500, "context": 20_000}), Path())
        ).metrics

    plain, below = found(), found({"blocks": 50_000})
    slow, packed = (
        found({"blocks": 50_000, "bandwidth": 2e8}),
        found({"blocks": 50_000, "bandwidth": 2e8, "compress": 0.5}),
    )
    assert below["prefix_hit_rate"] > plain["prefix_hit_rate"] + 0.05
    assert below["ttft_mean"] < plain["ttft_mean"]
    assert below["ttft_mean"] < packed["ttft_mean"] < slow["ttft_mean"]


def test_the_price_of_a_block_grows_with_its_depth() -> None:
    scenario = parse(document({"prefix_caching": {"eviction": "recompute"}}), Path())
    world: Any = scenario.world
    run = world.simulation(scenario.case, world.workload(scenario.case, 0), scenario.policies[0], 0)
    first, slope = block_cost(run.replicas[0])
    assert 16 * run.replicas[0].prefill_rate == pytest.approx(first)
    assert 0 < slope < first
    run.run()


def test_crashes_empty_all_that_is_cached() -> None:
    """Both replicas go down while requests wait for blocks from below, with pins and a router that is told late."""
    outages = [{"replica": 0, "start": 4.0, "seconds": 3.0}, {"replica": 1, "start": 6.5, "seconds": 2.0}]
    sections = {"failures": {"outages": outages}, "index": {"kind": "events", "delay": 0.5}}
    caching = {"eviction": "lfu", "tiers": [{"blocks": 5000, "bandwidth": 1e9}]}
    group = {"count": 2, "prefix_caching": caching, "kv_blocks": 1500, "context": 20_000}
    policy = {"route": "reuse_and_work", "retain": {"fixed_ttl": {"ttl": 3.0, "always": True}}}
    scenario = parse(document(group, policy, **sections), Path())
    world: Any = scenario.world
    work = world.workload(scenario.case, 0)
    found = world.run(scenario.case, work, scenario.policies[0], 0)
    assert found.metrics["unfinished"] == 0
    assert found.metrics["restarts"] > 0
    assert found.metrics["pins"] > 0
    again = world.run(scenario.case, work, scenario.policies[0], 0)
    assert again.metrics == pytest.approx(found.metrics, rel=0, abs=0, nan_ok=True)


STUDIES = ("prefix-routing", "dlpm", "continuum", "batchllm", "fastswitch")


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_run(name: str, repository: Path) -> None:
    few = "workload.programs.count=8" if name == "continuum" else "workload.generate.requests=40"
    scenario = read(repository / "examples" / "serving" / f"{name}.yaml", [few], 2)
    world: Any = scenario.world
    for policy in scenario.policies:
        assert world.resolve(scenario.case, policy, scenario.folder) is None
        found = world.run(scenario.case, world.workload(scenario.case, 0), policy, 0)
        assert found.metrics["unfinished"] == found.metrics["rejected"] == 0


def test_a_late_router_finds_less_on_the_mooncake_trace(shared_data: Path) -> None:
    """Without delay events are the truth, to the bit; a minute late a quarter of the reuse is gone, and the first token comes later."""
    trace = shared_data / "traces/mooncake/conversation_trace.jsonl.gz"
    fleet = {"model": "llama-3.1-8b", "gpu": "h100", "count": 8, "kv_blocks": 8192, "block_tokens": 64,
             "prefix_caching": True, "context": 200_000}  # fmt: skip
    found = {}
    for name, index in (("true", None), ("at once", {"kind": "events"}), ("late", {"kind": "events", "delay": 60.0})):
        scenario = parse({"world": "serving", "workload": {"trace": str(trace), "format": "mooncake"}, "fleet": [fleet],
                          "policies": [{"name": "a", "route": "reuse_and_work"}]} | ({"index": index} if index else {}), Path())  # fmt: skip
        found[name] = result(scenario).metrics
    assert found["at once"] == pytest.approx(found["true"], rel=0, abs=0, nan_ok=True)
    assert found["late"]["prefix_hit_rate"] < 0.8 * found["true"]["prefix_hit_rate"]
    assert found["late"]["ttft_p99"] > found["true"]["ttft_p99"]
    assert found["late"]["ttft_mean"] > found["true"]["ttft_mean"]
