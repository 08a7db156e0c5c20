"""Adapters: the engine equals its slow twin, the drawn popularity is Zipf's, routes know who has what, and what is wrong is told."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.cli.check import check_scenario
from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.study.scenario import Scenario, parse
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.adapters import AdapterRoom, AdapterSpec, apply_adapters
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS, SERVING_JOB_COLUMNS
from rota.worlds.serving.fleet import Outage, Plan
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.labels import Label, Labels
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import PrefixBlocks, make_workload
from rota.worlds.serving.policies.lora_affinity import AdapterFirst, LoraAffinity
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.slow_adapters import AdapterFleet
from tests.worlds.serving.slow_fleet import outstanding
from tests.worlds.serving.test_twin_fleet import replica, shortest
from tests.worlds.serving.twin import FCFS, Told, pool_of, same, slow_requests

Rows = list[tuple[int, int, int, int]]
rows_of_requests = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 20), st.integers(1, 16), st.integers(-1, 4)), min_size=1, max_size=16
)


class TestRoutes(ConformanceSuite):
    subjects: ClassVar = {
        policy.__name__: Subject(
            policy,
            "place",
            job_columns=SERVING_JOB_COLUMNS,
            host_columns=SERVING_HOST_COLUMNS,
            draws={"kv_use": lambda rng, rows: rng.random(rows)},
            world="serving",
        )
        for policy in (LoraAffinity, AdapterFirst)
    }


def simulate(rows: Rows, slots: int, seconds: float, order: Told, batch: str, plan: Plan | None = None) -> Simulation:
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, adapter = (np.array(column) for column in zip(*rows, strict=True))
    labels = Labels(adapter=Label(adapter, tuple("abcde")))
    work = make_workload(time * 0.0625, prompt, output, labels=labels)
    fleet = [replica(batch, 1.0 + 0.5 * k, adapters=AdapterRoom(slots, seconds)) for k in range(2)]
    roles = Roles(order, PLACES["least_outstanding"](), ORDERS["fcfs"]())
    run = Simulation(work, fleet, roles, output.astype(np.float64), plan=plan)
    run.run()
    found = outcomes(run, Slo())
    assert not verify(work, fleet, found, summarise(run, found), series(run), float(run.clock[at.BIN_SECONDS]), True)
    return run


@pytest.mark.parametrize("order", [FCFS, shortest, lambda: shortest("decision")])
@pytest.mark.parametrize("batch", ["vllm_v1", "sarathi"])
@given(rows=rows_of_requests, slots=st.integers(1, 3), seconds=st.sampled_from([0.0078125, 0.09375, 0.5]))
def test_engine_equals_its_twin(batch: str, order: Any, rows: Rows, slots: int, seconds: float) -> None:
    run = simulate(rows, slots, seconds, order(), batch)
    told = order()
    twin = AdapterFleet(run.replicas, told.ranking(), outstanding, pool=pool_of(run.workload))
    label = run.workload.labels.adapter
    assert label is not None
    twin.use(slots, seconds, label.index.tolist())
    slow = slow_requests(run.workload)
    for each in slow:
        if told.asked == "arrival":
            each.order_key = told.ranking().key(each, 0.0)
    twin.run(slow)
    same(run, slow)
    assert run.adapters is not None
    assert run.adapters.loads == sum(engine.loads for engine in twin.adapters)
    assert run.adapters.hits == sum(engine.hits for engine in twin.adapters)


@given(rows=rows_of_requests, slots=st.integers(1, 3), start=st.integers(0, 30))
def test_a_crash_loses_adapters_and_no_request(rows: Rows, slots: int, start: int) -> None:
    outage = Outage(0, start * 0.0625 + 0.01, start * 0.0625 + 1.0)
    run = simulate(rows, slots, 0.09375, FCFS(), "vllm_v1", Plan(outages=[iter([outage])]))
    assert int(run.state[at.FINISHED]) == len(rows)
    assert (run.jobs[at.STATE] != at.MOVING).all()


def test_a_load_holds_up_who_waits_for_it_and_nobody_else() -> None:
    """Hand-calculated: the second request's adapter takes 0.5 s; the first decodes on at its own pace meanwhile."""
    rows = [(0, 4, 16, -1), (1, 4, 2, 0)]
    with_load = simulate(rows, 1, 0.5, FCFS(), "vllm_v1")
    without = simulate([(0, 4, 16, -1)], 1, 0.5, FCFS(), "vllm_v1")
    first = with_load.seconds[at.FINISH, 0]
    assert first == without.seconds[at.FINISH, 0]  # the other replica has the second one
    wait = with_load.seconds[at.FIRST_TOKEN, 1] - with_load.seconds[at.ARRIVAL, 1]
    assert 0.5 < wait < 0.5 + 0.1


def test_popularity_is_zipf() -> None:
    rows = 40_000
    work = make_workload(np.arange(rows) * 1.0, np.full(rows, 8), np.full(rows, 2))
    label = apply_adapters(work, AdapterSpec(10, 1.2, 0.8), 3).labels.adapter
    assert label is not None
    weights = np.arange(1, 11) ** -1.2
    expected = 0.8 * weights / weights.sum() * rows
    counts = np.bincount(label.index[label.index >= 0], minlength=10)
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


def test_blocks_of_different_adapters_are_different() -> None:
    prefix = PrefixBlocks(np.array([0, 2, 4, 6]), np.array([0, 1, 0, 1, 0, 1]), 16)
    labels = Labels(adapter=Label(np.array([0, 1, 0]), ("a", "b")))
    work = make_workload(np.arange(3.0), np.full(3, 32), np.full(3, 2), prefix=prefix, labels=labels)
    ids = apply_adapters(work, None, 0).prefix
    assert ids is not None
    assert ids.ids[:2].tolist() == ids.ids[4:].tolist()
    assert not set(ids.ids[:2].tolist()) & set(ids.ids[2:4].tolist())


@pytest.mark.parametrize(
    ("active", "waiting", "others", "expected"),
    [(1, 0, 8, 1.0), (0, 1, 3, 0.8), (0, 0, 7, 0.8), (0, 1, 8, 0.6), (0, 0, 8, 0.0)],
)
def test_the_published_scores(active: int, waiting: int, others: int, expected: float) -> None:
    names = ("adapter_active", "adapter_waiting", "adapters_active", "adapters_waiting", "adapter_slots")
    values = dict(zip(names, ([active], [waiting], [others], [0], [8]), strict=True))
    hosts = Hosts({**values, "queued": [3], "kv_use": [0.25]}, SERVING_HOST_COLUMNS.values(), rows=1)
    cost = LoraAffinity(lora=2.0, queue=0.0, kv=0.0).costs(Jobs({}, rows=1), hosts, 0.0)
    assert cost.tolist() == [-2.0 * expected]
    whole = LoraAffinity(lora=0.0, queue=1.0, kv=2.0).costs(Jobs({}, rows=1), hosts, 0.0)
    assert whole.tolist() == [-(1.0 + 2.0 * 0.75)]


def scenario(tmp_path: Path, **changes: Any) -> Scenario:
    group = {
        "model": "llama-3-8b",
        "gpu": "a100-80g",
        "count": 4,
        "max_running": 64,
        "adapters": {"slots": 4, "latency": 0.1},
    }
    document = {
        "world": "serving",
        "workload": {"generate": {"kind": "burst", "requests": 1200, "rate": 30.0, "variation": "none"}},
        "fleet": [group],
        "adapters": {"count": 32},
        "policies": [{"name": "fcfs"}],
    }
    return parse(document | changes, tmp_path)


def test_affinity_loads_less_and_finds_more(tmp_path: Path) -> None:
    given = scenario(tmp_path)
    work = given.world.workload(given.case, 0)
    found = {
        route: given.world.run(given.case, work, {"name": route, "route": route}, 0).metrics
        for route in ("round_robin", "lora_affinity", "adapter_first")
    }
    for route in ("lora_affinity", "adapter_first"):
        assert found[route]["adapter_loads"] < 0.8 * found["round_robin"]["adapter_loads"]
        assert found[route]["adapter_hit_rate"] > found["round_robin"]["adapter_hit_rate"]


def test_who_cannot_load_says_so(tmp_path: Path) -> None:
    given = scenario(tmp_path)
    reason = given.world.resolve(given.case, {"name": "old", "batch": "vllm_v0"}, tmp_path)
    assert reason is not None
    assert "cut and mixed" in reason
    reason = given.world.resolve(given.case, {"name": "moves", "migrate": "llumnix"}, tmp_path)
    assert reason is not None
    assert "do not move" in reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": {"count": 0}}, "adapters.count"),
        ({"adapters": {"count": 4, "zip": 1.0}}, "unknown key 'zip'; did you mean 'zipf'"),
        (
            {"fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "adapters": {"slots": 2, "bandwidth": 0.0}}]},
            "bandwidth",
        ),
    ],
)
def test_wrong_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scenario(tmp_path, **changes)


def test_adapters_without_room(tmp_path: Path) -> None:
    """`check` draws the workload, and a run that is given one says it too."""
    group = {"model": "llama-3-8b", "gpu": "a100-80g"}
    given = scenario(tmp_path, fleet=[{**group, "adapters": {"slots": 4}}, group])
    with pytest.raises(InputError, match=r"^fleet\[1\]: requests name adapters, and it has no room for any; give it"):
        given.world.workload(given.case, 0)
    work = scenario(tmp_path).world.workload(scenario(tmp_path).case, 0)
    with pytest.raises(InputError, match="has no room for any; give its group adapters"):
        given.world.run(given.case, work, {"name": "fcfs"}, 0)


@pytest.mark.parametrize("named", [True, False])
def test_adapters_of_a_trace_need_room(tmp_path: Path, named: bool) -> None:
    head, row = (
        ("arrival,prompt_tokens,output_tokens,adapter", "0.0,10,5,sql")
        if named
        else ("arrival,prompt_tokens,output_tokens", "0.0,10,5")
    )
    (tmp_path / "trace.csv").write_text(f"{head}\n{row}\n")
    (tmp_path / "s.yaml").write_text(
        "world: serving\nworkload: {trace: trace.csv, format: generic}\n"
        "fleet: [{model: llama-3-8b, gpu: a100-80g}]\npolicies: [{name: a}]\n"
    )
    if not named:
        check_scenario(tmp_path / "s.yaml", [])
        return
    with pytest.raises(InputError, match=r"^fleet\[0\]: requests name adapters") as found:
        check_scenario(tmp_path / "s.yaml", [])
    assert "\n" not in str(found.value)
    check_scenario(tmp_path / "s.yaml", ["fleet.0.adapters={slots: 4}"])
