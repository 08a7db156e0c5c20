"""The simulator equals its slow twin: rules of eviction, tiers below the cache, what a router believes."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.rules import ORDERS
from rota.worlds.serving.caching import EVICTIONS, Index, Tier
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload
from rota.worlds.serving.policies import KvRouter
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.slow_fleet import active, parts
from tests.worlds.serving.slow_tiers import SlowCaches
from tests.worlds.serving.test_twin_fleet import (
    FCFS,
    Rows,
    by_priority,
    replica,
    rows_of_requests,
    shared_beginnings,
    workload,
)
from tests.worlds.serving.twin import Asked, Key, Told, Waking, same, slow_requests

branches_of = st.lists(st.integers(0, 4), min_size=16, max_size=16)
TIERS = {
    "none": (),
    "host": (Tier(5, 1024.0, 0.01),),
    "host and disk": (Tier(3, 4096.0, 0.0, 0.5), Tier(9, 512.0, 0.05)),
}


def shared(rows: Rows, branches: list[int], block_tokens: int = 4) -> Workload:
    rows = sorted(rows, key=lambda row: row[0])
    return workload(rows, shared_beginnings([prompt for _, prompt, _, _ in rows], branches, block_tokens))


def compare(
    work: Workload,
    fleet: Sequence[Replica],
    order: Told | None = None,
    index: Index | None = None,
    asked: bool = False,
) -> Simulation:
    """Routes go by missing tokens, prompts in front and KV in use, asked in Python or read by the kernel."""
    order, index = order or FCFS(), index or Index()
    place = Asked("missing_tokens") if asked else KvRouter()
    roles = Roles(order, place, ORDERS["fcfs"]())
    run = Simulation(work, fleet, roles, work.output_tokens.astype(np.float64), index=index)
    run.run()
    slow, ranking = slow_requests(work), order.ranking()
    for each in slow:
        if order.asked == "arrival":
            each.order_key = ranking.key(each, 0.0)

    def cost(engine: Any, r: Any) -> float:
        missing = float(max(0, r.prompt - twin.believed(engine, r) * engine.pool.size))
        return missing if asked else missing + sum(p for p, _ in parts(engine)) + active(engine)

    tokens = work.prefix.block_tokens if work.prefix is not None else 0
    twin = SlowCaches(fleet, ranking, cost, tokens, index)
    twin.run(slow)
    same(run, slow)
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert (run.hosts[:, at.LOADS] == 0).all()
    return run


def cached(name: str, tiers: str, rule: str, **settings: Any) -> Replica:
    shape = {"prefix_caching": True, "kv_bytes": 16.0, "kv_blocks": 9} | settings
    return replica(name, tiers=TIERS[tiers], eviction=rule, **shape)


@pytest.mark.parametrize("rule", EVICTIONS)
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(rows=rows_of_requests, branches=branches_of)
def test_rules_of_eviction(name: str, rule: str, branches: list[int], rows: Rows) -> None:
    compare(shared(rows, branches), [cached(name, "none", rule), cached(name, "none", rule, slower=2.0, kv_blocks=7)])


@pytest.mark.parametrize("rule", ["lru", "lfu", "recompute"])
@pytest.mark.parametrize("tiers", ["host", "host and disk"])
@pytest.mark.parametrize("name", ["vllm_v1", "vllm_v1 ahead"])
@pytest.mark.parametrize("block_tokens", [2, 4, 8])
@given(rows=rows_of_requests, branches=branches_of)
def test_tiers(name: str, tiers: str, rule: str, block_tokens: int, branches: list[int], rows: Rows) -> None:
    fleet = [cached(name, tiers, rule), cached(name, "none", rule, slower=2.0, kv_blocks=7)]
    compare(shared(rows, branches, block_tokens), fleet)


@pytest.mark.parametrize("asked", ["arrival", "decision", "pick"])
@pytest.mark.parametrize("name", ["vllm_v1", "vllm_v1 ahead"])
@given(rows=rows_of_requests, branches=branches_of)
def test_orders_that_displace_prompts_that_wait_for_blocks(
    name: str, asked: str, branches: list[int], rows: Rows
) -> None:
    order = replace(by_priority(), asked=asked, preemptive=True)
    compare(shared(rows, branches), [cached(name, "host and disk", "lru", kv_blocks=7)], order)


@pytest.mark.parametrize("tiers", ["host", "host and disk"])
@given(
    rows=rows_of_requests,
    branches=branches_of,
    delay=st.integers(1, 20),
    wakes=st.lists(st.integers(1, 60), max_size=20),
)
def test_an_order_that_displaces_and_lets_some_wait(
    tiers: str, delay: int, wakes: list[int], branches: list[int], rows: Rows
) -> None:
    """Where all that is left waits for a time, a load that was displaced wakes nobody."""

    def key(number: float, release: float, prompt: float, size: float, priority: float, *moving: float) -> Key:
        return (priority,) if moving[3] >= release + delay * priority * 0.0625 else (inf,)

    order = Waking(key, "decision", preemptive=True, wakes=tuple(wake * 0.0625 for wake in wakes))
    compare(shared(rows, branches), [cached("vllm_v1", tiers, "lru", kv_blocks=7)], order)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("tiers", ["none", "host"])
@pytest.mark.parametrize(
    "index", [Index("sent"), Index("sent", blocks=3), Index("events"), Index("events", 0.05), Index("events", 0.7)]
)
@given(rows=rows_of_requests, branches=branches_of)
def test_what_a_router_believes(index: Index, tiers: str, asked: bool, branches: list[int], rows: Rows) -> None:
    fleet = [cached("vllm_v1", tiers, "lru"), cached("vllm_v1", tiers, "lru", slower=2.0, kv_blocks=7)]
    at_once = [(5 * k + time % 5, *rest) for k, (time, *rest) in enumerate(rows)]  # never two at one time
    compare(shared(at_once, branches), fleet, index=index, asked=asked)


@given(rows=rows_of_requests, branches=branches_of)
def test_events_without_delay_are_the_truth(branches: list[int], rows: Rows) -> None:
    fleet = [cached("vllm_v1", "host", "lru"), cached("vllm_v1", "none", "lfu", slower=2.0)]
    true, told = (compare(shared(rows, branches), fleet, index=index) for index in (Index(), Index("events")))
    assert np.array_equal(true.seconds, told.seconds, equal_nan=True)
    assert np.array_equal(true.jobs[at.HOST], told.jobs[at.HOST])


def test_a_tier_is_hit_and_its_time_is_counted() -> None:
    """So that the tests above test something. Prompts of four blocks in a cache of five: what the second pushed out of the first's comes back for the third.

    Its first block is still there; the next two are below: 2 x 4 tokens x 16 bytes / 1,024 bytes a second + 0.01 s.
    """
    rows = [(0, 16, 1, 0), (20, 16, 1, 0), (40, 16, 1, 0)]
    work = shared(rows, [0, 0, 0])
    ids = work.prefix.ids.copy()  # type: ignore[union-attr]
    ids[8:] = ids[:4]
    work = replace(work, prefix=replace(work.prefix, ids=ids))  # type: ignore[type-var]
    run = compare(work, [cached("vllm_v1", "host", "lru", kv_blocks=5)])
    assert run.jobs[at.CACHED].tolist() == [0, 0, 12]
    assert run.jobs[at.LOADED].tolist() == [0, 0, 8]
    assert run.caches.tier_hits().tolist() == [[8]]
    began = run.seconds[at.SCHEDULED, 2]
    alone = run.seconds[at.FIRST_TOKEN, 2] - began - (2 * 4 * 16 / 1024 + 0.01)
    assert alone == pytest.approx(0.011 + 4 * 0.0013, abs=1e-9)
