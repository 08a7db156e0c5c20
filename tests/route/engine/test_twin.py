"""The live replica gives every token at the very time at which the simulator gives it, under every batcher."""

import asyncio
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.route.engine.live import LiveReplica
from rota.route.engine.metrics import EngineMetrics
from rota.route.engine.replica import Replica
from rota.route.engine.sequence import Sequence
from rota.route.engine.settings import ENGINE_BATCHERS, limits
from rota.rules import ORDERS, PLACES
from rota.worlds.serving import replica as fleet
from rota.worlds.serving import simulate
from rota.worlds.serving.batching import BatchRules, Engine
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import PrefixBlocks, Workload, make_workload
from rota.worlds.serving.policies import BATCHERS, VllmV1
from rota.worlds.serving.timing import Timing, build
from tests.route.engine.virtual import VirtualClock

LINEAR = {"constant": 0.011, "prefill_tokens": 0.0013, "decodes": 0.0007, "decode_context": 0.00003}
ENGINE = Engine(12, 4, 4, 16, 24)
BLOCK = 4
EVERY_BATCHER = [*ENGINE_BATCHERS, "vllm_v1 ahead", "vllm_v1 whole prompts"]
Rows = list[tuple[int, int, int]]  # arrival in 1/16 s, prompt, output

rows_of_requests = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 20), st.integers(1, 16)), min_size=1, max_size=16
)


def rules_of(name: str) -> BatchRules:
    if name == "vllm_v1 ahead":
        return VllmV1(async_scheduling=True).rules(ENGINE)
    if name == "vllm_v1 whole prompts":
        return VllmV1(chunked_prefill=False, reserve_full_prompt=False).rules(ENGINE)
    more: dict[str, dict[str, Any]] = {"sarathi": {"chunk_tokens": 8, "watermark": 0.0}, "vllm_v0": {"watermark": 0.1}}
    return BATCHERS[name](**more.get(name, {})).rules(ENGINE)


def timing(kind: str = "linear") -> Timing:
    spec = {"linear": LINEAR} if kind == "linear" else kind
    return build(spec, model("llama-3-8b"), gpu("a100-80g"), 1, Path())


def workload(rows: Rows, prefix: PrefixBlocks | None = None) -> Workload:
    time, prompt, output = (np.array(column) for column in zip(*sorted(rows, key=lambda row: row[0]), strict=True))
    return make_workload(time * 0.0625, prompt, output, prefix=prefix)


def simulated(work: Workload, name: str, shape: dict[str, Any], caching: bool, kind: str) -> simulate.Simulation:
    replica = fleet.Replica(
        "tiny", context_limit=64, rules=rules_of(name), timing=timing(kind), prefix_caching=caching, **shape
    )
    roles = fleet.Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]())
    run = simulate.Simulation(work, [replica], roles)
    run.run()
    return run


def token_ids(work: Workload, j: int) -> "array[int]":
    """Ids whose blocks are equal exactly where the trace's are; answers have nothing in common."""
    ids = array("I", range(1_000_000 + 1000 * j, 1_000_000 + 1000 * j + work.prompt_tokens[j] + work.output_tokens[j]))
    prefix = work.prefix
    if prefix is not None:
        named = prefix.ids[prefix.offsets[j] : prefix.offsets[j + 1]].tolist()
        for k, block in enumerate(named):
            if (k + 1) * BLOCK <= work.prompt_tokens[j]:
                ids[k * BLOCK : (k + 1) * BLOCK] = array("I", [block] * BLOCK)
    return ids


def lived(work: Workload, name: str, shape: dict[str, Any], caching: bool, kind: str) -> list[Sequence]:
    """The same requests, sent one by one to the live loop on a virtual clock."""
    clock = VirtualClock()
    metrics = EngineMetrics("tiny", 64, BLOCK, shape["kv_blocks"], caching)
    done: list[Sequence] = []

    async def client(live: LiveReplica, seq: Sequence, arrival: float) -> None:
        await clock.sleep_until(arrival)
        ticket = live.submit(seq)
        while not seq.finished:
            await ticket.more(seq.generated)
        assert clock.now() == seq.token_times[-1]  # the client knows at once
        live.leave(ticket)

    async def everything() -> None:
        live = LiveReplica(
            lambda: Replica(rules_of(name), timing(kind), prefix_caching=caching, **shape), clock, metrics
        )
        live.start()
        rows = zip(work.arrival.tolist(), work.prompt_tokens.tolist(), work.output_tokens.tolist(), strict=True)
        clients = []
        for j, (arrival, prompt, output) in enumerate(rows):
            done.append(Sequence(j, prompt, output, token_ids(work, j) if caching else None))
            clients.append(client(live, done[-1], arrival))
        await clock.run(_all(clients))
        assert live.outstanding == 0
        if not live.replica.rules.ahead:  # which gives the last blocks back when it next looks
            assert live.replica.blocks.free == shape["kv_blocks"]
        await live.stop()

    asyncio.run(everything())
    return done


async def _all(clients: list[Any]) -> None:
    await asyncio.gather(*clients)


def compare(
    rows: Rows, name: str, prefix: PrefixBlocks | None = None, kind: str = "linear", **shape: Any
) -> simulate.Simulation:
    """Every time, to the bit."""
    shape = {"kv_blocks": 12, "block_tokens": BLOCK, "max_running": 4} | shape
    # The simulator rejects what can never fit; the server asks `limits` before a replica sees it.
    longest, longest_prompt = limits(rules_of(name), shape["kv_blocks"], BLOCK, 64)
    rows = [row for row in rows if sum(row[1:]) <= longest and row[1] <= longest_prompt]
    if not rows:
        rows = [(0, 1, 1)]
    work, caching = workload(rows, prefix), prefix is not None
    run = simulated(work, name, shape, caching, kind)
    seen = lived(work, name, shape, caching, kind)
    assert run.seconds[at.SCHEDULED].tolist() == [seq.scheduled for seq in seen]
    assert run.seconds[at.FIRST_TOKEN].tolist() == [seq.token_times[0] for seq in seen]
    assert run.seconds[at.FINISH].tolist() == [seq.token_times[-1] for seq in seen]
    assert run.jobs[at.PREEMPTIONS].tolist() == [seq.preemptions for seq in seen]
    assert run.jobs[at.CACHED].tolist() == [seq.cached for seq in seen]
    assert run.histogram[0].sum() == sum(len(seq.token_times) - 1 for seq in seen)
    gaps = sum(seq.token_times[-1] - seq.token_times[0] for seq in seen)
    assert np.isclose(run.histogram[1].sum(), gaps, rtol=1e-9, atol=1e-12)
    return run


@pytest.mark.parametrize("name", EVERY_BATCHER)
@given(rows=rows_of_requests)
def test_every_batcher(name: str, rows: Rows) -> None:
    compare(rows, name)


@given(rows=rows_of_requests)
def test_the_timing_model_of_the_default(rows: Rows) -> None:
    compare(rows, "vllm_v1", kind="roofline", max_running=8, kv_blocks=40)


def test_preemption_by_recompute() -> None:
    run = compare([(0, 15, 14), (0, 14, 15), (1, 12, 12), (2, 8, 16)], "vllm_v1")
    assert run.jobs[at.PREEMPTIONS].sum() >= 2


@pytest.mark.parametrize("name", ["vllm_v1", "vllm_v1 ahead", "vllm_v0", "sarathi"])
@given(
    rows=rows_of_requests, families=st.lists(st.integers(0, 2), min_size=16, max_size=16), blocks=st.integers(10, 24)
)
def test_prefix_cache(name: str, rows: Rows, families: list[int], blocks: int) -> None:
    """Requests of a family begin alike, for as many blocks as both have."""
    longest, longest_prompt = limits(rules_of(name), blocks, BLOCK, 64)
    rows = [row for row in rows if sum(row[1:]) <= longest and row[1] <= longest_prompt]
    rows.sort(key=lambda row: row[0])
    if not rows:
        rows = [(0, 9, 2)]
    families_of = zip(families, rows, strict=False)
    names = [[5 * family + k for k in range(row[1] // BLOCK)] for family, row in families_of]
    offsets = np.cumsum([0, *map(len, names)])
    _, dense = np.unique(np.array([name for each in names for name in each], np.int64), return_inverse=True)
    prefix = PrefixBlocks(offsets, dense.astype(np.int64), BLOCK)
    compare(rows, name, prefix, kv_blocks=blocks)
