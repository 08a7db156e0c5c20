"""Several models in a fleet, and machines that models share: hand-calculated loads and waits, nothing lost, nothing in two places, wrong settings told."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.rules import ORDERS, PLACES
from rota.study.scenario import Scenario, parse
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS, SERVING_JOB_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.labels import Label, Labels
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import make_workload
from rota.worlds.serving.nodes import NodeSpec, Seat, gpu_shares
from rota.worlds.serving.policies.resident_first import ResidentFirst
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.test_twin_fleet import replica

MODELS = ("a", "b", "c")
Rows = list[tuple[int, int, int, int]]
rows_of_requests = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20), st.integers(1, 16), st.integers(-1, 3)), min_size=1, max_size=16
)


class TestRoutes(ConformanceSuite):
    subjects: ClassVar = {
        "resident_first": Subject(
            ResidentFirst, "place", job_columns=SERVING_JOB_COLUMNS, host_columns=SERVING_HOST_COLUMNS, world="serving"
        )
    }


def simulate(
    rows: Rows,
    spec: NodeSpec,
    machines: int = 1,
    models: int = 3,
    bases: tuple[str, ...] = ("", "", ""),
    batch: str = "vllm_v1",
    **more: Any,
) -> Simulation:
    """Each model has one replica on each machine; label 3 accepts a or b; weights are 2 GB."""
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, model = (np.array(column) for column in zip(*rows, strict=True))
    labels = Labels(model=Label(model, (*MODELS[:models], "a|b") if models > 2 else MODELS[:models]))
    work = make_workload(time * 0.0625, prompt, output, labels=labels)
    fleet = [
        replica(batch, model=MODELS[m], seat=Seat(k, spec, 2e9, bases[m], 0.75 if bases[m] else 0.0), **more)
        for m in range(models)
        for k in range(machines)
    ]
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"]())
    run = Simulation(work, fleet, roles, output.astype(np.float64))
    run.run()
    found = outcomes(run, Slo())
    assert not verify(work, fleet, found, summarise(run, found), series(run), float(run.clock[at.BIN_SECONDS]), True)
    return run


FAST = NodeSpec(1, 1, bandwidth=16e9, latency=0.125, patience=0.5)  # a load takes a quarter of a second


@pytest.mark.parametrize("batch", ["vllm_v1", "vllm_v1 ahead", "vllm_v0", "sarathi"])
@given(rows=rows_of_requests, resident=st.integers(1, 3), machines=st.integers(1, 2), caching=st.booleans())
def test_everything_is_served_by_its_model_and_only_loaded_models_run(
    batch: str, rows: Rows, resident: int, machines: int, caching: bool
) -> None:
    spec = NodeSpec(machines, resident, 16e9, 0.125, 0.5)
    run = simulate(rows, spec, machines, batch=batch, prefix_caching=caching and batch == "vllm_v1")
    label = run.workload.labels.model
    assert label is not None
    assert int(run.state[at.FINISHED]) == len(rows)
    assert np.isin(run.jobs[at.STATE], [at.FINISHED_STATE, at.REJECTED]).all()
    for asked, host in zip(label.index.tolist(), run.jobs[at.HOST].tolist(), strict=True):
        served = run.replicas[host].model if host >= 0 else ""
        assert host < 0 or asked < 0 or served in label.names[asked].split("|")
    assert (
        (run.hosts[:, at.MAX_RUNNING] > 0).all()
        or run.fleet is None
        or any(machine.draining is not None for machine in run.fleet.machines.machines.values())
    )
    if resident == 1:
        _assert_apart(run)


def _assert_apart(run: Simulation) -> None:
    """On a machine with one place, the times of requests of different models do not overlap."""
    spans = sorted(
        (start, end, run.replicas[host].seat.machine, host)  # type: ignore[union-attr]
        for start, end, host in zip(
            run.seconds[at.SCHEDULED].tolist(), run.seconds[at.FINISH].tolist(), run.jobs[at.HOST].tolist(), strict=True
        )
        if host >= 0
    )
    if run.jobs[at.PREEMPTIONS].any():
        return  # one that was displaced may have waited while another model was loaded
    for i, (start, end, machine, host) in enumerate(spans):
        for other in spans[i + 1 :]:
            if other[2] == machine and other[3] != host:
                assert other[0] >= end or end <= start


def test_a_cold_start_takes_latency_and_bytes_over_bandwidth() -> None:
    """Alone, a request of the model that is not loaded waits 0.125 + 2 / 16 s longer than one of the model that is."""
    warm, cold = (simulate([(4, 8, 2, model)], FAST).seconds[at.FIRST_TOKEN, 0] for model in (0, 1))
    assert cold - warm == pytest.approx(0.25, abs=1e-12)


def test_the_least_recently_used_idle_model_goes() -> None:
    """Two places, a and b loaded and used in this order: c takes a's place, so that b is still warm and a is not."""
    spec = NodeSpec(1, 2, 16e9, 0.125, 0.5)
    run = simulate([(0, 4, 2, 0), (8, 4, 2, 1), (16, 4, 2, 2), (32, 4, 2, 1), (48, 4, 2, 0)], spec)
    waits = run.seconds[at.FIRST_TOKEN] - run.seconds[at.ARRIVAL]
    assert (waits > 0.25).tolist() == [False, False, True, False, True]
    assert run.fleet is not None
    assert run.fleet.machines.loads == 2


def test_a_busy_model_goes_after_the_patience_of_another() -> None:
    """Model a is always busy: b waits its patience of half a second, then until what runs of a has ended, then 0.25 s."""
    rows = [(k, 4, 8, 0) for k in range(40)] + [(4, 4, 2, 1)]
    run = simulate(rows, FAST)
    b = int(np.flatnonzero(run.workload.labels.model.index == 1)[0])  # type: ignore[union-attr]
    begun = run.seconds[at.SCHEDULED, b]
    before = run.seconds[at.FINISH][(run.seconds[at.SCHEDULED] < begun) & (run.jobs[at.HOST] == 0)].max()
    assert begun == pytest.approx(before + 0.25, abs=1e-9)
    assert 0.25 + 0.5 <= before < 0.25 + 0.5 + 0.5
    assert run.jobs[at.STATE, 0] == at.FINISHED_STATE


def test_loaded_models_share_the_machine() -> None:
    """Two requests of two models at once: the second begins while the first computes, and its first iteration takes twice as long."""
    both = NodeSpec(1, 2, 16e9, 0.125, 0.5)
    alone = simulate([(0, 8, 1, 1)], both).seconds[at.FINISH, 0]
    together = simulate([(0, 8, 1, 0), (0, 8, 1, 1)], both).seconds[at.FINISH]
    assert together[0] == pytest.approx(alone)
    assert together[1] == pytest.approx(2 * alone)


def test_fine_tunes_of_one_base_load_only_what_differs() -> None:
    """a goes for c, of whose 2 GB three quarters are there with b, so that 0.5 GB are loaded; unless c has another base."""
    two = NodeSpec(1, 2, 16e9, 0.125, 0.5)
    shared = simulate([(0, 4, 2, 2)], two, bases=("y", "x", "x"))
    apart = simulate([(0, 4, 2, 2)], two, bases=("x", "y", "z"))
    assert shared.fleet is not None
    assert apart.fleet is not None
    assert shared.fleet.machines.load_seconds == pytest.approx(0.125 + 0.5e9 / 16e9)
    assert apart.fleet.machines.load_seconds == pytest.approx(0.125 + 2e9 / 16e9)


def test_a_machine_is_paid_for_once() -> None:
    fleet = [replica(seat=Seat(k % 2, FAST, 1.0), gpus=2) for k in range(6)] + [replica(gpus=4)]
    assert gpu_shares(fleet).sum() == pytest.approx(2 + 2 + 4)


GROUP = {"model": "llama-3-8b", "gpu": "a100-80g", "node": "n", "memory_utilisation": 0.4}


def scenario(tmp_path: Path, **changes: Any) -> Scenario:
    document = {
        "world": "serving",
        "workload": {"generate": {"kind": "burst", "requests": 300, "rate": 3.0, "variation": "none"}},
        "fleet": [GROUP, {**GROUP, "model": "qwen3-8b"}],
        "nodes": {"n": {"resident": 2}},
        "policies": [{"name": "fcfs"}],
    }
    return parse(document | changes, tmp_path)


def test_requests_go_where_their_model_is(tmp_path: Path) -> None:
    given = scenario(tmp_path, models={"shares": {"llama-3-8b": 3.0, "qwen3-8b": 1.0}})
    rows = given.world.run(given.case, given.world.workload(given.case, 0), {"name": "fcfs"}, 0).outcomes
    assert (rows["model"] == rows["asked_model"]).all()
    assert abs((rows["model"] == "llama-3-8b").mean() - 0.75) < 0.1


def test_tenants_ask_for_models(tmp_path: Path) -> None:
    mix = [{"kind": "burst", "tenant": name} for name in ("x", "y")]
    work = {"generate": {"kind": "mix", "requests": 100, "rate": 2.0, "mix": mix}}
    given = scenario(
        tmp_path, workload=work, tenants={"x": {"model": "qwen3-8b"}, "y": {"model": "llama-3-8b|qwen3-8b"}}
    )
    rows = given.world.run(given.case, given.world.workload(given.case, 0), {"name": "fcfs"}, 0).outcomes
    assert (rows["model"][rows["tenant"] == "x"] == "qwen3-8b").all()
    assert set(rows["model"][rows["tenant"] == "y"].tolist()) == {"llama-3-8b", "qwen3-8b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": {"m": {}}}, r"fleet\[0\].node: 'n' is not defined in nodes"),
        ({"nodes": {"n": {}, "m": {}}}, "nodes.m: no group of the fleet"),
        ({"nodes": {"n": {"resident": 3}}}, "nodes.n.resident: 3 of 2 models"),
        ({"nodes": {"n": {"count": 2}}}, r"fleet\[0\].count: 1 replicas, and there are 2"),
        ({"nodes": {"n": {"bandwidth": 0.0}}}, "nodes.n.bandwidth"),
        ({"nodes": {"n": {"patience": 0.0}}}, "nodes.n.patience"),
        (
            {"fleet": [{**GROUP, "memory_utilisation": 0.9}] * 2, "nodes": {"n": {"resident": 2}}},
            "GiB of weights and KV on each GPU",
        ),
        ({"fleet": [GROUP, {**GROUP, "gpu": "h100"}]}, "must have the same gpu"),
        ({"failures": {"mean_between": 100.0}}, "can neither fail nor be scaled"),
        ({"fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "base": "x"}], "nodes": {}}, "give the group node"),
        ({"models": {"shares": {"llama-3-8b": 0.0}}}, "models.shares"),
    ],
)
def test_wrong_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scenario(tmp_path, **changes)


def test_a_model_that_nobody_serves(tmp_path: Path) -> None:
    given = scenario(tmp_path, models={"shares": {"llama-3-8": 1.0}})
    with pytest.raises(
        InputError, match="ask for 'llama-3-8', which no group of the fleet serves; did you mean 'llama-3-8b'"
    ):
        given.world.run(given.case, given.world.workload(given.case, 0), {"name": "fcfs"}, 0)


def test_kv_does_not_move_between_models(tmp_path: Path) -> None:
    given = scenario(tmp_path)
    reason = given.world.resolve(given.case, {"name": "moves", "migrate": "llumnix"}, tmp_path)
    assert reason is not None
    assert "the KV of one is of no use to another" in reason
    reason = given.world.resolve(given.case, {"name": "scales", "scale": "reactive"}, tmp_path)
    assert reason is not None


# -- turns --------------------------------------------------------------------------------------------------------


def turns(rows: list[tuple[int, int, int, int, float, float]], sharing: str) -> Simulation:
    """Both models loaded; a row is arrival, prompt, output, model, limit of the first token and of a token."""
    time, prompt, output, model, ttft, tpot = (np.array(column) for column in zip(*rows, strict=True))
    work = make_workload(
        time * 0.0625, prompt, output, ttft_limit=ttft, tpot_limit=tpot, labels=Labels(model=Label(model, ("a", "b")))
    )
    spec = NodeSpec(1, 2, 16e9, 0.125, patience=0.5, sharing=sharing)  # type: ignore[arg-type]
    fleet = [replica(model=name, seat=Seat(0, spec, 2e9)) for name in ("a", "b")]
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"]())
    run = Simulation(work, fleet, roles, output.astype(np.float64))
    run.run()
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
    return run


def test_the_least_headroom_goes_first() -> None:
    """Alone each iteration takes t: the urgent one has its token after t, the other after 2 t, whichever model has the smaller number."""
    alone = turns([(0, 8, 1, 0, 1.0, np.inf)], "headroom").seconds[at.FIRST_TOKEN, 0]
    for urgent in (0, 1):
        limits = [(0, 8, 1, m, 0.5 if m == urgent else 5.0, np.inf) for m in (0, 1)]
        first = turns(limits, "headroom").seconds[at.FIRST_TOKEN]
        assert first[urgent] == pytest.approx(alone)
        assert first[1 - urgent] == pytest.approx(2 * alone)


def test_a_decode_that_is_ahead_of_its_promise_lets_a_prompt_go_first() -> None:
    """Model a decodes with a second a token promised; b's prompt has 0.02 s: it goes as soon as the iteration that is under way has ended."""
    rows = [(0, 8, 16, 0, 1.0, 1.0), (1, 8, 1, 1, 0.02, np.inf)]
    run = turns(rows, "headroom")
    alone = turns([(0, 8, 1, 0, 1.0, np.inf)], "headroom").seconds[at.FIRST_TOKEN, 0]
    iteration = 0.011 + 0.0007 + 0.00003 * 24  # the longest of a's, before b begins
    wait = run.seconds[at.FIRST_TOKEN, 1] - run.seconds[at.ARRIVAL, 1]
    assert wait <= alone + iteration


@given(
    rows=st.lists(
        st.tuples(
            *(st.integers(0, 20), st.integers(1, 20), st.integers(1, 16), st.integers(0, 1)),
            *(st.sampled_from([0.1, 1.0, np.inf]), st.sampled_from([0.02, np.inf])),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_only_one_computes_at_a_time(rows: list[tuple[int, int, int, int, float, float]]) -> None:
    """Together the replicas of a machine are busy no longer than time has passed."""
    rows = sorted(rows, key=lambda row: row[0])
    run = turns(rows, "headroom")
    begun, end = float(run.workload.arrival[0]), float(np.nanmax(run.seconds[at.FINISH]))
    assert run.clocks[:, at.BUSY_SECONDS].sum() <= (end - begun) * (1 + 1e-9)
    assert run.clocks[:, at.BUSY_SECONDS].sum() > 0
