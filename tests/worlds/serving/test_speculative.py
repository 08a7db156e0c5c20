"""Speculative decoding: equal to its slow twin, true to its formula, the same luck for everyone, and off where it does not pay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from rota.kernel.errors import InputError
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import make_workload
from rota.worlds.serving.policies import BATCHERS
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.speculative import AUTO, NEVER_OFF, Speculative, expected_tokens
from rota.worlds.serving.timing import build
from rota.worlds.serving.world import Serving
from tests.worlds.serving.test_inside_twin import ENGINE, LINEAR, Rows, by_priority, lived, rows_of_requests, workload
from tests.worlds.serving.twin import FCFS, compare

DRAFT = {"constant": 0.002, "prefill_tokens": 0.0001, "decodes": 0.00005, "decode_context": 0.000002}


def timing(**numbers: float) -> Any:
    return build({"linear": numbers}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())


def replica(speculative: Speculative | None, batcher: str = "vllm_v1", **shape: Any) -> Replica:
    parameters: dict[str, Any] = {"chunk_tokens": 8, "watermark": 0.0} if batcher == "sarathi" else {}
    sizes: dict[str, Any] = {"kv_blocks": 12, "block_tokens": 4, "max_running": 4, "context_limit": 64} | shape
    rules = BATCHERS[batcher](**parameters).rules(ENGINE)
    return Replica(
        "tiny",
        rules=rules,
        timing=timing(**LINEAR),
        prefill_rate=2.0**-10,
        decode_rate=2.0**-7,
        speculative=speculative,
        **sizes,
    )


MADE = {
    "a share": Speculative(3, 0.7, 0.1, None, NEVER_OFF),
    "a model": Speculative(4, 0.6, 0.0, timing(**DRAFT), NEVER_OFF),
    "off above two": Speculative(2, 0.9, 0.05, None, 2),
    "decides itself": Speculative(5, 0.5, 0.05, None, AUTO),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("batcher", ["vllm_v0", "vllm_v1", "sarathi", "orca", "static", "past_future"])
@settings(max_examples=40)
@given(rows=rows_of_requests)
def test_equals_the_slow_twin(batcher: str, name: str, rows: Rows) -> None:
    compare(workload(rows), [replica(MADE[name], batcher)], FCFS())


@pytest.mark.parametrize("name", ["a share", "decides itself"])
@settings(max_examples=40)
@given(rows=rows_of_requests)
def test_with_orders_that_displace_or_are_asked(name: str, rows: Rows) -> None:
    compare(workload(rows), [replica(MADE[name])], by_priority(preemptive=True))
    compare(workload(rows), [replica(MADE[name])], lived("decision"))


@given(rows=rows_of_requests)
def test_nothing_is_lost(rows: Rows) -> None:
    run = compare(workload(rows), [replica(MADE["a share"]), replica(None)], FCFS(), route="least_outstanding")
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert (done | (run.jobs[at.STATE] == at.REJECTED)).all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert not run.hosts[:, [at.DECODES, at.CONTEXT_SUM]].any()
    assert not run.arrays[at.A_CLASSES].any()


def alone(speculative: Speculative | None, output: int = 20_000, seed: int = 0, count: int = 1) -> Simulation:
    """Requests that need all of a long answer, with all the memory that they want."""
    work = make_workload(np.zeros(count), np.full(count, 8), np.full(count, output))
    engine = replica(speculative, kv_blocks=count * output // 4 + 16, context_limit=10**6, max_running=max(4, count))
    run = Simulation(work, [engine], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]()), seed=seed)
    run.run()
    return run


@pytest.mark.parametrize(("tokens", "acceptance"), [(1, 0.5), (4, 0.7), (4, 0.9), (8, 0.8), (3, 0.0)])
def test_tokens_of_an_iteration_are_those_of_the_formula(tokens: int, acceptance: float) -> None:
    """(1 - alpha^(k+1)) / (1 - alpha), Leviathan et al., within four standard errors."""
    run = alone(Speculative(tokens, acceptance, 0.05, None, NEVER_OFF))
    iterations = int(run.hosts[0, at.ITERATIONS]) - 1
    counts = np.arange(1, tokens + 2)
    shares = acceptance ** (counts - 1) * np.where(counts <= tokens, 1 - acceptance, 1.0)
    mean = float((shares * counts).sum())
    assert mean == pytest.approx(expected_tokens(tokens, acceptance))
    error = np.sqrt(float((shares * (counts - mean) ** 2).sum()) / iterations)
    assert abs(19_999 / iterations - mean) <= 4 * error + tokens / iterations


def test_by_hand() -> None:
    """Everything is accepted but for a probability of 1e-12: 9 tokens are the first, then 5, then the 3 that are left."""
    engine = replica(Speculative(4, 1.0 - 1e-12, 0.1, None, NEVER_OFF))
    work = make_workload(np.zeros(1), np.array([4]), np.array([9]))
    run = Simulation(work, [engine], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]()))
    run.run()
    whole, constant = run.seconds[at.FINISH, 0], 0.011

    def step(context: int) -> float:
        return constant + 5 * 0.0007 + 0.00003 * context + 4 * 0.1 * (constant + 0.0007 + 0.00003 * context)

    assert whole == pytest.approx(constant + 4 * 0.0013 + step(4) + step(9), rel=1e-12)
    assert run.histogram[0].sum() == 8


def test_the_same_luck_for_every_policy() -> None:
    """A request's iterations of decoding depend on the seed and on itself, not on who is beside it."""
    rules = Speculative(4, 0.7, 0.05, None, NEVER_OFF)
    one, other = alone(rules, 300), alone(rules, 300, seed=1)
    many = alone(rules, 300, count=12)
    assert one.hosts[0, at.ITERATIONS] != other.hosts[0, at.ITERATIONS]
    ends = np.sort(many.seconds[at.FINISH])
    assert len(np.unique(ends)) > 6  # they do not go in step
    assert many.hosts[0, at.ITERATIONS] >= one.hosts[0, at.ITERATIONS]


def test_it_is_switched_off_where_it_does_not_pay() -> None:
    """A decode costs nothing more in a large batch only while memory is what it waits for: with compute to pay for, 1.3 tokens for 5 are a loss."""
    dear = {"constant": 0.001, "decodes": 0.001}
    rules = [Speculative(4, 0.25, 0.01, None, off) for off in (NEVER_OFF, AUTO)]
    ends = []
    for each in (*rules, None):
        work = make_workload(np.zeros(8), np.full(8, 4), np.full(8, 64))
        engine = Replica(
            **{**replica(each, kv_blocks=200, max_running=8, context_limit=128).__dict__, "timing": timing(**dear)}
        )
        run = Simulation(work, [engine], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]()))
        run.run()
        ends.append(run.seconds[at.FINISH].max())
    always, decided, never = ends
    assert decided == never < always


def scenario(**group: Any) -> dict[str, Any]:
    return {
        "workload": {"generate": {"kind": "chat", "requests": 20, "rate": 2.0}},
        "fleet": [{"model": "llama-3-70b", "gpu": "h100", "tp": 4, **group}],
    }


def test_a_draft_model_takes_its_memory() -> None:
    world = Serving()
    policy = {"name": "fcfs"}
    blocks = []
    for group in ({}, {"speculative": {"draft": 0.1}}, {"speculative": {"draft": "llama-3-8b"}}):
        case = world.load(scenario(**group), Path())
        blocks.append(world._fleet(case, policy, Path())[0].kv_blocks)
    assert blocks[0] == blocks[1] > blocks[2]
    left = (blocks[0] * 80 - model("llama-3-8b").parameters * 2 / 4 / (16 * 2 * 2 * 128 * 2)) / (80 + 32)
    assert blocks[2] == int(left)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"speculative": {"tokens": 0}}, "speculative.tokens"),
        ({"speculative": {"acceptance": 1.0}}, "speculative.acceptance"),
        ({"speculative": {"draft": "llama-3-8"}}, "fleet.0.: model 'llama-3-8' is not in the catalogue.*llama-3-8b"),
        ({"speculative": {"draft": 1.5}}, "fleet.0.: speculative.draft: a share"),
        ({"speculative": {"off_above": 0}}, "off_above"),
        ({"speculative": {"k": 3}}, "unknown key 'k'|unknown field"),
        ({"speculative": {}, "prefix_caching": True}, "does not go with prefix_caching"),
        ({"speculative": {"draft": "llama-3.1-405b"}}, "leaves no memory"),
    ],
)
def test_mistakes(group: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Serving().load(scenario(**group), Path())


def test_two_mechanisms_that_both_time_an_iteration() -> None:
    engine = replica(MADE["a share"], "layered_prefill")
    with pytest.raises(InputError, match="layered_prefill does not go with speculative"):
        Simulation(
            workload([(0, 3, 3, 0)]), [engine], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]())
        )
