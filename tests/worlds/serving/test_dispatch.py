"""HexGen's dispatcher and Dodoor with cached loads: by hand, tuned by replay, and what an old view costs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.rules.dodoor import Dodoor
from rota.study.scenario import read
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import make_workload
from rota.worlds.serving.policies.hexgen import HexgenDispatch, tuned
from rota.worlds.serving.policies.own_class import OwnClass
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.settings import HostView
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import replica


def chosen(alpha: float, speed: list[float], work: list[float]) -> int:
    table = Hosts({"speed": np.array(speed), "work": np.array(work)}, rows=len(speed))
    return int(np.argmin(HexgenDispatch(alpha).costs(Jobs({}, rows=1), table, 0.0)))


def test_suitability_against_load() -> None:
    """Twice as fast, but 3 s of work against 1 s, mean 2 s: at 0.4 the costs are 0.6 x 0.5 - 0.4 = -0.1 and 0.6 x 1.5 - 0.8 = 0.1; at 0.6, -0.4 and -0.6."""
    assert chosen(0.4, [1.0, 2.0], [1.0, 3.0]) == 0
    assert chosen(0.6, [1.0, 2.0], [1.0, 3.0]) == 1
    assert chosen(0.0, [1.0, 9.0], [0.5, 0.6]) == 0
    assert chosen(0.3, [1.0, 2.0], [0.0, 0.0]) == 1, "nobody has anything to do: the faster one"


def test_alpha_from_a_replay() -> None:
    assert tuned(lambda alpha: (alpha - 0.45) ** 2, (0.0, 0.2, 0.4, 0.6)) == 0.4
    assert tuned(lambda alpha: 1.0) == 0.0
    with pytest.raises(InputError, match="no alpha to try"):
        tuned(lambda alpha: alpha, ())


@dataclass
class Spy(Place):
    """Counts what it is shown."""

    seen: list[list[float]] = field(default_factory=list)
    reads = ("outstanding", "id")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        self.seen.append(hosts.outstanding.tolist())
        return hosts.id.astype(np.float64)


def test_loads_are_as_old_as_they_may_be() -> None:
    """Seven requests for one of two replicas, loads looked up after every third: 0, 3 and 6 are there then."""
    work = make_workload(np.arange(7) * 1e-4, np.full(7, 8), np.full(7, 4))
    spy = Spy()
    fleet = [replica(max_running=8, kv_blocks=60)] * 2
    run = Simulation(work, fleet, Roles(ORDERS["fcfs"](), spy, ORDERS["fcfs"]()), renewed=3)
    run.run()
    assert [seen[0] for seen in spy.seen] == [0, 0, 0, 3, 3, 3, 6]


class SpyOnMemory(Spy):
    reads = ("running", "free_blocks", "kv_use", "id")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        self.seen.append([float(hosts.running[0]), float(hosts.free_blocks[0]), float(hosts.kv_use[0])])
        return hosts.id.astype(np.float64)


def test_all_loads_are_as_old_as_each_other() -> None:
    """What runs and what is free are no younger than the rest: the same three numbers for three requests, then others."""
    work = make_workload(np.arange(6) * 0.05, np.full(6, 8), np.full(6, 40))
    spy = SpyOnMemory()
    fleet = [replica(max_running=8, kv_blocks=90)] * 2
    Simulation(work, fleet, Roles(ORDERS["fcfs"](), spy, ORDERS["fcfs"]()), renewed=3).run()
    assert spy.seen[0] == spy.seen[1] == spy.seen[2] == [0.0, 90.0, 0.0]
    assert spy.seen[3] == spy.seen[4] == spy.seen[5]
    assert spy.seen[3][0] == 3.0
    assert spy.seen[3][2] == 1.0 - spy.seen[3][1] / 90


def test_a_plain_route_is_old_too() -> None:
    """Fewest outstanding by a view of four requests: of equals in turn, so that two and two go to each; then the view says 2 and 2."""
    work = make_workload(np.arange(8) * 1e-4, np.full(8, 8), np.full(8, 4))
    fleet = [replica(max_running=8, kv_blocks=60)] * 2
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"]())
    run = Simulation(work, fleet, roles, renewed=4)
    run.run()
    assert run.jobs[at.HOST].tolist() == [0, 1] * 4
    assert run.questions.place == 8


def test_each_priority_has_its_own_replicas() -> None:
    """Urgent ones go to the emptier replica of high priority; where none is up, to one of the others."""
    columns = {"urgent": np.array([1.0, 1.0, 0.0]), "outstanding": np.array([5.0, 3.0, 0.0])}

    def taken(priority: int, up: list[float]) -> int:
        table = Hosts({**columns, "up": np.array(up)}, rows=3)
        return int(np.argmin(OwnClass().costs(Jobs({"priority": np.array([priority])}, rows=1), table, 0.0)))

    assert taken(0, [1, 1, 1]) == 1
    assert taken(1, [1, 1, 1]) == 2
    assert taken(1, [1, 1, 0]) == 1
    assert taken(0, [0, 0, 1]) == 2


@pytest.mark.parametrize(("made", "message"), [
    (lambda: HexgenDispatch(1.5), "alpha must be from 0 to 1, found 1.5"),
    (lambda: Dodoor(d=0), "d must be at least 1"),
])  # fmt: skip
def test_what_cannot_be(made: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made()  # type: ignore[operator]


def test_dispatchers_on_a_mixed_fleet(repository: Path) -> None:
    """Fast and slow replicas: the tuned alpha beats load alone; loads that are 16 requests old cost Dodoor little, and 512 old a lot."""
    scenario = read(repository / "examples/serving/dispatch.yaml", ["workload.generate.requests=1500"])
    work = scenario.world.workload(scenario.case, 0)

    def mean(route: object, every: int = 1) -> float:
        case = msgspec.structs.replace(scenario.case.information, hosts=HostView(every))
        found = scenario.world.run(replace(scenario.case, information=case), work, {"name": "x", "route": route}, 0)
        return float(found.metrics["e2e_mean"])

    best = tuned(lambda alpha: mean({"hexgen": {"alpha": alpha}}), (0.0, 0.3, 0.9))
    assert mean({"hexgen": {"alpha": best}}) < min(mean("round_robin"), mean({"hexgen": {"alpha": 0.0}}))
    fresh, old, ancient = (mean("dodoor", every) for every in (1, 16, 512))
    assert old < 1.15 * fresh
    assert ancient > 1.15 * fresh
