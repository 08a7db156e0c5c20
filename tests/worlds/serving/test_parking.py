"""QLLM: iterations that are parked between layers equal a slow twin, cost what they should, and lose nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.worlds.serving.batching import BatchRules, Engine
from rota.worlds.serving.kernels import inside
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import PrefixBlocks, Workload, make_workload
from rota.worlds.serving.policies import Qllm
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import replica as plain_replica
from tests.worlds.serving.test_twin_fleet import timing
from tests.worlds.serving.twin import FCFS, Told, compare

ENGINE = Engine(12, 4, 4, 16, 40, 6)
MADE = {
    "apart": Qllm(),
    "together": Qllm(together=True),
    "apart, dear": Qllm(switch=0.003),
    "together, pieces": Qllm(together=True, chunk_tokens=5, switch=0.0),
    "apart, pieces": Qllm(chunk_tokens=4),
}
rows_of_requests = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2)), min_size=1, max_size=20
)
Rows = list[tuple[int, int, int, int]]


def replica(rules: BatchRules, slower: float = 1.0, **sizes: Any) -> Replica:
    shape: dict[str, Any] = {"kv_blocks": 12, "block_tokens": 4, "max_running": 4, "context_limit": 64} | sizes
    return Replica(
        "tiny", rules=rules, timing=timing(slower), prefill_rate=2.0**-10, decode_rate=slower * 2.0**-7, **shape
    )


def workload(rows: Rows, prefix: PrefixBlocks | None = None, step: float = 0.0078125) -> Workload:
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, priority = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(time * step, prompt, output, priority=priority, prefix=prefix)


def by_priority(asked: str = "arrival") -> Told:
    return Told(lambda number, release, prompt, output, priority, *_: (priority,), asked)


def lived(asked: str) -> Told:
    return Told(lambda number, release, prompt, output, priority, generated, *_: (-generated,), asked)


# -- the twin ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [FCFS, by_priority])
@pytest.mark.parametrize("name", MADE)
@given(rows=rows_of_requests)
def test_equals_the_slow_twin(name: str, order: Any, rows: Rows) -> None:
    compare(workload(rows), [replica(MADE[name].rules(ENGINE))], order())


@pytest.mark.parametrize("name", MADE)
@given(rows=rows_of_requests)
def test_with_memory_that_is_short(name: str, rows: Rows) -> None:
    """What is parked is displaced, and its iteration goes on without it."""
    compare(workload(rows, step=0.03125), [replica(MADE[name].rules(ENGINE), kv_blocks=10)], by_priority())


@pytest.mark.parametrize("name", ["apart", "together", "together, pieces"])
@pytest.mark.parametrize("asked", ["decision", "pick"])
@settings(max_examples=50)
@given(rows=rows_of_requests)
def test_with_an_order_that_is_asked(asked: str, name: str, rows: Rows) -> None:
    compare(workload(rows), [replica(MADE[name].rules(ENGINE))], lived(asked))


@pytest.mark.parametrize("name", ["apart", "together"])
@pytest.mark.parametrize("victim", ["arrival", "decision"])
@settings(max_examples=50)
@given(rows=rows_of_requests)
def test_with_a_victim_role(victim: str, name: str, rows: Rows) -> None:
    shortest = Told(lambda number, release, prompt, *_: (prompt,), victim)
    compare(workload(rows), [replica(MADE[name].rules(ENGINE), kv_blocks=9)], by_priority(), victim=shortest)


@pytest.mark.parametrize("name", ["apart", "together"])
@settings(max_examples=50)
@given(rows=rows_of_requests, order=st.sampled_from(["arrival", "decision"]))
def test_beside_plain_replicas(name: str, rows: Rows, order: str) -> None:
    fleet = [replica(MADE[name].rules(ENGINE)), plain_replica(), replica(MADE["apart, dear"].rules(ENGINE), 1.5)]
    compare(workload(rows), fleet, by_priority(order), route="least_outstanding")


@pytest.mark.parametrize("name", ["apart", "together, pieces"])
@settings(max_examples=50)
@given(rows=rows_of_requests, shared=st.integers(0, 4))
def test_with_a_prefix_cache(name: str, rows: Rows, shared: int) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    ids: list[list[int]] = []
    for number, (_, prompt, _, _) in enumerate(rows):
        whole = prompt // 4
        common = min(whole, shared)
        ids.append([*range(common), *(100 * (number + 1) + k for k in range(common, whole))])
    _, dense = np.unique(np.array([each for row in ids for each in row], np.int64), return_inverse=True)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    prefix = PrefixBlocks(offsets, dense.astype(np.int64), 4)
    compare(workload(rows, prefix), [replica(MADE[name].rules(ENGINE), prefix_caching=True)], by_priority())


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=50)
@given(rows=rows_of_requests)
def test_nothing_is_lost(name: str, rows: Rows) -> None:
    work = workload(rows)
    run = compare(work, [replica(MADE[name].rules(ENGINE))], by_priority())
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert (done | (run.jobs[at.STATE] == at.REJECTED)).all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    if not run.jobs[at.PREEMPTIONS].any():  # every token is computed once, parked or not
        assert run.hosts[0, at.BATCHED_TOKENS] == work.prompt_tokens[done].sum() + (work.output_tokens[done] - 1).sum()


@settings(max_examples=50)
@given(rows=rows_of_requests)
def test_without_urgent_requests_it_is_the_plain_batcher(rows: Rows) -> None:
    rows = [(time, prompt, output, 1) for time, prompt, output, _ in rows]
    rules = Qllm().rules(ENGINE)
    runs = []
    for each in (rules, BatchRules(budget=rules.budget, chunked=True, reserve=rules.reserve)):
        run = Simulation(
            workload(rows), [replica(each)], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]())
        )
        run.run()
        runs.append(run)
    assert np.array_equal(runs[0].seconds, runs[1].seconds, equal_nan=True)


# -- by hand ----------------------------------------------------------------------------------------------------------


def alone(rules: BatchRules, rows: Rows, step: float = 1.0, **sizes: Any) -> Simulation:
    run = Simulation(
        workload(rows, step=step), [replica(rules, kv_blocks=400, **sizes)],
        Roles(ORDERS["priority"](), PLACES["round_robin"](), ORDERS["fcfs"]()),
    )  # fmt: skip
    run.run()
    return run


def test_an_urgent_prompt_waits_for_a_layer_only() -> None:
    """Times of the linear model: 0.011 s, 1.3 ms a prompt token. A prompt of 40 tokens takes 63 ms, in 6 layers of 10.5 ms; one of 10 takes 24 ms.

    The urgent one comes after 20 ms: at 21 ms the first is parked, the urgent one runs for 24 ms and the switch, and 42 ms and a switch are left.
    """
    rules = Qllm(chunk_tokens=64, switch=0.001).rules(ENGINE)
    run = alone(rules, [(0, 40, 1, 1), (20, 10, 1, 0)], step=0.001)
    first, urgent = run.seconds[at.FIRST_TOKEN]
    assert urgent == pytest.approx(0.021 + 0.001 + 0.024)
    assert first == pytest.approx(0.021 + 0.001 + 0.024 + 0.001 + 0.042)
    assert run.arrays[at.A_INSIDE][0, inside.PARKS_COUNT] == 1
    assert run.clocks[0, at.BUSY_SECONDS] == pytest.approx(0.063 + 0.024 + 0.002)


def test_who_comes_in_the_last_layer_waits_for_it() -> None:
    rules = Qllm(chunk_tokens=64, switch=0.001).rules(ENGINE)
    run = alone(rules, [(0, 40, 1, 1), (55, 10, 1, 0)], step=0.001)
    first, urgent = run.seconds[at.FIRST_TOKEN]
    assert first == pytest.approx(0.063)
    assert urgent == pytest.approx(0.063 + 0.024)
    assert run.arrays[at.A_INSIDE][0, inside.PARKS_COUNT] == 0


def test_a_second_urgent_one_does_not_wait_for_the_rest() -> None:
    """The rest goes on at 47 ms, its layers count from there: at 51 ms the next urgent one comes, at 57.5 ms a layer ends."""
    rules = Qllm(chunk_tokens=64, switch=0.001).rules(ENGINE)
    run = alone(rules, [(0, 40, 1, 1), (20, 10, 1, 0), (51, 10, 1, 0)], step=0.001)
    assert run.seconds[at.FIRST_TOKEN, 2] == pytest.approx(0.047 + 0.0105 + 0.001 + 0.024)
    assert run.seconds[at.FIRST_TOKEN, 0] == pytest.approx(0.0825 + 0.001 + 0.0315)


def test_urgent_decodes_alone_or_with_the_others() -> None:
    """Apart, the others stand still for all of an urgent answer; together, for its prompt only."""
    rows = [(0, 4, 30, 1), (50, 4, 10, 0)]
    ends = {}
    for together in (False, True):
        run = alone(Qllm(together=together, switch=0.0, chunk_tokens=64).rules(ENGINE), rows, step=0.001)
        ends[together] = run.seconds[at.FINISH].tolist()
    assert ends[False][1] < ends[True][1]
    assert ends[True][0] < ends[False][0]
    assert run.histogram[0].sum() == 29 + 9


def test_the_others_give_way_to_an_urgent_one_that_waits() -> None:
    """Two slots are taken by requests of low priority: the one that was admitted last goes, and computes again afterwards."""
    rules = Qllm(chunk_tokens=64, switch=0.0).rules(ENGINE)
    run = alone(rules, [(0, 8, 9, 1), (1, 8, 9, 1), (60, 4, 3, 0)], step=0.001, max_running=2)
    assert run.jobs[at.PREEMPTIONS].tolist() == [0, 1, 0]
    assert run.seconds[at.FINISH, 2] < run.seconds[at.FINISH, 0] < run.seconds[at.FINISH, 1]


def test_nobody_gives_way_where_that_would_not_be_enough() -> None:
    """Both slots are urgent, or nearly all memory is."""
    rules = Qllm(chunk_tokens=64, switch=0.0, together=True).rules(ENGINE)
    run = alone(rules, [(0, 8, 9, 0), (1, 8, 9, 0), (60, 4, 3, 0)], step=0.001, max_running=2)
    assert not run.jobs[at.PREEMPTIONS].any()
    assert run.seconds[at.SCHEDULED, 2] >= run.seconds[at.FINISH, :2].min()


def test_a_host_that_goes_down_forgets_what_was_parked() -> None:
    from rota.worlds.serving.kernels import fleet

    run = Simulation(
        workload([(0, 40, 3, 1), (20, 10, 9, 0), (2000, 40, 1, 1), (2020, 10, 1, 0)], step=0.001),
        [replica(Qllm(chunk_tokens=64, switch=0.001).rules(ENGINE), kv_blocks=400)],
        Roles(ORDERS["priority"](), PLACES["round_robin"](), ORDERS["fcfs"]()),
    )
    run.run(until=0.06)
    assert run.arrays[at.A_INSIDE][0, inside.PARKED_NOW] == 1
    fleet.crash(run.state, 0, 0.06)
    run.hosts[0, [at.SHUT, at.DOWN]] = 0
    run.state[at.GLOBAL], run.state[at.DISPATCH] = 1, 1
    from rota.worlds.serving.kernels import advance

    run._advance = advance.advance_together
    run.run()
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
    assert run.seconds[at.FIRST_TOKEN, 3] == pytest.approx(2.021 + 0.001 + 0.024)


# -- scenarios --------------------------------------------------------------------------------------------------------


def document(**group: Any) -> dict[str, Any]:
    return {
        "world": "serving",
        "workload": {"generate": {"kind": "chat", "requests": 150, "rate": 1.0}},
        "fleet": [{"model": "mixtral-8x7b", "gpu": "a100-80g", "tp": 2, **group}],
        "classes": {"fast": {"share": 0.5, "priority": 0, "ttft": 1.0}, "slow": {"share": 0.5, "priority": 1}},
        "policies": [{"name": "a"}],
    }


def test_a_run_tells_how_often_it_parked(tmp_path: Path) -> None:
    made: Any = parse(document(), tmp_path)
    policy = {"name": "q", "batch": "qllm", "order": "priority"}
    run = made.world.run(made.case, made.world.workload(made.case, 0), policy, 0)
    assert run.metrics["parks"] > 10
    plain = made.world.run(made.case, made.world.workload(made.case, 0), {"name": "p", "order": "priority"}, 0)
    assert plain.metrics["parks"] == 0
    assert run.metrics["ttft_p99[fast]"] < plain.metrics["ttft_p99[fast]"]


GROUPS = {
    "apart": [{"role": "prefill"}, {"role": "decode"}],
    "step": [{"count": 2, "timing": {"roofline": {"experts": {"parallel": 2}}}}],
}


@pytest.mark.parametrize(
    ("batch", "group", "changes", "policy", "says"),
    [
        ("qllm", {"swap": {"blocks": 100}}, {}, {}, "qllm: does not go with swap"),
        ("qllm", {"speculative": {}}, {}, {}, "qllm does not go with speculative"),
        ("qllm", {"count": 2}, {}, {"migrate": "llumnix"}, "qllm: does not go with migration"),
        ("qllm", {}, {}, {"pool": "together"}, "qllm: does not go with pools"),
        ("qllm", {}, {"power": {"telemetry": 1.0}}, {}, "qllm: does not go with power"),
        ("qllm", {"adapters": {"slots": 2}}, {"adapters": {"count": 4}}, {}, "qllm: does not go with adapters"),
        ("qllm", "apart", {}, {}, "qllm: does not go with replicas for prompts or decodes only"),
        ("qllm", "step", {}, {}, "qllm does not go with replicas that share experts"),
        ("semi_pd", {"speculative": {}}, {}, {}, "semi_pd does not go with speculative"),
        ("semi_pd", "apart", {}, {}, "semi_pd: needs replicas of role mixed"),
        ("layered_prefill", "step", {}, {}, "layered_prefill does not go with replicas that share experts"),
    ],
)
def test_what_it_does_not_go_with(
    batch: str, group: Any, changes: dict[str, Any], policy: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """Said beforehand, and again by a run that is set up all the same."""
    plain = document()["fleet"][0]
    fleet = [{**plain, **each} for each in (GROUPS[group] if isinstance(group, str) else [group])]
    made: Any = parse({**document(), "fleet": fleet, **changes}, tmp_path)
    whole = {"name": "q", "batch": batch, **policy}
    reason = made.world.resolve(made.case, whole, tmp_path)
    assert reason is not None
    assert reason.startswith(says)
    with pytest.raises(InputError) as found:
        made.world.run(made.case, made.world.workload(made.case, 0), whole, 0)
    assert str(found.value) == reason


@pytest.mark.parametrize("batch", ["qllm", "semi_pd"])
def test_what_it_goes_with(batch: str, tmp_path: Path) -> None:
    made: Any = parse(document(prefix_caching=True), tmp_path)
    assert made.world.resolve(made.case, {"name": "q", "batch": batch, "order": "priority"}, tmp_path) is None


def test_an_order_that_displaces_does_not_apply(tmp_path: Path) -> None:
    made: Any = parse(document(), tmp_path)
    policy = {"name": "q", "batch": "qllm", "order": "changing_priorities"}
    reason = made.world.resolve(made.case, policy, tmp_path)
    assert reason is not None
    assert "displaces requests" in reason


@pytest.mark.parametrize(
    "changes", [{"switch": -1.0}, {"switch": np.inf}, {"switch": np.nan}, {"chunk_tokens": -1}, {"chunk_tokens": 2}]
)
def test_settings_that_mean_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^qllm: "):
        Qllm(**changes).rules(ENGINE)
