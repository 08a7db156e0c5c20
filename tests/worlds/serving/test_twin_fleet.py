"""The simulator equals its slow twin: routes, the router's line, replicas of different speed, closed loops, prefix caches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.worlds.serving.batching import BatchRules, Engine
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import PrefixBlocks, Workload, make_workload
from rota.worlds.serving.policies import BATCHERS, VllmV1
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing import build
from tests.worlds.serving.twin import COSTS, FCFS, Told, compare

LINEAR = {"constant": 0.011, "prefill_tokens": 0.0013, "decodes": 0.0007, "decode_context": 0.00003}
ENGINE = Engine(12, 4, 4, 16, 24)
EVERY_BATCHER = [*BATCHERS, "vllm_v1 ahead", "vllm_v1 whole prompts"]


def timing(slower: float = 1.0) -> Any:
    times = {name: slower * value for name, value in LINEAR.items()}
    return build({"linear": times}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())


def rules_of(name: str) -> BatchRules:
    if name == "vllm_v1 ahead":
        return VllmV1(async_scheduling=True).rules(ENGINE)
    if name == "vllm_v1 whole prompts":
        return VllmV1(chunked_prefill=False, reserve_full_prompt=False).rules(ENGINE)
    more: dict[str, dict[str, Any]] = {"sarathi": {"chunk_tokens": 8, "watermark": 0.0}, "vllm_v0": {"watermark": 0.1}}
    return BATCHERS[name](**more.get(name, {})).rules(ENGINE)


def replica(name: str = "vllm_v1", slower: float = 1.0, **settings: Any) -> Replica:
    """Rates are powers of two: sums of them are exact, in whatever order they are added."""
    shape: dict[str, Any] = {"kv_blocks": 12, "block_tokens": 4, "max_running": 4, "context_limit": 64} | settings
    return Replica(
        "tiny",
        rules=rules_of(name),
        timing=timing(slower),
        prefill_rate=2.0**-10,
        decode_rate=slower * 2.0**-7,
        **shape,
    )


rows_of_requests = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2)), min_size=1, max_size=16
)
Rows = list[tuple[int, int, int, int]]


def workload(rows: Rows, prefix: PrefixBlocks | None = None) -> Workload:
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, priority = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(time * 0.0625, prompt, output, priority=priority, prefix=prefix)


def by_priority() -> Told:
    return Told(lambda number, release, prompt, output, priority, *_: (priority,), "arrival")


def shortest(asked: str = "arrival") -> Told:
    return Told(lambda number, release, prompt, *_: (prompt,), asked)


@pytest.mark.parametrize("order", [FCFS, by_priority])
@pytest.mark.parametrize("name", EVERY_BATCHER)
@given(rows=rows_of_requests)
def test_batchers(name: str, order: Any, rows: Rows) -> None:
    compare(workload(rows), [replica(name)], order())


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead"])
@pytest.mark.parametrize("route", COSTS)
@given(rows=rows_of_requests)
def test_routes_over_unequal_replicas(route: str, name: str, rows: Rows) -> None:
    fleet = [replica(name), replica(name, 2.0), replica(name, kv_blocks=6)]
    compare(workload(rows), fleet, FCFS(), route)


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead"])
@pytest.mark.parametrize("route", ["least_work", "least_tokens", "asked_work", "asked_tokens"])
@given(
    rows=rows_of_requests, lengths=st.lists(st.sampled_from([np.nan, 0.5, 2.0, 9.0, 40.0]), min_size=16, max_size=16)
)
def test_what_is_outstanding(route: str, name: str, lengths: list[float], rows: Rows) -> None:
    """Lengths that are hidden, too short and too long; replicas that displace requests."""
    fleet = [replica(name), replica(name, 2.0), replica(name, kv_blocks=9)]
    compare(workload(rows), fleet, FCFS(), route, visible=np.array(lengths[: len(rows)]))


@pytest.mark.parametrize("asked", ["arrival", "decision", "pick"])
@pytest.mark.parametrize("route", ["round_robin", "least_outstanding", "power_of_two", "least_work"])
@given(rows=rows_of_requests, most=st.integers(1, 5))
def test_the_line_of_the_router(route: str, asked: str, most: int, rows: Rows) -> None:
    fleet = [
        replica(max_outstanding=most),
        replica(slower=2.0, max_outstanding=2),
        replica(kv_blocks=6, max_outstanding=most),
    ]
    compare(workload(rows), fleet, FCFS(), route, hold=shortest(asked))


@given(rows=rows_of_requests)
def test_a_line_of_the_router_without_a_limit(rows: Rows) -> None:
    """The order of the line decides among those that come at the same moment."""
    compare(workload(rows), [replica()] * 2, FCFS(), hold=shortest())


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead"])
@given(rows=rows_of_requests, users=st.integers(1, 6), thinks=st.lists(st.integers(0, 8), min_size=16, max_size=16))
def test_closed_loops(name: str, users: int, thinks: list[int], rows: Rows) -> None:
    think = np.array(thinks[: len(rows)]) * 0.0625
    work = make_workload(np.zeros(len(rows)), *(np.array(column) for column in list(zip(*rows, strict=True))[1:3]))
    compare(
        work,
        [replica(name), replica(name, 2.0, kv_blocks=6)],
        FCFS(),
        "least_outstanding",
        concurrency=users,
        think=think,
    )


@pytest.mark.parametrize("block_tokens", [2, 4, 8])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(rows=rows_of_requests, branches=st.lists(st.integers(0, 2), min_size=16, max_size=16))
def test_prefix_caches(name: str, block_tokens: int, branches: list[int], rows: Rows) -> None:
    """Prompts share their beginnings up to a branch; the trace's blocks are smaller than, as large as, or larger than the cache's."""
    rows = sorted(rows, key=lambda row: row[0])
    prefix = shared_beginnings([prompt for _, prompt, _, _ in rows], branches, block_tokens)
    fleet = [replica(name, prefix_caching=True), replica(name, 2.0, kv_blocks=9, prefix_caching=True)]
    compare(workload(rows, prefix), fleet, FCFS(), "least_outstanding")


@pytest.mark.parametrize("route", ["kv_router", "asked_missing"])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead"])
@given(rows=rows_of_requests, branches=st.lists(st.integers(0, 2), min_size=16, max_size=16))
def test_routes_that_look_into_caches(name: str, route: str, branches: list[int], rows: Rows) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    prefix = shared_beginnings([prompt for _, prompt, _, _ in rows], branches, 4)
    fleet = [replica(name, prefix_caching=True), replica(name, 2.0, kv_blocks=9, prefix_caching=True), replica(name)]
    compare(workload(rows, prefix), fleet, FCFS(), route)


def shared_beginnings(prompts: list[int], branches: list[int], block_tokens: int) -> PrefixBlocks:
    """Ids of full blocks: equal exactly where all the blocks before them are; a prompt leaves the common one after `branch` blocks."""
    known: dict[tuple[int, ...], int] = {}
    ids, offsets = [], [0]
    for number, (prompt, branch) in enumerate(zip(prompts, branches, strict=False)):
        path: tuple[int, ...] = ()
        for k in range(prompt // block_tokens):
            path = (*path, -1 if k < branch else number % 5)
            ids.append(known.setdefault(path, len(known)))
        offsets.append(len(ids))
    return PrefixBlocks(np.array(offsets), np.array(ids, np.int64), block_tokens)


def test_a_cache_is_hit() -> None:
    """So that the test above tests something."""
    rows = [(8 * k, 17, 2, 0) for k in range(4)]
    prefix = shared_beginnings([17] * 4, [2] * 4, 4)
    run = compare(workload(rows, prefix), [replica(prefix_caching=True)], FCFS())
    assert run.jobs[at.CACHED].tolist() == [0, 8, 8, 8]
