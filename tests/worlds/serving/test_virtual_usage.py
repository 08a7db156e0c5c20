"""Llumnix's virtual usage: the formula by hand, and what it changes: where requests go, which ones move, how replicas are emptied."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rota.kernel.decisions import Place
from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts
from rota.rules import ORDERS, PLACES
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.columns import HOST_VALUES, SERVING_HOST_COLUMNS
from rota.worlds.serving.fleet import Migrate, Plan, Scaler, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.policies.llumnix import Freest, PairsByFreeness, freeness
from rota.worlds.serving.policies.scalers import FleetFreeness
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_migration import BEAT, even
from tests.worlds.serving.test_twin_fleet import Rows, workload

LINE = Link(2.0**16, 0.0)


class TestConformance(ConformanceSuite):
    """With the defaults `freest` is a route like the others; here it reads all that it may."""

    subjects: Mapping[str, Subject] = {
        "freest with headroom": Subject(
            lambda: Freest(1000.0), "place", host_columns=SERVING_HOST_COLUMNS, world="serving"
        )
    }


def hosts(**columns: Sequence[float]) -> Hosts:
    rows = len(next(iter(columns.values())))
    table = {"head_blocks": [0] * rows, "up": [1] * rows, "urgent_running": [0] * rows, "block_tokens": [16] * rows}
    return Hosts({name: np.array(column) for name, column in {**table, **columns}.items()}, rows=rows)


def begin(rows: Rows, fleet: list[Replica], route: Place | None = None, migrate: Migrate | None = None, scale: Scaler | None = None) -> Simulation:  # fmt: skip
    roles = Roles(
        ORDERS["fcfs"](), route or PLACES["least_outstanding"](), ORDERS["fcfs"](), migrate=migrate, scale=scale
    )
    return Simulation(workload(rows), fleet, roles, plan=Plan(LINE, scaling=Scaling(1, len(fleet), len(fleet))))


def test_freeness_by_hand() -> None:
    """(Free blocks - what the first of the line asks for) / requests of the batch; nothing is free of a replica that takes no requests any more."""
    seen = hosts(
        free_blocks=[100, 40, 300, 60, 500], head_blocks=[0, 20, 0, 90, 0], running=[10, 5, 3, 2, 7], up=[1, 1, 1, 1, 0]
    )
    assert freeness(seen).tolist() == [10.0, 4.0, 100.0, -15.0, -np.inf]
    assert Freest().costs(None, seen, 0.0).tolist() == [-10.0, -4.0, -100.0, 15.0, np.inf]  # type: ignore[arg-type]
    assert list(PairsByFreeness().pairs(seen, 0.0)) == [(4, 2)], "one gives that is switched off, before the least free"


def test_headroom_by_hand() -> None:
    """960 tokens are 60 blocks, for one urgent request or for three: each has its share of them."""
    seen = hosts(free_blocks=[100, 100, 100], running=[10, 10, 10], urgent_running=[0, 1, 3])
    assert freeness(seen, 960.0).tolist() == [10.0, 4.0, 4.0]
    assert freeness(seen).tolist() == [10.0] * 3


def test_who_runs_nothing_gives_nothing() -> None:
    """A replica that is off has no freeness, and nothing to give."""
    seen = hosts(free_blocks=[100, 10, 300, 400], running=[0, 5, 2, 1], up=[0, 1, 1, 1])
    assert list(PairsByFreeness().pairs(seen, 0.0)) == [(1, 3)]


def test_the_columns_of_a_run() -> None:
    """After half a beat: one slot, so the second request waits, who asks for 5 blocks of 4 tokens; the third behind it does not count."""
    run = begin([(0, 8, 9, 0), (0, 17, 9, 1), (0, 5, 9, 1)], [even(max_running=1)])
    run.run(0.5 * BEAT)
    assert HOST_VALUES["head_blocks"](run).tolist() == [5]
    assert HOST_VALUES["urgent_running"](run).tolist() == [1]
    run.run()
    assert HOST_VALUES["head_blocks"](run).tolist() == [0]
    assert HOST_VALUES["urgent_running"](run).tolist() == [0]


def test_nobody_is_urgent_where_all_are_alike() -> None:
    run = begin([(0, 8, 9, 0), (0, 8, 9, 0)], [even()])
    run.run(0.5 * BEAT)
    assert HOST_VALUES["urgent_running"](run).tolist() == [0]


@pytest.mark.parametrize(("headroom", "goes_to"), [(0.0, 0), (100.0, 1)])
def test_dispatch_keeps_away_from_urgent_requests(headroom: float, goes_to: int) -> None:
    """An urgent request runs on the first replica, a larger one on the second; the third goes to the freer one, unless the first keeps 25 blocks free."""
    run = begin([(0, 4, 30, 0), (0, 16, 30, 1), (1, 4, 8, 1)], [even(), even()], Freest(headroom))
    run.run(5 * BEAT)
    assert run.jobs[at.HOST].tolist() == [0, 1, goes_to]


@pytest.mark.parametrize(("headroom", "moved"), [(0.0, []), (100.0, [2])])
def test_others_move_away_from_urgent_requests(headroom: float, moved: list[int]) -> None:
    """Both requests of the first replica could go; with 25 blocks of headroom it is not free any more, and the one that is not urgent goes."""
    rows = [(0, 4, 40, 0), (0, 4, 30, 1), (0, 16, 40, 1)]
    policy = PairsByFreeness(5.0, 9.0, every=4.5 * BEAT, stop=0.0, headroom=headroom)
    run = begin(rows, [even(), even()], migrate=policy)
    before: list[int] = []
    run.run(4 * BEAT)
    before = run.jobs[at.HOST].tolist()
    assert before == [0, 1, 0]
    run.run(8 * BEAT)
    after = run.jobs[at.HOST].tolist()
    assert [job for job in range(3) if after[job] != before[job]] == moved


class OneLess(Scaler):
    """One replica, from the first question on."""

    every = 6.25 * BEAT

    def wanted(self, hosts: Hosts, now: float) -> float:
        return 1.0


def test_a_replica_that_is_switched_off_is_emptied() -> None:
    """Its requests move away one after another, though neither replica is full; otherwise it would be paid for until they end."""
    rows = [(0, 4, 50, 0)] * 4
    paid = {}
    for name, policy in (("moves", PairsByFreeness(1.0, 2.0, every=2 * BEAT, stop=0.0)), ("stays", None)):
        run = begin(rows, [even(kv_blocks=128, max_running=8), even(kv_blocks=128)], migrate=policy, scale=OneLess())
        run.run()
        assert run.fleet is not None
        assert run.fleet.migrations == (2 if policy else 0)
        paid[name] = run.fleet.power.seconds(float(run.seconds[at.FINISH].max()))
        assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert paid["stays"][1] == 50 * BEAT
    assert paid["moves"][1] < 0.3 * paid["stays"][1]


def test_the_scaler_sees_the_same() -> None:
    """Two replicas with 100 blocks for 10 requests each: freeness 10. With 60 blocks of headroom on one of them 7, and one more is wanted."""
    seen = hosts(free_blocks=[100, 100], running=[10, 10], urgent_running=[1, 0])
    assert FleetFreeness(8, 50).wanted(seen, 0.0) == 2
    assert FleetFreeness(8, 50, headroom=960.0).wanted(seen, 0.0) == 3


def test_columns_are_read_only_where_they_are_needed() -> None:
    made: Any
    for kind in (Freest, PairsByFreeness, FleetFreeness):
        made = kind(headroom=100.0)
        assert "urgent_running" in made.reads
        assert "urgent_running" not in kind().reads
        with pytest.raises(InputError, match="headroom must be 0 or more tokens, found -1"):
            kind(headroom=-1.0)
