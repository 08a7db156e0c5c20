"""Replicas that are switched on and off: bills by hand, nothing lost, the rules of the scalers, prices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import Hosts
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.worlds.serving.fleet import Outage, Plan, Scaler, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes, summarise
from rota.worlds.serving.policies.scalers import FleetFreeness, Reactive, Utilisation
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import Rows, replica, rows_of_requests, workload


class Scripted(Scaler):
    """Numbers in turn, then the last one for ever."""

    every = 0.25

    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers = list(numbers)

    def wanted(self, hosts: Hosts, now: float) -> float:
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]


def simulate(
    rows: Rows, fleet: Sequence[Replica], scaler: Scaler, scaling: Scaling, outages: Sequence[Any] = ()
) -> Simulation:
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"](), scale=scaler)
    run = Simulation(workload(rows), fleet, roles, plan=Plan(outages=outages, scaling=scaling))
    run.run()
    return run


def test_a_bill_by_hand() -> None:
    """From 0: one on. At 0.25 s a second one is wanted, it takes requests from 0.75 s on; at 1.25 s it is not wanted any more and has nothing to do."""
    run = simulate(
        [(0, 4, 16, 0), (40, 4, 16, 0)], [replica()] * 3, Scripted([2, 2, 2, 2, 1]), Scaling(least=1, start_seconds=0.5)
    )
    assert run.fleet is not None
    end = run.seconds[at.FINISH].max()
    assert run.fleet.power.seconds(end).tolist() == [end, 1.0, 0.0]
    metrics = summarise(run, outcomes(run, Slo()))
    assert metrics["gpu_hours"] == pytest.approx((end + 1.0) / 3600)
    assert metrics["replicas_mean"] == pytest.approx((end + 1.0) / end)
    assert np.isnan(metrics["cost"]), "nobody said what a GPU costs"


def test_a_replica_takes_requests_only_when_it_has_started() -> None:
    rows = [(k, 4, 16, 0) for k in range(24)]
    run = simulate(rows, [replica()] * 2, Scripted([2]), Scaling(least=1, start_seconds=1.0))
    second = run.jobs[at.HOST] == 1
    assert second.any()
    assert run.seconds[at.DISPATCHED, second].min() >= 1.25


@settings(deadline=None)
@given(rows=rows_of_requests, numbers=st.lists(st.integers(0, 4), min_size=1, max_size=20), start=st.integers(0, 6),
       drawn=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(1, 20)), max_size=3))  # fmt: skip
def test_nothing_is_lost(rows: Rows, numbers: list[int], start: int, drawn: Any) -> None:
    lines: dict[int, list[Outage]] = {}
    for host, begin, length in sorted(drawn, key=lambda each: each[1]):
        line = lines.setdefault(host, [])
        if not line or line[-1].end < begin * 0.0625 + 0.0117:
            line.append(Outage(host, begin * 0.0625 + 0.0117, (begin + length) * 0.0625 + 0.0131))
    fleet = [replica(), replica(slower=2.0), replica(kv_blocks=9)]
    run = simulate(
        rows,
        fleet,
        Scripted(numbers),
        Scaling(least=1, start_seconds=start * 0.125),
        [iter(line) for line in lines.values()],
    )
    assert np.isin(run.jobs[at.STATE], (at.FINISHED_STATE, at.REJECTED)).all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert run.fleet is not None
    end = float(np.nanmax(run.seconds[at.FINISH], initial=0.0))
    on = run.fleet.power.seconds(end)
    assert (on >= run.clocks[:, at.BUSY_SECONDS] - 1e-9).all(), "who works is paid for"
    assert (on <= max(end, 0) + 1e-9).all()


def hosts(**columns: list[float]) -> Hosts:
    return Hosts({name: np.array(column) for name, column in columns.items()})


def test_rules_of_the_scalers() -> None:
    assert Reactive(per_replica=10).wanted(hosts(outstanding=[12, 9, 0]), 0.0) == pytest.approx(2.1)
    scaler = Utilisation(target=0.5, down_seconds=60)
    assert scaler.wanted(hosts(kv_use=[0.8, 0.9, 0.0], up=[1, 1, 0]), 0.0) == 4, "2 x 0.85 / 0.5"
    assert scaler.wanted(hosts(kv_use=[0.1, 0.1, 0.1], up=[1, 1, 1]), 30.0) == 4, "downwards only after a while"
    assert scaler.wanted(hosts(kv_use=[0.1, 0.1, 0.1], up=[1, 1, 1]), 61.0) == 1
    assert Utilisation(target=0.5).wanted(hosts(kv_use=[0.54], up=[1]), 0.0) == 1, "within the tolerance"
    table = {"head_blocks": [0, 0], "up": [1, 1]}
    assert FleetFreeness(10, 50).wanted(hosts(free_blocks=[20, 20], running=[4, 4], **table), 0.0) == 3
    assert FleetFreeness(10, 50).wanted(hosts(free_blocks=[900, 20], running=[1, 4], **table), 0.0) == 1


BASE: dict[str, Any] = {"world": "serving", "workload": {"generate": {"kind": "chat", "requests": 50, "rate": 2.0}},
                        "fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "count": 3}], "policies": [{"name": "a"}]}  # fmt: skip


def test_cost_of_a_scenario() -> None:
    document = parse(BASE, Path())
    work = document.world.workload(document.case, 0)
    metrics = document.world.run(document.case, work, document.policies[0], 0).metrics
    assert metrics["cost"] == pytest.approx(3.67 * metrics["gpu_hours"])
    assert metrics["cost_per_million_tokens"] == pytest.approx(1e6 * metrics["cost"] / work.output_tokens.sum())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scaling": {"least": 2, "most": 1}}, "least <= first <= most"),
        ({"scaling": {"most": 9}}, "<= 3 replicas"),
        ({"scaling": {"least": 0}}, "least"),
        ({"scaling": {"start_seconds": -1}}, "start_seconds"),
        ({"policies": [{"name": "a", "scale": "reactiv"}]}, "reactive"),
        ({"policies": [{"name": "a", "scale": {"reactive": {"per_replica": 0}}}]}, "above 0"),
        ({"policies": [{"name": "a", "migrate": "fcfs"}]}, "unknown migrate"),
        ({"links": {"bandwidth": 0}}, "bandwidth"),
        ({"failures": {}}, "give mean_between"),
        ({"failures": {"outages": [{"replica": 3, "start": 1, "seconds": 1}]}}, "replica 3 does not exist"),
        (
            {
                "failures": {
                    "outages": [{"replica": 0, "start": 1, "seconds": 5}, {"replica": 0, "start": 4, "seconds": 5}]
                }
            },
            "still away",
        ),
        ({"fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "role": "prefill"}]}, "none that can decode"),
        ({"fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "role": "decode"}]}, "none that can prefill"),
        ({"fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "price": -1}]}, "price"),
    ],
)
def test_broken_scenarios(changes: dict[str, Any], says: str) -> None:
    def check() -> None:
        made = parse({**BASE, **changes}, Path())
        made.world.resolve(made.case, made.policies[0], Path())

    with pytest.raises(InputError, match=says):
        check()


def test_an_answer_that_is_no_number() -> None:
    with pytest.raises(PolicyError, match=r"wanted at .* is NaN"):
        simulate([(0, 4, 16, 0), (20, 4, 4, 0)], [replica()] * 2, Scripted([float("nan")]), Scaling())
